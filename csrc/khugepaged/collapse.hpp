// collapse.hpp -- what collapsing shares: results, who asks, and the pieces that every era uses.
//
// The work in three steps, each with a function:
//   collapse_file              512 small pages of a file become one huge page; no mmap_lock is held
//   retract_page_tables        ... whose old, now empty tables are taken out of every mapping
//   collapse_pte_mapped_thp    ... and one mapping is turned from 512 PTEs to one PMD
// The second and the third are what the series changed.  Each protocol stands whole in a file of its
// own: v6_4.cpp (also 6.5: the same protocols over helpers that can fail) and v6_6.cpp.
//
// Anonymous memory has one step for all (collapse_anon.cpp), under mmap_lock for write in every release.
#pragma once
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// khugepaged's verdicts, by the names of its SCAN_ constants.
#define PGTBL_SCAN_RESULTS(X)                                                                              \
  X(fail) X(succeed) X(pmd_null) X(pmd_none) X(pmd_mapped) X(exceed_none_pte) X(exceed_swap_pte)           \
  X(exceed_shared_pte) X(pte_non_present) X(pte_uffd_wp) X(pte_mapped_hugepage) X(page_ro)                 \
  X(lack_referenced_page) X(page_null) X(page_count) X(page_lru) X(page_lock) X(page_anon)                 \
  X(page_compound) X(any_process) X(vma_null) X(vma_check) X(address_range) X(del_page_lru)                \
  X(alloc_huge_page_fail) X(truncated) X(page_filled)
enum class scan_result : u8 {
#define X(name) name,
  PGTBL_SCAN_RESULTS(X)
#undef X
};
const char* to_string(scan_result r);
/// As the kernel's tracepoints print it.
const char* tracepoint_text(scan_result r);

/// Who collapses, and for whom.
struct collapse_control {
  bool is_khugepaged = false;
  mm* target = nullptr;  // MADV_COLLAPSE: whose extent it is to map huge
  va_t target_addr = 0;
  // khugepaged's limits: entries of an extent that may be holes (or zero pages), swapped, or shared by fork.
  u32 max_ptes_none = static_cast<u32>(pages_per_huge) - 1;
  u32 max_ptes_swap = static_cast<u32>(pages_per_huge) / 8;
  u32 max_ptes_shared = static_cast<u32>(pages_per_huge) / 2;
};

/// What the PMD at va holds (find_pmd_or_thp_or_none): succeed = a table; pmd_mapped; pmd_none; pmd_null.
struct found_pmd {
  scan_result what;
  pmd_ref pmdp;
};
found_pmd find_pmd_or_thp_or_none(cpu& self, mm& m, va_t va);

/// The address at which the VMA maps the extent that begins at page `pgoff` of its file, where it maps all of
/// it, aligned; else none.
std::optional<va_t> extent_in(const vma& v, pgoff_t pgoff);

/// Pages of the extent at `start` become one huge page.  The file is kept by the caller; no mmap_lock is held.
/// pte_mapped_hugepage: done, and the target's PMD is still to be treated.
scan_result collapse_file(cpu& self, mapping& f, pgoff_t start, const collapse_control& cc);

/// First the cheap look under RCU (hpage_collapse_scan_file), then collapse_file where it is worth it.
scan_result scan_file(cpu& self, mapping& f, pgoff_t start, const collapse_control& cc);

/// The locked huge folio of the extent, with a reference; or the reason why there is none.
struct locked_huge {
  scan_result why = scan_result::succeed;
  pfn_t head = 0;
  std::optional<folio_guard> lock;
};
locked_huge lock_huge_folio(cpu& self, mapping& f, pgoff_t start);

/// Maps the folio by the PMD with a reference of its own (set_huge_pmd); false where something is there.
bool set_huge_pmd(cpu& self, vma& v, va_t extent, pmd_ref pmdp, pfn_t head);

/// Remembers an extent for khugepaged's next visit; the ninth is forgotten (before 6.6).
void put_off(cpu& self, mm& m, va_t extent);
/// Treats what was put off, if mmap_lock can be had for write at once (khugepaged, before 6.6).  Returns how
/// many were treated with success.
u32 collapse_put_off(cpu& self, mm& m);

// ---------------------------------------------------------------- anonymous memory

/// What the look at an extent's entries found (hpage_collapse_scan_pmd).
struct anon_scan {
  scan_result result = scan_result::fail;
  u32 none_or_zero = 0, unmapped = 0;
};
/// Whether the extent is worth a collapse.  The caller holds mmap_lock for read.
anon_scan scan_pmd(cpu& self, vma& v, va_t extent, const collapse_control& cc);
/// The extent becomes one huge page.  No mmap_lock is held; it is taken, for write too.
scan_result collapse_huge_page(
    cpu& self, mm& m, va_t extent, const anon_scan& found, const collapse_control& cc);

// ---------------------------------------------------------------- the protocols, by era

/// The tables of every other mapping of the extent go, where they can.  The caller holds the folio lock of the
/// new huge page.  Returns what became of the target.
scan_result retract_page_tables(cpu& self, mapping& f, pgoff_t start, pfn_t head, const collapse_control& cc);

/// The extent of m at va, mapped by PTEs of one huge folio, is mapped by its PMD (install) or by nothing.
/// The caller holds mmap_lock: for write where the era says collapse_mmap_write, else for read.
scan_result collapse_pte_mapped_thp(cpu& self, mm& m, va_t va, bool install);

namespace v6_4 {
scan_result retract_page_tables(cpu& self, mapping& f, pgoff_t start, pfn_t head, const collapse_control& cc);
scan_result collapse_pte_mapped_thp(cpu& self, mm& m, va_t va, bool install);
}  // namespace v6_4
namespace v6_6 {
scan_result retract_page_tables(cpu& self, mapping& f, pgoff_t start, pfn_t head, const collapse_control& cc);
scan_result collapse_pte_mapped_thp(cpu& self, mm& m, va_t va, bool install);
}  // namespace v6_6

}  // namespace pgtbl::inline PGTBL_WORLD
