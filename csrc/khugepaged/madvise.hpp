// madvise.hpp -- MADV_COLLAPSE.
#pragma once
#include "khugepaged/collapse.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Throws os_error with Linux's errno: EINVAL (a range that cannot be collapsed), ENOMEM (nothing is mapped somewhere;
/// no huge page to be had), EAGAIN (a page is in use), EBUSY (a limit).
void madvise_collapse(cpu& self, mm& m, va_t start, va_t end);

}  // namespace pgtbl::inline PGTBL_WORLD
