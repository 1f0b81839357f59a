// CPUs that come to a program, secondary MMUs and GUP-fast against those who take pages and tables away, collapse, or fork.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr cast_plan shadow_dontneed{"shadow_load dontneed", layout::first_page, 1, true},
    walker_dontneed{"walker_load dontneed", layout::first_page, 1, true},
    arrival_dontneed{"load_on_arrival dontneed", layout::first_page, 1, true},
    walker_retract{"walker_load retract", layout::empty_table},
    pin_drop{.parts = "pin_and_store dontneed_and_store_last",
             .start = layout::anon_first_page,
             .broadcast = true},
    pin_reclaim{.parts = "pin_and_store dontneed", .start = layout::anon_first_page, .broadcast = true},
    pin_retract{.parts = "pin_and_store retract", .start = layout::empty_table, .broadcast = true},
    pin_collapse{
        .parts = "pin_and_store collapse_anon_decided", .start = layout::anon_pages, .broadcast = true},
    pin_fork{"pin_and_look fork", layout::anon_first_page},
    read_pin_fork{"pin_to_read_and_look fork", layout::anon_first_page},
    huge_pin_fork{"pin_and_look fork", layout::anon_huge};

constexpr scenario table[] = {
    {"arrival-vs-dontneed", "a load on a CPU that has just come to the program against MADV_DONTNEED",
     "v6.6 v6.4 v6.17", cast_of<arrival_dontneed>},
    {"shadow-vs-dontneed", "a device with tables of its own against MADV_DONTNEED", "v6.6 v6.4 v6.17",
     cast_of<shadow_dontneed>},
    {"walker-vs-dontneed", "a device that walks the program's tables against MADV_DONTNEED",
     "v6.6 v6.4 v6.5 v6.13", cast_of<walker_dontneed>},
    {"walker-vs-retract", "a device that walks the program's tables against retraction",
     "v6.6 v6.4 v6.5 v6.14", cast_of<walker_retract>},
    {"pin-vs-dontneed", "GUP-fast against MADV_DONTNEED, after which the frame is another page's",
     "v6.6 v6.4 v6.17", cast_of<pin_drop>},
    {"pin-vs-reclaim",
     "GUP-fast against MADV_DONTNEED that frees the table, on a machine that flushes by broadcast",
     "v6.14 v6.17 v6.18", cast_of<pin_reclaim>},
    {"pin-vs-retract", "GUP-fast against retraction of the table, on a machine that flushes by broadcast",
     "v6.6 v6.4 v6.14", cast_of<pin_retract>},
    {"pin-vs-anon-collapse", "GUP-fast against anonymous collapse, on a machine that flushes by broadcast",
     "v6.6 v6.4 v6.17 v6.18", cast_of<pin_collapse>},
    {"pin-vs-fork", "a page is pinned and stored to against fork", "v6.6 v6.4 v6.18", cast_of<pin_fork>},
    {"pin-to-read-vs-fork", "the same where the page is pinned to be read", "v6.6 v6.4 v6.18",
     cast_of<read_pin_fork>},
    {"pin-vs-fork-of-huge-page", "the same where a huge page maps it", "v6.6 v6.4 v6.18",
     cast_of<huge_pin_fork>},
};

}  // namespace

std::span<const scenario> scenarios_of_devices() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
