// Tables that MADV_DONTNEED frees (PT_RECLAIM, 6.14) against those who had found them there.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr cast_plan retract_reclaim{"retract dontneed", layout::empty_table},
    cpmt_reclaim{"collapse_pte_mapped dontneed", layout::full_table},
    map_reclaim{"map_lock dontneed", layout::full_table}, fault_reclaim{"load dontneed", layout::empty_table},
    walk_reclaim{"walk_without_vma dontneed", layout::full_table},
    two_reclaim{"dontneed dontneed", layout::empty_table};

constexpr scenario table[] = {
    {"retract-vs-reclaim", "retraction against MADV_DONTNEED, which frees the same table", "v6.14 v6.17",
     cast_of<retract_reclaim>},
    {"collapse-pte-mapped-vs-reclaim",
     "collapse_pte_mapped_thp against MADV_DONTNEED, which frees the same table", "v6.14 v6.17",
     cast_of<cpmt_reclaim>},
    {"map-lock-vs-reclaim", "pte_offset_map_lock against MADV_DONTNEED, which frees the table", "v6.14 v6.17",
     cast_of<map_reclaim>},
    {"fault-vs-reclaim", "a read fault against MADV_DONTNEED, which frees the table", "v6.14",
     cast_of<fault_reclaim>},
    {"walk-without-vma-vs-reclaim",
     "a walk that asks for no VMA, under mmap_lock for write, against MADV_DONTNEED, which frees the table",
     "v6.17 v6.14 v6.18", cast_of<walk_reclaim>},
    {"two-reclaims", "MADV_DONTNEED of one extent by two threads", "v6.14 v6.17", cast_of<two_reclaim>},
};

}  // namespace

std::span<const scenario> scenarios_of_reclaim() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
