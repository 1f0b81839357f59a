// mremap.cpp -- a mapping grows, shrinks or moves; its entries go along.
//
// Guarantee.  Whoever looks for a page by its file or anon_vma finds it at the old place or at the new one; and when
// the source's lock is given up, no CPU reaches it by the old address any more (B32).
//
// Method.  Moved is the cheapest thing that is aligned: a huge PMD, a PTE table as a whole, or entry by entry.  A
// table goes whole only into a PMD that is none, with the rmap locks for write and both PMD locks: and it is looked at
// again then, for retraction may have taken it meanwhile, under i_mmap for read and the same PMD lock (B35).
//
// Lock order.  mmap_lock (write) > VMA marks > i_mmap (write) > anon_vma (write) > pml > pml | ptl > ptl: the source
// first.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/machine.hpp"
#include "mm/populate.hpp"
#include "mm/syscalls.hpp"
#include "mm/userfaultfd.hpp"
#include "mm/vma_ops.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

// ---------------------------------------------------------------- the tables

namespace {

class table_move {
 public:
  table_move(cpu& self, vma& from, vma& to, va_t old_at, va_t new_at)
      : self_(self),
        m_(from.owner),
        from_(from),
        to_(to),
        old_(old_at),
        new_(new_at),
        drop_wp_(from.uffd != nullptr && to.uffd == nullptr) {}

  void run(u64 length) {
    const va_t end = old_ + length;
    // Nobody faults here, but secondary MMUs and rmap walks go on.
    const notifier_range notifier(self_, m_, old_, end);
    realign(length);
    while (old_ < end) {
      const u64 step = step_to(end);
      const pmd_ref src = pmd_offset(self_, m_, old_);
      if (src && !src.get().none()) {
        const pmd_ref dst = pmd_alloc(self_, m_, new_);
        if (!dst) throw os_error(ENOMEM, "mremap: no frame is left for a page table");
        if (!move_step(src, dst, step)) continue;  // the source changed: once more
      }
      old_ += step;
      new_ += step;
    }
  }

 private:
  /// Up to the next end of an extent, of the source or of the destination.
  u64 step_to(va_t end) const {
    const u64 a = pmd_align_down(old_) + pmd_size - old_, b = pmd_align_down(new_) + pmd_size - new_;
    return std::min({a, b, end - old_});
  }

  /// Begins at the extent's own begin where nothing else is mapped before, so that its table goes whole.
  void realign(u64 length) {
    const u64 off = old_ & (pmd_size - 1);
    if (off == 0 || off != (new_ & (pmd_size - 1)) || length < pmd_size - off) return;
    if (!alone_below(from_, old_) || !alone_below(to_, new_)) return;
    old_ -= off;
    new_ -= off;
  }
  bool alone_below(const vma& v, va_t at) const {
    if (v.start != at) return false;
    const vma_entry before = m_.vmas.last_before(at);
    return !before || before.end <= pmd_align_down(at);
  }

  /// False: the source's PMD changed under us.
  bool move_step(pmd_ref src, pmd_ref dst, u64 step) {
    const pmd_t pmd = src.get();
    if (step == pmd_size) {
      if (pmd.huge() && move_huge_pmd(src, dst)) return true;
      // What a userfaultfd protected is protected no more where it goes: entry by entry.
      if (pmd.table() && dst.get().none() && !drop_wp_ && move_normal_pmd(src, dst)) return true;
    }
    const pmd_t now = src.get();
    if (now.none()) return true;
    if (now.huge()) {
      split_huge_pmd(self_, from_, src, pmd_align_down(old_));
      return false;
    }
    if (!pte_alloc(self_, m_, dst)) throw os_error(ENOMEM, "mremap: no frame is left for a page table");
    return move_ptes(src, dst, step) || !self_.rules->map_may_fail;
  }

  /// i_mmap and the anon_vma family for write: an rmap walk is before the move, or after it.
  struct rmap_locks {
    rmap_locks(cpu& self, vma& v) : file(self, v.file), family(self, v) {}
    i_mmap_write_guard file;
    anon_vma_write_guard family;
  };

  /// The locks of two PMD pages, which may be one.
  struct pml_pair {
    pml_pair(cpu& self, pmd_ref a, pmd_ref b) : first(self, pml_of(self, a), lock_class::pml) {
      if (&pml_of(self, b) != &pml_of(self, a)) second.emplace(self, pml_of(self, b), lock_class::pml);
    }
    spin_guard first;
    std::optional<spin_guard> second;
  };

  bool move_huge_pmd(pmd_ref src, pmd_ref dst) {
    const rmap_locks rmap(self_, from_);
    const pml_pair locks(self_, src, dst);
    if (!src.get().huge() || !dst.get().none()) return false;
    const pmd_t old = src.get_and_clear(self_);
    if (needs_deposit(self_, old.pfn())) deposit_table(self_, dst, withdraw_table(self_, src));
    flush_tlb_range(self_, m_, old_, old_ + pmd_size, false);
    dst.set(self_, {drop_wp_ ? old.v & ~bit_uffd_wp : old.v});
    return true;
  }

  bool move_normal_pmd(pmd_ref src, pmd_ref dst) {
    pause_at(self_, point::mr_pmd_read);
    const rmap_locks rmap(self_, from_);
    pause_at(self_, point::mr_rmap_locked);
    const pml_pair locks(self_, src, dst);
    const pmd_t now = src.get();
    if (self_.rules->mremap_rechecks && guard(Guard::mremap_recheck) && !now.table()) return false;
    src.set(self_, {});
    // What the cache has under the old address is written back before anybody can load by the new one.
    if constexpr (geometry.cache_lines != 0) flush_tlb_range(self_, m_, old_, old_ + pmd_size, true);
    dst.set(self_, mk_table(now.pgtable()));
    flush_tlb_range(self_, m_, old_, old_ + pmd_size, true);
    self_.led.add(event::table_moved);
    pause_at(self_, point::mr_moved);
    return true;
  }

  bool move_ptes(pmd_ref src, pmd_ref dst, u64 step) {
    const rmap_locks rmap(self_, from_);
    auto out_of = pte_offset_map_lock(self_, src, old_);
    if (!out_of) return false;
    auto map = pte_offset_map_rw_nolock(self_, dst, new_);
    if (!map) return false;
    // One table may hold both; and one lock both tables.
    std::optional<pte_locked> into;
    if (map->table() != out_of->table()) {
      if (&ptl_of(self_, map->pmdval()) == &out_of->ptl())
        into.emplace(std::move(*map), *out_of);
      else
        into.emplace(std::move(*map).lock());
    }
    flush_batched_pending(self_, m_);
    bool any = false;
    for (u64 at = 0; at < step; at += page_size) {
      if (out_of->get(old_ + at).none()) continue;
      pte_t e = out_of->get_and_clear(old_ + at);
      if (drop_wp_ && e.marker() == marker_uffd_wp) continue;
      if (drop_wp_ && e.present()) e.v &= ~bit_uffd_wp;
      any |= e.present();
      if constexpr (geometry.cache_lines != 0)
        if (e.present()) flush_tlb_range(self_, m_, old_ + at, old_ + at + page_size, false);
      (into ? *into : *out_of).set(new_ + at, e);
      self_.led.add(event::pte_moved);
    }
    // Before the locks are given up: a truncate that finds the page at its new place flushes that alone (B32).
    if (any && guard(Guard::mremap_flush)) flush_tlb_range(self_, m_, old_, old_ + step, false);
    return true;
  }

  cpu& self_;
  mm& m_;
  vma& from_;
  vma& to_;
  va_t old_, new_;
  const bool drop_wp_;  // the userfaultfd does not follow the mapping
};

// ---------------------------------------------------------------- the VMAs

/// One call of mremap, with mmap_lock held for write.
class remap {
 public:
  remap(cpu& self, mm& m, const mremap_args& a)
      : self_(self),
        m_(m),
        flags_(a.flags),
        old_(a.addr),
        old_len_(page_align_up(a.old_length)),
        new_len_(page_align_up(a.new_length)),
        new_(a.new_addr) {}

  void check() const {
    if ((flags_ & ~u32{mremap_maymove | mremap_fixed | mremap_dontunmap}) != 0)
      bad("flags " + std::to_string(flags_) +
          ": known are MREMAP_MAYMOVE (1), MREMAP_FIXED (2), MREMAP_DONTUNMAP (4)");
    if ((old_ & (page_size - 1)) != 0)
      bad("address " + std::to_string(old_) + " is not a multiple of a page");
    if (old_ > task_size || old_len_ > task_size - old_) bad("the old range leaves the address space");
    if (new_len_ == 0 || new_len_ > task_size) bad("new length " + std::to_string(new_len_));
    if (!has_place()) return;
    if ((flags_ & mremap_maymove) == 0) bad("MREMAP_FIXED and MREMAP_DONTUNMAP need MREMAP_MAYMOVE");
    if ((flags_ & mremap_dontunmap) != 0 && old_len_ != new_len_)
      bad("MREMAP_DONTUNMAP needs a new length equal to the old one");
    if ((new_ & (page_size - 1)) != 0)
      bad("new address " + std::to_string(new_) + " is not a multiple of a page");
    if (new_ > task_size || new_len_ > task_size - new_) bad("the new range leaves the address space");
    if (old_ + old_len_ > new_ && new_ + new_len_ > old_) bad("the old range and the new one overlap");
  }

  /// The new address.  `lock` is downgraded where a tail is cut off.
  va_t run(mmap_write_guard& lock) {
    const bool many = (flags_ & mremap_fixed) != 0 && old_len_ == new_len_ && self_.rules->mremap_many;
    if (many) return move_many();
    find_vma();
    if (has_place()) return move_to();
    if (new_len_ < old_len_) {
      const removed r = detach_range(self_, m_, old_ + new_len_, old_ + old_len_, &unmapped_);
      lock.downgrade();
      pause_at(self_, point::mu_downgraded);
      unmap_detached(self_, m_, r);
      return old_;
    }
    if (new_len_ == old_len_) return old_;
    return grow();
  }

  /// What came to be, of memory that is locked: to be brought in, without mmap_lock for write.
  struct fresh {
    va_t start = 0, end = 0;
  };
  fresh to_populate() const { return fresh_; }

  /// What userfaultfds are to know of it.  Without mmap_lock.
  void tell() {
    overlaid_.tell(self_);
    moved_.tell(self_);
    unmapped_.tell(self_);
  }

 private:
  [[noreturn]] void bad(const std::string& why) const { throw os_error(EINVAL, "mremap: " + why); }
  [[noreturn]] void fault(va_t at) const {
    throw os_error(EFAULT, "mremap: address " + std::to_string(at) +
                               " is not mapped, or the range is not of one mapping");
  }
  bool has_place() const { return (flags_ & (mremap_fixed | mremap_dontunmap)) != 0; }

  void find_vma() {
    v_ = m_.vmas.find(old_);
    if (v_ == nullptr) fault(old_);
    refuse_sealed(*v_);
    const bool maps_new = new_len_ > old_len_ || has_place();
    if (!maps_new) return;
    if (old_len_ == 0 && !v_->shared()) bad("old length 0 makes a second mapping of shared memory only");
    if (old_len_ > v_->end - old_) fault(v_->end);
  }

  // ---------------------------------------------------------------- growing

  va_t grow() {
    if (old_ + old_len_ == v_->end && room_behind(new_len_ - old_len_)) {
      const va_t grown = v_->end;
      resize_vma(self_, *v_, old_ + new_len_);
      note_fresh(*v_, grown, old_ + new_len_);
      merge_at(self_, m_, old_ + new_len_);
      return old_;
    }
    if ((flags_ & mremap_maymove) == 0)
      throw os_error(ENOMEM, "mremap: no room behind the mapping, and MREMAP_MAYMOVE is not given");
    choose_place();
    return move();
  }
  bool room_behind(u64 more) const {
    const va_t end = v_->end;
    return more <= mmap_top - end && !m_.vmas.snapshot().overlaps(end, end + more);
  }
  void choose_place() {
    const u64 align = new_len_ >= pmd_size ? pmd_size : page_size;
    const auto at = m_.vmas.gap_below(mmap_bottom, mmap_top, new_len_, align);
    if (!at) throw os_error(ENOMEM, "mremap: no gap of " + std::to_string(new_len_) + " bytes is left");
    new_ = *at;
  }
  void note_fresh(const vma& v, va_t start, va_t end) {
    if (v.is(vm_locked) && start < end) fresh_ = {start, end};
  }

  // ---------------------------------------------------------------- moving

  va_t move_to() {
    if ((flags_ & mremap_fixed) != 0) {
      unmap_range(self_, m_, new_, new_ + new_len_, &overlaid_);
      v_ = m_.vmas.find(old_);  // it may have been cut
      if (v_ == nullptr) fault(old_);
    }
    if (new_len_ < old_len_) {
      unmap_range(self_, m_, old_ + new_len_, old_ + old_len_, &unmapped_);
      old_len_ = new_len_;
      v_ = m_.vmas.find(old_);
    }
    if ((flags_ & mremap_fixed) == 0 && m_.vmas.snapshot().overlaps(new_, new_ + new_len_)) choose_place();
    return move();
  }

  /// 6.17: every VMA of the range, and the holes between them stay as wide.
  va_t move_many() {
    const va_t start = old_, end = old_ + old_len_;
    va_t target = new_, result = 0, last_end = 0;
    bool seen = false;
    for (va_t at = start; at < end || !seen;) {
      const vma_entry e = m_.vmas.first_at_or_after(at);
      if (!e || e.start >= end) break;
      if (!seen && e.start > start) fault(start);
      const va_t from = std::max(e.start, start), upto = std::min(e.end, end);
      // A userfaultfd might have to be told in between, without mmap_lock: such VMAs go alone or not at all.
      if (e.vma->uffd != nullptr && (seen || upto < end)) fault(from);
      const u64 gap = seen ? e.start - last_end : 0;
      last_end = e.end;
      old_ = from;
      new_ = target + gap;
      old_len_ = new_len_ = upto - from;
      find_vma();
      const va_t moved = move_to();
      if (!seen) result = moved;
      seen = true;
      target = moved + new_len_;
      at = upto;
    }
    if (!seen) fault(start);
    return result;
  }

  /// v_'s part [old_, old_ + old_len_) goes to new_, which is free.
  va_t move() {
    vma& v = *v_;
    vma_start_write(self_, v);
    // Memory that nobody has used knows no place: it may join its new neighbours.
    const pgoff_t pgoff =
        v.is_anon() && v.anon_vma.load(relaxed) == nullptr ? new_ >> page_shift : v.pgoff_of(old_);
    const bool followed = uffd_has(v, uffd_feature_event_remap);
    const u64 flags = followed ? v.flags() : v.flags() & ~vm_uffd_flags;
    vma* to = new_vma(m_, new_, new_ + new_len_, flags, v.file, pgoff);
    if (followed) to->uffd = v.uffd;
    anon_vma_clone(self_, *to, v);
    if (anon_vma* a = v.anon_vma.load(relaxed); a != nullptr) {
      const anon_vma_write_guard family(self_, a);
      a->active_vmas += 1;
      to->anon_vma.store(a, release);
    }
    link_vma(self_, *to);
    try {
      table_move(self_, v, *to, old_, new_).run(old_len_);
    } catch (const os_error&) {
      table_move(self_, *to, v, new_, old_).run(old_len_);  // back, which needs no memory
      unmap_range(self_, m_, new_, new_ + new_len_);
      throw;
    }
    note_fresh(*to, new_ + old_len_, new_ + new_len_);
    if (followed) moved_.remap(self_, *v.uffd, old_, new_, old_len_);
    if ((flags_ & mremap_dontunmap) != 0) {
      const bool whole = v.start == old_ && v.end == old_ + old_len_;
      v.set_flags(v.flags() & ~vm_locked_mask);
      if (whole) unlink_anon_vmas(self_, v);
    } else if (old_len_ != 0) {
      unmap_range(self_, m_, old_, old_ + old_len_, &unmapped_);
    }
    merge_at(self_, m_, new_);
    merge_at(self_, m_, new_ + new_len_);
    return new_;
  }

  cpu& self_;
  mm& m_;
  const u32 flags_;
  va_t old_;
  u64 old_len_, new_len_;
  va_t new_;
  vma* v_ = nullptr;
  fresh fresh_;
  uffd_events overlaid_, moved_, unmapped_;
};

}  // namespace

va_t sys_mremap(cpu& self, mm& m, const mremap_args& a) {
  load_mm(self, m);
  remap call(self, m, a);
  call.check();
  va_t at = 0;
  {
    mmap_write_guard lock(self, m);
    at = call.run(lock);
  }
  call.tell();
  if (const auto f = call.to_populate(); f.start < f.end) populate_quietly(self, m, f.start, f.end);
  return at;
}

}  // namespace pgtbl::inline PGTBL_WORLD
