/* The shim that runs kernels on the CPU: that right kernels run right, and that each kind of mistake is
 * found, in the builds that can find it. What has to end the program runs in a child. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_shim/sample.h"
#include "cuda_shim/shim.h"

enum { N = SAMPLE_THREADS, BLOCKS = 5 };

#ifdef __SANITIZE_ADDRESS__
static const bool address_sanitizer = true;
#else
static const bool address_sanitizer = false;
#endif
#ifdef __SANITIZE_THREAD__
static const bool thread_sanitizer = true;
#else
static const bool thread_sanitizer = false;
#endif

static const cuda_shim_order orders[] = {CUDA_SHIM_FORWARD, CUDA_SHIM_REVERSE, CUDA_SHIM_RANDOM};

static float *floats(int count)
{
    float *all = malloc((size_t)count * sizeof *all);
    cr_assert(all != NULL);
    for (int i = 0; i < count; i++)
        all[i] = (float)(i % 23 + 1);
    return all;
}

/* ---- children ---- */

typedef struct ending {
    bool well; /* exit status 0 */
    char text[16384];
} ending;

static ending in_child(void (*work)(int), int argument)
{
    ending end = {0};
    int ends[2], status = -1;
    size_t length = 0;
    cr_assert_eq(pipe(ends), 0);
    pid_t child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        work(argument);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got = 1; got > 0; length += got > 0 ? (size_t)got : 0) {
        char rest[4096], *to = length < sizeof end.text - 1 ? end.text + length : rest;
        size_t room = to == rest ? sizeof rest : sizeof end.text - 1 - length;
        got = read(ends[0], to, room);
    }
    close(ends[0]);
    waitpid(child, &status, 0);
    end.well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return end;
}

static void expect_end(void (*work)(int), int argument, const char *because)
{
    ending end = in_child(work, argument);
    cr_assert(!end.well, "nothing was found; expected: %s", because);
    cr_assert(strstr(end.text, because) != NULL, "expected \"%s\" in: %s", because, end.text);
}

static void expect_no_end(void (*work)(int), int argument)
{
    ending end = in_child(work, argument);
    cr_assert(end.well, "%s", end.text);
}

/* ---- right kernels ---- */

Test(shim, warp_operations_and_barriers_add_up_a_block)
{
    float *in = floats(N * BLOCKS), *out = floats(BLOCKS);
    for (int o = 0; o < 3; o++) {
        cuda_shim_set_order(orders[o], 7);
        sample_block_sum(in, out, BLOCKS);
        for (int b = 0; b < BLOCKS; b++) {
            float want = 0.0f;
            for (int i = 0; i < N; i++)
                want += in[b * N + i];
            cr_assert_eq(out[b], want);
        }
    }
    free(in);
    free(out);
}

static bool is_reversed(const float *in, const float *out, int blocks)
{
    for (int i = 0; i < N * blocks; i++)
        if (out[i] != in[i / N * N + N - 1 - i % N])
            return false;
    return true;
}

Test(shim, dynamic_shared_memory_belongs_to_the_block)
{
    float *in = floats(N * BLOCKS), *out = floats(N * BLOCKS);
    for (int o = 0; o < 3; o++) {
        cuda_shim_set_order(orders[o], 7);
        sample_reverse(in, out, BLOCKS);
        cr_assert(is_reversed(in, out, BLOCKS));
    }
    free(in);
    free(out);
}

Test(shim, warps_wait_for_their_own_threads)
{
    float *in = floats(N), *out = floats(N);
    for (int o = 0; o < 3; o++) {
        cuda_shim_set_order(orders[o], 7);
        sample_warp_neighbours(in, out);
        for (int i = 0; i < N; i++)
            cr_assert_eq(out[i], in[i ^ 1]);
    }
    free(in);
    free(out);
}

Test(shim, grids_have_three_dimensions)
{
    int32_t *out = calloc(3 * 4 * 5, sizeof *out);
    sample_grid(out, 3, 4, 5);
    for (int i = 0; i < 3 * 4 * 5; i++)
        cr_assert_eq(out[i], i);
    free(out);
}

Test(shim, launches_are_counted)
{
    int64_t before = cuda_shim_launches();
    sample_launch(1, 1, 1, 32, 0);
    sample_launch(2, 1, 1, 32, 0);
    cr_assert_eq(cuda_shim_launches(), before + 2);
}

/* The kernel races on purpose. */
Test(shim, threads_run_in_the_order_asked_for)
{
    if (thread_sanitizer) {
        fprintf(stderr, "SKIPPED: the kernel that tells the order races\n");
        return;
    }
    int32_t forward[N], reverse[N], first[N], again[N], other[N];
    cuda_shim_set_order(CUDA_SHIM_FORWARD, 0);
    sample_arrival(forward);
    cuda_shim_set_order(CUDA_SHIM_REVERSE, 0);
    sample_arrival(reverse);
    cuda_shim_set_order(CUDA_SHIM_RANDOM, 5);
    sample_arrival(first);
    cuda_shim_set_order(CUDA_SHIM_RANDOM, 5);
    sample_arrival(again);
    cuda_shim_set_order(CUDA_SHIM_RANDOM, 6);
    sample_arrival(other);
    int32_t seen[N] = {0};
    for (int i = 0; i < N; i++) {
        cr_assert(forward[i] == i && reverse[i] == N - 1 - i);
        cr_assert(first[i] >= 0 && first[i] < N);
        seen[first[i]]++;
    }
    for (int i = 0; i < N; i++)
        cr_assert_eq(seen[i], 1);
    cr_assert_eq(memcmp(first, again, sizeof first), 0, "the same seed gives the same order");
    cr_assert(memcmp(first, other, sizeof first) != 0 && memcmp(first, forward, sizeof first) != 0);
}

/* ---- missing barriers ---- */

static void run_reverse(int right)
{
    float *in = floats(N), *out = floats(N);
    if (right)
        sample_reverse(in, out, 1);
    else
        sample_reverse_without_barrier(in, out);
    free(in);
    free(out);
}

static void run_neighbours(int right)
{
    float *in = floats(N), *out = floats(N);
    if (right)
        sample_warp_neighbours(in, out);
    else
        sample_warp_neighbours_without_syncwarp(in, out);
    free(in);
    free(out);
}

/* Some order gives something else than another. */
static bool orders_differ(void (*launch)(const float *in, float *out))
{
    float *in = floats(N), *outs[3];
    bool differ = false;
    for (int o = 0; o < 3; o++) {
        outs[o] = floats(N);
        cuda_shim_set_order(orders[o], 3);
        launch(in, outs[o]);
        differ = differ || memcmp(outs[o], outs[0], N * sizeof(float)) != 0;
    }
    for (int o = 0; o < 3; o++)
        free(outs[o]);
    free(in);
    return differ;
}

Test(shim, a_missing_barrier_shows_between_orders_or_as_a_race)
{
    if (thread_sanitizer) {
        expect_end(run_reverse, 0, "data race");
        expect_end(run_neighbours, 0, "data race");
        expect_no_end(run_reverse, 1);
        expect_no_end(run_neighbours, 1);
        return;
    }
    cr_assert(orders_differ(sample_reverse_without_barrier));
    cr_assert(orders_differ(sample_warp_neighbours_without_syncwarp));
    cr_assert(!orders_differ(sample_warp_neighbours));
}

/* ---- barriers that not all reach ---- */

static void run_shuffle_of_some(int unused)
{
    float out[N];
    (void)unused;
    sample_shuffle_of_some(out);
}

Test(shim, a_barrier_that_not_all_threads_reach_ends_the_program)
{
    for (int how = 0; how < 4; how++)
        expect_end(sample_barrier_of_some, how, "sample.cu:");
    expect_end(sample_barrier_of_some, 0, "not all threads come to this barrier");
    expect_end(run_shuffle_of_some, 0, "not all threads come to this barrier");
    expect_no_end(sample_barrier_of_some, 4);
}

/* ---- shared memory that nobody wrote ---- */

static void expect_poison(void (*launch)(float *out))
{
    float *out = floats(N);
    for (int again = 0; again < 2; again++) {
        launch(out);
        cr_assert_eq(out[0], 1.0f);
        for (int i = 1; i < N; i++)
            cr_assert(isnan(out[i]));
    }
    free(out);
}

Test(shim, shared_memory_starts_as_not_a_number)
{
    if (!thread_sanitizer) /* two blocks write the same place */
        expect_poison(sample_unwritten);
    expect_poison(sample_unwritten_of_template);
    expect_poison(sample_unwritten_dynamic);
}

/* ---- what the address sanitizer finds ---- */

static void run_beyond(int how)
{
    float *in = floats(N), *out = floats(N);
    if (how == 0)
        sample_beyond(out, N);
    else if (how == 1)
        sample_beyond_shared(out);
    else if (how == 2)
        sample_beyond_dynamic(out);
    else if (how == 3)
        sample_misaligned(in, out);
    else
        sample_beyond(out, N - 1);
    free(in);
    free(out);
}

Test(shim, accesses_out_of_bounds_and_misaligned_vectors_are_found)
{
    if (!address_sanitizer) {
        fprintf(stderr, "SKIPPED: this build is without the address sanitizer\n");
        return;
    }
    expect_end(run_beyond, 0, "heap-buffer-overflow");
    expect_end(run_beyond, 1, "sample.cu");
    expect_end(run_beyond, 2, "heap-buffer-overflow");
    expect_end(run_beyond, 3, "misaligned address");
    expect_no_end(run_beyond, 4);
}

/* ---- between blocks ---- */

static void collide(const float *in, float *out)
{
    (void)in;
    sample_blocks_collide(out, 3);
}

static void read_another(const float *in, float *out)
{
    (void)in;
    memset(out, 0, 3 * sizeof *out);
    sample_block_reads_another(out, 3);
}

static void sum_blocks(const float *in, float *out)
{
    sample_block_sum(in, out, 1);
}

static void run_blocks(int how)
{
    float *out = floats(N * BLOCKS), *in = floats(N * BLOCKS);
    if (how == 0)
        sample_blocks_collide(out, 2);
    else if (how == 1)
        sample_block_reads_another(out, 2);
    else if (how == 2) {
        sample_reverse(in, out, BLOCKS); /* launches come one after another */
        sample_reverse(out, in, BLOCKS);
    } else if (how == 3)
        sample_block_sum(in, out, BLOCKS); /* blocks have each their own shared memory */
    else
        sample_blocks_collide(out, 1);
    free(in);
    free(out);
}

Test(shim, races_between_blocks_show_between_orders_or_as_races)
{
    if (!thread_sanitizer) {
        cr_assert(orders_differ(collide));
        cr_assert(orders_differ(read_another));
        cr_assert(!orders_differ(sum_blocks));
        return;
    }
    expect_end(run_blocks, 0, "data race");
    expect_end(run_blocks, 1, "data race");
    for (int how = 2; how < 5; how++)
        expect_no_end(run_blocks, how);
}

/* ---- limits ---- */

static const struct {
    unsigned x, y, z, threads;
    size_t shared;
    const char *because; /* NULL: fine */
} launches[] = {{1, 1, 1, 1024, 48 << 10, NULL},
                {1, 65535, 1, 1, 0, NULL},
                {0, 1, 1, 32, 0, "a grid outside of CUDA's limits"},
                {1, 65536, 1, 32, 0, "a grid outside of CUDA's limits"},
                {1, 1, 65536, 32, 0, "a grid outside of CUDA's limits"},
                {0x80000000u, 1, 1, 32, 0, "a grid outside of CUDA's limits"},
                {1, 1, 1, 1025, 0, "a block has 1 to 1024 threads"},
                {1, 1, 1, 0, 0, "a block has 1 to 1024 threads"},
                {1, 1, 1, 32, (48 << 10) + 1, "more than 48 KiB of shared memory"}};

static void run_launch(int i)
{
    sample_launch(launches[i].x, launches[i].y, launches[i].z, launches[i].threads, launches[i].shared);
}

Test(shim, launches_beyond_the_limits_of_cuda_end_the_program)
{
    for (int i = 0; i < (int)(sizeof launches / sizeof *launches); i++)
        if (launches[i].because != NULL)
            expect_end(run_launch, i, launches[i].because);
        else
            expect_no_end(run_launch, i);
}
