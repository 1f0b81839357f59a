// What a program makes final: mappings by mseal, shared memory by seals; and PR_SET_THP_DISABLE, and msync.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/machine.hpp"
#include "mm/syscalls.hpp"
#include "mm/vma_ops.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void sys_mseal(cpu& self, mm& m, va_t start, u64 length) {
  load_mm(self, m);
  if (!self.rules->mseal) throw os_error(ENOSYS, "mseal is later than the machine's era");
  check_range(start, length);
  const va_t end = start + page_align_up(length);
  if (start == end) return;
  const mmap_write_guard lock(self, m);
  if (!covered(m, start, end)) throw os_error(ENOMEM, "mseal: not all of it is mapped");
  change_vmas(
      self, m, start, end, [](const vma& v) { return !v.is(vm_sealed); },
      [](vma& v) { v.set_flags(v.flags() | vm_sealed); });
}

void sys_msync(cpu& self, mm& m, va_t start, u64 length) {
  load_mm(self, m);
  check_range(start, length);
  const va_t end = start + page_align_up(length);
  bool hole = false;
  for (va_t at = start; at < end;) {
    mmap_read_guard lock(self, m);
    const vma_entry e = m.vmas.first_at_or_after(at);
    hole = hole || !e || e.start > at;
    if (!e || e.start >= end) break;
    at = std::min(e.end, end);
    mapping* const f = e.vma->shared() ? e.vma->file : nullptr;
    if (f == nullptr || !f->regular()) continue;
    mapping_get(*f);
    lock.unlock();
    try {
      filemap_write_back(self, *f, true);
    } catch (...) {
      mapping_put(self, *f);
      throw;
    }
    mapping_put(self, *f);
  }
  if (hole) throw os_error(ENOMEM, "msync: not all of it is mapped");
}

void sys_thp_disable(cpu& self, mm& m, bool on, u64 flags) {
  load_mm(self, m);
  constexpr u64 except_advised = 2;
  const bool known = flags == 0 || (flags == except_advised && on && self.rules->thp_except_advised != 0);
  if (!known) throw os_error(EINVAL, "PR_SET_THP_DISABLE with flags " + std::to_string(flags));
  const mmap_write_guard lock(self, m);
  m.thp.store(!on          ? thp_disabled::no
              : flags == 0 ? thp_disabled::all
                           : thp_disabled::all_but_advised,
              relaxed);
}

// ---------------------------------------------------------------- seals of shared memory

namespace {

bool mapped_to_write(cpu& self, mapping& f) {
  const hold h = f.i_mmap_rwsem.read_lock(self);
  bool any = false;
  f.i_mmap.for_each(0, page_cache::max_index, [&](i_mmap_node& n) { any |= n.owner->may_write_to_file(); });
  f.i_mmap_rwsem.read_unlock(self, h);
  return any;
}

/// Somebody has references beside the cache's and the mappings': he may be about to store (memfd_wait_for_pins).
bool has_pins(cpu& self, mapping& f) {
  const rcu_section section(self.rcu);
  bool any = false;
  f.pages.for_each(0, page_cache::max_index, [&](const cache_item& item) {
    if (item.entry.is_page()) any |= known_pins(self.ram->of(self.ram->head_of(item.entry.pfn()))) != 0;
  });
  return any;
}

}  // namespace

void file_seal(cpu& self, mapping& f, u32 seals) {
  if (f.regular()) throw os_error(EINVAL, "seals are of shared memory");
  const u32 before = f.seals.load(acquire);
  if ((before & seal_seal) != 0) throw os_error(EPERM, "the file's seals are final");
  const u32 added = seals & ~before;
  const bool stores_end = (added & seal_write) != 0;
  // Set first: who maps it from now on sees that.
  f.seals.fetch_or(seals, seq_cst);
  if (!stores_end || (!mapped_to_write(self, f) && !has_pins(self, f))) return;
  f.seals.fetch_and(~added, release);  // and not what another call has sealed meanwhile
  throw os_error(EBUSY, "the file is mapped to be stored to, or pinned");
}

void refuse_if_sealed(const mapping& f, u32 seals, const char* what) {
  if ((f.seals.load(acquire) & seals) != 0)
    throw os_error(EPERM, std::string(what) + ": the file is sealed against that");
}

}  // namespace pgtbl::inline PGTBL_WORLD
