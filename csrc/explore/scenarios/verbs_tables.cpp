// Verbs of those who walk page tables: the map helpers, the hardware, walks without locks, rmap; and of retraction, which
// takes the tables away under them.
#include <optional>
#include <string>
#include <utility>

#include "explore/scenarios/machine_cast.hpp"
#include "khugepaged/collapse.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/syscalls.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

/// Under mmap_lock for read, as walkers of a mapping are.
void map_and_read(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  const mmap_read_guard lock(self, c.program_of(a));
  const pmd_ref p = c.pmd_of(self, a.which);
  if (!may_map(self, p)) return;
  const auto t = pte_offset_map(self, p, c.page_va(a.which, 0));
  if (t) static_cast<void>(t->get());
}

/// A look at all tables of a program, whatever they map (walk_page_range_novma): mmap_lock for write is meant to keep
/// everybody out.
void walk_without_vma(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  const mmap_write_guard lock(self, c.program_of(a));
  const pmd_ref p = c.pmd_of(self, a.which);
  if (!may_map(self, p)) return;
  if (const auto t = pte_offset_map(self, p, c.page_va(a.which, 0))) static_cast<void>(t->get());
}

void check_still_there(pmd_ref p, const pte_locked& t) {
  if (!t.pmdval().table()) pgtbl::fail("B56: what was locked as a table is no table");
  if (p.get() != t.pmdval())
    pgtbl::fail("G-33: a locked table has left its PMD: what is written into it is lost");
}

void map_and_lock(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  const mmap_read_guard lock(self, c.program_of(a));
  const pmd_ref p = c.pmd_of(self, a.which);
  if (!may_map(self, p)) return;
  const auto t = pte_offset_map_lock(self, p, c.page_va(a.which, 0));
  if (!t) return;
  static_cast<void>(t->get());
  check_still_there(p, *t);
}

void map_and_lock_later(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  const mmap_read_guard lock(self, c.program_of(a));
  const pmd_ref p = c.pmd_of(self, a.which);
  if (!may_map(self, p)) return;
  auto m = pte_offset_map_rw_nolock(self, p, c.page_va(a.which, 0));
  if (!m) return;
  static_cast<void>(m->get());
  const pmd_t seen = m->pmdval();
  const pte_locked t = std::move(*m).lock();
  if (p.get() != seen) return;  // pmd_same
  static_cast<void>(t.get());
  check_still_there(p, t);
}

/// As a walk of page tables that is for small pages does: what is huge is taken apart, and what is not none then, was first
/// thought to be a table.
void split_and_map(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  mm& m = c.program_of(a);
  const va_t at = c.page_va(a.which, 0);
  const mmap_read_guard lock(self, m);
  const pmd_ref p = c.pmd_of(self, a.which);
  if (p.get().huge()) split_huge_pmd(self, *m.vmas.find(at), p, at);
  if (p.get().none()) return;
  if (const auto t = pte_offset_map_lock(self, p, at)) check_still_there(p, *t);
}

/// The end of collapse_file: the huge page is published, and locked since before that.
void retract(machine_cast& c, const cast_actor& a) {
  collapse_control cc;
  cc.is_khugepaged = true;
  retract_page_tables(*a.self, c.file(), 0, c.huge_page(), cc);
  folio_unlock(*a.self, c.huge_page(), c.huge_lock());
}

void hardware_load(machine_cast& c, const cast_actor& a) {
  mmu_access(*a.self, c.page_va(a.which, 0), access::read,
             [&](pfn_t pfn, u64) { a.self->ram->phys.load_word(pfn, 0); });
}

/// What GUP-fast does: nothing but interrupts off.  This CPU is not in the program's mask, so that no flush
/// waits for it: the interrupt to all CPUs does.
void walk_lockless(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  const irq_guard off(self.irq);
  // Where tables are freed by RCU, interrupts off keep a grace period waiting, as a section does.
  std::optional<rcu_section> section;
  if (self.rules->free_by_rcu) section.emplace(self.rcu);
  const pmd_ref p = c.pmd_of(self, 0);
  if (!p) return;
  const pmd_t v = p.get();
  if (v.table()) static_cast<void>(self.ram->phys.entry(v.pgtable(), 0).load(acquire));
}

void install_table(machine_cast& c, const cast_actor& a) {
  const mmap_read_guard lock(*a.self, c.program_of(a));
  const pmd_ref p = c.pmd_of(*a.self, a.which);
  if (p && !pte_alloc(*a.self, c.program_of(a), p)) throw program_error("no frame is left for a table");
}

void unmap_first(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  const cached_page page = filemap_get(self, c.file(), 0);
  if (!page) return;
  {
    const folio_guard folio(self, page.head);
    if (still_cached(self, c.file(), 0, page)) try_to_unmap(self, page.head);
    flush_unmap_batch(self);
  }
  folio_put(self, page.head);
}

/// All that the first extent maps is cached, whichever way it is mapped, and nobody takes it out of the cache.
void look_what_is_in_core(machine_cast& c, const cast_actor& a) {
  u8 in_core[pages_per_huge] = {};
  sys_mincore(*a.self, c.program_of(a), c.page_va(a.which, 0), pmd_size, in_core);
  for (u64 page = 0; page < pages_per_huge; ++page)
    if (in_core[page] == 0)
      pgtbl::fail(
          ("B37: mincore says that page " + std::to_string(page) + " is not in core, and it always was")
              .c_str());
}

constexpr verb_row table[] = {
    {{"map", true}, map_and_read},
    {{"walk_without_vma", true}, walk_without_vma},
    {{"map_lock", true}, map_and_lock},
    {{"map_rw_nolock", true}, map_and_lock_later},
    {{"hardware_load", true}, hardware_load, knows_the_way},
    {{"lockless_walk", true}, walk_lockless, outside},
    {{"split_and_map", false}, split_and_map, begins_huge},
    {{"install_table", true}, install_table},
    {{"mincore", true}, look_what_is_in_core},
    {{"rmap", true}, unmap_first, outside},
    {{"retract", true}, retract, outside | retracts},
};

}  // namespace

std::span<const verb_row> verbs_of_tables() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
