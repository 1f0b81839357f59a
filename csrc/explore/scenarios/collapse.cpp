// The protocols of collapse against those who fault, store, truncate, unmap and walk.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr cast_plan fault_retract{"fR", layout::empty_table}, store_retract{"wR", layout::empty_table},
    fault_cpmt{"fC", layout::full_table}, map_cpmt{"lC", layout::full_table},
    hardware_cpmt{"hC", layout::full_table}, hardware_retract{"hR", layout::empty_table},
    two_collapse{"CK", layout::full_table}, cpmt_truncate{"CT", layout::full_table},
    retract_truncate{"RT", layout::empty_table}, retract_exit{"RX", layout::empty_table},
    retract_munmap{"RU", layout::empty_table}, cpmt_munmap{"CU", layout::full_table},
    cpmt_dontneed{"CD", layout::full_table}, cpmt_rmap{"Cu", layout::full_table},
    collapse_writer{"wF", layout::small_pages}, collapse_filler{"WF", layout::small_pages_and_hole},
    collapse_reader{"fF", layout::small_pages}, fault_truncate{"fT", layout::empty_table},
    fault_munmap{"fU", layout::empty_table}, retract_second{"fR", layout::empty_table, 2},
    two_faults{"ff", layout::no_table}, fault_hardware{"fh", layout::no_table},
    fault_map{"fm", layout::no_table}, lockless_retract{"gR", layout::empty_table},
    private_retract{"pR", layout::empty_table, 1, true}, private_cpmt{"wC", layout::full_table, 1, true},
    private_cpmt_last{"vC", layout::full_table, 1, true}, abort_truncate{"vZh", layout::full_table, 1, true},
    pin_collapse{"Pc", layout::small_pages}, dontneed_hardware{"hD", layout::small_pages, 1, true},
    rmap_private{"wu", layout::small_pages, 1, true}, hardware_truncate{"hT", layout::small_pages},
    rmap_dontneed{"uD", layout::small_pages}, partial_retract{"mR", layout::empty_table, 1, false, true},
    madvise_munmap{"AU", layout::small_pages};

template <const cast_plan& Plan>
program* cast_of(stage& s, const era& rules) {
  return pgtbl::make<machine_cast>(s, rules, Plan);
}

constexpr scenario table[] = {
    {"fault-vs-retract", "a read fault against retraction of its table", "v6.6 v6.4 v6.5",
     cast_of<fault_retract>},
    {"store-vs-retract", "a write fault against retraction of its table", "v6.6 v6.4 v6.5",
     cast_of<store_retract>},
    {"hardware-vs-retract", "the hardware walker against retraction", "v6.6 v6.4 v6.5",
     cast_of<hardware_retract>},
    {"second-mm-fault-vs-retract", "a fault in one of two programs against retraction of both tables",
     "v6.6 v6.4 v6.5", cast_of<retract_second>},
    {"fault-vs-collapse-pte-mapped", "a read fault against collapse_pte_mapped_thp", "v6.6 v6.4 v6.5",
     cast_of<fault_cpmt>},
    {"map-lock-vs-collapse-pte-mapped", "pte_offset_map_lock against collapse_pte_mapped_thp",
     "v6.6 v6.4 v6.5", cast_of<map_cpmt>},
    {"hardware-vs-collapse-pte-mapped", "the hardware walker against collapse_pte_mapped_thp",
     "v6.6 v6.4 v6.5", cast_of<hardware_cpmt>},
    {"two-collapsers", "collapse_pte_mapped_thp by MADV_COLLAPSE and by khugepaged", "v6.6 v6.4 v6.5",
     cast_of<two_collapse>},
    {"truncate-vs-collapse-pte-mapped", "truncate against collapse_pte_mapped_thp", "v6.6 v6.4 v6.5",
     cast_of<cpmt_truncate>},
    {"truncate-vs-retract", "truncate against retraction", "v6.6 v6.4 v6.5", cast_of<retract_truncate>},
    {"truncate-vs-fault", "truncate against a read fault", "v6.6 v6.4 v6.5", cast_of<fault_truncate>},
    {"exit-vs-retract", "the end of a program against retraction", "v6.6 v6.4 v6.5", cast_of<retract_exit>},
    {"munmap-vs-retract", "munmap against retraction", "v6.6 v6.4 v6.5", cast_of<retract_munmap>},
    {"munmap-vs-collapse-pte-mapped", "munmap against collapse_pte_mapped_thp", "v6.6 v6.4 v6.5",
     cast_of<cpmt_munmap>},
    {"munmap-vs-fault", "munmap against a read fault", "v6.6 v6.4 v6.5", cast_of<fault_munmap>},
    {"dontneed-vs-collapse-pte-mapped", "MADV_DONTNEED against collapse_pte_mapped_thp", "v6.6 v6.4 v6.5",
     cast_of<cpmt_dontneed>},
    {"rmap-vs-collapse-pte-mapped", "an rmap walk against collapse_pte_mapped_thp", "v6.6 v6.4 v6.5",
     cast_of<cpmt_rmap>},
    {"collapse-file-vs-store", "collapse_file against a store through a mapping", "v6.6 v6.4 v6.5",
     cast_of<collapse_writer>},
    {"collapse-file-vs-hole-filler", "collapse_file against a write that fills a hole", "v6.6 v6.4 v6.5",
     cast_of<collapse_filler>},
    {"collapse-file-vs-load", "collapse_file against a load", "v6.6 v6.4 v6.5", cast_of<collapse_reader>},
    {"two-faults", "two faults that each install a table", "v6.6 v6.5 v6.4", cast_of<two_faults>},
    {"fault-vs-hardware", "the hardware walker reads a table that a fault has just installed",
     "v6.6 v6.5 v6.4", cast_of<fault_hardware>},
    {"fault-vs-map", "pte_offset_map reads a table that a fault has just installed", "v6.6 v6.5 v6.4",
     cast_of<fault_map>},
    {"lockless-walk-vs-retract",
     "a walk with interrupts off, on a CPU that does not run the program, against retraction",
     "v6.6 v6.4 v6.5", cast_of<lockless_retract>},
    {"private-page-vs-retract", "a private page put in as UFFDIO_COPY does, against retraction",
     "v6.6 v6.4 v6.5", cast_of<private_retract>},
    {"private-store-vs-collapse-pte-mapped",
     "a private copy of the first page against collapse_pte_mapped_thp", "v6.6 v6.4 v6.5",
     cast_of<private_cpmt>},
    {"private-store-aborts-collapse",
     "a private copy of the last page makes collapse_pte_mapped_thp abort half-way", "v6.6 v6.4 v6.5",
     cast_of<private_cpmt_last>},
    {"abort-vs-truncate-and-hardware", "the same, then truncate, with a hardware walker", "v6.6",
     cast_of<abort_truncate>},
    {"collapse-file-vs-pin", "collapse_file against a device that has pinned a page", "v6.6 v6.4 v6.5",
     cast_of<pin_collapse>},
    {"truncate-vs-hardware", "truncate against the hardware walker", "v6.6 v6.4 v6.5",
     cast_of<hardware_truncate>},
    {"rmap-vs-dontneed", "an rmap walk against MADV_DONTNEED", "v6.6 v6.4 v6.5", cast_of<rmap_dontneed>},
    {"dontneed-vs-hardware", "MADV_DONTNEED frees a private page that the hardware reads", "v6.6 v6.4 v6.5",
     cast_of<dontneed_hardware>},
    {"rmap-vs-private-store", "an rmap walk against a store that copies the page", "v6.6 v6.4 v6.5",
     cast_of<rmap_private>},
    {"partial-vma-vs-retract", "retraction meets a VMA that shares its table with another", "v6.6 v6.4 v6.5",
     cast_of<partial_retract>},
    {"madvise-vs-munmap", "MADV_COLLAPSE against munmap", "v6.6 v6.4 v6.5", cast_of<madvise_munmap>},
};

}  // namespace

std::span<const scenario> scenarios_of_collapse() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
