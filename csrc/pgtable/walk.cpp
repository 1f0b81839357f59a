#include "pgtable/walk.hpp"

#include "base/hooks.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// The table below an upper-level slot, allocated where there is none.
std::optional<pfn_t> upper_alloc(cpu& self, mm_tables& t, atomic<u64>& slot, u8 level) {
  const pmd_t have{slot.load(acquire)};
  if (have.present()) return have.pfn();
  const auto fresh = self.ram->alloc_table(self, self.frames, level);
  if (!fresh) return std::nullopt;
  const spin_guard g(self, t.page_table_lock, lock_class::pml);
  const pmd_t again{slot.load(acquire)};
  if (again.present()) {
    self.ram->free_table(self, self.frames, *fresh);
    return again.pfn();
  }
  t.pgtables_bytes.fetch_add(static_cast<i64>(page_size), relaxed);
  // Release: the zeroes of the table before the slot that leads to it (read by pmd_offset's acquire).
  slot.store(mk_table(*fresh).v, release);
  return *fresh;
}

void free_after_grace_period(context& ctx, rcu_head* head) {
  cpu& self = static_cast<cpu&>(ctx);
  pause_at(self, point::rcu_callback);
  pte_free_now(self, self.ram->pfn_of_head(head));
}

/// Checked builds: nobody may have the table mapped, or be reading it in hardware (G-1, G-2).
void assert_unmapped(cpu& self, pfn_t table) {
  const u32 n = self.all->n.load(acquire);
  for (u32 i = 0; i < n; ++i) {
    cpu& other = *self.all->cpus[i];
    for (auto& m : other.mapped)
      if (m.load(seq_cst) == table)
        breach(self, "G-1",
               "CPU " + std::to_string(self.id) + " frees the table in frame " + std::to_string(table) +
                   ", which CPU " + std::to_string(other.id) + " has mapped");
    if (&other != &self && other.walking.load(seq_cst) == table)
      breach(self, "G-2",
             "CPU " + std::to_string(self.id) + " frees the table in frame " + std::to_string(table) +
                 ", which the hardware walker of CPU " + std::to_string(other.id) + " is reading");
  }
}

}  // namespace

pmd_ref pmd_alloc(cpu& self, mm_tables& t, va_t va) {
  physical& phys = self.ram->phys;
  const auto pud = upper_alloc(self, t, t.pgd[index_at(va, pgd_shift)], 3);
  if (!pud) return {};
  const auto pmd = upper_alloc(self, t, phys.entries(*pud)[index_at(va, pud_shift)], 2);
  if (!pmd) return {};
  return {&phys.entry(*pmd, index_at(va, pmd_shift)), mk_table(*pmd)};
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
             "CPU " + std::to_string(self.id) + " takes the table in frame " + std::to_string(old.pfn()) +
                 " out of its PMD without its ptl");
  }
}

bool pmd_install(cpu& self, mm_tables& t, pmd_ref pmdp, pfn_t table) {
  std::optional<spin_guard> g;
  if (guard(Guard::install_under_pml)) g.emplace(self, pml_of(self, pmdp), lock_class::pml, where::current());
  assert_pmd_locked(self, pmdp, {});
  if (!pmdp.get().none()) return false;
  t.pgtables_bytes.fetch_add(static_cast<i64>(page_size), relaxed);
  // Release: the entries (zeroes, and what fault-around prepared) before the PMD (pmd_ref::get's acquire).
  pmdp.slot->store(mk_table(table).v, guard(Guard::table_published) ? release : relaxed);
  return true;
}

bool pte_alloc(cpu& self, mm_tables& t, pmd_ref pmdp) {
  if (!pmdp.get().none()) return true;
  const auto fresh = self.ram->alloc_table(self, self.frames, 1);
  if (!fresh) return false;
  if (!pmd_install(self, t, pmdp, *fresh)) pte_free_now(self, *fresh);
  return true;
}

pmd_t pmdp_collapse_flush(cpu& self, mm_tables& t, va_t start, pmd_ref pmdp) {
  assert_pmd_locked(self, pmdp, pmdp.get());
  const pmd_t old{pmdp.slot->exchange(0, acq_rel)};
  pause_at(self, point::rt_cleared_before_flush);
  if (guard(Guard::retract_flush))
    flush_tlb_range(self, t, start, start + pmd_size, guard(Guard::retract_flush_psc));
  return old;
}

void pte_detached(cpu& self, mm_tables& t, pfn_t table) {
  if (guard(Guard::detach_accounts)) t.pgtables_bytes.fetch_sub(static_cast<i64>(page_size), relaxed);
  self.led.add(event::pte_detached);
  self.ram->of(table).state.store(frame_state::table_detached, release);
}

void pte_free_defer(cpu& self, pfn_t table) {
  if (!guard(Guard::free_deferred)) {
    pte_free_now(self, table);
    return;
  }
  frame& f = self.ram->of(table);
  if constexpr (checked_build) {
    if (f.queued != 0)
      breach(self, "G-8", "the rcu_head of frame " + std::to_string(table) + " is queued a second time");
    f.queued = 1;
  }
  f.state.store(frame_state::table_queued, release);
  self.led.add(event::pte_deferred);
  self.ram->note_pending(1);
  // Late walkers still spin on the table's lock: it dies in the callback (B07).
  if (!guard(Guard::dtor_deferred)) f.ptl.kill();
  self.domain->call(self.rcu, &f.head, free_after_grace_period, page_size);
}

void pte_free_now(cpu& self, pfn_t table) {
  frame& f = self.ram->of(table);
  if constexpr (checked_build) assert_unmapped(self, table);
  if (f.state.load(relaxed) == frame_state::table_queued)
    self.ram->note_pending(-1);
  else
    self.led.add(event::pte_freed_now);
  f.queued = 0;
  self.ram->free_table(self, self.frames, table);
}

namespace {

void free_queued(cpu& self, pfn_t table) {
  if (self.ram->of(table).level == 1)
    pte_free_now(self, table);
  else
    self.ram->free_table(self, self.frames, table);
}

void queue_table(cpu& self, pfn_t table) {
  frame& f = self.ram->of(table);
  f.state.store(frame_state::table_queued, release);
  if (f.level == 1) self.ram->note_pending(1);
}

void free_one_after_grace_period(context& ctx, rcu_head* head) {
  cpu& self = static_cast<cpu&>(ctx);
  free_queued(self, self.ram->pfn_of_head(head));
}

constexpr u64 batch_words = page_size / sizeof(u64);  // the first says how many tables the others name

void free_batch_after_grace_period(context& ctx, rcu_head* head) {
  cpu& self = static_cast<cpu&>(ctx);
  physical& phys = self.ram->phys;
  const pfn_t batch = self.ram->pfn_of_head(head);
  const u64 n = phys.load_word(batch, 0);
  for (u64 i = 1; i <= n; ++i) free_queued(self, phys.load_word(batch, i * sizeof(u64)));
  self.ram->of(batch).refcount.store(0, relaxed);
  self.ram->free_folio(self, self.frames, batch);
}

/// Without a page for a batch (semi-RCU fallback).  Until 6.13 an IPI was thought enough here (B21).
void free_one_table(cpu& self, pfn_t table) {
  if (!guard(Guard::gather_fallback_rcu)) {
    tlb_remove_table_sync_one(self);
    free_queued(self, table);
    return;
  }
  frame& f = self.ram->of(table);
  f.queued = 1;
  self.domain->call(self.rcu, &f.head, free_one_after_grace_period, page_size);
}

}  // namespace

void free_tables_by_rcu(cpu& self, const pfn_t* tables, u32 n) {
  constexpr u64 room = batch_words - 1;
  for (u32 i = 0; i < n; ++i) queue_table(self, tables[i]);
  while (n != 0) {
    const u64 part = n < room ? n : room;
    // A single table needs no batch to wait in.
    const auto batch = part > 1 ? self.ram->alloc_page(self, self.frames) : std::nullopt;
    if (!batch) {
      free_one_table(self, *tables);
      ++tables, --n;
      continue;
    }
    physical& phys = self.ram->phys;
    phys.store_word(*batch, 0, part);
    for (u64 i = 0; i < part; ++i) phys.store_word(*batch, (i + 1) * sizeof(u64), tables[i]);
    self.led.add(event::table_batches);
    self.domain->call(self.rcu, &self.ram->of(*batch).head, free_batch_after_grace_period,
                      (part + 1) * page_size);
    tables += part;
    n -= static_cast<u32>(part);
  }
}

void tlb_remove_table_sync_one(cpu& self) {
  if (!guard(Guard::sync_before_free)) return;
  self.led.add(event::ipi_broadcast);
  irq_state* targets[max_cpus];
  u32 n = 0;
  const u32 cpus = self.all->n.load(acquire);
  for (u32 i = 0; i < cpus; ++i) {
    cpu& other = *self.all->cpus[i];
    if (&other != &self && other.tid.load(relaxed) != 0) targets[n++] = &other.irq;
  }
  ipi_wait(self, {targets, n});
}

}  // namespace pgtbl::inline PGTBL_WORLD
