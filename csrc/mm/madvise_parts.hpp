// madvise_parts.hpp -- the advices that have a file of their own, one VMA's part each.
//
// Each returns 0 or an errno, which ends the call.  The caller holds mmap_lock in the mode that madvise_lock() says.
#pragma once
#include <algorithm>

#include "mm/anon_vma.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/mapping.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

int madvise_guard_install(cpu& self, vma& v, va_t start, va_t end);
int madvise_guard_remove(cpu& self, vma& v, va_t start, va_t end);

/// MADV_FREE: private pages may be dropped until they are written again.
void madvise_free(cpu& self, vma& v, va_t start, va_t end);
/// MADV_COLD: accessed bits go, and what is partly covered is split.  MADV_PAGEOUT, without swap: pages of shared memory
/// are unmapped besides, where nobody else maps them.
void madvise_cold(cpu& self, vma& v, va_t start, va_t end, bool page_out);

}  // namespace pgtbl::inline PGTBL_WORLD
