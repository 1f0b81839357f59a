// fork, copy on write, mprotect, mremap, and zaps that free tables, against those who go on using what they change.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

// What the actors see alone is judged where a removed flush or right shall show in what a program reads, and not in
// what check/ finds in the TLBs and entries at the end.
constexpr const char* seen = "stores";

constexpr cast_plan cow_told{"store_and_tell load_if_told", layout::first_page, 1, true},
    cow_hardware{"store hardware_load", layout::first_page, 1, true},
    store_fork{"store fork_and_look", layout::first_page, 1, true},
    child_sees{"store fork_and_look", layout::first_page, 1, true, false, 1, seen},
    store_mprotect{"store mprotect_and_look", layout::first_page},
    mprotect_sees{"store mprotect_and_look", layout::first_page, 1, false, false, 1, seen},
    hardware_mremap{"hardware_load mremap_pages", layout::first_page},
    mremap_punch{"mremap_pages punch_first hardware_load", layout::first_page},
    mremap_retract{"mremap_table retract", layout::empty_table},
    map_reclaim{"map dontneed", layout::full_table},
    two_dontneeds{"dontneed_and_look dontneed_and_look", layout::first_page},
    mincore_cpmt{"mincore collapse_pte_mapped", layout::full_table},
    truncate_copy{"store truncate", layout::no_table, 1, true};

constexpr scenario table[] = {
    {"private-store-vs-hardware", "a store copies a private page that the hardware reads on another CPU",
     "v6.6 v6.4 v6.5 v6.18", cast_of<cow_hardware>},
    {"private-store-is-told", "a store copies a private page; another thread is told of it, and loads",
     "v6.6 v6.4 v6.5 v6.18", cast_of<cow_told>},
    {"child-sees-store", "a store against fork: whether what the child was born with changes",
     "v6.6 v6.4 v6.5 v6.18", cast_of<child_sees>},
    {"mprotect-sees-store", "a store against mprotect: whether it comes after the call has returned",
     "v6.6 v6.4 v6.5 v6.18", cast_of<mprotect_sees>},
    {"store-vs-fork", "a store to a private page against fork", "v6.6 v6.4 v6.5 v6.13 v6.18",
     cast_of<store_fork>},
    {"store-vs-mprotect", "a store against mprotect, which takes the right to it away",
     "v6.6 v6.4 v6.5 v6.18", cast_of<store_mprotect>},
    {"hardware-vs-mremap", "the hardware reads a page that mremap moves, by the address that it had",
     "v6.6 v6.4 v6.5 v6.17", cast_of<hardware_mremap>},
    {"mremap-vs-punch-and-hardware",
     "a hole is punched where mremap has just moved a page; the hardware reads it", "v6.6 v6.4 v6.5 v6.17",
     cast_of<mremap_punch>},
    {"mremap-vs-retract", "mremap moves a table as a whole against retraction of it",
     "v6.6 v6.4 v6.5 v6.14 v6.17", cast_of<mremap_retract>},
    {"map-vs-reclaim", "pte_offset_map reads a table that MADV_DONTNEED frees", "v6.14 v6.17 v6.18",
     cast_of<map_reclaim>},
    {"two-dontneeds", "MADV_DONTNEED of one page by two threads; each looks into its own TLB",
     "v6.6 v6.4 v6.5 v6.14 v6.17", cast_of<two_dontneeds>},
    {"mincore-vs-collapse-pte-mapped", "mincore reads a table that collapse_pte_mapped_thp removes",
     "v6.6 v6.5 v6.4 v6.13", cast_of<mincore_cpmt>},
    {"truncate-vs-private-store", "truncate against a store that copies a page into a private mapping",
     "v6.6 v6.4 v6.5 v6.18", cast_of<truncate_copy>},
};

}  // namespace

std::span<const scenario> scenarios_of_forks() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
