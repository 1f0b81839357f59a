// fork.cpp -- an address space is copied: VMAs, and of the page tables what a fault could not bring back.
//
// Guarantee.  Parent and child see what was there when fork was called, and from then on each its own stores: a
// private page is shared by both, and written by neither without a copy (cow.cpp).
//
// Method.  Under the mmap_lock of both, each VMA of the parent marked: no fault of the parent's runs beside it.
// Entries of VMAs without private pages are left out, a fault finds them in the file.  Else each entry is copied
// under the ptl of both tables: a private page loses the right to be written, in the parent too, and its exclusive
// mark.  One flush at the end, before the parent's lock is given up, ends the right to write where a CPU remembers it.
//
// Lock order.  mmap_lock of the parent > that of the child > i_mmap | anon_vma > notifier > pml > pml, ptl > ptl (the
// child's first).
//
// Cost.  Two spinlocks an extent, three atomic operations an entry, one flush.
#include "base/errors.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/machine.hpp"
#include "mm/syscalls.hpp"
#include "mm/userfaultfd.hpp"
#include "mm/vma_ops.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

class fork_copy {
 public:
  fork_copy(cpu& self, mm& parent, mm& child, uffd_events& told)
      : self_(self), from_(parent), to_(child), told_(told) {}

  /// Everything.  Throws out_of_memory; the child is then to be closed.
  void run() {
    from_.vmas.for_each(0, task_size, [&](const vma_entry& e) {
      vma_start_write(self_, *e.vma);
      if (!e.vma->is(vm_dontcopy)) copy_vma(*e.vma);
    });
  }

 private:
  [[noreturn]] void exhausted() const { throw out_of_memory("no frame is left for the child's page tables"); }

  void copy_vma(vma& v) {
    const bool followed = uffd_has(v, uffd_feature_event_fork);
    const u64 lost = vm_locked_mask | (followed ? u64{0} : vm_uffd_flags);
    vma* c = new_vma(to_, v.start, v.end, v.flags() & ~lost, v.file, v.pgoff);
    if (followed) c->uffd = child_uffd(*v.uffd);
    const bool wiped = v.is(vm_wipeonfork);
    if (!wiped) anon_vma_fork(self_, *c, v);
    link_vma(self_, *c);
    // A fault would bring a file's pages back, but not their protection.
    keep_wp_ = c->is(vm_uffd_wp);
    child_vma_ = c;
    if (!wiped && (keep_wp_ || v.anon_vma.load(relaxed) != nullptr)) copy_page_range(v);
  }

  /// One for all VMAs of a userfaultfd.
  userfaultfd* child_uffd(userfaultfd& parent) {
    if (userfaultfd* u = told_.child_of(parent)) return u;
    userfaultfd* u = dup_userfaultfd(to_, parent);
    told_.fork(self_, parent, *u);
    return u;
  }

  /// What the child's entry does not take over of the parent's.
  u64 dropped() const { return keep_wp_ ? bit_accessed : bit_accessed | bit_uffd_wp; }

  void copy_page_range(vma& v) {
    // Stores by the entries that lose the right to are reported to secondary MMUs.
    const notifier_range notifier(self_, from_, v.start, v.end);
    const seqcount_section protecting(from_.write_protect_seq);  // a fork that fails leaves it, too
    // The odd count before a look at any page's pins; pairs with the fence in GUP-fast, which counts its pin and then
    // looks at the sequence: one sees the other.
    if (guard(Guard::gup_fork_fence)) fence(seq_cst);
    for (va_t va = v.start; va < v.end;) {
      const va_t next = std::min(pmd_align_down(va) + pmd_size, v.end.get());
      copy_extent(v, va, next);
      va = next;
    }
  }

  void copy_extent(vma& v, va_t start, va_t end) {
    const pmd_ref src = pmd_offset(self_, from_, start);
    while (src) {
      const pmd_t pmd = src.get();
      if (pmd.none()) return;
      const pmd_ref dst = pmd_alloc(self_, to_, start);
      if (!dst) exhausted();
      if (pmd.huge() ? copy_huge_pmd(v, dst, src, start) : copy_ptes(v, dst, src, start, end)) return;
    }
  }

  // ---------------------------------------------------------------- huge

  /// True: done with it, or nothing to copy.
  bool copy_huge_pmd(vma& v, pmd_ref dst, pmd_ref src, va_t va) {
    const pmd_t first = src.get();
    if (!first.huge()) return false;
    if (rss_of(self_, first.pfn()) != rss_kind::anon) return true;  // a file's: faults bring it back
    pause_at(self_, point::fk_before_ptes);
    const auto table = pte_alloc_one(self_, to_);
    if (!table) exhausted();
    spin_guard dst_pml(self_, pml_of(self_, dst), lock_class::pml);
    spin_guard src_pml(self_, pml_of(self_, src), lock_class::pml);
    pmd_t e = src.get();
    const pfn_t head = e.pfn();
    const bool pinned = e.huge() && !self_.ram->is_huge_zero(head) && pinned_for_parent(head, head);
    if (!e.huge() || (pinned && guard(Guard::fork_pinned_huge))) {
      src_pml.unlock();
      dst_pml.unlock();
      pte_free(self_, to_, *table);
      // A device has pages of it: the parent keeps all, and the child gets its own now, by small pages.
      if (e.huge()) split_huge_pmd(self_, v, src, pmd_align_down(va));
      return false;
    }
    if (guard(Guard::fork_wrprotect))
      while (!src.slot->compare_exchange_strong(e.v, e.v & ~bit_write, acq_rel)) {}
    if (!self_.ram->is_huge_zero(head)) {
      frame& h = self_.ram->of(head);
      h.flags.fetch_and(~u32{pg_anon_exclusive}, acq_rel);
      folio_get(self_, head);
      h.entire_mapcount.fetch_add(1, relaxed);
      to_.rss.add(self_, rss_kind::anon, static_cast<i64>(pages_per_huge));
    }
    deposit_table(self_, dst, *table);
    to_.pgtables_bytes.fetch_add(static_cast<i64>(pte_table_bytes), relaxed);
    dst.set(self_, {e.v & ~(bit_write | dropped())});
    self_.led.add(event::pte_copied);
    return true;
  }

  // ---------------------------------------------------------------- entries

  /// False: the parent's PMD is no table any more.
  bool copy_ptes(const vma& v, pmd_ref dst, pmd_ref src, va_t start, va_t end) {
    if (!pte_alloc(self_, to_, dst)) exhausted();
    auto into = pte_offset_map_lock(self_, dst, start);  // nobody else knows the child yet
    if (!into) return true;
    auto out_of = pte_offset_map_lock(self_, src, start);
    if (!out_of) return false;
    pause_at(self_, point::fk_before_ptes);
    for (va_t va = start; va < end; va += page_size) {
      const pte_t e = out_of->get(va);
      if (e.none()) continue;
      const pte_t copy = e.present() ? copy_present(v, *out_of, va, e) : copy_other(*out_of, va, e);
      if (copy.none()) continue;
      into->set(va, copy);
      self_.led.add(event::pte_copied);
      pause_at(self_, point::fk_entry_copied);
    }
    return true;
  }

  /// An anonymous page that is the parent's alone, and of whose folio somebody has pinned pages (folio_needs_cow_for_dma).
  bool pinned_for_parent(pfn_t pfn, pfn_t head) const {
    const memory& ram = *self_.ram;
    return (ram.of(pfn).flags.load(acquire) & pg_anon_exclusive) != 0 && maybe_dma_pinned(ram.of(head));
  }

  pte_t copy_present(const vma& v, pte_locked& t, va_t va, pte_t e) {
    memory& ram = *self_.ram;
    if (ram.is_zero(e.pfn())) return {e.v & ~dropped()};
    const pfn_t head = ram.head_of(e.pfn());
    frame& page = ram.of(e.pfn());
    const rss_kind kind = rss_of(self_, head);
    const bool pinned = kind == rss_kind::anon && pinned_for_parent(e.pfn(), head);
    if (pinned && guard(Guard::fork_pinned)) return copy_pinned(va, e);
    pause_at(self_, point::fk_pins_seen);
    folio_get(self_, head);
    page.mapcount.fetch_add(1, relaxed);
    to_.rss.add(self_, kind, 1);
    if (!v.shared()) {
      if (kind == rss_kind::anon) page.flags.fetch_and(~u32{pg_anon_exclusive}, acq_rel);
      // The hardware may set accessed and dirty meanwhile.
      if (guard(Guard::fork_wrprotect))
        while (e.write() && !t.replace(va, e, {e.v & ~bit_write})) e = t.get(va);
      e.v &= ~bit_write;
    }
    // The child has written to no shared page so far; the parent's entry still says that it has.
    const u64 clean = v.shared() ? bit_dirty : 0;
    return {e.v & ~(dropped() | clean)};
  }

  /// A device works on the page that the program has: so it stays the parent's, writable, and the child gets a copy now
  /// (copy_present_page).
  pte_t copy_pinned(va_t va, pte_t e) {
    memory& ram = *self_.ram;
    const auto pfn = ram.alloc_page(self_, self_.frames);
    if (!pfn) exhausted();
    {
      const kernel_mapping bytes(self_, e.pfn());
      ram.phys.copy_page(*pfn, e.pfn());
    }
    folio_set_new_anon(self_, *pfn, *child_vma_, va);
    ram.of(*pfn).mapcount.fetch_add(1, relaxed);
    to_.rss.add(self_, rss_kind::anon, 1);
    pte_t copy = mk_pte(*pfn, child_vma_->prot());
    copy.v |= bit_dirty | (keep_wp_ ? e.v & bit_uffd_wp : 0);
    if ((copy.v & bit_uffd_wp) != 0) copy.v &= ~bit_write;
    return copy;
  }

  pte_t copy_other(pte_locked& t, va_t va, pte_t e) {
    if (e.migration()) {
      // Comes back for both when the split is done: to be written by neither without a copy.
      const pte_t shared{e.v & ~(bit_write | bit_migration_exclusive)};
      t.set(va, shared);
      to_.rss.add(self_, rss_of(self_, self_.ram->head_of(e.pfn())), 1);
      return shared;
    }
    const u64 kept = e.marker() & (marker_guard | marker_poison | (keep_wp_ ? u64{marker_uffd_wp} : u64{0}));
    return kept != 0 ? mk_marker(kept) : pte_t{};
  }

  cpu& self_;
  mm& from_;
  mm& to_;
  uffd_events& told_;
  vma* child_vma_ = nullptr;
  bool keep_wp_ = false;  // the child's VMA is write-protected by a userfaultfd of its own
};

}  // namespace

mm* sys_fork(cpu& self, mm& parent) {
  uffd_events told;
  mm* const child = copy_mm(self, parent, told);
  told.tell(self);
  return child;
}

mm* copy_mm(cpu& self, mm& parent, uffd_events& told) {
  load_mm(self, parent);
  mm* child = parent.home.new_mm(self, parent.pgste());
  try {
    const mmap_write_guard lock(self, parent);
    const mmap_write_guard nested(self, *child);
    child->brk_start = parent.brk_start.get();
    child->brk_end = parent.brk_end.get();
    child->thp.store(parent.thp.load(relaxed), relaxed);
    fork_copy(self, parent, *child, told).run();
    // Before the parent's faults go on: a CPU that remembers an entry as writable would write the child's page too.
    if (guard(Guard::fork_flush)) flush_tlb_mm(self, parent);
  } catch (...) {
    parent.home.close_mm(self, child);
    load_mm(self, parent);
    throw;
  }
  self.led.add(event::fork);
  return child;
}

}  // namespace pgtbl::inline PGTBL_WORLD
