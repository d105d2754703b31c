/* Streams, events and captures. */
#ifndef CUDA_DOUBLE_STREAM_HPP
#define CUDA_DOUBLE_STREAM_HPP

#include <driver_types.h>

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace cuda_double
{
struct work {
    std::function<void()> run;
    double milliseconds;
};
constexpr double small_work = 0.01;

struct stream;
struct capture;

struct event {
    unsigned flags = 0;
    std::vector<double> times; /* of each recording; NaN until it has run */
    std::shared_ptr<stream> recorded_in;
    std::weak_ptr<capture> captured_in; /* where the last recording was captured */
    bool captured = false;
    int asked = 0;        /* queries since the last recording */
    int64_t position = 0; /* in the captured stream */
};

/* One thing in a queue: work, or a recording, or a wait for a recording. */
struct item {
    enum { WORK, RECORD, WAIT } kind;
    work w;
    std::shared_ptr<event> e;
    size_t recording;           /* counted from 1 */
    std::shared_ptr<stream> in; /* WAIT: where it was recorded */
};

struct capture {
    stream *origin = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread;
    std::vector<work> works;
    std::set<stream *> unjoined; /* streams that have joined and not been waited for */
    bool invalid = false;
};

struct stream {
    int number = 0;
    bool blocking = true;
    int device = 0;
    std::deque<item> queue;
    std::shared_ptr<capture> capturing;
    int64_t position = 0; /* counts what was captured */
};

/* The stream of a handle; null, with a complaint, where there is none. */
std::shared_ptr<stream> find_stream(cudaStream_t handle);
int stream_number(cudaStream_t handle);
/* The legacy stream waits for others and the other way round; refused while capturing. */
cudaError_t order_with_legacy(const std::shared_ptr<stream> &s);
/* Puts work into a stream, or into the graph that captures it. */
cudaError_t enqueue(const std::shared_ptr<stream> &s, work w);
/* The same for a handle. */
cudaError_t enqueue_on(cudaStream_t handle, work w);
void run_all_of(const std::shared_ptr<stream> &s);
void run_everything();
void add_capture(const std::shared_ptr<capture> &c);
/* Fails, and spoils the capture, where the calling thread captures something. */
cudaError_t not_while_capturing(const char *what);
} // namespace cuda_double

#endif
