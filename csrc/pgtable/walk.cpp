#include "pgtable/walk.hpp"

#include "base/hooks.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// The table below an upper-level slot, allocated where there is none.
std::optional<pgtable_t> upper_alloc(cpu& self, mm_tables& t, entry_word& slot, u8 level) {
  const pmd_t have{slot.load(acquire)};
  if (have.present()) return have.pgtable();
  const auto fresh = upper_alloc_one(self, t, level);
  if (!fresh) return std::nullopt;
  const spin_guard g(self, t.page_table_lock, lock_class::pml);
  const pmd_t again{slot.load(acquire)};
  if (again.present()) {
    upper_free(self, *fresh);
    return again.pgtable();
  }
#if defined(PGTBL_ARCH_TABLES)
  if (!geometry.split_pml) self.arch->share_lock(pfn_of(*fresh), t.page_table_lock);
#endif
  t.pgtables_bytes.fetch_add(static_cast<i64>(table_bytes(level)), relaxed);
  // Release: the zeroes of the table before the slot that leads to it (read by pmd_offset's acquire).
  slot.store(mk_table(*fresh).v, release);
  return *fresh;
}

}  // namespace

void assert_unmapped(cpu& self, pgtable_t table) {
  const u32 n = self.all->n.load(acquire);
  for (u32 i = 0; i < n; ++i) {
    cpu& other = *self.all->cpus[i];
    for (auto& m : other.mapped)
      if (m.load(seq_cst) == table)
        breach(self, "G-1",
               "CPU " + std::to_string(self.id) + " frees the table in frame " +
                   std::to_string(pfn_of(table)) + ", which CPU " + std::to_string(other.id) + " has mapped");
    if (&other != &self && other.walking.load(seq_cst) == table)
      breach(self, "G-2",
             "CPU " + std::to_string(self.id) + " frees the table in frame " + std::to_string(pfn_of(table)) +
                 ", which the hardware walker of CPU " + std::to_string(other.id) + " is reading");
  }
}

namespace {
std::optional<pgtable_t> upper_memory(cpu& self, [[maybe_unused]] mm_tables& t, u8 level) {
#if defined(PGTBL_ARCH_POWERPC)
  if (level == 2) return self.arch->pmd_alloc_one(self, t);
#endif
  const auto pfn = self.ram->alloc_table(self, self.frames, level);
  if (!pfn) return std::nullopt;
  return table_at(*pfn);
}
}  // namespace

std::optional<pgtable_t> upper_alloc_one(cpu& self, mm_tables& t, u8 level) {
  const auto table = upper_memory(self, t, level);
  if (!table) return std::nullopt;
#if defined(PGTBL_ARCH_TABLES)
  table_life& l = self.arch->life(*table);
  l.level = level;
  l.index = 0;
  l.state.store(frame_state::table_live, release);
#endif
#if defined(PGTBL_ARCH_X86_PAE)
  if (level == 2) self.arch->pmds.begin(pfn_of(*table));
#endif
  self.led.add(event::upper_allocated);
  return table;
}

void upper_free(cpu& self, pgtable_t table) {
  self.led.add(event::upper_freed);
#if defined(PGTBL_ARCH_TABLES)
  table_life& l = self.arch->life(table);
  l.generation.fetch_add(1, release);
  l.state.store(frame_state::free, release);
#if defined(PGTBL_ARCH_POWERPC)
  if (l.level == 2) {
    self.arch->pmd_free(self, table);
    return;
  }
#endif
#endif
  self.ram->free_table(self, self.frames, pfn_of(table));
}

pmd_ref pmd_alloc(cpu& self, mm_tables& t, va_t va) {
  if constexpr (root_level == 2) return {&t.pgd[index_at(va, pmd_shift)], mk_table(t.root)};
  physical& phys = self.ram->phys;
  auto at = upper_alloc(self, t, t.pgd[index_at(va, pgd_shift)], level_below(4));
  if (!at) return {};
  if constexpr (geometry.pud_bits != 0) {
    at = upper_alloc(self, t, phys.entry(*at, index_at(va, pud_shift)), 2);
    if (!at) return {};
  }
  return {&phys.entry(*at, index_at(va, pmd_shift)), mk_table(*at)};
}

void assert_pmd_locked(cpu& self, pmd_ref pmdp, pmd_t old) {
  if constexpr (checked_build) {
    const bool old_protocol =
        self.rules->retract_without_mmap_lock == 0 || self.rules->collapse_clears_ptes == 0;
    if (old_protocol && old.table() && holds_class(self, lock_class::mmap_write)) return;
    if (!holds(self, &pml_of(self, pmdp)))
      breach(self, "G-34",
             "CPU " + std::to_string(self.id) + " changes a PMD (value " + std::to_string(old.v) +
                 ") without its pml");
    // Anonymous collapse has shut everybody out who could come by the table's entries: the program, and rmap.
    const bool shut_out =
        holds_class(self, lock_class::mmap_write) && holds_class(self, lock_class::anon_vma_write);
    if (old.table() && !shut_out && !holds(self, &ptl_of(self, old)))
      breach(self, "G-35",
             "CPU " + std::to_string(self.id) + " takes the table in frame " +
                 std::to_string(pfn_of(old.pgtable())) + " out of its PMD without its ptl");
  }
}

bool pmd_install(cpu& self, mm_tables& t, pmd_ref pmdp, pgtable_t table) {
  std::optional<spin_guard> g;
  if (guard(Guard::install_under_pml)) g.emplace(self, pml_of(self, pmdp), lock_class::pml, where::current());
  assert_pmd_locked(self, pmdp, {});
  if (!pmdp.get().none()) return false;
  t.pgtables_bytes.fetch_add(static_cast<i64>(pte_table_bytes), relaxed);
  // Release: the entries (zeroes, and what fault-around prepared) before the PMD (pmd_ref::get's acquire).
  pmdp.set(self, mk_table(table), guard(Guard::table_published) ? release : relaxed);
  return true;
}

bool pte_alloc(cpu& self, mm_tables& t, pmd_ref pmdp) {
  if (!pmdp.get().none()) return true;
  const auto fresh = pte_alloc_one(self, t);
  if (!fresh) return false;
  if (!pmd_install(self, t, pmdp, *fresh)) pte_free(self, t, *fresh);
  return true;
}

pmd_t pmdp_collapse_flush(cpu& self, mm_tables& t, va_t start, pmd_ref pmdp) {
  assert_pmd_locked(self, pmdp, pmdp.get());
  const pmd_t old = pmdp.get_and_clear(self);
  pause_at(self, point::rt_cleared_before_flush);
  if (guard(Guard::retract_flush))
    flush_tlb_range(self, t, start, start + pmd_size, guard(Guard::retract_flush_psc));
#if defined(PGTBL_ARCH_X86_PAE)
  // The slot's lock is held: before anybody can store a present value here again (B48).
  pmdp_get_lockless_sync(self, t, pmdp);
#endif
  return old;
}

void pte_detached(cpu& self, mm_tables& t, pgtable_t table) {
  if (guard(Guard::detach_accounts)) t.pgtables_bytes.fetch_sub(static_cast<i64>(pte_table_bytes), relaxed);
  self.led.add(event::pte_detached);
  life_of(self, table).state.store(frame_state::table_detached, release);
}

// ---------------------------------------------------------------- PTE tables come and go

#if defined(PGTBL_ARCH_TABLES)

std::optional<pgtable_t> pte_alloc_one(cpu& self, mm_tables& t) { return self.arch->pte_alloc_one(self, t); }
void pte_free(cpu& self, mm_tables& t, pgtable_t table) { self.arch->pte_free(self, t, table); }
void pte_free_tlb(cpu& self, mm_tables& t, pgtable_t table) { self.arch->pte_free_tlb(self, t, table); }

void pte_free_defer(cpu& self, mm_tables& t, pgtable_t table) {
  if (!guard(Guard::free_deferred))
    pte_free(self, t, table);
  else
    self.arch->pte_free_defer(self, t, table);
}

void tlb_remove_table(cpu& self, pgtable_t table) {
  if (life_of(self, table).level == 1)
    self.arch->tlb_remove_table(self, table);
  else
    upper_free(self, table);
}

namespace {
/// Without a page for a batch.  Nobody who holds only RCU can come to what is freed here: its VMAs were unlinked; but where
/// MADV_DONTNEED frees tables, which is where a page has one (arm's hypothetical form).
void free_one_table(cpu& self, pgtable_t table) {
  if (self.rules->reclaim_tables && self.loaded != nullptr && life_of(self, table).level == 1) {
    self.arch->pte_free_defer(self, *self.loaded, table);
    return;
  }
  tlb_remove_table_sync_one(self);
  tlb_remove_table(self, table);
}
}  // namespace

#else

std::optional<pgtable_t> pte_alloc_one(cpu& self, mm_tables&) {
  const auto pfn = self.ram->alloc_table(self, self.frames, 1);
  if (!pfn) return std::nullopt;
  self.led.add(event::pte_allocated);
  return table_at(*pfn);
}

namespace {
void free_at_last(cpu& self, pgtable_t table) {
  frame& f = self.ram->of(pfn_of(table));
  if constexpr (checked_build) assert_unmapped(self, table);
  if (f.state.load(relaxed) == frame_state::table_queued)
    self.ram->note_pending(-1);
  else
    self.led.add(event::pte_freed_now);
  f.queued = 0;
  self.led.add(event::pte_freed);
  self.ram->free_table(self, self.frames, pfn_of(table));
}

void free_after_grace_period(context& ctx, rcu_head* head) {
  cpu& self = static_cast<cpu&>(ctx);
  pause_at(self, point::rcu_callback);
  free_at_last(self, table_at(self.ram->pfn_of_head(head)));
}
}  // namespace

void pte_free(cpu& self, mm_tables&, pgtable_t table) { free_at_last(self, table); }
void pte_free_tlb(cpu&, mm_tables&, pgtable_t) {}

void pte_free_defer(cpu& self, mm_tables& t, pgtable_t table) {
  if (!guard(Guard::free_deferred)) {
    pte_free(self, t, table);
    return;
  }
  frame& f = self.ram->of(pfn_of(table));
  if constexpr (checked_build) {
    if (f.queued != 0)
      breach(self, "G-8",
             "the rcu_head of frame " + std::to_string(pfn_of(table)) + " is queued a second time");
    f.queued = 1;
  }
  f.state.store(frame_state::table_queued, release);
  self.led.add(event::pte_deferred);
  self.ram->note_pending(1);
  // Late walkers still spin on the table's lock: it dies in the callback (B07).
  if (!guard(Guard::dtor_deferred)) f.ptl.kill();
  self.domain->call(self.rcu, &f.head, free_after_grace_period, page_size);
}

void tlb_remove_table(cpu& self, pgtable_t table) {
  if (self.ram->of(pfn_of(table)).level == 1)
    free_at_last(self, table);
  else
    upper_free(self, table);
}

namespace {

void free_one_after_grace_period(context& ctx, rcu_head* head) {
  cpu& self = static_cast<cpu&>(ctx);
  tlb_remove_table(self, table_at(self.ram->pfn_of_head(head)));
}

/// Without a page for a batch (semi-RCU fallback).  Until 6.13 an IPI was thought enough here (B21).
void free_one_table(cpu& self, pgtable_t table) {
  if (!guard(Guard::gather_fallback_rcu)) {
    tlb_remove_table_sync_one(self);
    tlb_remove_table(self, table);
    return;
  }
  frame& f = self.ram->of(pfn_of(table));
  f.queued = 1;
  self.domain->call(self.rcu, &f.head, free_one_after_grace_period, page_size);
}

}  // namespace

#endif

namespace {

void queue_table(cpu& self, pgtable_t table) {
  auto& f = life_of(self, table);
  f.state.store(frame_state::table_queued, release);
  if (f.level == 1) self.ram->note_pending(1);
}

constexpr u64 batch_words = page_size / sizeof(u64);  // the first says how many tables the others name

void free_batch_after_grace_period(context& ctx, rcu_head* head) {
  cpu& self = static_cast<cpu&>(ctx);
  physical& phys = self.ram->phys;
  const pfn_t batch = self.ram->pfn_of_head(head);
  const u64 n = phys.load_word(batch, 0);
  for (u64 i = 1; i <= n; ++i) tlb_remove_table(self, pgtable_t{phys.load_word(batch, i * sizeof(u64))});
  self.ram->of(batch).refcount.store(0, relaxed);
  self.ram->free_folio(self, self.frames, batch);
}

/// A single table waits by its own head, where it has one to itself.
constexpr u64 fewest_in_batch = tables_by_arch ? 1 : 2;

}  // namespace

void free_tables_by_rcu(cpu& self, const pgtable_t* tables, u32 n) {
  constexpr u64 room = batch_words - 1;
  for (u32 i = 0; i < n; ++i) queue_table(self, tables[i]);
  while (n != 0) {
    const u64 part = n < room ? n : room;
    const auto batch = part >= fewest_in_batch ? self.ram->alloc_page(self, self.frames) : std::nullopt;
    if (!batch) {
      free_one_table(self, *tables);
      ++tables, --n;
      continue;
    }
    physical& phys = self.ram->phys;
    phys.store_word(*batch, 0, part);
    for (u64 i = 0; i < part; ++i)
      phys.store_word(*batch, (i + 1) * sizeof(u64), static_cast<u64>(tables[i]));
    self.led.add(event::table_batches);
    self.domain->call(self.rcu, &self.ram->of(*batch).head, free_batch_after_grace_period,
                      (part + 1) * page_size);
    tables += part;
    n -= static_cast<u32>(part);
  }
}

namespace {
/// Interrupts every other CPU for which take(cpu) is true, and waits.
template <class Take>
void interrupt_all(cpu& self, Take&& take) {
  self.led.add(event::ipi_broadcast);
  irq_state* targets[max_cpus];
  u32 n = 0;
  const u32 cpus = self.all->n.load(acquire);
  for (u32 i = 0; i < cpus; ++i) {
    cpu& other = *self.all->cpus[i];
    if (&other != &self && other.tid.load(relaxed) != 0 && take(other)) targets[n++] = &other.irq;
  }
  ipi_wait(self, {targets, n});
}
}  // namespace

void tlb_remove_table_sync_one(cpu& self) {
  if (guard(Guard::sync_before_free)) interrupt_all(self, [](const cpu&) { return true; });
}

#if defined(PGTBL_ARCH_POWERPC)
void serialize_against_pte_lookup(cpu& self) {
  if (guard(Guard::ppc_serialize)) interrupt_all(self, [](const cpu&) { return true; });
}

void assert_pte_locked(cpu& self, pgtable_t table, va_t va) {
  const mm_tables* const t = self.arch->life(table).owner;
  const pmd_ref p = pmd_offset(self, *t, va);
  const pmd_t pmd = p ? p.get() : pmd_t{};
  assert_pte_locked(self, pmd.none() ? nullptr : &ptl_of(self, pmd));
}
#endif

#if defined(PGTBL_ARCH_X86_PAE)
void pmdp_get_lockless_sync(cpu& self, const mm_tables& t, pmd_ref pmdp) {
  if (!guard(Guard::pae_sync)) return;
  const bool all = guard(Guard::pae_sync_all);
  interrupt_all(self, [&](const cpu& other) { return all || t.cpus.test(other.id); });
  if (all) note_all_interrupted(self, *pmdp.slot, pmdp.in());
}
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
