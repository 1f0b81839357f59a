// fault.hpp -- page faults: handle_mm_fault, by the lock that the era and the kind of memory allow.
//
// Guarantee.  When it returns, the page was mapped at some moment during the call, or the reason to try
// again is gone; the caller repeats its access.  A fault that cannot be served throws.
//
// Method.  First under the VMA's own lock (no mmap_lock) where the era has that for this kind of memory;
// else under mmap_lock read.  The table may vanish under the fault from 6.6 on: every map may answer with
// nothing, and the fault then starts over.  File faults hold the folio lock from the look-up until the PTE
// is set: while somebody else holds it (collapse, truncate), no PTE to that folio can appear.
#pragma once
#include "mm/mapping.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Handles one fault of the program at va.  Throws segmentation_fault, bus_error, out_of_memory.
void handle_page_fault(cpu& self, mm& m, va_t va, access a);

struct uffd_waiter;

/// The same where the caller holds mmap_lock (populate).  One attempt: the caller looks and repeats.  Where it answers
/// with a waiter, the caller gives up mmap_lock and calls uffd_wait() before.
/// unshare: a page that is there and shared becomes the program's alone, not to be written (FAULT_FLAG_UNSHARE).
[[nodiscard]] uffd_waiter* fault_under_mmap_lock(cpu& self, mm& m, va_t va, access a, bool unshare = false);

/// Maps a folio as huge as an extent by the PMD, where the VMA covers the extent, the offsets agree and the
/// PMD is none.  The caller holds the folio lock; its reference to the folio becomes the mapping's.
bool do_set_pmd(cpu& self, vma& v, va_t va, pmd_ref pmdp, pfn_t head);

inline constexpr u64 fault_around_pages = pages_per_huge < 16 ? pages_per_huge : 16;

}  // namespace pgtbl::inline PGTBL_WORLD
