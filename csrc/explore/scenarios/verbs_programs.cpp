// Verbs of programs: what they load and store, by the hardware and its faults, and what they ask of their address space.
#include "explore/scenarios/machine_cast.hpp"
#include "mm/access.hpp"
#include "mm/anon_vma.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

void load(machine_cast& c, const cast_actor& a) { mm_load(*a.self, c.program_of(a), c.page_va(a.which, 0)); }

/// On a CPU that did not run the program before.
void load_on_arrival(machine_cast& c, const cast_actor& a) { load(c, a); }

template <u64 Page>
void store(machine_cast& c, const cast_actor& a) {
  mm_store(*a.self, c.program_of(a), c.page_va(a.which, Page), machine_cast::mark_of(a));
  c.has_stored_to(a, Page);
}

/// A write fault alone: the processor has found the entry read-only, and does not repeat the store.
void write_fault_last(machine_cast& c, const cast_actor& a) {
  const mmap_read_guard lock(*a.self, c.program_of(a));
  static_cast<void>(
      fault_under_mmap_lock(*a.self, c.program_of(a), c.page_va(a.which, pages_per_huge - 1), access::write));
}

/// The same for a load.
void read_fault(machine_cast& c, const cast_actor& a) {
  const mmap_read_guard lock(*a.self, c.program_of(a));
  static_cast<void>(fault_under_mmap_lock(*a.self, c.program_of(a), c.page_va(a.which, 0), access::read));
}

void write_file(machine_cast& c, const cast_actor& a) {
  const u64 word = machine_cast::mark_of(a);
  file_write(*a.self, c.file(), pmd_size - page_size, &word, sizeof word);
  c.has_stored_to(a, pages_per_huge - 1);
}

void store_pinned(machine_cast& c, const cast_actor& a) {
  a.self->ram->phys.store_word(c.pinned_page(), 0, machine_cast::mark_of(a));
  c.has_stored_to(a, 0);
  folio_put(*a.self, c.pinned_page());
}

/// Without touching the page cache, so that its folio lock is no obstacle.
void put_private_page(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  mm& m = c.program_of(a);
  const va_t at = c.page_va(a.which, 0);
  const mmap_read_guard lock(self, m);
  vma* v = m.vmas.find(at);
  if (v == nullptr) return;
  const auto pfn = self.ram->alloc_page(self, self.frames);
  if (!pfn) return;
  self.ram->phys.clear_page(*pfn);
  anon_vma_prepare(self, *v);  // before the table's lock is taken
  folio_set_new_anon(self, *pfn, *v, at);
  const pmd_ref p = c.pmd_of(self, a.which);
  if (may_map(self, p)) {
    auto t = pte_offset_map_lock(self, p, at);
    if (t && t->get().none()) {
      self.ram->of(*pfn).mapcount.fetch_add(1, relaxed);
      m.rss.add(self, rss_kind::anon, 1);
      t->set(at, mk_pte(*pfn, v->prot()));
      return;
    }
  }
  folio_put(self, *pfn);
}

void dontneed(machine_cast& c, const cast_actor& a) {
  sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0), pmd_size, madv_dontneed);
}

/// What a program may rely on once the call has returned, whoever cleared the entry.
void zap_and_look(machine_cast& c, const cast_actor& a) {
  sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0), page_size, madv_dontneed);
  if (c.still_translates(a))
    pgtbl::fail("G-14: MADV_DONTNEED has returned, and the first page is still translated");
}

void unmap(machine_cast& c, const cast_actor& a) {
  sys_munmap(*a.self, c.program_of(a), c.page_va(a.which, 0), c.bytes());
}
void truncate(machine_cast& c, const cast_actor& a) { file_truncate(*a.self, c.file(), 0); }
void punch_first(machine_cast& c, const cast_actor& a) { file_punch(*a.self, c.file(), 0, page_size); }
void exit(machine_cast& c, const cast_actor& a) { exit_mmap(*a.self, c.program_of(a)); }

constexpr verb_row table[] = {
    {{"load", true}, load},
    {{"load_on_arrival", true}, load_on_arrival, outside},
    {{"store", true}, store<0>, has_stored},
    {{"store_last", true}, store<pages_per_huge - 1>},
    {{"write_fault_last", true}, write_fault_last},
    {{"read_fault", true}, read_fault},
    {{"private_page", true}, put_private_page, own_pages},
    {{"pinned_store", true}, store_pinned, outside | pins},
    {{"file_write", true}, write_file, outside},
    {{"dontneed", true}, dontneed, leaves_copies | drops},
    {{"dontneed_and_look", true}, zap_and_look, knows_the_way | drops},
    {{"munmap", true}, unmap, unmaps},
    {{"truncate", true}, truncate, outside | cuts_file},
    {{"punch_first", true}, punch_first, outside | cuts_file},
    {{"exit", true}, exit, unmaps},
};

}  // namespace

std::span<const verb_row> verbs_of_programs() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
