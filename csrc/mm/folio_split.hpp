// folio_split.hpp -- a huge (or large) folio becomes smaller ones, in place.
//
// Guarantee.  Contents stay where they are; a store through any mapping meanwhile is not lost.  It fails, and nothing
// has changed, where somebody has a reference that the cache and the mappings do not explain (a pin, a look-up).
//
// Method.  The folio is locked.  It is unmapped everywhere: a file's entries go (and fault in again), those of
// anonymous memory become migration entries, at which a fault waits.  Then its references are taken all in one step:
// nobody can get one while the descriptors are cut.  Uniform: into single pages.  Else in halves, and the half with
// the page at which it is cut again (6.15): few pages lose what they had of being large.
//
// A page of zeroes that comes out of an anonymous folio is not kept: the zero page takes its place, as from 6.12 on.
//
// Lock order.  folio lock > i_mmap_rwsem (read) | anon_vma (write) > pml > ptl; the cache's lock for the cut itself.
#pragma once
#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Splits the folio at the page in frame `at`; false where it cannot be split now.  The caller holds its lock and one
/// reference.  Afterwards the caller has the lock and the reference of the folio that begins at `head`, no more.
bool split_folio(cpu& self, pfn_t head, pfn_t at, bool uniform);

/// Entries of this mm, of either size, that map pages of the folio.  The caller holds the folio lock, and no spinlock.
u64 mapped_in(cpu& self, pfn_t head, const mm& m);

}  // namespace pgtbl::inline PGTBL_WORLD
