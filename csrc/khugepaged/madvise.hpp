// madvise.hpp -- madvise(2), and MADV_COLLAPSE above all.
#pragma once
#include "khugepaged/collapse.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// madvise of [start, start + length).  Advice: madv_dontneed, madv_populate_read, madv_populate_write,
/// madv_collapse.  Throws os_error with Linux's errno: EINVAL (alignment, unknown advice, a range that cannot
/// be collapsed), ENOMEM (nothing is mapped somewhere; no huge page to be had), EAGAIN (a page is in use).
void sys_madvise(cpu& self, mm& m, va_t start, u64 length, int advice);

}  // namespace pgtbl::inline PGTBL_WORLD
