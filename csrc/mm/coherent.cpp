#include "mm/coherent.hpp"

#if defined(PGTBL_ARCH_ARM)
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// False: nothing is mapped there.
bool make_uncached(cpu& self, mm& m, pte_locked& t, va_t va) {
  const pte_t e = t.get(va);
  if (!e.present()) return false;
  if ((e.v & bit_uncached) == 0) {
    t.set(va, {e.v | bit_uncached});
    flush_tlb_range(self, m, va, va + page_size, false);
  }
  return true;
}

/// The PTE of another mapping.  held: of the PTE that was set, with its lock.
bool adjust_pte(cpu& self, mm& m, va_t va, const pte_locked& held) {
  const pmd_ref pmdp = pmd_offset(self, m, va);
  // Before 6.5 who maps must know that there is a table.
  if (!pmdp || !pmdp.get().table()) return false;
  auto map = pte_offset_map_rw_nolock(self, pmdp, va);
  if (!map) return false;
  spinlock& its = ptl_of(self, map->pmdval());
  // One lock for every PTE of the mm, and we have it.
  if (!guard(Guard::arm_split_only) && holds(self, &its)) {
    breach(self, "A-7", "adjust_pte takes a lock that this CPU holds already");
    return false;
  }
  pte_locked other(std::move(*map), held);
  return make_uncached(self, m, other, va);
}

}  // namespace

void update_mmu_cache(cpu& self, vma& v, pte_locked& t, va_t va) {
  if (v.file == nullptr || !v.shared()) return;
  mm& m = v.owner;
  const pgoff_t index = v.pgoff_of(va);
  u32 aliases = 0;
  m.vmas.for_each(0, task_size, [&](const vma_entry& e) {
    const vma& other = *e.vma;
    if (&other == &v || other.file != v.file || !other.shared()) return true;
    if (index < other.pgoff || index >= other.pgoff + ((e.end - e.start) >> page_shift)) return true;
    aliases += adjust_pte(self, m, e.start + ((index - other.pgoff) << page_shift), t) ? 1 : 0;
    return true;
  });
  if (aliases != 0 && guard(Guard::arm_adjust_own)) make_uncached(self, m, t, va);
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
