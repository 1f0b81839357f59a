// vma_ops.hpp -- VMAs as a whole: made, cut, joined, taken out and unmapped.
//
// All of it under mmap_lock for write, with each VMA that changes marked, so that faults under VMA locks are out;
// i_mmap and the anon_vma trees change under their own locks, as a range changes, in one section: a walk of theirs
// meets a page in one VMA or the other, never in none.
#pragma once
#include "mm/anon_vma.hpp"
#include "mm/mapping.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

inline constexpr va_t mmap_top = task_size - pmd_size;
inline constexpr va_t mmap_bottom = 16 * page_size;

/// i_mmap_rwsem in write mode, where there is a file.
class [[nodiscard]] i_mmap_write_guard {
 public:
  i_mmap_write_guard(cpu& self, mapping* f) : self_(self), file_(f) {
    if (file_ != nullptr) hold_ = file_->i_mmap_rwsem.write_lock(self);
  }
  ~i_mmap_write_guard() { unlock(); }
  i_mmap_write_guard(const i_mmap_write_guard&) = delete;
  i_mmap_write_guard& operator=(const i_mmap_write_guard&) = delete;
  void unlock() {
    if (file_ != nullptr) file_->i_mmap_rwsem.write_unlock(self_, hold_);
    file_ = nullptr;
  }

 private:
  cpu& self_;
  mapping* file_;
  hold hold_;
};

u64 prot_flags(prot_bits p);

/// With a reference of its own to the file; in no tree.
vma* new_vma(mm& m, va_t start, va_t end, u64 flags, mapping* f, pgoff_t pgoff);
/// Gives a VMA back that is out of every tree.
void drop_vma(cpu& self, vma* v);
/// Puts a new VMA into the mm's tree, and on i_mmap.  Faults find it once mmap_lock is given up.
void link_vma(cpu& self, vma& v);
void link_file(vma& v);
void unlink_file(vma& v);

/// Cuts v at `at`; the upper part becomes a VMA of its own.
void split_vma(cpu& self, vma& v, va_t at);
/// Cuts the VMAs at both ends of the range, so that it holds whole ones only.
void split_at_ends(cpu& self, mm& m, va_t start, va_t end);
/// Joins the VMA that starts at `at` with the one before it, where the two could be one.  Whether it did.
bool merge_at(cpu& self, mm& m, va_t at);
/// Moves the end of the last page of v, up or down, where nothing is in the way (vma_expand, vma_shrink).
void resize_vma(cpu& self, vma& v, va_t end);

/// VMAs that left the tree.
struct removed {
  vma* first = nullptr;
  va_t floor = 0, ceiling = task_size;  // nothing else is mapped between these
};
class uffd_events;
/// Takes the VMAs of the range out of the tree.  They stay on i_mmap.  What userfaultfds are to be told is noted.
removed detach_range(cpu& self, mm& m, va_t start, va_t end, uffd_events* told = nullptr);
/// Zaps what the VMAs had, and frees the tables that nobody else uses.  mmap_lock in any mode: they are ours alone.
void unmap_detached(cpu& self, mm& m, const removed& r);
/// munmap, with mmap_lock held for write throughout.
void unmap_range(cpu& self, mm& m, va_t start, va_t end, uffd_events* told = nullptr);

/// Throws EINVAL where start is no multiple of a page, or the range leaves the address space.
void check_range(va_t start, u64 length);
/// Whether all of [start, end) is mapped.
bool covered(const mm& m, va_t start, va_t end);
/// Throws os_error(EPERM) for a VMA that is sealed (mseal).
void refuse_sealed(const vma& v);

/// Calls f(vma) for each VMA of [start, end) that is to change, cut at the range's ends so that it lies within: one
/// that stays as it is is not cut, for that would take huge PMDs apart.  f may change the VMA, and the tree below its
/// end.  After each, and at the end, it is joined with its neighbours where it can be.
template <class Wanted, class F>
void change_vmas(cpu& self, mm& m, va_t start, va_t end, Wanted&& wanted, F&& f) {
  va_t last = start, changed_to = 0;
  for (vma_entry e = m.vmas.first_at_or_after(start); e && e.start < end;
       e = m.vmas.first_at_or_after(last)) {
    vma* v = e.vma;
    if (!wanted(*v)) {
      last = v->end;
      if (changed_to == v->start) merge_at(self, m, v->start);
      if (last >= end) return;
      continue;
    }
    if (v->start < start) {
      split_vma(self, *v, start);
      v = m.vmas.find(start);
    }
    if (v->end > end) split_vma(self, *v, end);
    last = changed_to = v->end;
    const va_t from = v->start;
    vma_start_write(self, *v);
    f(*v);
    merge_at(self, m, from);
    if (last >= end) break;
  }
  if (changed_to == last) merge_at(self, m, last);
}

}  // namespace pgtbl::inline PGTBL_WORLD
