#include "mm/huge_pmd.hpp"

#include "mm/anon_vma.hpp"
#include "mm/machine.hpp"
#include "mm/zap.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

#if defined(PGTBL_ARCH_POWERPC)

void deposit_table(cpu& self, pmd_ref pmdp, pgtable_t table) {
  deposit_behind(*pmdp.slot).put(self, static_cast<u64>(table) << pgtable_shift);
}

pgtable_t withdraw_table(cpu& self, pmd_ref pmdp) {
  serialize_against_pte_lookup(self);
  return pgtable_t{deposit_behind(*pmdp.slot).withdraw(self, *self.arch) >> pgtable_shift};
}

#else

namespace {
/// Where the list of deposited tables goes on: beside the table, or in its own first entry.
void set_next(cpu& self, pgtable_t t, bool pmd_page, pgtable_t next) {
  if (geometry.deposits_in_tables && !pmd_page)
    self.ram->phys.entry(t, 0).store(static_cast<u64>(next), relaxed);
  else
    life_of(self, t).index = static_cast<u64>(next);
}
}  // namespace

pgtable_t next_deposited(cpu& self, pgtable_t t, bool pmd_page) {
  if (geometry.deposits_in_tables && !pmd_page) return pgtable_t{self.ram->phys.entry(t, 0).load(relaxed)};
  return pgtable_t{life_of(self, t).index.get()};
}

void deposit_table(cpu& self, pmd_ref pmdp, pgtable_t table) {
  set_next(self, table, false, next_deposited(self, pmdp.in(), true));
  set_next(self, pmdp.in(), true, table);
}

pgtable_t withdraw_table(cpu& self, pmd_ref pmdp) {
  const pgtable_t table = next_deposited(self, pmdp.in(), true);
  if (table == pgtable_t{}) {
    breach(self, "G-28", "a huge PMD is taken apart, and no table is deposited for it");
    return {};
  }
  set_next(self, pmdp.in(), true, next_deposited(self, table, false));
  set_next(self, table, false, {});  // where the list went through the table, its entry is none again
  return table;
}

#endif

bool needs_deposit(cpu& self, pfn_t head) {
  return geometry.deposits_for_files || rss_of(self, head) == rss_kind::anon;
}

void free_deposited(cpu& self, mm& m, pgtable_t table) {
  if (table == pgtable_t{}) return;
  m.pgtables_bytes.fetch_sub(static_cast<i64>(pte_table_bytes), relaxed);
  pte_free(self, m, table);
}

namespace {

/// The entries of a table for the pages of a huge PMD, or of the huge zero page.
void fill_table(cpu& self, pgtable_t table, pmd_t old) {
  memory& ram = *self.ram;
  const bool zero = ram.is_huge_zero(old.pfn());
  const u64 kept = old.v & ~(pfn_field | bit_huge);
  for (u64 i = 0; i < pages_per_huge; ++i) {
    const pfn_t pfn = zero ? memory::zero_page : old.pfn() + i;
    ram.phys.entry(table, i).store(kept | pfn_to_entry(pfn), relaxed);
  }
}

/// The folio's counts, from one PMD to a PTE for each page.
void count_by_ptes(cpu& self, pfn_t head) {
  memory& ram = *self.ram;
  frame& h = ram.of(head);
  folio_get(self, head, static_cast<u32>(pages_per_huge) - 1);
  const u32 exclusive = h.flags.load(relaxed) & pg_anon_exclusive;
  for (u64 i = 0; i < pages_per_huge; ++i) {
    frame& f = ram.of(head + i);
    f.mapcount.fetch_add(1, relaxed);
    if (i != 0 && exclusive != 0) f.flags.fetch_or(pg_anon_exclusive, relaxed);
  }
  h.entire_mapcount.fetch_sub(1, acq_rel);
}

}  // namespace

void split_huge_pmd(cpu& self, vma& v, pmd_ref pmdp, va_t extent) {
  if (!pmdp.get().huge()) return;
  mm& m = v.owner;
  const notifier_range notifier(self, m, extent, extent + pmd_size);
  spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  const pmd_t seen = pmdp.get();
  if (!seen.huge()) return;  // somebody was here before
  const pfn_t head = seen.pfn();
  self.led.add(event::pmd_split);
  if (rss_of(self, head) != rss_kind::anon) {
    const pmd_t old = pmdp.get_and_clear(self);
    flush_tlb_range(self, m, extent, extent + pmd_size, false);
    page_remove_pmd(self, m, head, old);
    const pgtable_t deposited = geometry.deposits_for_files ? withdraw_table(self, pmdp) : pgtable_t{};
    pml.unlock();
    free_deposited(self, m, deposited);
    folio_put(self, head);
    return;
  }
  // Not for the hardware any more, and yet not none: a fault waits for the pml, and looks again.
  const u64 invalid = (seen.v & ~bit_present) | bit_protnone;
  pmd_t old{pmdp.slot->exchange(invalid, acq_rel)};  // with the bits that the hardware has set by now
  if (guard(Guard::split_invalidates)) flush_tlb_range(self, m, extent, extent + pmd_size, false);
  const pgtable_t table = withdraw_table(self, pmdp);
  if (table == pgtable_t{}) return;
  fill_table(self, table, old);
  if (!self.ram->is_huge_zero(head)) count_by_ptes(self, head);
  // Release: the entries before the PMD (pmd_ref::get's acquire).
  pmdp.set(self, mk_table(table));
}

void split_huge_pmd_at(cpu& self, vma& v, va_t at) {
  if ((at & (pmd_size - 1)) == 0) return;
  const va_t extent = pmd_align_down(at);
  if (extent < v.start || extent + pmd_size > v.end) return;
  if (const pmd_ref p = pmd_offset(self, v.owner, at)) split_huge_pmd(self, v, p, extent);
}

bool anon_thp_allowed(cpu& self, const vma& v, va_t va) {
  const va_t extent = pmd_align_down(va);
  return v.is_anon() && v.covers(extent, extent + pmd_size) && thp_wanted(self, v);
}

bool vma_thp_disabled(const vma& v, bool forced) {
  if (v.is(vm_nohugepage)) return true;
  const thp_disabled d = v.owner.thp.load(relaxed);
  return d == thp_disabled::all || (d == thp_disabled::all_but_advised && !forced && !v.is(vm_hugepage));
}

bool thp_wanted(cpu& self, const vma& v) {
  if constexpr (!geometry.thp) return false;
  const thp_policy p = self.home->config.thp;
  return !vma_thp_disabled(v, false) &&
         (p == thp_policy::always || (p == thp_policy::madvise && v.is(vm_hugepage)));
}

bool file_thp_enabled(cpu& self, const vma& v) {
  return v.file != nullptr && v.file->regular() && v.file->writers.load(acquire) == 0 &&
         (self.rules->file_thp > 1 || (self.rules->file_thp == 1 && v.is(vm_exec)));
}

void set_anon_huge_pmd(
    cpu& self, vma& v, va_t extent, pmd_ref pmdp, pfn_t head, pgtable_t table, bool write) {
  mm& m = v.owner;
  prot_bits p = v.prot();
  p.write = p.write && write;
  pmd_t e = mk_huge_pmd(head, p);
  if (write) e.v |= bit_dirty;
  if (!self.ram->is_huge_zero(head)) {
    folio_set_new_anon(self, head, v, extent);
    self.ram->of(head).entire_mapcount.store(1, relaxed);
    m.rss.add(self, rss_kind::anon, static_cast<i64>(pages_per_huge));
  }
  deposit_table(self, pmdp, table);
  m.pgtables_bytes.fetch_add(static_cast<i64>(pte_table_bytes), relaxed);
  pmdp.set(self, e);
}

}  // namespace pgtbl::inline PGTBL_WORLD
