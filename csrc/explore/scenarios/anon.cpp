// Private memory: its collapse, huge pages by fault, their splits, and guards; and splits of a file's huge pages.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr cast_plan collapse_store{"collapse_anon_decided store", layout::anon_pages},
    collapse_load{"collapse_anon_decided load", layout::anon_pages},
    collapse_hardware{"collapse_anon_decided hardware_load", layout::anon_pages},
    collapse_lock{"collapse_anon_decided map_lock", layout::anon_pages},
    collapse_lockless{"collapse_anon_decided lockless_walk", layout::anon_pages},
    collapse_dontneed{"collapse_anon_decided dontneed", layout::anon_pages},
    collapse_munmap{"collapse_anon_decided munmap", layout::anon_pages},
    collapse_exit{"collapse_anon_decided exit", layout::anon_pages},
    collapse_pin{"pinned_store collapse_anon_decided", layout::anon_pages},
    madvise_store{"madvise_collapse store", layout::anon_pages},
    two_collapses{"collapse_anon_decided collapse_anon_decided", layout::anon_pages},
    two_faults{"store store", layout::anon_none}, fault_dontneed{"store dontneed", layout::anon_none},
    fault_munmap{"store munmap", layout::anon_none},
    split_hardware{"hardware_load split_vma", layout::anon_huge},
    split_store{"store split_vma", layout::anon_huge}, split_load{"load split_vma", layout::anon_huge},
    split_munmap{"split_vma munmap", layout::anon_huge},
    punch_pin{"pinned_store punch_last", layout::empty_table},
    punch_write{"file_write punch_last", layout::empty_table},
    punch_retract{"punch_last retract", layout::empty_table},
    guard_retract{"guard_install retract", layout::empty_table},
    guard_fault{"guard_install load", layout::empty_table},
    guard_store{"guard_install store_last", layout::anon_pages},
    guard_dontneed{"guard_install dontneed", layout::anon_pages},
    refill_reclaim{"dontneed_all_but_first store_last_extent", layout::anon_pages, 1, false, false, 2};

constexpr scenario table[] = {
    {"anon-collapse-vs-store", "anonymous collapse against a store", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<collapse_store>},
    {"anon-collapse-vs-load", "anonymous collapse against a load", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<collapse_load>},
    {"anon-collapse-vs-hardware", "anonymous collapse against the hardware walker",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<collapse_hardware>},
    {"anon-collapse-vs-map-lock", "anonymous collapse against pte_offset_map_lock",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<collapse_lock>},
    {"anon-collapse-vs-lockless-walk",
     "anonymous collapse against a walk with interrupts off, on a CPU that does not run the program",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<collapse_lockless>},
    {"anon-collapse-vs-dontneed", "anonymous collapse against MADV_DONTNEED, which frees the table (6.14)",
     "v6.17 v6.14 v6.6 v6.4 v6.18", cast_of<collapse_dontneed>},
    {"anon-collapse-vs-munmap", "anonymous collapse against munmap", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<collapse_munmap>},
    {"anon-collapse-vs-exit", "anonymous collapse against the end of the program",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<collapse_exit>},
    {"anon-collapse-vs-pin", "anonymous collapse against a device that has pinned a page",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<collapse_pin>},
    {"madvise-collapse-anon-vs-store", "MADV_COLLAPSE of anonymous memory against a store",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<madvise_store>},
    {"two-anon-collapses", "anonymous collapse of one extent by two threads", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<two_collapses>},
    {"two-huge-faults", "two stores that each bring a huge page", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<two_faults>},
    {"huge-fault-vs-dontneed", "a store that brings a huge page against MADV_DONTNEED",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<fault_dontneed>},
    {"huge-fault-vs-munmap", "a store that brings a huge page against munmap", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<fault_munmap>},
    {"huge-split-vs-hardware", "a huge PMD is split that another CPU translates by",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<split_hardware>},
    {"huge-split-vs-store", "the split of a huge PMD against a store", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<split_store>},
    {"huge-split-vs-load", "the split of a huge PMD against a load", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<split_load>},
    {"huge-split-vs-munmap", "the split of a huge PMD against munmap", "v6.6 v6.4 v6.5 v6.17 v6.18",
     cast_of<split_munmap>},
    {"punch-vs-pin", "a hole is punched into a huge page that a device has pinned",
     "v6.6 v6.4 v6.5 v6.17 v6.18", cast_of<punch_pin>},
    {"punch-vs-write", "a hole is punched into a huge page against a write to the same page", "v6.6 v6.17",
     cast_of<punch_write>},
    {"punch-vs-retract", "a hole is punched into a huge page against retraction", "v6.6 v6.4 v6.17",
     cast_of<punch_retract>},
    {"guard-vs-retract", "a guard is put into a table that is being retracted", "v6.17 v6.18",
     cast_of<guard_retract>},
    {"guard-vs-fault", "a guard is put into a table beside a fault", "v6.17 v6.18", cast_of<guard_fault>},
    {"guard-vs-store", "a guard takes the place of a page that is stored to", "v6.17 v6.13",
     cast_of<guard_store>},
    {"guard-vs-dontneed", "a guard against MADV_DONTNEED, which may free the table", "v6.17 v6.14 v6.13",
     cast_of<guard_dontneed>},
    {"refill-vs-reclaim",
     "a store fills an entry behind a MADV_DONTNEED that has let the table's lock go, and then frees the "
     "table",
     "v6.14 v6.17 v6.18", cast_of<refill_reclaim>},
};

}  // namespace

std::span<const scenario> scenarios_of_anon() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
