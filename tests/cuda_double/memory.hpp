/* The table of device and pinned memory. */
#ifndef CUDA_DOUBLE_MEMORY_HPP
#define CUDA_DOUBLE_MEMORY_HPP

#include <stddef.h>
#include <stdint.h>

#include <string>

namespace cuda_double
{
enum class memory_kind { device, pinned, pageable };

memory_kind kind_of(const void *pointer);

/* Device memory that a piece of work reads or writes. */
struct range {
    const void *pointer = nullptr;
    size_t bytes = 0;
    uint64_t allocation = 0;
    std::string what;
};

/* Is it all in one device allocation? False with a complaint about `what`. */
bool find_range(const void *pointer, size_t bytes, const std::string &what, range *found);
/* When the work runs, later: has it been freed since? */
bool still_there(const range &r);
bool overlap(const range &a, const range &b);
} // namespace cuda_double

#endif
