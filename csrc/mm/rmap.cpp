// From a folio to the entries that map it: try_to_unmap, and unmap_mapping_range.
#include <algorithm>

#include "mm/anon_vma.hpp"
#include "mm/folio_split.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/mapping.hpp"
#include "mm/zap.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// i_mmap_rwsem in read mode: keeps every VMA of the file, and the upper tables under it.
class i_mmap_read_guard {
 public:
  i_mmap_read_guard(cpu& self, mapping& f) : self_(self), file_(f), hold_(f.i_mmap_rwsem.read_lock(self)) {}
  ~i_mmap_read_guard() { file_.i_mmap_rwsem.read_unlock(self_, hold_); }
  i_mmap_read_guard(const i_mmap_read_guard&) = delete;
  i_mmap_read_guard& operator=(const i_mmap_read_guard&) = delete;

 private:
  cpu& self_;
  mapping& file_;
  hold hold_;
};

/// Clears the PTE of frame pfn at va, if it is there (page_vma_mapped_walk and the body of try_to_unmap_one).
/// False: the table vanished; the caller looks at the PMD again.
bool unmap_pte(cpu& self, const vma& v, pmd_ref pmdp, va_t va, pfn_t pfn) {
  mm& m = v.owner;
  auto t = pte_offset_map_lock(self, pmdp, va);
  if (!t) return false;
  const pte_t seen = t->get();
  // Another page may be mapped here by now, or none (a COW, a zap).
  if (guard(Guard::rmap_recheck) && (!seen.present() || seen.pfn() != pfn)) return true;
  const pte_t old = t->get_and_clear(va);
  if (old.present() && old.pfn() == pfn) {
    flush_or_defer(self, m, va);
    page_remove_pte(self, m, pfn, old);
    // What a userfaultfd protected in a file stays protected, whatever page comes there next.
    if ((old.v & bit_uffd_wp) != 0 && v.is(vm_uffd_wp)) t->set(va, mk_marker(marker_uffd_wp));
    folio_put(self, self.ram->head_of(pfn));  // never the last: the caller holds one
    self.led.add(event::rmap_unmapped);
  }
  return true;
}

void unmap_pmd(cpu& self, mm& m, pmd_ref pmdp, va_t extent, pfn_t head) {
  spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  const pmd_t seen = pmdp.get();
  if (!seen.huge() || seen.pfn() != head) return;
  assert_pmd_locked(self, pmdp, seen);
  const pmd_t old = pmdp.get_and_clear(self);  // with the dirty bit that the hardware may just have set
  flush_tlb_range(self, m, extent, extent + pmd_size, false);
  const pgtable_t deposited = geometry.deposits_for_files ? withdraw_table(self, pmdp) : pgtable_t{};
  pml.unlock();
  free_deposited(self, m, deposited);
  page_remove_pmd(self, m, head, old);
  folio_put(self, head);
  self.led.add(event::rmap_unmapped);
}

/// Unmaps pages [first, first + n) of the folio from one VMA; they lie in one extent of its addresses
/// unless the VMA is misaligned, so each page finds its own PMD.
void unmap_one(cpu& self, vma& v, pfn_t head, pgoff_t index, u64 pages) {
  mm& m = v.owner;
  const pgoff_t first = std::max<pgoff_t>(index, v.pgoff),
                end = std::min<pgoff_t>(index + pages, v.pgoff + v.pages());
  if (first >= end) return;
  const notifier_range notifier(self, m, v.va_of(first), v.va_of(end));
  for (u64 i = 0; i < pages; ++i) {
    const pgoff_t at = index + i;
    if (at < v.pgoff || at >= v.pgoff + ((v.end - v.start) >> page_shift)) continue;
    const va_t va = v.va_of(at);
    const pmd_ref pmdp = pmd_offset(self, m, va);
    while (pmdp) {
      const pmd_t pmd = pmdp.get();
      if (pmd.none()) break;
      if (pmd.huge()) {
        if (pmd.pfn() != head) break;
        unmap_pmd(self, m, pmdp, pmd_align_down(va), head);
        continue;
      }
      if (unmap_pte(self, v, pmdp, va, head + i) || !self.rules->map_may_fail) break;
    }
  }
}

}  // namespace

void try_to_unmap(cpu& self, pfn_t head) {
  frame& f = self.ram->of(head);
  mapping* file = f.file.load(acquire);
  if (file == nullptr || (f.flags.load(relaxed) & pg_anon) != 0) return;
  const u64 pages = 1ULL << f.order;
  const pgoff_t index = f.index;
  const i_mmap_read_guard g(self, *file);
  file->i_mmap.for_each(index, index + pages - 1,
                        [&](i_mmap_node& n) { unmap_one(self, *n.owner, head, index, pages); });
}

namespace {

/// The VMA's entries for pages [index, index + pages) that map the folio's.
u64 count_in(cpu& self, vma& v, pfn_t head, pgoff_t index, u64 pages) {
  const pgoff_t first = std::max<pgoff_t>(index, v.pgoff),
                end = std::min<pgoff_t>(index + pages, v.pgoff + v.pages());
  u64 n = 0;
  for (va_t va = v.va_of(first), stop = v.va_of(end); va < stop;) {
    const va_t next = std::min(pmd_align_down(va) + pmd_size, stop);
    const pmd_ref p = pmd_offset(self, v.owner, va);
    const pmd_t pmd = p ? p.get() : pmd_t{};
    if (pmd.huge()) {
      n += pmd.pfn() == head ? 1 : 0;
    } else if (pmd.table()) {
      if (const auto t = pte_offset_map(self, p, va))
        for (va_t at = va; at < next; at += page_size) {
          const pte_t e = t->get(at);
          n += e.present() && e.pfn() == head + (v.pgoff_of(at) - index) ? 1 : 0;
        }
    }
    va = next;
  }
  return n;
}

}  // namespace

u64 mapped_in(cpu& self, pfn_t head, const mm& m) {
  frame& f = self.ram->of(head);
  const u64 pages = 1ULL << f.order;
  const pgoff_t index = f.index;
  u64 n = 0;
  const auto count = [&](vma& v) {
    if (&v.owner == &m) n += count_in(self, v, head, index, pages);
  };
  if ((f.flags.load(relaxed) & pg_anon) != 0) {
    anon_vma* a = folio_get_anon_vma(self, head);
    if (a == nullptr) return 0;
    {
      const anon_vma_write_guard family(self, a);
      for_each_mapping(*a, index, pages, count);
    }
    put_anon_vma(self, a);
  } else if (mapping* file = f.file.load(acquire); file != nullptr) {
    const i_mmap_read_guard g(self, *file);
    file->i_mmap.for_each(index, index + pages - 1, [&](i_mmap_node& node) { count(*node.owner); });
  }
  return n;
}

void unmap_mapping_range(cpu& self, mapping& f, pgoff_t first, pgoff_t last, bool even_cows) {
  const i_mmap_read_guard g(self, f);
  f.i_mmap.for_each(first, last, [&](i_mmap_node& n) {
    vma& v = *n.owner;
    const pgoff_t lo = first > n.first ? first : n.first;
    const pgoff_t hi = last < n.last ? last : n.last;
    const notifier_range notifier(self, v.owner, v.va_of(lo), v.va_of(hi) + page_size);
    gather tlb(self, v.owner);
    zap_range(self, v, v.va_of(lo), v.va_of(hi) + page_size, tlb, {.file_pages_only = !even_cows});
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
