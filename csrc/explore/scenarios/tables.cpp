// Every map helper of pgtable/map.hpp against a retraction: tables that leave, are freed, and are used again.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr cast_plan map_read{"map retract", layout::empty_table},
    map_lock{"map_lock retract", layout::empty_table},
    map_nolock{"map_rw_nolock retract", layout::empty_table},
    map_two{"map map_lock retract", layout::empty_table},
    lock_two{"map_lock map_lock retract", layout::empty_table},
    second_mm{"map_lock@1 retract", layout::empty_table, 2};

constexpr scenario table[] = {
    {"map-vs-retract", "pte_offset_map reads a table that is being retracted", eras_of_retraction,
     cast_of<map_read>},
    {"map-lock-vs-retract", "pte_offset_map_lock against retraction", eras_of_retraction, cast_of<map_lock>},
    {"map-nolock-vs-retract", "pte_offset_map_rw_nolock, its lock and pmd_same against retraction",
     eras_of_retraction, cast_of<map_nolock>},
    {"two-maps-vs-retract", "a reader and a locker against retraction", eras_of_retraction, cast_of<map_two>},
    {"two-locks-vs-retract", "two lockers against retraction", eras_of_retraction, cast_of<lock_two>},
    {"second-mm-vs-retract", "retraction of two programs' tables, a locker in the second", eras_of_retraction,
     cast_of<second_mm>},
};

}  // namespace

std::span<const scenario> scenarios_of_tables() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
