// zap.hpp -- taking mappings away: zap of ranges, and free_pgtables.
//
// Guarantee.  When a gather is finished, no CPU has a translation of what it took, and only then were the
// pages and tables given back: an access through a stale translation met the page that it always meant.
//
// Method.  Entries are cleared under ptl (or pml); pages collect in the gather; finish() flushes the range
// once, then drops the references and frees the tables.  Of two zaps of the same range the second finds entries none
// that the first has yet to flush, so that it flushes for both.  free_pgtables takes no pml and no ptl: the VMA was
// unlinked before, so nobody may come here any more (pgtable/map.hpp says who must not).
#pragma once
#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// mmu_gather: what waits for the flush.
class gather {
 public:
  gather(cpu& self, mm& m) : self_(self), mm_(m) { m.zaps.fetch_add(1, relaxed); }
  gather(const gather&) = delete;
  gather& operator=(const gather&) = delete;
  ~gather();

  /// Takes over one reference of the folio; va is what it was mapped at.  Not while it is full.
  void page(pfn_t head, va_t va, u64 bytes);
  /// No room for another page: finish() first, outside of spinlocks.
  bool full() const { return n_pages_ == capacity; }
  /// Takes over a table that left its slot; PTE tables too.
  void table(pgtable_t table, va_t start, va_t end);
  /// An entry without a page of its own (the zero page's) was cleared here: to be flushed too.
  void cover(va_t start, va_t end) {
    if (start < start_) start_ = start;
    if (end > end_) end_ = end;
  }
  void finish();

 private:
  void free_tables();
#if defined(PGTBL_WORLD_MODEL)
  static constexpr u32 capacity = 4;
#else
  static constexpr u32 capacity = 512;
#endif
  cpu& self_;
  mm& mm_;
  va_t start_ = ~0ULL, end_ = 0;
  bool tables_ = false;
  u32 n_pages_ = 0, n_tables_ = 0;
  pfn_t pages_[capacity];
  pgtable_t tables_list_[capacity];
};

struct zap_options {
  bool file_pages_only =
      false;  // a hole punched into a file leaves the private copies of its pages (even_cows = 0)
  bool drop_markers = false;  // munmap: the mapping itself goes; what else zaps leaves guard markers
  bool keep_wp =
      false;  // set by zap_range(): userfaultfd's markers of a file stay, and protected entries become such
  bool reclaim = false;  // MADV_DONTNEED: a table that covers a whole extent of the range goes too (6.14)
};

/// Clears every entry of [start, end) that belongs to the VMA.  The caller's lock covers the upper tables.
void zap_range(cpu& self, vma& v, va_t start, va_t end, gather& g, const zap_options& o = {});

/// What try_to_free_pte found, and took out of its PMD: an empty table; or nothing.
pmd_t try_to_free_pte(cpu& self, mm& m, pmd_ref pmdp, va_t extent);

/// Frees the tables that only [start, end) used: nothing else is mapped from floor up to ceiling.
void free_pgd_range(cpu& self, mm& m, va_t start, va_t end, va_t floor, va_t ceiling, gather& g);

/// Undoes the mapping of one page by one PTE: map count, rss.  Its reference stays with the caller.
void page_remove_pte(cpu& self, mm& m, pfn_t pfn, pte_t old);
/// The same for one huge PMD.
void page_remove_pmd(cpu& self, mm& m, pfn_t head, pmd_t old);
rss_kind rss_of(cpu& self, pfn_t head);

}  // namespace pgtbl::inline PGTBL_WORLD
