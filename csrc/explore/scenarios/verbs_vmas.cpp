// Verbs of the per-VMA lock alone: who reads what it protects, and who marks the VMA and writes that.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

void read_under_vma_lock(machine_cast& c, const cast_actor& a) {
  if (const auto v = lock_vma_under_rcu(*a.self, c.program_of(a), c.page_va(a.which, 0)))
    static_cast<void>(c.guarded_by_vma().get());
}

/// What mprotect does: mmap_lock for write, and the mark.
void write_under_vma_lock(machine_cast& c, const cast_actor& a) {
  mmap_write_guard lock(*a.self, c.program_of(a));
  vma* v = c.program_of(a).vmas.find(c.page_va(a.which, 0));
  if (v == nullptr) return;
  vma_start_write(*a.self, *v);
  c.guarded_by_vma() += 1;
}

constexpr verb_row table[] = {
    {{"vma_read", true}, read_under_vma_lock},
    {{"vma_write", true}, write_under_vma_lock},
};

}  // namespace

std::span<const verb_row> verbs_of_vmas() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
