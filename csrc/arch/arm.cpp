#include "arch/arm.hpp"

#include "base/hooks.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

spinlock& lock_of(arm_mm& mm, u64 table) {
  return mm.split_locks ? mm.tables[table]->ptl : mm.page_table_lock;
}

void line_step(arm_mm& mm, arm_alias& a, const char* what, u32 to) {
  if constexpr (!tells_states) return;
  const u32 from = a.shadow;
  a.shadow = to;
  if (mm.watch != nullptr && from != to) mm.watch->changed(what, from, to);
}

/// Writes the line back and drops it, as the cache's own operation by address does.
void flush_line(arm_mm& mm, arm_alias& a, const char* why) {
  const u64 line = a.line.exchange(0, acq_rel);
  if ((line & arm_alias::dirty) != 0) mm.memory.store(line & ~(arm_alias::valid | arm_alias::dirty), release);
  line_step(mm, a, why, arm_cached);
}

/// One PTE, under its lock: uncached from now on.  Whether it was there.
bool make_uncached(arm_mm& mm, arm_alias& a, arm_table& table) {
  const u64 pte = table.pte[a.index].load(acquire);
  if ((pte & arm_present) == 0) return false;
  if ((pte & arm_uncached) == 0) {
    if (guard(Guard::arm_flush_line)) flush_line(mm, a, "adjust_pte: flush");
    table.pte[a.index].store(pte | arm_uncached, release);
    line_step(mm, a, "adjust_pte: uncached", arm_is_uncached);
  }
  return true;
}

/// Whether the other PTE's lock must be taken.
bool must_lock(context& self,
               arm_mm& mm,
               const arm_alias& mine,
               const arm_alias& other,
               const arm_caller& caller,
               const spinlock& its) {
  if (!guard(Guard::arm_split_only)) return true;  // as if locks were always split
  if (!mm.split_locks) return false;
  if (!guard(Guard::arm_same_table)) return true;
  if (!guard(Guard::arm_by_address)) {
    if (caller.fault_ptl == nullptr) {
      breach(self, "B49", "adjust_pte asks a fault for its lock, and was not called by a fault");
      return true;
    }
    return &its != caller.fault_ptl;
  }
  return mine.pmd_range != other.pmd_range;
}

bool adjust_pte(
    context& self, arm_mm& mm, const arm_alias& mine, arm_alias& other, const arm_caller& caller) {
  const u64 table = other.pmd->load(acquire);
  if (table == 0) return false;
  const bool one_read = guard(Guard::arm_one_read);
  const u64 again = one_read ? table : other.pmd->load(acquire);
  if (again == 0) {
    breach(self, "A-8", "adjust_pte reads the PMD again for the lock, and finds no table there");
    return false;
  }
  spinlock& its = lock_of(mm, again);
  if (!must_lock(self, mm, mine, other, caller, its)) return make_uncached(mm, other, *mm.tables[table]);
  if (holds(self, &its)) {  // it would wait for itself
    breach(self, "A-7", "adjust_pte takes a lock that this CPU holds already");
    return false;
  }
  const spin_guard g(self, its, lock_class::ptl);
  // pmd_same: the table may have left since it was read.
  if (other.pmd->load(acquire) != table) {
    if (one_read) return false;
    breach(self, "A-8", "adjust_pte changes an entry of a table that has left its PMD");
  }
  return make_uncached(mm, other, *mm.tables[table]);
}

}  // namespace

void arm_set_pte(context& self, arm_mm& mm, u32 which, bool is_fault) {
  arm_alias& mine = mm.alias[which];
  const u64 table = mine.pmd->load(acquire);
  if (table == 0) return;
  spinlock& ptl = lock_of(mm, table);
  const spin_guard g(self, ptl, lock_class::ptl);
  if (mine.pmd->load(acquire) != table) return;
  arm_table& t = *mm.tables[table];
  t.pte[mine.index].store(arm_present, release);
  line_step(mm, mine, "fault", arm_cached);
  const arm_caller caller{is_fault ? &ptl : nullptr};
  u32 others = 0;
  {
    const spin_guard stays(self, mm.i_mmap, lock_class::other);
    for (u32 i = 0; i < mm.aliases; ++i)
      if (i != which && adjust_pte(self, mm, mine, mm.alias[i], caller)) ++others;
  }
  if (others != 0 && guard(Guard::arm_adjust_own)) make_uncached(mm, mine, t);
}

namespace {
u64 pte_of(arm_mm& mm, const arm_alias& a) {
  const u64 table = a.pmd->load(acquire);
  return table == 0 ? 0 : mm.tables[table]->pte[a.index].load(acquire);
}
}  // namespace

void arm_unmap(context& self, arm_mm& mm, u32 which) {
  arm_alias& a = mm.alias[which];
  const u64 table = a.pmd->load(acquire);
  if (table == 0) return;
  const spin_guard g(self, lock_of(mm, table), lock_class::ptl);
  atomic<u64>& pte = mm.tables[table]->pte[a.index];
  const u64 old = pte.load(acquire);
  if ((old & arm_present) == 0) return;
  if ((old & arm_uncached) == 0) flush_line(mm, a, "unmap: flush");
  pte.store(0, release);
  line_step(mm, a, "unmap", arm_none);
}

std::optional<u64> arm_load(arm_mm& mm, u32 which) {
  arm_alias& a = mm.alias[which];
  const u64 pte = pte_of(mm, a);
  if ((pte & arm_present) == 0) return std::nullopt;
  if ((pte & arm_uncached) != 0) return mm.memory.load(acquire);
  const u64 line = a.line.load(acquire);
  if ((line & arm_alias::valid) != 0) return line & ~(arm_alias::valid | arm_alias::dirty);
  const u64 value = mm.memory.load(acquire);
  a.line.store(value | arm_alias::valid, release);
  line_step(mm, a, "load", arm_clean_line);
  return value;
}

bool arm_store(arm_mm& mm, u32 which, u64 value) {
  arm_alias& a = mm.alias[which];
  const u64 pte = pte_of(mm, a);
  if ((pte & arm_present) == 0) return false;
  if ((pte & arm_uncached) != 0) {
    mm.memory.store(value, release);
    return true;
  }
  a.line.store(value | arm_alias::valid | arm_alias::dirty, release);
  line_step(mm, a, "store", arm_dirty_line);
  return true;
}

}  // namespace pgtbl::inline PGTBL_WORLD
