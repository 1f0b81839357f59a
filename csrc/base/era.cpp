#include "base/era.hpp"

#include "base/errors.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
[[noreturn]] void refuse(const std::string& why) {
  throw value_error("these switches can not be safe together: " + why);
}
}  // namespace

era era_named(std::string_view name) {
  std::string known;
  for (const era& e : eras) {
    if (name == e.name) return e;
    known += (known.empty() ? "" : ", ") + std::string(e.name);
  }
  throw value_error("unknown era '" + std::string(name) + "'; the eras are " + known);
}

void set_switch(era& e, std::string_view name, i64 value) {
  std::string known;
  for (const switch_row& s : switch_table) {
    if (name == s.name) {
      if (value < 0 || value > s.highest)
        throw value_error("switch " + std::string(name) + "=" + std::to_string(value) +
                          ": allowed are 0 to " + std::to_string(s.highest));
      e.*s.field = static_cast<u8>(value);
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(s.name);
  }
  throw value_error("unknown switch '" + std::string(name) + "'; the switches are " + known);
}

void validate(const era& e) {
  if (e.maplock_rechecks && !e.map_may_fail)
    refuse("maplock_rechecks=1 needs map_may_fail=1, since a recheck can find that there is no table");
  if (e.map_opens_rcu && !e.map_may_fail)
    refuse("map_opens_rcu=1 needs map_may_fail=1 (the helpers learnt to fail before they entered RCU)");
  const bool tables_vanish = e.retract_without_mmap_lock || !e.collapse_mmap_write;
  if (tables_vanish && !(e.map_opens_rcu && e.map_may_fail && e.maplock_rechecks))
    refuse(
        "retract_without_mmap_lock=1 or collapse_mmap_write=0 let a table vanish under a walker, which needs "
        "map_opens_rcu=1, map_may_fail=1 and maplock_rechecks=1");
  if (tables_vanish && !e.free_by_rcu)
    refuse(
        "retract_without_mmap_lock=1 or collapse_mmap_write=0 need free_by_rcu=1: an IPI does not wait for "
        "walkers");
  if (e.free_by_rcu && !e.map_opens_rcu)
    refuse("free_by_rcu=1 needs map_opens_rcu=1: a grace period waits only for read sections");
  if (!e.retract_without_mmap_lock && !e.retract_i_mmap_write)
    refuse("retract_without_mmap_lock=0 clears PMDs without their locks, and needs retract_i_mmap_write=1");
  if (e.reclaim_tables && !(e.retract_without_mmap_lock && e.retract_checks_pmd && e.collapse_pmd_same))
    refuse(
        "reclaim_tables=1 lets MADV_DONTNEED free a table at any time, which needs "
        "retract_without_mmap_lock=1, "
        "retract_checks_pmd=1 and collapse_pmd_same=1");
  if (e.reclaim_tables && !(e.gather_by_rcu && e.mremap_rechecks))
    refuse("reclaim_tables=1 needs gather_by_rcu=1 and mremap_rechecks=1");
  if (e.reclaim_tables && e.dontneed_under_vma_lock && !e.collapse_anon_vma_early)
    refuse(
        "reclaim_tables=1 with dontneed_under_vma_lock=1 frees tables beside mmap_lock held for write, and "
        "needs "
        "collapse_anon_vma_early=1");
  if (e.gather_by_rcu && !e.map_opens_rcu) refuse("gather_by_rcu=1 needs map_opens_rcu=1");
  if (e.retract_without_mmap_lock && !e.mremap_rechecks)
    refuse(
        "retract_without_mmap_lock=1 takes tables away beside mremap, and needs mremap_rechecks=1 (without "
        "it, "
        "6.6 to 6.11 moved tables that had gone: CVE-2024-50066)");
  if (!e.collapse_clears_ptes && !e.collapse_mmap_write)
    refuse("collapse_clears_ptes=0 leaves valid PTEs in the table, and needs collapse_mmap_write=1");
  if (!e.retract_without_mmap_lock && e.retract_others_on_madvise)
    refuse("retract_others_on_madvise=1 belongs to the protocol of 6.6 (retract_without_mmap_lock=1)");
  if (!e.retract_without_mmap_lock && e.file_faults_under_vma_lock && !e.map_may_fail)
    refuse("file_faults_under_vma_lock above 0 needs map_may_fail=1");
}

}  // namespace pgtbl::inline PGTBL_WORLD
