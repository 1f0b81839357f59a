// Verbs that change what others of the program, or another program, may still do: stores that copy, fork, mprotect,
// mremap.
#include "explore/scenarios/machine_cast.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

/// The program's own word to its other threads that the store is done.
void store_and_tell(machine_cast& c, const cast_actor& a) {
  mm_store(*a.self, c.program_of(a), c.page_va(a.which, 0), machine_cast::mark_of(a));
  c.has_stored_to(a, 0);
  c.told().store(machine_cast::mark_of(a), release);
}

void load_if_told(machine_cast& c, const cast_actor& a) {
  const u64 word = c.told().load(acquire);
  if (word != 0 && mm_load(*a.self, c.program_of(a), c.page_va(a.which, 0)) != word)
    pgtbl::fail("G-14: a thread that was told of a store loads what was there before it");
}

/// A child, which lives on; and whether what it was born with stays what it is, as it stores nothing itself.
void fork_and_look(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  mm* child = sys_fork(self, c.program_of(a));
  const va_t at = c.page_va(a.which, 0);
  const u64 born_with = mm_load(self, *child, at);
  if (mm_load(self, *child, at) != born_with)
    pgtbl::fail("G-13: the child sees a store that its parent made after fork");
}

/// What was stored is seen twice the same: nobody has the right to store any more.
void protect_and_look(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  mm& m = c.program_of(a);
  const va_t at = c.page_va(a.which, 0);
  sys_mprotect(self, m, at, c.bytes(), {true, false, false});
  const u64 seen = mm_load(self, m, at);
  if (mm_load(self, m, at) != seen)
    pgtbl::fail("G-14: mprotect has returned, and a store came by the right that it took away");
}

/// Below the mapping, where nothing else is, under the same PMD page.
template <u64 Pages>
void move(machine_cast& c, const cast_actor& a) {
  mremap_args args;
  args.addr = c.page_va(a.which, 0);
  args.old_length = args.new_length = c.bytes();
  args.flags = mremap_maymove | mremap_fixed;
  args.new_addr = args.addr - c.bytes() - (Pages << page_shift);
  sys_mremap(*a.self, c.program_of(a), args);
}

/// The pages go, the mapping stays where it was, and with it its table.
void move_pages(machine_cast& c, const cast_actor& a) {
  mremap_args args;
  args.addr = c.page_va(a.which, 0);
  args.old_length = args.new_length = c.bytes();
  args.flags = mremap_maymove | mremap_dontunmap;
  args.new_addr = args.addr - c.bytes() - page_size;  // no table goes whole there
  sys_mremap(*a.self, c.program_of(a), args);
}

constexpr verb_row table[] = {
    {{"store_and_tell", true}, store_and_tell},
    {{"load_if_told", true}, load_if_told, knows_the_way},
    {{"fork_and_look", true}, fork_and_look, leaves_copies},
    {{"mprotect_and_look", true}, protect_and_look, unmaps},
    {{"mremap_table", true}, move<0>, unmaps},
    {{"mremap_entries", true}, move<1>, unmaps},
    {{"mremap_pages", true}, move_pages, unmaps},
};

}  // namespace

std::span<const verb_row> verbs_of_forks() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
