#include "mm/coherent.hpp"

#if defined(PGTBL_ARCH_ARM)
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

// The versions of adjust_pte, as the switch has them.
enum : u8 { one_read_from = 1, asks_the_fault = 2, by_address_from = 3 };

/// Where a PTE was set, and by whom.
struct setting {
  va_t va;
  pte_locked& table;
  bool by_fault;
};

/// False: nothing is mapped there.  The entry is taken out meanwhile: a store past the cache, before the line has been written
/// back, would be lost under it, and so would an accessed or dirty bit.
bool make_uncached(cpu& self, mm& m, pte_locked& t, va_t va) {
  const pte_t e = t.get(va);
  if (!e.present()) return false;
  if ((e.v & bit_uncached) != 0) return true;
  const pte_t out = t.get_and_clear(va);
  flush_tlb_alone(self, m, va, va + page_size, false);
  // After the flush: until then stores still go to the line.
  if (guard(Guard::arm_flush_line)) self.arch->lines.flush_range(m.id, va, va + page_size);
  t.set(va, {out.v | bit_uncached});
  return true;
}

/// Whether the lock of another PTE's table must be taken, beside the one that is held.
bool must_lock(cpu& self, va_t other, const setting& s, const spinlock& its) {
  if (!guard(Guard::arm_split_only)) return true;  // as if locks were always split
  const u8 version = self.rules->adjust_pte;
  if (version == asks_the_fault || (version >= by_address_from && !guard(Guard::arm_by_address))) {
    if (!s.by_fault)
      breach(self, "B49", "adjust_pte asks a fault for its lock, and was not called by a fault");
    return &its != &s.table.ptl();
  }
  if (!self.arch->split_ptl) return false;
  if (version < by_address_from || !guard(Guard::arm_same_table)) return true;
  return pmd_align_down(other) != pmd_align_down(s.va);
}

/// Whether those who hold `wanted` wait, each for the next, for a lock that is held by who asks.
bool waits_for_us(cpu& self, const spinlock* wanted, const spinlock* held) {
  const u32 cpus = self.all->n.load(acquire);
  for (u32 steps = 0; steps < cpus; ++steps) {
    const spinlock* next = nullptr;
    for (u32 i = 0; i < cpus && next == nullptr; ++i) {
      const auto& other = self.arch->nested[self.all->cpus[i]->id];
      if (self.all->cpus[i] == &self || other.holds.load(seq_cst) != wanted) continue;
      next = other.wants.load(seq_cst);
      if (other.holds.load(seq_cst) != wanted) next = nullptr;  // it has gone on meanwhile
    }
    if (next == nullptr) return false;
    if (next == held) return true;
    wanted = next;
  }
  return false;
}

/// The other table's lock inside of the first.  Nothing: whoever has it waits for ours, and would for ever.
std::optional<hold> lock_nested(cpu& self, spinlock& its, const spinlock& held) {
  note_locking(self, &its, lock_class::ptl);
  auto& here = self.arch->nested[self.id];
  here.wants.store(&its, seq_cst);
  here.holds.store(&held, seq_cst);
  std::optional<hold> h;
  for (u64 n = 1; !(h = its.try_lock(self, lock_class::ptl)) && !waits_for_us(self, &its, &held); ++n)
    n % 64 == 0 ? yield() : cpu_relax();
  here.holds.store(nullptr, seq_cst);
  here.wants.store(nullptr, seq_cst);
  return h;
}

/// The PTE of another mapping.  True: something was mapped there.
bool adjust_pte(cpu& self, mm& m, va_t va, const setting& s) {
  const pmd_ref pmdp = pmd_offset(self, m, va);
  // Before 6.5 who maps must know that there is a table.
  if (!pmdp || !pmdp.get().table()) return false;
  auto map = pte_offset_map_rw_nolock(self, pmdp, va);
  if (!map) return false;
  pause_at(self, point::ap_table_found);
  pmd_t locked_by = map->pmdval();
  if (self.rules->adjust_pte < one_read_from || !guard(Guard::arm_one_read)) {
    locked_by = pmdp.get();
    if (locked_by != map->pmdval())
      breach(self, "A-8",
             "adjust_pte reads the PMD of address " + std::to_string(va) +
                 " again for the lock, and finds another table there, or none");
    if (!locked_by.table()) return false;
  }
  spinlock& its = ptl_of(self, locked_by);
  if (!must_lock(self, va, s, its)) {
    pte_locked other(std::move(*map), s.table);
    return make_uncached(self, m, other, va);
  }
  if (holds(self, &its)) {  // it would wait for itself
    breach(self, "A-7", "adjust_pte takes a lock that this CPU holds already");
    return false;
  }
  const std::optional<hold> h = lock_nested(self, its, s.table.ptl());
  if (!h) {
    breach(
        self, "G-31",
        "CPU " + std::to_string(self.id) +
            " holds a table's lock in adjust_pte and waits for another's, whose holder waits for this one");
    return false;
  }
  const bool same = map->pmd_same();  // the table may have left since it was read
  pte_locked other(std::move(*map), its, *h);
  return same && make_uncached(self, m, other, va);
}

}  // namespace

pte_t update_mmu_cache(cpu& self, vma& v, pte_locked& t, va_t va, pte_t e, bool by_fault) {
  if (v.file == nullptr || !v.shared() || !e.present()) return e;
  mm& m = v.owner;
  const setting s{va, t, by_fault};
  const pgoff_t index = v.pgoff_of(va);
  std::vector<va_t> aliases;  // with an entry
  m.vmas.for_each(0, task_size, [&](const vma_entry& entry) {
    const vma& other = *entry.vma;
    if (&other == &v || other.file != v.file || !other.shared()) return true;
    if (index < other.pgoff || index >= other.pgoff + ((entry.end - entry.start) >> page_shift)) return true;
    const va_t at = entry.start + ((index - other.pgoff) << page_shift);
    if (adjust_pte(self, m, at, s))
      aliases.push_back(at);
    else
      flush_tlb_alone(self, m, at, at + page_size, false);
    return true;
  });
  // A zap of this very entry may have its flush still to come, and what the TLB remembers leads into the cache.
  if (!aliases.empty()) flush_tlb_alone(self, m, va, va + page_size, false);
  // So may mappings that have no entry any more: on a processor that is alone no program runs between the two.
  self.arch->lines.drop_others(m.id, e.pfn(), aliases);
  if (!aliases.empty() && guard(Guard::arm_adjust_own)) e.v |= bit_uncached;
  return e;
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
