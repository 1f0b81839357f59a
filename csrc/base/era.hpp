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

// identifier, v6.4, v6.5, v6.6, highest value, what it says
#define PGTBL_SWITCHES(X)                                                                                           \
  X(map_opens_rcu, 0, 0, 1, 1, "pte_offset_map enters an RCU read section until the unmap")                         \
  X(map_may_fail, 0, 1, 1, 1, "the map helpers validate the PMD, and answer that there is no table")                \
  X(maplock_rechecks, 0, 1, 1, 1, "pte_offset_map_lock reads the PMD again under the table's lock")                 \
  X(retract_without_mmap_lock, 0, 0, 1, 1,                                                                          \
    "retract_page_tables: 0 = the protocol of 6.4 (i_mmap write, mmap_lock and VMA try-locks), 1 = that of 6.6 (pml and ptl)") \
  X(retract_i_mmap_write, 1, 1, 0, 1, "retraction takes i_mmap_rwsem in write mode (the protocol of 6.4 needs it)") \
  X(retract_others_on_madvise, 0, 0, 1, 1, "MADV_COLLAPSE retracts the tables of other mappings of the extent too")  \
  X(retry_array, 1, 1, 0, 1, "an mm remembers up to eight put-off extents for khugepaged's next visit")              \
  X(collapse_mmap_write, 1, 1, 0, 1, "collapse_pte_mapped_thp is called with mmap_lock held for write")              \
  X(collapse_clears_ptes, 0, 0, 1, 1,                                                                               \
    "collapse_pte_mapped_thp: 0 = the protocol of 6.4 (valid PTEs stay in the freed table), 1 = that of 6.6")       \
  X(free_by_rcu, 0, 0, 1, 1, "a detached table is freed after a grace period; 0 = after an IPI to all CPUs")         \
  X(anon_faults_under_vma_lock, 1, 1, 1, 1, "faults on anonymous memory take the per-VMA lock instead of mmap_lock") \
  X(file_faults_under_vma_lock, 0, 0, 1, 2,                                                                         \
    "faults on files take the per-VMA lock: 0 = never, 1 = fault-around reads only (6.6), 2 = all (6.7 and later)")

namespace pgtbl::inline PGTBL_WORLD {

struct era {
  const char* name = "v6.6";
#define X(id, e64, e65, e66, max, doc) u8 id = e66;
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
#define X(id, e64, e65, e66, max, doc) {#id, max, doc, &era::id},
    PGTBL_SWITCHES(X)
#undef X
};

inline constexpr era eras[] = {
    {"v6.4",
#define X(id, e64, e65, e66, max, doc) e64,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.5",
#define X(id, e64, e65, e66, max, doc) e65,
     PGTBL_SWITCHES(X)
#undef X
    },
    {"v6.6",
#define X(id, e64, e65, e66, max, doc) e66,
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
