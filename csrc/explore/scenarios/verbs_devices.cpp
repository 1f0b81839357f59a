// Verbs of those who work on a program's memory behind its back: secondary MMUs, and references taken by GUP-fast.
#include "base/errors.hpp"
#include "explore/scenarios/machine_cast.hpp"
#include "mm/access.hpp"
#include "mm/gup.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

void load_by(secondary_mmu& device, machine_cast& c, const cast_actor& a) {
  device.access(*a.self, c.page_va(a.which, 0), access::read,
                [](physical& phys, pfn_t pfn, u64 at) { phys.load_word(pfn, at); });
}
void shadow_load(machine_cast& c, const cast_actor& a) { load_by(c.shadow_of(a), c, a); }
void walker_load(machine_cast& c, const cast_actor& a) { load_by(c.walker_of(a), c, a); }

/// The first page for as long as `use` takes, as get_user_pages gives it; nothing where it is not to be had.
template <class Use>
void with_first_page(machine_cast& c, const cast_actor& a, u32 flags, Use&& use) {
  pinned_pages p;
  try {
    p = pin_pages(*a.self, c.program_of(a), c.page_va(a.which, 0), 1, flags);
  } catch (const os_error&) {
    return;
  }
  use(p.frames[0]);
  unpin_pages(*a.self, p);
}

/// A device stores to what it was given.
void pin_and_store(machine_cast& c, const cast_actor& a) {
  with_first_page(c, a, gup_write, [&](pfn_t pfn) {
    a.self->ram->phys.store_word(pfn, 0, machine_cast::mark_of(a));
    c.has_stored_to(a, 0);
  });
}

/// The program stores by its own address, and a device that has pinned the page is to see it.
template <u32 Flags>
void pin_and_look(machine_cast& c, const cast_actor& a) {
  with_first_page(c, a, Flags | gup_pin, [&](pfn_t pfn) {
    mm_store(*a.self, c.program_of(a), c.page_va(a.which, 0), machine_cast::mark_of(a));
    c.has_stored_to(a, 0);
    if (a.self->ram->phys.load_word(pfn, 0) != machine_cast::mark_of(a))
      pgtbl::fail("G-13: a store of the program's does not reach the page that it pinned");
  });
}

/// Whose frame the first page was, is the last page's then.
void drop_first_and_store_last(machine_cast& c, const cast_actor& a) {
  constexpr u64 last = pages_per_huge - 1;
  sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0), page_size, madv_dontneed);
  mm_store(*a.self, c.program_of(a), c.page_va(a.which, last), machine_cast::mark_of(a));
  c.has_stored_to(a, last);
}

constexpr verb_row table[] = {
    {{"shadow_load", true}, shadow_load, uses_shadow},
    {{"walker_load", true}, walker_load, outside | uses_walker},
    {{"pin_and_store", true}, pin_and_store},
    {{"pin_and_look", true}, pin_and_look<gup_write>},
    {{"pin_to_read_and_look", true}, pin_and_look<0>},
    {{"dontneed_and_store_last", true}, drop_first_and_store_last, drops},
};

}  // namespace

std::span<const verb_row> verbs_of_devices() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
