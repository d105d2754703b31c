/* A block's threads as threads of the system, for the thread sanitizer: nothing orders them but barriers and
 * the end of the launch. */
#ifdef __SANITIZE_THREAD__
#include <pthread.h>

#include <memory>
#include <vector>

#include "cuda_shim/block.hpp"

namespace cuda_shim
{
enum { WARP = 32 };
static pthread_barrier_t block_barrier, warp_barriers[1024 / WARP];
static unsigned char slots[1024][16];

void barrier(const char *, int)
{
    pthread_barrier_wait(&block_barrier);
}

void warp_barrier(const char *, int)
{
    pthread_barrier_wait(&warp_barriers[cuda_shim_thread.x / WARP]);
}

void *slot(int lane)
{
    unsigned first = cuda_shim_thread.x / WARP * WARP;
    return slots[lane < 0 ? cuda_shim_thread.x : first + (unsigned)lane];
}

struct job {
    uint3 block;
    unsigned index;
    const std::function<void()> *kernel;
};

static void *main_of(void *argument)
{
    job *j = (job *)argument;
    cuda_shim_block = j->block;
    cuda_shim_thread = {j->index, 0, 0};
    (*j->kernel)();
    return nullptr;
}

void run_block(uint3 block, int threads, const std::function<void()> &kernel)
{
    std::vector<pthread_t> ids((size_t)threads);
    std::vector<job> jobs((size_t)threads);
    pthread_barrier_init(&block_barrier, nullptr, (unsigned)threads);
    for (int first = 0; first < threads; first += WARP)
        pthread_barrier_init(&warp_barriers[first / WARP], nullptr,
                             (unsigned)(threads - first < WARP ? threads - first : WARP));
    for (int i = 0; i < threads; i++) {
        jobs[(size_t)i] = {block, (unsigned)i, &kernel};
        if (pthread_create(&ids[(size_t)i], nullptr, main_of, &jobs[(size_t)i]) != 0)
            fail("a thread could not be made", __FILE__, __LINE__);
    }
    for (int i = 0; i < threads; i++)
        pthread_join(ids[(size_t)i], nullptr);
    pthread_barrier_destroy(&block_barrier);
    for (int first = 0; first < threads; first += WARP)
        pthread_barrier_destroy(&warp_barriers[first / WARP]);
}
} // namespace cuda_shim
#endif
