/* What was called and what was wrong with it. */
#ifndef CUDA_DOUBLE_RECORD_HPP
#define CUDA_DOUBLE_RECORD_HPP

#include <stdint.h>

#include <mutex>
#include <string>
#include <vector>

namespace cuda_double
{
/* One call of the API: made first in each function. Holds the lock of the double until it goes. */
class call
{
  public:
    explicit call(const char *name, int stream = -1, int64_t bytes = 0);
    ~call();
    call(const call &) = delete;
    call &operator=(const call &) = delete;
    int injected; /* the status that a test wants; 0: none */

  private:
    std::unique_lock<std::recursive_mutex> lock;
    const char *outer;
};

/* Adds to the entry of the call that was logged last. */
void describe_call(const std::string &text);
void mark_captured(int stream);

std::string format(const char *text, ...) __attribute__((format(printf, 1, 2)));
void complain(const char *text, ...) __attribute__((format(printf, 1, 2)));

/* What a file of the double keeps: how it is looked over at the end, and forgotten. */
struct part {
    void (*leaks)(std::vector<std::string> &found); /* or null */
    void (*reset)();
};
/* For static initialisation. */
bool add_part(int order, part p);
} // namespace cuda_double

#endif
