#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr bool leaf_allows(u64 entry, access a) {
  if ((entry & bit_present) == 0) return false;
  if (a == access::write) return (entry & bit_write) != 0;
  if (a == access::exec) return (entry & bit_nx) == 0;
  return true;
}

/// A load of the processor's walk: whole on x86-pae, too.  The low half alone says whether there is an entry.
u64 hardware_load(const entry_word& slot) {
#if defined(PGTBL_ARCH_X86_PAE)
  const u64 v = slot.load_whole(acquire);
  return static_cast<u32>(v) == 0 ? 0 : v;
#else
  return slot.load(acquire);
#endif
}

/// Sets accessed (and dirty for a write) as the processor does: atomically, only while the entry is what
/// it was when it was checked.  Returns the entry with its bits, or 0 if it changed.
u64 set_accessed(entry_word& slot, u64 seen, access a) {
  const u64 want = seen | bit_accessed | (a == access::write ? bit_dirty : 0);
  if (want == seen || slot.compare_exchange_strong(seen, want, acq_rel)) return want;
  return 0;
}

/// The table that va's PMD points to: from the paging-structure cache, or from the tables.
pmd_t walk_to_pmd(cpu& self, va_t va, entry_word*& slot) {
  slot = nullptr;
  if (const translation* c = self.tlb.find_psc(va)) {
    const pmd_t cached{c->entry};
    if (life_of(self, cached.pgtable()).generation.load(relaxed) == c->generation) return cached;
    report_stale(self, va, pfn_of(cached.pgtable()), c->generation, "the paging-structure cache");
    self.tlb.flush_all();
  }
  const pmd_ref p = pmd_offset(self, *self.loaded, va);
  if (!p) return {};
  slot = p.slot;
  return {hardware_load(*p.slot)};
}

}  // namespace

translated mmu_walk(cpu& self, va_t va, access a) {
  memory& ram = *self.ram;
  for (;;) {
    entry_word* slot;
    const pmd_t pmd = walk_to_pmd(self, va, slot);
    if (pmd.huge()) {
      if (!leaf_allows(pmd.v, a)) return {};
      const u64 entry = set_accessed(*slot, pmd.v, a);
      if (entry == 0) continue;
      const pfn_t pfn = pmd.pfn() + index_at(va, page_shift);
#if defined(PGTBL_ARCH_POWERPC)
      // A translation that is not in the TLB is a hash fault: its slot is noted behind the huge PMD.
      deposit_behind(*slot).note_slot(self, *self.arch, index_at(va, page_shift), ptrs_per_table);
#endif
      self.tlb.put_huge(va, entry, ram.of(pmd.pfn()).generation.load(relaxed));
      self.led.add(event::tlb_fill);
      return {pfn};
    }
    if (!pmd.table()) return {};
    const pgtable_t table = pmd.pgtable();
    if constexpr (checked_build) self.walking.store(table, seq_cst);
    if (slot != nullptr) self.tlb.put_psc(va, pmd.v, life_of(self, table).generation.load(relaxed));
    entry_word& pte_slot = ram.phys.entries(table)[index_at(va, page_shift)];
    const u64 pte = hardware_load(pte_slot);
    const bool allowed = leaf_allows(pte, a);
    const u64 entry = allowed ? set_accessed(pte_slot, pte, a) : 0;
    if constexpr (checked_build) self.walking.store(pgtable_t{}, release);
    if (!allowed) {
      // A fault drops what led to it: else a CPU would fault for as long as the flush of a table that has left its
      // PMD is on its way.
      self.tlb.drop_psc(va);
      return {};
    }
    if (entry == 0) continue;
    const pfn_t pfn = pte_t{entry}.pfn();
    self.tlb.put_small(va, entry, ram.of(pfn).generation.load(relaxed));
    self.led.add(event::tlb_fill);
#if defined(PGTBL_ARCH_ARM)
    return {pfn, entry};
#else
    return {pfn};
#endif
  }
}

void report_stale(cpu& self, va_t va, pfn_t pfn, u32 filled, const char* what) {
  const frame& f = self.ram->of(pfn);
  breach(self, "G-14",
         std::string(what) + " of CPU " + std::to_string(self.id) + " translated address " +
             std::to_string(va) + " to frame " + std::to_string(pfn) + " in its life " +
             std::to_string(filled) + "; CPU " + std::to_string(f.free_cpu.load(relaxed)) +
             " freed it since, CPU " + std::to_string(f.alloc_cpu.load(relaxed)) +
             " had it last, and it is now a " + to_string(f.state.load(relaxed)) + " in its life " +
             std::to_string(f.generation.load(relaxed)));
}

}  // namespace pgtbl::inline PGTBL_WORLD
