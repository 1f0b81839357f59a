// MADV_COLLAPSE: each whole extent of the range is collapsed now, by the caller (madvise_collapse of 6.4 to 6.6).
//
// mmap_lock is dropped while a file is collapsed, so the VMA is looked up again for each extent (B11).  For n
// extents of shared memory that is 2n + 1 acquisitions for read in 6.6: one at the entry, one for each PMD,
// one for each new look, one to end with.  Before 6.6 the n for the PMDs are for write.
#include "khugepaged/madvise.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
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
    if (v->file == nullptr)
      return {EINVAL, "it holds anonymous memory, which this version does not collapse"};
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
    if (v->file == nullptr || at < v->start || v->end < at + pmd_size) return scan_result::vma_check;
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

void madvise_collapse(cpu& self, mm& m, va_t start, va_t end) {
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

/// Whether all of [start, end) is mapped.
bool covered(mm& m, va_t start, va_t end) {
  va_t upto = start;
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    if (e.start <= upto) upto = e.end;
  });
  return upto >= end;
}

}  // namespace

void sys_madvise(cpu& self, mm& m, va_t start, u64 length, int advice) {
  load_mm(self, m);
  if ((start & (page_size - 1)) != 0)
    throw os_error(EINVAL, "address " + std::to_string(start) + " is not a multiple of the page size");
  if (start > task_size || length > task_size - start)
    throw os_error(EINVAL, "the range leaves the address space of " + std::to_string(task_size) + " bytes");
  const va_t end = start + page_align_up(length);
  switch (advice) {
    case madv_collapse:
      if (end != start) madvise_collapse(self, m, start, end);
      return;
    case madv_dontneed:
    case madv_populate_read:
    case madv_populate_write: {
      const mmap_read_guard lock(self, m);
      const bool whole = covered(m, start, end);
      // DONTNEED does what it can before it tells of a hole; populate refuses first.
      if (advice == madv_dontneed)
        madvise_dontneed(self, m, start, end);
      else if (whole)
        madvise_populate(self, m, start, end, advice == madv_populate_write);
      if (!whole)
        throw os_error(ENOMEM,
                       "not all of [" + std::to_string(start) + ", " + std::to_string(end) + ") is mapped");
      return;
    }
    default:
      throw os_error(
          EINVAL, "advice " + std::to_string(advice) +
                      ": known are MADV_DONTNEED (4), MADV_POPULATE_READ (22), MADV_POPULATE_WRITE (23) and "
                      "MADV_COLLAPSE (25)");
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
