// Verbs of those who open a regular file for writing, which drops its huge pages.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

/// It stays open.
void open_for_writing(machine_cast& c, const cast_actor& a) { get_write_access(*a.self, c.file()); }

/// The same by somebody who would rather not drop anything: what get_write_access() begins with alone.
void open_unless_huge(machine_cast& c, const cast_actor& a) {
  if (count_writer(*a.self, c.file())) put_write_access(c.file());
}

void open_and_close(machine_cast& c, const cast_actor& a) { const write_access open(*a.self, c.file()); }

constexpr verb_row table[] = {
    {{"open_for_writing", true}, open_for_writing, outside | takes_huge},
    {{"open_unless_huge", true}, open_unless_huge, outside},
    {{"open_and_close", true}, open_and_close, outside | takes_huge | is_dirty},
};

}  // namespace

std::span<const verb_row> verbs_of_files() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
