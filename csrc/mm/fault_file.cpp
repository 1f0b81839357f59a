// Faults on files: fault-around for loads, the page at the address, its copy for a store to a private mapping.
//
// The folio lock is held from the look-up until the entry is set: while somebody else holds it (collapse, truncate),
// no entry for that folio can appear.
#include <algorithm>

#include "mm/coherent.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

pte_t file_pte(const fault_in& f, pfn_t pfn) {
  // In a range that a userfaultfd write-protects only what was written becomes writable.
  const bool shared = f.v.shared() && (f.write || !f.v.is(vm_uffd_wp));
  pte_t e = mk_pte(pfn, shared ? f.v.prot() : read_only(f.v.prot()));
  if (f.write && f.v.shared()) e.v |= bit_dirty;
  return e;
}

/// The addresses of a large folio that lie in one table and in the VMA; nothing where some do not.
struct span {
  va_t start, end;
};
std::optional<span> folio_span(const fault_in& f, va_t va, const cached_page& p) {
  const frame& h = f.self.ram->of(p.head);
  if (h.order == 0 || !f.self.rules->fault_maps_folio || f.v.is(vm_uffd_flags)) return std::nullopt;
  const u64 below = (p.pfn - p.head) << page_shift, bytes = page_size << h.order;
  const va_t extent = pmd_align_down(va);
  const bool in_table = va - extent >= below && va - below + bytes <= extent + pmd_size;
  if (guard(Guard::folio_in_table) && !in_table) return std::nullopt;  // its entries would go round (B57)
  if (!f.v.covers(va - below, va - below + bytes)) return std::nullopt;
  return span{va - below, va - below + bytes};
}

/// Maps all of the folio beside the page that faulted, where nothing is mapped yet.
void map_rest_of_folio(const fault_in& f, pte_locked& t, const cached_page& p) {
  const auto s = folio_span(f, f.va, p);
  if (!s) return;
  for (va_t va = s->start; va < s->end; va += page_size)
    if (va != f.va && !t.get(va).none()) return;  // all or one
  for (va_t va = s->start; va < s->end; va += page_size) {
    if (va == f.va) continue;
    const pfn_t pfn = p.head + ((va - s->start) >> page_shift);
    folio_get(f.self, p.head);
    page_add_pte(f, pfn, f.v.file->rss());
    t.set(va, update_mmu_cache(f.self, f.v, t, va, file_pte(f, pfn)));
  }
}

/// Maps a locked folio's page at the fault's address (finish_fault).  Consumes the reference if done.
outcome map_file_page(const fault_in& f, pmd_ref pmdp, const cached_page& p) {
  const pmd_t pmd = pmdp.get();
  if (pmd.none() && do_set_pmd(f.self, f.v, f.va, pmdp, p.head)) {
    f.self.led.add(event::fault_huge);
    return outcome::done;
  }
  pause_at(f.self, point::ft_before_maplock);
  auto [t, why] = pte_alloc_map_lock(f, pmdp, f.va);
  if (!t || !entry_is_free(f, t->get())) {
    const outcome o = t ? outcome::done : why;
    t.reset();
    folio_put(f.self, p.head);
    return o;
  }
  page_add_pte(f, p.pfn, f.v.file->rss());
  // A store: the folio is dirty, whichever entry says so later (fault_dirty_shared_page).
  if (f.write && f.v.shared()) f.self.ram->of(p.head).flags.fetch_or(pg_dirty, relaxed);
  t->set(f.va, update_mmu_cache(f.self, f.v, *t, f.va, protected_if_marked(f, file_pte(f, p.pfn))));
  map_rest_of_folio(f, *t, p);
  pause_at(f.self, point::ft_pte_set);
  return outcome::done;
}

/// A store to a private mapping of a page that is not mapped yet, or a long pin: a copy.
outcome do_cow_fault(const fault_in& f, pmd_ref pmdp, const cached_page& p) {
  const auto copy = new_anon_page(f);
  if (copy) {
    const kernel_mapping bytes(f.self, p.pfn);
    f.self.ram->phys.copy_page(*copy, p.pfn);
  }
  folio_put(f.self, p.head);
  return copy ? install_private(f, pmdp, *copy) : outcome::oom;
}

/// The span of the large folio that is cached at va, if it can be mapped whole; else the page alone.
span cached_span(const fault_in& f, va_t va) {
  const span page{va, va + page_size};
  if (f.v.pgoff_of(va) >= f.v.file->size_pages()) return page;
  const cached_page p = filemap_get(f.self, *f.v.file, f.v.pgoff_of(va));
  if (!p) return page;
  const auto s = folio_span(f, va, p);
  folio_put(f.self, p.head);
  return s.value_or(page);
}

/// Maps what is cached around the address, without waiting for anything (do_fault_around).  Locked folios
/// are left out; so is everything once the table has vanished.
void do_fault_around(const fault_in& f, pmd_ref pmdp) {
  cpu& self = f.self;
  mapping& file = *f.v.file;
  const va_t extent = pmd_align_down(f.va);
  va_t lo = f.va & ~(fault_around_pages * page_size - 1);
  lo = std::max(lo, f.v.start.get());
  va_t hi = std::min({lo + fault_around_pages * page_size, f.v.end.get(), extent + pmd_size});
  const pgoff_t file_end = file.size_pages();
  if (f.v.pgoff_of(lo) >= file_end) return;
  if (self.rules->fault_maps_folio) {  // folios at the window's ends whole
    lo = std::min(lo, cached_span(f, lo).start);
    // A folio that fits is mapped even beyond the end of the file; without one, that is where the window ends.
    const va_t last = f.v.pgoff_of(hi - page_size) < file_end ? hi : f.v.va_of(file_end);
    hi = std::max(last, cached_span(f, last - page_size).end);
  }
  const bool at_hand = guard(Guard::fault_prealloc) || pmdp.get().none();
  std::optional<pte_locked> t;
  std::optional<folio_guard> locked;
  pfn_t locked_head = 0;
  for (va_t va = lo; va < hi; va += page_size) {
    const pgoff_t index = f.v.pgoff_of(va);
    const cached_page p = filemap_get(self, file, index);
    if (!p) continue;
    bool mine = p.head == locked_head;
    if (!mine) {
      locked.reset();
      locked_head = 0;
      if (auto h = folio_trylock_hold(self, p.head)) {
        locked.emplace(self, p.head, *h);
        locked_head = p.head;
        mine = true;
      }
    }
    // A large folio of shared memory is mapped as a whole, even where it reaches beyond the end.
    const frame& folio = self.ram->of(p.head);
    const bool in_file = index < file.size_pages() ||
                         (mine && self.rules->fault_maps_folio && folio.order != 0 && folio.index < file_end);
    const bool usable = mine && in_file && still_cached(self, file, index, p) &&
                        (self.ram->of(p.head).flags.load(acquire) & pg_uptodate) != 0;
    if (usable && !t) {
      // Only now that a folio is locked is a table worth having; and a huge folio may take the PMD itself.
      if (pmdp.get().none() && do_set_pmd(self, f.v, f.va, pmdp, p.head)) {
        self.led.add(event::fault_huge);
        return;
      }
      // What the PMD was when the fault began says nothing: retraction may have emptied it since (B55).
      if (!at_hand && pmdp.get().none())
        breach(self, "B55",
               "a file fault at address " + std::to_string(va) +
                   " finds no table, and brought none: there was one when it began");
      auto got = pte_alloc_map_lock(f, pmdp, va).table;
      if (!got) {
        folio_put(self, p.head);
        return;
      }
      t.emplace(std::move(*got));
    }
    if (usable && t->get(va).none()) {
      page_add_pte(f, p.pfn, f.v.file->rss());
      t->set(va, update_mmu_cache(self, f.v, *t, va, file_pte(f, p.pfn)));
      if (va != f.va) self.led.add(event::fault_around);
      continue;  // the reference is the mapping's now
    }
    if (mine && !usable) {
      // Truncated meanwhile: ours may be the last reference, and the lock must not outlive it.
      locked.reset();
      locked_head = 0;
    }
    folio_put(self, p.head);
  }
}

bool entry_present(const fault_in& f, pmd_ref pmdp) {
  const pmd_t pmd = pmdp.get();
  if (pmd.huge()) return true;
  if (!pmd.table()) return false;
  const auto t = pte_offset_map(f.self, pmdp, f.va);
  return t && !t->get().none();
}

/// For a userfaultfd: the file has no page there, or it has one and minor faults are asked for.  Else `retry`.
outcome reported(const fault_in& f, pgoff_t index) {
  const cached_page p = filemap_get(f.self, *f.v.file, index);
  if (p) folio_put(f.self, p.head);
  if (!f.v.is(p ? vm_uffd_minor : vm_uffd_missing)) return outcome::retry;
  return p ? outcome::reported_minor : outcome::reported_missing;
}

}  // namespace

outcome do_file_fault(const fault_in& f, pmd_ref pmdp) {
  cpu& self = f.self;
  mapping& file = *f.v.file;
  const pgoff_t index = f.v.pgoff_of(f.va);
  // To be unshared, and yet not mapped: by a huge PMD that was taken away a moment ago.  A read fault would bring it back.
  const bool copy = (f.write || f.unshare) && !f.v.shared();
  if (!f.write && !copy && !f.v.is(vm_uffd_wp | vm_uffd_minor)) {
    do_fault_around(f, pmdp);  // also where the page itself lies beyond the end
    if (entry_present(f, pmdp)) return outcome::done;
  }
  if (f.vma_locked && self.rules->file_faults_under_vma_lock < 2) return outcome::need_mmap_lock;
  // First of all, so also where the file ends before the page: from then on fork copies what the VMA has.
  if (copy && !prepare_anon_vma(f)) return outcome::need_mmap_lock;
  if (index >= file.size_pages()) return outcome::sigbus;

  if (f.v.is(vm_uffd_missing | vm_uffd_minor))
    if (const outcome o = reported(f, index); o != outcome::retry) return o;
  const cached_page p = filemap_get_or_create(self, file, index);
  if (!p) return outcome::oom;
  std::optional<folio_guard> lock;
  if (guard(Guard::fault_folio_locked)) lock.emplace(self, p.head);
  pause_at(self, point::ft_folio_locked);
  // Truncated or replaced by a collapse while we waited; and no page may appear beyond the end.
  const bool gone = guard(Guard::fault_truncated) && !still_cached(self, file, index, p);
  if (gone || index >= file.size_pages()) {
    // A page that we created beyond the new end, after truncate had looked there.  Under the lock: the file may grow
    // again, and what is written to the page then must stay.
    if (!gone) filemap_remove_new(self, file, p.head);
    lock.reset();
    folio_put(self, p.head);
    return gone ? outcome::retry : outcome::sigbus;
  }
  self.ram->of(p.head).flags.fetch_or(pg_uptodate, relaxed);  // it may have been allocated and no more
  self.led.add(event::fault_file);
  return copy ? do_cow_fault(f, pmdp, p) : map_file_page(f, pmdp, p);
}

}  // namespace pgtbl::inline PGTBL_WORLD
