// Regular files: collapse of what is on the disk already, against those who open the file for writing.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr cast_plan open_collapse{
    .parts = "collapse_file_decided open_for_writing", .start = layout::no_table, .regular = true},
    counts_collapse{
        .parts = "collapse_file_decided open_unless_huge", .start = layout::no_table, .regular = true},
    dirty_collapse{
        .parts = "collapse_file_decided open_and_close", .start = layout::no_table, .regular = true},
    open_retract{.parts = "open_for_writing retract", .start = layout::empty_table, .regular = true};

constexpr scenario table[] = {
    {"open-vs-collapse-file", "a regular file is opened for writing against its collapse", "v6.6 v6.18",
     cast_of<open_collapse>},
    {"writer-vs-collapse-file", "a writer who sees that huge pages are about to come goes away again",
     "v6.6 v6.18", cast_of<counts_collapse>},
    {"dirty-file-vs-collapse-file",
     "a regular file with a page that is not written back yet is collapsed, and opened and closed",
     "v6.6 v6.18", cast_of<dirty_collapse>},
    {"open-vs-retract", "a regular file that has just got a huge page is opened for writing", "v6.6 v6.18",
     cast_of<open_retract>},
};

}  // namespace

std::span<const scenario> scenarios_of_files() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
