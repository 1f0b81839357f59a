// khugepaged.hpp -- the thread that looks for extents to collapse, mm by mm.
//
// Guarantee.  It never waits for a program: an mm whose mmap_lock it cannot have at once is left for the next
// round.  If nobody interferes, repeated rounds collapse every extent that qualifies (G-47).
//
// Method.  As series.md F3: mmap_lock is tried for read; a file's extent is collapsed without it; after any
// drop of mmap_lock the VMA is looked up again.  Before 6.6 what retraction had put off comes first.
#pragma once
#include "khugepaged/collapse.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class khugepaged {
 public:
  explicit khugepaged(machine& m) : machine_(m) {}
  ~khugepaged() { stop(); }
  khugepaged(const khugepaged&) = delete;
  khugepaged& operator=(const khugepaged&) = delete;

  /// The limit on holes of an extent (all pages but one, as in Linux; never all).
  atomic<u32> max_ptes_none{static_cast<u32>(pages_per_huge) - 1};
  /// The limits on entries that are not present, and on pages shared by fork.  As in Linux.
  atomic<u32> max_ptes_swap{static_cast<u32>(pages_per_huge) / 8};
  atomic<u32> max_ptes_shared{static_cast<u32>(pages_per_huge) / 2};
  /// Pages looked at in one round of the thread: eight extents, as in Linux.
  atomic<u64> pages_to_scan{8 * pages_per_huge};

  /// Not 0: anonymous memory is taken without advice, whatever the machine's policy is for faults.
  atomic<u32> everywhere{0};

  /// Starts the thread: a round each interval.  Nothing if it runs; usage_error where no CPU is free for it.
  void start(u64 interval_ns);
  void stop();
  bool running() const { return running_.load(acquire) != 0; }

  /// One pass over every extent of every mm, on the calling thread.  Returns the extents that it changed: whose
  /// file page became huge, or whose old table it took away.
  u64 scan_once(cpu& self);

 private:
  struct cursor {
    u32 slot = 0;  // in the machine's registry
    va_t at = 0;
  };
  enum : u32 { starting, started, no_cpu };
  void run(u64 interval_ns);
  u64 scan(cpu& self, cursor& c, u64 pages);
  u64 scan_mm(cpu& self, mm& m, va_t& at, u64& pages);
  bool takes_anon(const vma& v) const;
  bool takes_file(cpu& self, const vma& v) const;

  machine& machine_;
  atomic<u32> running_{0};
  atomic<u32> stop_{0};
  atomic<u32> state_{starting};
  thread thread_;
};

/// What became of an extent, and whether that is new.
struct extent_verdict {
  scan_result result;
  bool changed;
};

/// What khugepaged does with an extent of a file that a program maps at `extent`.  pmd: what the PMD held as the
/// extent was chosen, under mmap_lock.
extent_verdict collapse_file_extent(
    cpu& self, mm& m, mapping& f, pgoff_t start, va_t extent, scan_result pmd, const collapse_control& cc);

}  // namespace pgtbl::inline PGTBL_WORLD
