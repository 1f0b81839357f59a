// gup.hpp -- references to a program's pages, taken by somebody who works on them behind its back (get_user_pages).
//
// Guarantee.  A page that was returned was mapped at its address at some moment of the call, and is not freed, nor
// moved by a collapse, nor split, until it is given back.
//
// Method.  First without any lock: interrupts are off, so that no table under the walk is freed (its freer waits for an
// IPI, or for RCU).  The reference is taken of a folio that may be anybody's by then: so the PMD and the entry are read
// again afterwards, and if one has changed the reference goes back (B01).  A pin also looks whether a fork has gone on
// beside it.  What that does not find, or finds shared with another program, is faulted in under mmap_lock, and looked at again.
#pragma once
#include <vector>

#include "mm/mm.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Frames, each with one reference of its folio.
struct pinned_pages {
  std::vector<pfn_t> frames;
  u32 each = 1;          // what each adds to frame::pins
  bool written = false;  // they were taken to be written
};

/// Of FOLL_: to be written; pinned (FOLL_PIN) instead of only referenced (FOLL_GET); pinned for as long as anybody likes
/// (FOLL_LONGTERM, with FOLL_PIN).  What is pinned is known to be: fork copies it for the child, and UFFDIO_MOVE leaves it where
/// it is.  So it must be the program's alone.  To be written it is; to be read it is made so first (FAULT_FLAG_UNSHARE): else a
/// later store would copy it, and the device would read the old page for ever.  For a long time that goes for pages of files in
/// private mappings, too.
enum : u32 { gup_write = 1, gup_pin = 2, gup_longterm = 4 };

/// The pages of [start, start + pages), up to the first that cannot be had.  Throws os_error(EFAULT) where that is the
/// first one.
pinned_pages pin_pages(cpu& self, mm& m, va_t start, u64 pages, u32 flags = 0);
void unpin_pages(cpu& self, pinned_pages& p);

}  // namespace pgtbl::inline PGTBL_WORLD
