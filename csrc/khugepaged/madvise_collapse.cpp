// MADV_COLLAPSE: each whole extent of the range is collapsed now, by the caller.
//
// mmap_lock is dropped while a file is collapsed, so the VMA is looked up again for each extent (B11).  For n
// extents of shared memory that is 2n + 1 acquisitions for read in 6.6: one at the entry, one for each PMD,
// one for each new look, one to end with.  Before 6.6 the n for the PMDs are for write.  An extent of anonymous memory
// takes it for write once, in every release.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "khugepaged/madvise.hpp"
#include "khugepaged/scan_trace.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/lru_batch.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

int errno_of(scan_result r) {
  switch (r) {
    case scan_result::alloc_huge_page_fail: return ENOMEM;
    case scan_result::exceed_none_pte: return EBUSY;
    case scan_result::page_count:
    case scan_result::page_lock:
    case scan_result::page_lru:
    case scan_result::del_page_lru:
    case scan_result::page_filled: return EAGAIN;
    default: return EINVAL;
  }
}

/// Failures after which the next extent is still tried.
bool goes_on(scan_result r) {
  switch (r) {
    case scan_result::pmd_null:
    case scan_result::pte_non_present:
    case scan_result::pte_uffd_wp:
    case scan_result::page_ro:
    case scan_result::lack_referenced_page:
    case scan_result::page_null:
    case scan_result::page_count:
    case scan_result::page_lock:
    case scan_result::page_compound:
    case scan_result::page_lru:
    case scan_result::del_page_lru: return true;
    default: return false;
  }
}

/// Turns one PTE-mapped extent into a PMD, with mmap_lock in the mode of the era.
scan_result map_pmd(cpu& self, mm& m, va_t extent) {
  if (self.rules->collapse_mmap_write) {
    const mmap_write_guard lock(self, m);
    return collapse_pte_mapped_thp(self, m, extent, true);
  }
  const mmap_read_guard lock(self, m);
  return collapse_pte_mapped_thp(self, m, extent, true);
}

/// What the VMA must be, whatever the machine's policy: thp_vma_allowable_order with TVA_FORCED_COLLAPSE.
bool may_collapse(cpu& self, const vma& v) {
  if (vma_thp_disabled(v, true)) return false;
  const va_t last = pmd_align_down(v.end);
  if (last < pmd_size || last - pmd_size < v.start) return false;  // no whole extent
  if (v.is_anon()) return v.has_anon_vma();
  if (v.file->regular() && !file_thp_enabled(self, v)) return false;
  return ((v.pgoff - (v.start >> page_shift)) & (pages_per_huge - 1)) == 0;
}

/// Why a range was not collapsed; errno 0: it was.
struct failed_collapse {
  int error = 0;
  std::string why;
};

/// One VMA's part of the range.  Enters and leaves with mmap_lock held for read (`lock`).
class vma_collapse {
 public:
  vma_collapse(cpu& self, mm& m, std::optional<mmap_read_guard>& lock) : self_(self), m_(m), lock_(lock) {}

  failed_collapse run(vma* v, va_t start, va_t end) {
    if (!may_collapse(self_, *v))
      return {EINVAL,
              "a mapping in it can not have huge pages: too short, misaligned, advised MADV_NOHUGEPAGE, of a "
              "program that has PR_SET_THP_DISABLE, "
              "anonymous and never written, or of a regular file that is open for writing (before 6.11, or "
              "that is not "
              "executable)"};
    lru_add_drain_all(self_);
    const va_t first = pmd_align_up(start), last = pmd_align_down(end);
    u64 done = 0;
    scan_result failure = scan_result::fail;
    va_t failed_at = 0;
    for (va_t at = first; at < last; at += pmd_size) {
      const scan_result r = one(v, at);
      if (r == scan_result::succeed || r == scan_result::pmd_mapped) {
        ++done;
        self_.led.add(event::collapse_succeeded);
        continue;
      }
      self_.led.add(event::collapse_failed);
      failure = r;
      failed_at = at;
      if (!goes_on(r)) break;
    }
    if (!lock_) lock_.emplace(self_, m_, where::current());
    if (last >= first && done == (last - first) >> pmd_shift) return {};
    // A range that holds no whole extent, and is not even empty between its rounded ends, is an error.
    if (failed_at == 0)
      return {errno_of(failure), "it holds no whole extent of " + std::to_string(pmd_size) + " bytes"};
    return {errno_of(failure),
            std::string(to_string(failure)) + " at the extent of address " + std::to_string(failed_at)};
  }

 private:
  scan_result one(vma* v, va_t at) {
    if (!lock_) {
      lock_.emplace(self_, m_, where::current());
      if (guard(Guard::madvise_revalidate)) {
        v = m_.vmas.find(at);
        if (v == nullptr) return scan_result::vma_null;
      }
    }
    assert_vma_attached(self_, *v);
    if (at < v->start || v->end < at + pmd_size || !may_collapse(self_, *v)) return scan_result::vma_check;
    if (v->is_anon()) return anon(*v, at);
    mapping& f = *v->file;
    const pgoff_t start = v->pgoff_of(at);
    if ((start & (pages_per_huge - 1)) != 0) return scan_result::vma_check;
    mapping_get(f);
    lock_.reset();  // the file is kept by our reference; the VMA may go
    collapse_control cc;
    cc.target = &m_;
    cc.target_addr = at;
    scan_result r = scan_file(self_, f, start, cc);
    if (r == scan_result::pte_mapped_hugepage) r = map_pmd(self_, m_, at);
    mapping_put(self_, f);
    return r;
  }

  /// The look at the entries holds mmap_lock for read; the collapse takes it for write, after that was dropped.
  scan_result anon(vma& v, va_t at) {
    collapse_control cc;
    const anon_scan found = scan_pmd(self_, v, at, cc);
    scan_result r = found.result;
    if (r == scan_result::succeed) {
      lock_.reset();
      r = collapse_huge_page(self_, m_, at, found, cc);
    }
    trace_scan_pmd(self_, r, found.none_or_zero, found.unmapped);
    return r;
  }

  cpu& self_;
  mm& m_;
  std::optional<mmap_read_guard>& lock_;
};

/// Whoever collapses counts his mmap_lock acquisitions as the collapsers'.
class collapsing {
 public:
  explicit collapsing(cpu& self) : self_(self), before_(self.collapsing) { self.collapsing = true; }
  ~collapsing() { self_.collapsing = before_; }
  collapsing(const collapsing&) = delete;
  collapsing& operator=(const collapsing&) = delete;

 private:
  cpu& self_;
  bool before_;
};

}  // namespace

void madvise_collapse(cpu& self, mm& m, va_t start, va_t end) {
  if constexpr (!geometry.thp)
    throw unsupported(std::string("MADV_COLLAPSE: ") + geometry.name + " has no huge pages");
  const collapsing role(self);
  std::optional<mmap_read_guard> lock;
  lock.emplace(self, m, where::current());
  bool hole = false;
  failed_collapse failed;
  for (va_t at = start; at < end && failed.error == 0;) {
    const vma_entry e = m.vmas.first_at_or_after(at);
    if (!e || e.start >= end) {
      hole = true;
      break;
    }
    if (e.start > at) hole = true;
    const va_t upto = std::min(end, e.end);
    failed = vma_collapse(self, m, lock).run(e.vma, std::max(at, e.start), upto);
    at = upto;
  }
  lock.reset();
  if (failed.error == 0 && hole) failed = {ENOMEM, "not all of it is mapped"};
  if (failed.error != 0)
    throw os_error(failed.error, "MADV_COLLAPSE of [" + std::to_string(start) + ", " + std::to_string(end) +
                                     "): " + failed.why);
}

}  // namespace pgtbl::inline PGTBL_WORLD
