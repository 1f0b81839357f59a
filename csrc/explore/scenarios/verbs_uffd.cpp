// Verbs of userfaultfd: faults that somebody in user space is to hear of, and what he does about them.
#include <cerrno>
#include <optional>

#include "base/errors.hpp"
#include "explore/scenarios/machine_cast.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr u64 last = pages_per_huge - 1;

/// Whether the call was obeyed: EAGAIN and EEXIST are answers, too.
template <class Call>
bool obeyed(Call&& call) {
  try {
    call();
    return true;
  } catch (const os_error&) {
    return false;
  }
}

template <u64 Page>
bool copy_page(machine_cast& c, const cast_actor& a) {
  const u64 source[page_size / sizeof(u64)] = {machine_cast::mark_of(a)};
  const bool done = obeyed([&] {
    uffd_copy(*a.self, c.program_of(a), c.uffd_of(a), c.page_va(a.which, Page), source, page_size, false);
  });
  if (done) c.has_stored_to(a, Page);
  return done;
}

template <u64 Page>
void copy(machine_cast& c, const cast_actor& a) {
  copy_page<Page>(c, a);
}

void enlist(machine_cast& c, const cast_actor& a, u64 modes) {
  uffd_register(*a.self, c.program_of(a), c.uffd_of(a), c.page_va(a.which, 0), c.bytes(), modes);
}

/// Whoever handles the faults changes the mapping first, which waits for mmap_lock.
void register_and_copy_last(machine_cast& c, const cast_actor& a) {
  enlist(c, a, vm_uffd_missing);
  copy_page<last>(c, a);
}

/// Waits until somebody puts the page in.
void load_hole(machine_cast& c, const cast_actor& a) {
  mm_load(*a.self, c.program_of(a), c.page_va(a.which, last));
}

/// Nobody has stored to the page, and nobody puts it in: so its first touch is heard of.
void touch_reported_hole(machine_cast& c, const cast_actor& a) {
  try {
    const mmap_read_guard lock(*a.self, c.program_of(a));
    static_cast<void>(
        fault_under_mmap_lock(*a.self, c.program_of(a), c.page_va(a.which, last), access::read));
  } catch (const bus_error&) {
    return;
  }
  pgtbl::fail("G-18: a hole was filled, and the userfaultfd was not told");
}

bool protect_first(machine_cast& c, const cast_actor& a) {
  enlist(c, a, vm_uffd_wp);
  return obeyed([&] {
    uffd_writeprotect(*a.self, c.program_of(a), c.uffd_of(a), c.page_va(a.which, 0), page_size, true);
  });
}

void protect_and_store(machine_cast& c, const cast_actor& a) {
  if (!protect_first(c, a)) return;
  try {
    mm_store(*a.self, c.program_of(a), c.page_va(a.which, 0), machine_cast::mark_of(a));
  } catch (const bus_error&) {
    return;
  }
  pgtbl::fail("G-17: a store to a protected page is not reported");
}

void protect_and_look(machine_cast& c, const cast_actor& a) {
  if (!protect_first(c, a)) return;
  const u64 seen = mm_load(*a.self, c.program_of(a), c.page_va(a.which, 0));
  if (mm_load(*a.self, c.program_of(a), c.page_va(a.which, 0)) != seen)
    pgtbl::fail("G-17: UFFDIO_WRITEPROTECT has returned, and a store came that was not reported");
}

/// The first page goes to the beginning of the last extent.
void move_first(machine_cast& c, const cast_actor& a) {
  obeyed([&] {
    uffd_move(*a.self, c.program_of(a), c.uffd_of(a), c.page_va(a.which, 0) + c.bytes() - pmd_size,
              c.page_va(a.which, 0), page_size, false, true);
  });
}

void fork_and_live_on(machine_cast& c, const cast_actor& a) { sys_fork(*a.self, c.program_of(a)); }

/// Puts a page in, and then hears of the fork: so it was there when the child came to be.
void copy_and_follow_fork(machine_cast& c, const cast_actor& a) {
  userfaultfd& u = c.uffd_of(a);
  const bool put_in = copy_page<last>(c, a);
  std::optional<uffd_message> m;
  for (;;) {
    const u32 seen = u.arrivals.load(acquire);
    m = uffd_read(*a.self, u);
    if (m && m->event == uffd_event::fork) break;
    if (!m) uffd_await(u, seen, ~0ULL);
  }
  if (!put_in) return;
  try {
    mm_load(*a.self, m->child->owner, c.page_va(a.which, last));
  } catch (const bus_error&) {
    pgtbl::fail("G-18: a page was put in before the fork was told, and the child does not have it");
  }
}

constexpr u32 missing = uses_uffd | hears_of_missing, reported = uses_uffd | dies_of_reports;

constexpr verb_row table[] = {
    {{"uffd_copy", true}, copy<0>, missing | own_pages},
    {{"uffd_copy_last", true}, copy<last>, missing | own_pages},
    {{"uffd_register_and_copy_last", false}, register_and_copy_last, missing | own_pages},
    {{"uffd_move", true}, move_first, missing | own_pages},
    {{"uffd_protect_and_store", false}, protect_and_store, reported},
    {{"uffd_protect_and_look", false}, protect_and_look, reported},
    {{"load_hole", false}, load_hole, missing},
    {{"touch_reported_hole", false}, touch_reported_hole, missing | reported},
    {{"fork", true}, fork_and_live_on, leaves_copies},
    {{"uffd_copy_and_follow_fork", false},
     copy_and_follow_fork,
     missing | reported | own_pages | hears_of_forks},
};

}  // namespace

std::span<const verb_row> verbs_of_uffd() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
