// era.hpp -- which kernel's rules a machine follows: one plain record of switches.
//
// The names of the releases ("v6.4", ...) are rows of a table; each switch of a row can be overridden
// on its own, so that a gain can be traced to its cause.  Combinations that cannot be safe are refused
// by validate(), with the reason.
#pragma once
#include <iterator>
#include <string>
#include <string_view>

#include "world/world.hpp"

// identifier, v6.4, v6.5, v6.6, v6.13, v6.14, v6.17, v6.18, highest value, what it says
#define PGTBL_SWITCHES(X)                                                                                           \
  X(map_opens_rcu, 0, 0, 1, 1, 1, 1, 1, 1, "pte_offset_map enters an RCU read section until the unmap")             \
  X(map_may_fail, 0, 1, 1, 1, 1, 1, 1, 1, "the map helpers validate the PMD, and answer that there is no table")    \
  X(maplock_rechecks, 0, 1, 1, 1, 1, 1, 1, 1, "pte_offset_map_lock reads the PMD again under the table's lock")     \
  X(retract_without_mmap_lock, 0, 0, 1, 1, 1, 1, 1, 1,                                                              \
    "retract_page_tables: 0 = the protocol of 6.4 (i_mmap write, mmap_lock and VMA try-locks), 1 = that of 6.6 (pml and ptl)") \
  X(retract_i_mmap_write, 1, 1, 0, 0, 0, 0, 0, 1, "retraction takes i_mmap_rwsem in write mode (the protocol of 6.4 needs it)") \
  X(retract_others_on_madvise, 0, 0, 1, 1, 1, 1, 1, 1, "MADV_COLLAPSE retracts the tables of other mappings of the extent too")  \
  X(retract_checks_pmd, 0, 0, 0, 0, 1, 1, 1, 1, "retraction looks again, under pml, whether the PMD still holds a table (6.14)") \
  X(retry_array, 1, 1, 0, 0, 0, 0, 0, 1, "an mm remembers up to eight put-off extents for khugepaged's next visit")  \
  X(collapse_mmap_write, 1, 1, 0, 0, 0, 0, 0, 1, "collapse_pte_mapped_thp is called with mmap_lock held for write")  \
  X(collapse_clears_ptes, 0, 0, 1, 1, 1, 1, 1, 1,                                                                   \
    "collapse_pte_mapped_thp: 0 = the protocol of 6.4 (valid PTEs stay in the freed table), 1 = that of 6.6")       \
  X(collapse_pmd_same, 0, 0, 0, 1, 1, 1, 1, 1,                                                                      \
    "collapse_pte_mapped_thp compares the PMD again each time it has locked the table (6.13)")                      \
  X(collapse_anon_vma_early, 0, 0, 0, 0, 0, 1, 1, 1,                                                                \
    "anonymous collapse write-marks the VMA before it looks at the PMD for the last time (6.17)")                   \
  X(free_by_rcu, 0, 0, 1, 1, 1, 1, 1, 1, "a detached table is freed after a grace period; 0 = after an IPI to all CPUs") \
  X(gather_by_rcu, 0, 0, 0, 0, 1, 1, 1, 1, "munmap and exit free tables after a grace period, in batches (6.14); 0 = after the flush") \
  X(reclaim_tables, 0, 0, 0, 0, 1, 1, 1, 1, "MADV_DONTNEED of a whole extent frees its emptied table (PT_RECLAIM)")  \
  X(dontneed_under_vma_lock, 0, 0, 0, 0, 0, 1, 1, 1, "MADV_DONTNEED and MADV_FREE of one VMA take its own lock instead of mmap_lock") \
  X(mremap_rechecks, 0, 0, 1, 1, 1, 1, 1, 1, "mremap looks at the PMD again once it has the locks to move a table whole (6.12 and 6.6.57)") \
  X(anon_faults_under_vma_lock, 1, 1, 1, 1, 1, 1, 1, 1, "faults on anonymous memory take the per-VMA lock instead of mmap_lock") \
  X(file_faults_under_vma_lock, 0, 0, 1, 2, 2, 2, 2, 2,                                                             \
    "faults on files take the per-VMA lock: 0 = never, 1 = fault-around reads only (6.6), 2 = all (6.7 and later)") \
  X(fault_maps_folio, 0, 0, 0, 0, 0, 0, 1, 1, "a file fault maps all of a large folio where it fits the VMA and the table (6.18)") \
  X(huge_zero_wp, 0, 0, 0, 1, 1, 1, 1, 1, "a store to the huge zero page gets a huge page; 0 = its PMD is split first")  \
  X(nohuge_maps_no_pmd, 0, 0, 0, 1, 1, 1, 1, 1, "a fault maps no PMD where MADV_NOHUGEPAGE was given (6.12); 0 = advice is for allocation only") \
  X(split_in_halves, 0, 0, 0, 0, 0, 1, 1, 1, "truncate and punch split a huge page no further than they must (6.15); 0 = into single pages") \
  X(collapse_large_folios, 0, 0, 0, 1, 1, 1, 1, 1, "collapse_file takes large folios that are smaller than an extent (6.12)") \
  X(adjust_pte, 0, 0, 1, 2, 3, 3, 3, 3,                                                                             \
    "arm: adjust_pte reads the PMD twice (0), finds table and lock by one read (1, 6.6), compares the lock with the fault's (2, 6.13), decides by the addresses (3, 6.14)") \
  X(collapse_read_only, 0, 0, 0, 0, 0, 0, 1, 1, "anonymous collapse takes extents without one writable entry (6.18)")  \
  X(guard_in_files, 0, 0, 0, 0, 0, 1, 1, 1, "MADV_GUARD_INSTALL works on files too (6.15)")                           \
  X(guard_regions, 0, 0, 0, 1, 1, 1, 1, 1, "MADV_GUARD_INSTALL and MADV_GUARD_REMOVE exist (6.13)")                   \
  X(mremap_many, 0, 0, 0, 0, 0, 1, 1, 1, "mremap moves a range of several VMAs (6.17)")                              \
  X(mseal, 0, 0, 0, 1, 1, 1, 1, 1, "mseal exists (6.10)")                                                            \
  X(thp_except_advised, 0, 0, 0, 0, 0, 0, 1, 1, "PR_SET_THP_DISABLE can leave out what was advised (6.18)")          \
  X(uffd_under_vma_lock, 0, 0, 1, 1, 1, 1, 1, 1, "faults on memory of a userfaultfd take the per-VMA lock, as others do (6.6)") \
  X(uffd_poison, 0, 0, 1, 1, 1, 1, 1, 1, "UFFDIO_POISON exists (6.6)")                                               \
  X(uffd_move, 0, 0, 0, 1, 1, 1, 1, 1, "UFFDIO_MOVE exists (6.8)") \
  X(uffd_fills_under_vma_lock, 0, 0, 0, 1, 1, 1, 1, 1, "UFFDIO_COPY, ZEROPAGE, CONTINUE and POISON take the VMA's lock instead of mmap_lock (6.9)") \
  X(file_thp, 1, 1, 1, 2, 2, 2, 2, 2,                                                                               \
    "khugepaged and MADV_COLLAPSE take regular files that nobody writes to (READ_ONLY_THP_FOR_FS): 0 = no, 1 = in executable mappings, 2 = in all (6.11)") \
  X(longterm_only_ram, 0, 1, 1, 1, 1, 1, 1, 1, "long-term pins to write are refused in shared mappings of regular files (6.5)") \
  X(secondary_at_flush, 0, 0, 1, 1, 1, 1, 1, 1, "secondary MMUs that walk the tables are told where TLBs are flushed (6.6); 0 = where notifier ranges end")

namespace pgtbl::inline PGTBL_WORLD {

struct era {
  const char* name = "v6.6";
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) u8 id = e66;
  PGTBL_SWITCHES(X)
#undef X
};

struct switch_row {
  const char* name;
  u8 highest;
  const char* doc;
  u8 era::* field;
};
inline constexpr switch_row switch_table[] = {
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) {#id, max, doc, &era::id},
    PGTBL_SWITCHES(X)
#undef X
};

inline constexpr era eras[] = {
    {"v6.4",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e64,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.5",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e65,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.6",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e66,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.13",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e613,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.14",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e614,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.17",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e617,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.18",
#define X(id, e64, e65, e66, e613, e614, e617, e618, max, doc) e618,
     PGTBL_SWITCHES(X)
#undef X
    },
};

/// The era of that name; throws value_error naming the eras that exist.
era era_named(std::string_view name);
/// Overrides one switch; throws value_error naming the switch, the value and what is allowed.
void set_switch(era& e, std::string_view name, i64 value);
/// Throws value_error with the reason where the combination cannot be safe.
void validate(const era& e);

}  // namespace pgtbl::inline PGTBL_WORLD
