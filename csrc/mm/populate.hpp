// populate.hpp -- pages brought in before anybody touches them: MAP_POPULATE, mlock, MADV_POPULATE_*.
#pragma once
#include "mm/mapping.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class populated : u8 {
  all,
  no_permission,  // the mapping does not allow the access
  refused,        // an access would die: beyond the file's end, or a guard region
  no_memory,
  waits,  // for a userfaultfd
};

struct uffd_waiter;
struct populate_result {
  populated what;
  va_t upto;                      // where it ended
  uffd_waiter* waiter = nullptr;  // waits: to be waited for without mmap_lock
};

/// Faults [start, end) of one VMA in, as the access would.  The caller holds mmap_lock for read.
populate_result populate_vma(cpu& self, mm& m, const vma& v, va_t start, va_t end, access a);
/// The same as mlock wants it: writable private memory gets pages of its own.  PROT_NONE has no permission.
populate_result populate_for_use(cpu& self, mm& m, const vma& v, va_t start, va_t end);

/// Takes mmap_lock for read, and calls part(vma, from, to) -> populate_result for each VMA of [start, end); the lock is
/// given up where one waits for a userfaultfd, and the VMAs are looked up again.  hole() where nothing is mapped.
template <class Part, class Hole>
void populate_range(cpu& self, mm& m, va_t start, va_t end, Part&& part, Hole&& hole);
/// What of [start, end) can be had; takes mmap_lock for read (mm_populate after mmap).
void populate_quietly(cpu& self, mm& m, va_t start, va_t end);

void uffd_wait(cpu& self, uffd_waiter* w);

template <class Part, class Hole>
void populate_range(cpu& self, mm& m, va_t start, va_t end, Part&& part, Hole&& hole) {
  for (va_t at = start; at < end;) {
    uffd_waiter* waiter = nullptr;
    {
      const mmap_read_guard lock(self, m);
      while (at < end && waiter == nullptr) {
        const vma_entry e = m.vmas.first_at_or_after(at);
        if (!e || e.start > at) hole();
        if (!e || e.start >= end) return;
        const va_t from = e.start > at ? e.start : at;
        const populate_result r = part(*e.vma, from, e.end < end ? e.end : end);
        waiter = r.waiter;
        at = r.upto;
      }
    }
    if (waiter != nullptr) uffd_wait(self, waiter);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
