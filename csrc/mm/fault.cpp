#include "mm/fault.hpp"

#include <algorithm>

#include "base/errors.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

enum class outcome : u8 {
  done,
  retry,           // the table or the folio changed under the fault
  need_mmap_lock,  // cannot be finished under the VMA lock alone
  sigbus,
  oom,
};

struct fault_in {
  cpu& self;
  mm& m;
  vma& v;
  va_t va;  // of the page
  bool write;
  bool vma_locked;  // under the VMA's own lock, without mmap_lock
};

bool vma_allows(const vma& v, access a) {
  switch (a) {
    case access::read: return (v.flags & (vm_read | vm_write | vm_exec)) != 0;
    case access::write: return (v.flags & vm_write) != 0;
    case access::exec: return (v.flags & vm_exec) != 0;
  }
  return false;
}

/// What a file page's entry may allow in a private mapping: never a store.
prot_bits read_only(prot_bits p) { return {p.read || p.write, false, p.exec}; }

/// The VMA is about to have private pages.  Published before the table's lock is taken: whoever takes the
/// table away looks at anon_vma under that lock (B22).
bool anon_vma_prepare(const fault_in& f) {
  if (f.v.anon_vma.load(relaxed) != 0) return true;
  if (f.vma_locked) return false;  // needs mmap_lock: neighbours' anon_vmas are looked at
  f.v.anon_vma.store(1, release);
  return true;
}

/// A mapped page's first entry: counts.
void page_add_pte(const fault_in& f, pfn_t pfn, rss_kind kind) {
  f.self.ram->of(pfn).mapcount.fetch_add(1, relaxed);
  f.m.rss.add(f.self, kind, 1);
}

std::optional<pfn_t> new_anon_page(const fault_in& f) {
  const auto pfn = f.self.ram->alloc_page(f.self, f.self.frames);
  if (pfn) f.self.ram->of(*pfn).flags.store(pg_anon | pg_uptodate | pg_lru, relaxed);
  return pfn;
}

pte_t private_pte(const fault_in& f, pfn_t pfn) {
  pte_t e = mk_pte(pfn, f.v.prot());
  if (f.write) e.v |= bit_dirty;
  return e;
}

/// A locked table at va, allocated where the PMD is none.
struct alloc_map {
  std::optional<pte_locked> table;
  outcome why = outcome::retry;  // where there is none
};
alloc_map pte_alloc_map_lock(const fault_in& f, pmd_ref pmdp, va_t va) {
  if (!pte_alloc(f.self, f.m, pmdp)) return {std::nullopt, outcome::oom};
  // Before 6.5 mapping could not fail, and the caller tested first (pmd_trans_unstable): another fault may
  // have mapped the extent huge.  What is a table stays one, while mmap_lock or i_mmap_rwsem is held.
  if (!f.self.rules->map_may_fail && !pmdp.get().table()) return {};
  return {pte_offset_map_lock(f.self, pmdp, va)};
}

// ---------------------------------------------------------------- anonymous memory

/// Puts a fresh private page into an entry that is still none.
outcome install_private(const fault_in& f, pmd_ref pmdp, pfn_t pfn) {
  auto [t, why] = pte_alloc_map_lock(f, pmdp, f.va);
  if (!t || !t->get().none()) {
    const outcome o = t ? outcome::done : why;
    t.reset();
    folio_put(f.self, pfn);
    return o;
  }
  page_add_pte(f, pfn, rss_kind::anon);
  t->set(f.va, private_pte(f, pfn));
  pause_at(f.self, point::ft_pte_set);
  return outcome::done;
}

outcome do_anonymous_page(const fault_in& f, pmd_ref pmdp) {
  if (!anon_vma_prepare(f)) return outcome::need_mmap_lock;
  const auto pfn = new_anon_page(f);
  if (!pfn) return outcome::oom;
  f.self.ram->phys.clear_page(*pfn);
  f.self.led.add(event::fault_anon);
  return install_private(f, pmdp, *pfn);
}

// ---------------------------------------------------------------- file memory

pte_t file_pte(const fault_in& f, pfn_t pfn) {
  pte_t e = mk_pte(pfn, f.v.shared() ? f.v.prot() : read_only(f.v.prot()));
  if (f.write && f.v.shared()) e.v |= bit_dirty;
  return e;
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
  if (!t || !t->get().none()) {
    const outcome o = t ? outcome::done : why;
    t.reset();
    folio_put(f.self, p.head);
    return o;
  }
  page_add_pte(f, p.pfn, rss_kind::shmem);
  t->set(f.va, file_pte(f, p.pfn));
  pause_at(f.self, point::ft_pte_set);
  return outcome::done;
}

/// A store to a private mapping of a page that is not mapped yet: a copy.
outcome do_cow_fault(const fault_in& f, pmd_ref pmdp, const cached_page& p) {
  const auto copy = new_anon_page(f);
  if (copy) f.self.ram->phys.copy_page(*copy, p.pfn);
  folio_put(f.self, p.head);
  return copy ? install_private(f, pmdp, *copy) : outcome::oom;
}

/// Maps what is cached around the address, without waiting for anything (do_fault_around).  Locked folios
/// are left out; so is everything once the table has vanished.
void do_fault_around(const fault_in& f, pmd_ref pmdp) {
  cpu& self = f.self;
  mapping& file = *f.v.file;
  const va_t extent = pmd_align_down(f.va);
  va_t lo = f.va & ~(fault_around_pages * page_size - 1);
  va_t hi = lo + fault_around_pages * page_size;
  lo = std::max(lo, f.v.start.get());
  hi = std::min({hi, f.v.end.get(), extent + pmd_size});
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
    const bool usable = mine && index < file.size_pages() && still_cached(self, file, index, p);
    if (usable && !t) {
      // Only now that a folio is locked is a table worth having; and a huge folio may take the PMD itself.
      if (pmdp.get().none() && do_set_pmd(self, f.v, f.va, pmdp, p.head)) {
        self.led.add(event::fault_huge);
        return;
      }
      auto got = pte_alloc_map_lock(f, pmdp, va).table;
      if (!got) {
        folio_put(self, p.head);
        return;
      }
      t.emplace(std::move(*got));
    }
    if (usable && t->get(va).none()) {
      page_add_pte(f, p.pfn, rss_kind::shmem);
      t->set(va, file_pte(f, p.pfn));
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

outcome do_file_fault(const fault_in& f, pmd_ref pmdp) {
  cpu& self = f.self;
  mapping& file = *f.v.file;
  const pgoff_t index = f.v.pgoff_of(f.va);
  if (index >= file.size_pages()) return outcome::sigbus;
  if (!f.write) {
    do_fault_around(f, pmdp);
    if (entry_present(f, pmdp)) return outcome::done;
  }
  if (f.vma_locked && self.rules->file_faults_under_vma_lock < 2) return outcome::need_mmap_lock;
  const bool copy = f.write && !f.v.shared();
  if (copy && !anon_vma_prepare(f)) return outcome::need_mmap_lock;

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
  self.led.add(event::fault_file);
  return copy ? do_cow_fault(f, pmdp, p) : map_file_page(f, pmdp, p);
}

// ---------------------------------------------------------------- entries that are there

/// A store to an entry that does not allow it, in a VMA that does (do_wp_page).
outcome do_wp_page(const fault_in& f, pmd_ref pmdp, pte_t orig) {
  cpu& self = f.self;
  memory& ram = *self.ram;
  const pfn_t head = ram.head_of(orig.pfn());
  const bool own = f.v.shared() || (ram.of(head).flags.load(relaxed) & pg_anon) != 0;
  pfn_t copy = 0;
  if (!own) {
    if (!anon_vma_prepare(f)) return outcome::need_mmap_lock;
    const auto fresh = new_anon_page(f);
    if (!fresh) return outcome::oom;
    copy = *fresh;
  }
  auto t = pte_offset_map_lock(self, pmdp, f.va);
  // The entry must still be the one that was read without the lock: else somebody was here in between.
  const bool same = t && (t->get().v & ~(bit_accessed | bit_dirty)) == (orig.v & ~(bit_accessed | bit_dirty));
  if (!same) {
    const bool vanished = !t;
    t.reset();
    if (copy != 0) folio_put(self, copy);
    return vanished ? outcome::retry : outcome::done;
  }
  if (own) {
    t->set(f.va, {t->get().v | bit_write | bit_dirty | bit_accessed});
    return outcome::done;
  }
  // Private file page: take it away everywhere before the copy may be written (clear, flush, then set).
  const pte_t old = t->get_and_clear(f.va);
  flush_tlb_range(self, f.m, f.va, f.va + page_size, false);
  ram.phys.copy_page(copy, old.pfn());
  page_remove_pte(self, f.m, old.pfn(), old);
  page_add_pte(f, copy, rss_kind::anon);
  t->set(f.va, private_pte(f, copy));
  t.reset();
  folio_put(self, head);
  return outcome::done;
}

/// A huge PMD that does not allow the store: a private mapping of a huge file page.  It is taken apart (the
/// PMD goes; pages fault in again), and the store copies its page.
outcome split_huge_pmd(const fault_in& f, pmd_ref pmdp) {
  gather g(f.self, f.m);
  zap_range(f.self, f.v, pmd_align_down(f.va), pmd_align_down(f.va) + pmd_size, g);
  g.finish();
  // A table now, so that the next look does not map the PMD again.
  return pte_alloc(f.self, f.m, pmdp) ? outcome::retry : outcome::oom;
}

outcome handle_pte_fault(const fault_in& f, access a) {
  cpu& self = f.self;
  assert_vma_alive(self, f.v);
  const pmd_ref pmdp = pmd_alloc(self, f.m, f.va);
  if (!pmdp) return outcome::oom;
  const pmd_t pmd = pmdp.get();
  if (pmd.huge()) {
    if (!f.write || pmd.write()) {
      self.led.add(event::fault_spurious);
      return outcome::done;
    }
    return split_huge_pmd(f, pmdp);
  }
  pte_t orig{};
  if (!pmd.none()) {
    const auto t = pte_offset_map_nolock(self, pmdp, f.va);
    if (!t) return outcome::retry;  // not a table any more: the access is repeated
    orig = t->get();
  }
  pause_at(self, point::ft_orig_read);
  if (orig.none()) return f.v.is_anon() ? do_anonymous_page(f, pmdp) : do_file_fault(f, pmdp);
  const bool lacks_write = f.write && !orig.write();
  const bool lacks_any = (orig.v & bit_present) == 0 || (a == access::exec && !orig.exec());
  if (lacks_any) {
    // Made inaccessible before mprotect allowed it again; the entry is brought in step with the VMA.
    if (auto t = pte_offset_map_lock(self, pmdp, f.va); t && t->get() == orig)
      t->set(f.va, {modify_prot(orig.v, f.v.shared() || f.v.is_anon() ? f.v.prot() : read_only(f.v.prot()))});
    return outcome::done;
  }
  if (lacks_write) return do_wp_page(f, pmdp, orig);
  self.led.add(event::fault_spurious);
  return outcome::done;
}

[[noreturn]] void segv(cpu& self, va_t va, access a, const char* why) {
  self.led.add(event::fault_segv);
  throw segmentation_fault(std::string(to_string(a)) + " of address " + std::to_string(va) + ": " + why);
}

/// Whether the fault ends here; throws where the program would die.
bool conclude(cpu& self, va_t va, access a, outcome o) {
  switch (o) {
    case outcome::done: return true;
    case outcome::sigbus:
      self.led.add(event::fault_bus);
      throw bus_error(std::string(to_string(a)) + " of address " + std::to_string(va) +
                      ": beyond the end of the file");
    case outcome::oom:
      throw out_of_memory("no frame is left for the page at address " + std::to_string(va) + " (" +
                          std::to_string(self.ram->frames()) + " frames in all)");
    case outcome::retry: self.led.add(event::fault_retry); return true;  // the caller repeats the access
    case outcome::need_mmap_lock: return false;
  }
  return false;
}

/// Under the VMA's lock alone, where the era has that for the kind of memory.
bool fault_under_vma_lock(cpu& self, mm& m, va_t va, access a) {
  const auto v = lock_vma_under_rcu(self, m, va);
  if (!v) return false;
  vma& area = **v;
  const bool allowed = area.is_anon() ? self.rules->anon_faults_under_vma_lock != 0
                                      : self.rules->file_faults_under_vma_lock != 0;
  if (!allowed || !vma_allows(area, a)) return false;  // an error is told under mmap_lock
  const outcome o = handle_pte_fault({self, m, area, page_align_down(va), a == access::write, true}, a);
  if (o == outcome::need_mmap_lock) return false;
  if (o == outcome::done) self.led.add(event::fault_vma_lock);
  return conclude(self, va, a, o);
}

}  // namespace

bool do_set_pmd(cpu& self, vma& v, va_t va, pmd_ref pmdp, pfn_t head) {
  const va_t extent = pmd_align_down(va);
  const frame& h = self.ram->of(head);
  if (h.order != huge_order || extent < v.start || extent + pmd_size > v.end) return false;
  if (v.pgoff_of(extent) != h.index) return false;  // misaligned
  const spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  if (!pmdp.get().none()) return false;
  assert_pmd_locked(self, pmdp, {});
  self.ram->of(head).entire_mapcount.fetch_add(1, relaxed);
  v.owner.rss.add(self, rss_kind::shmem, static_cast<i64>(pages_per_huge));
  pmdp.slot->store(mk_huge_pmd(head, v.shared() ? v.prot() : read_only(v.prot())).v, release);
  return true;
}

void fault_under_mmap_lock(cpu& self, mm& m, va_t va, access a) {
  vma* v = m.vmas.find(va);
  if (v == nullptr) segv(self, va, a, "nothing is mapped there");
  if (!vma_allows(*v, a)) segv(self, va, a, "the mapping does not allow it");
  const outcome o = handle_pte_fault({self, m, *v, page_align_down(va), a == access::write, false}, a);
  if (o == outcome::done) self.led.add(event::fault_mmap_lock);
  conclude(self, va, a, o);
}

namespace {
void fault_once(cpu& self, mm& m, va_t va, access a) {
  self.led.add(event::fault);
  if ((self.rules->anon_faults_under_vma_lock | self.rules->file_faults_under_vma_lock) != 0 &&
      fault_under_vma_lock(self, m, va, a))
    return;
  const mmap_read_guard lock(self, m);
  fault_under_mmap_lock(self, m, va, a);
}
}  // namespace

void handle_page_fault(cpu& self, mm& m, va_t va, access a) {
  // A fault may wait for mmap_lock or a folio, whose holder may be waiting for this very section to end.
  if (self.rcu.in_section()) [[unlikely]]
    throw deadlock_error("the " + std::string(to_string(a)) + " of address " + std::to_string(va) +
                         " takes a page fault, which may sleep: not inside of a read section of machine.rcu");
  try {
    fault_once(self, m, va, a);
  } catch (const out_of_memory&) {
    // Tables that wait for a grace period may be what is missing: let them come back, and try once more.
    if (self.ram->pending() == 0) throw;
    self.domain->barrier(self.rcu);
    fault_once(self, m, va, a);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
