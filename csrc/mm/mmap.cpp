// The system calls that make and take away mappings: mmap, munmap, brk, and the end of a program.
//
// All of them hold mmap_lock for write and mark each VMA that they touch, so that faults under VMA locks
// are out.  The tree changes by one edit, seen whole or not at all; i_mmap changes under its own lock.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/machine.hpp"
#include "mm/populate.hpp"
#include "mm/syscalls.hpp"
#include "mm/userfaultfd.hpp"
#include "mm/vma_ops.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

u64 whole_pages(u64 length) {
  if (length > task_size)
    throw os_error(ENOMEM, "length " + std::to_string(length) + " is larger than the address space");
  return page_align_up(length);
}

va_t choose_address(const mm& m, const mmap_args& a, u64 length) {
  if (a.addr) {
    if (a.fixed) {
      check_range(*a.addr, length);
      if (*a.addr < mmap_bottom)
        throw os_error(EPERM, "address " + std::to_string(*a.addr) + " is below the lowest, " +
                                  std::to_string(mmap_bottom));
      return *a.addr;
    }
    const va_t hint = page_align_down(*a.addr);
    if (hint >= mmap_bottom && hint <= mmap_top && length <= mmap_top - hint &&
        !m.vmas.snapshot().overlaps(hint, hint + length))
      return hint;
  }
  const u64 align = length >= pmd_size ? pmd_size : page_size;
  const auto at = m.vmas.gap_below(mmap_bottom, mmap_top, length, align);
  if (!at)
    throw os_error(ENOMEM, "no gap of " + std::to_string(length) + " bytes is left in the address space");
  return *at;
}

u64 flags_of(const mmap_args& a) {
  u64 f = prot_flags(a.prot);
  if (a.shared && a.file != nullptr) f |= vm_shared;
  if (a.shared && a.file != nullptr && !a.prot.write &&
      (a.file->regular() || (a.file->seals.load(acquire) & (seal_write | seal_future_write)) != 0))
    f |= vm_opened_to_read;
  if (a.noreserve) f |= vm_noreserve;
  if (a.locked) f |= vm_locked;
  if ((f & (vm_noreserve | vm_shared | vm_write)) == vm_write) f |= vm_account;
  return f;
}

}  // namespace

// ---------------------------------------------------------------- mmap

va_t sys_mmap(cpu& self, mm& m, const mmap_args& a) {
  load_mm(self, m);
  if (a.length == 0) throw os_error(EINVAL, "length 0: a mapping has at least one byte");
  if ((a.offset & (page_size - 1)) != 0)
    throw os_error(EINVAL, "offset " + std::to_string(a.offset) + " is not a multiple of the page size " +
                               std::to_string(page_size));
  if (a.fixed && !a.addr) throw os_error(EINVAL, "fixed needs an address");
  const u64 length = whole_pages(a.length);
  if (a.file != nullptr && a.offset > (page_cache::max_index << page_shift) - length)
    throw os_error(EOVERFLOW, "offset " + std::to_string(a.offset) + " is beyond what a file can hold");

  if (a.file != nullptr && a.shared && a.prot.write)
    refuse_if_sealed(*a.file, seal_write | seal_future_write, "mmap");
  // What is to be stored to was opened for that, before it is mapped.
  std::optional<write_access> opened;
  if (a.file != nullptr && a.shared && a.prot.write) opened.emplace(self, *a.file);
  uffd_events told;
  mmap_write_guard lock(self, m);
  const va_t start = choose_address(m, a, length), end = start + length;
  if (a.fixed) unmap_range(self, m, start, end, &told);
  const pgoff_t pgoff = a.file != nullptr ? a.offset >> page_shift : start >> page_shift;
  link_vma(self, *new_vma(m, start, end, flags_of(a), a.file, pgoff));
  merge_at(self, m, start);  // below first, as the kernel: joined with both only where these go together
  merge_at(self, m, end);
  lock.unlock();
  told.tell(self);
  if (a.populate || a.locked) populate_quietly(self, m, start, end);
  return start;
}

void sys_munmap(cpu& self, mm& m, va_t start, u64 length) {
  load_mm(self, m);
  uffd_events told;
  mmap_write_guard lock(self, m);  // before anything is looked at, as the kernel does
  check_range(start, length);
  if (length == 0) throw os_error(EINVAL, "length 0");
  const va_t end = start + page_align_up(length);
  const removed r = detach_range(self, m, start, end, &told);
  if (r.first == nullptr) return;
  // The VMAs are out of reach: readers of the rest of the address space need not wait for the zap.
  lock.downgrade();
  pause_at(self, point::mu_downgraded);
  unmap_detached(self, m, r);
  lock.unlock();
  told.tell(self);
}

// ---------------------------------------------------------------- brk

va_t sys_brk(cpu& self, mm& m, va_t to) {
  load_mm(self, m);
  uffd_events told;
  mmap_write_guard lock(self, m);
  const va_t now = m.brk_end, base = m.brk_start;
  if (to < base || to > task_size) return now;
  const va_t old_end = page_align_up(now), new_end = page_align_up(to);
  if (new_end < old_end) {
    unmap_range(self, m, new_end, old_end, &told);
  } else if (new_end > old_end) {
    if (m.vmas.snapshot().overlaps(old_end, new_end)) return now;
    link_vma(self,
             *new_vma(m, old_end, new_end, vm_read | vm_write | vm_account, nullptr, old_end >> page_shift));
    merge_at(self, m, old_end);
  }
  m.brk_end = to;
  lock.unlock();
  told.tell(self);
  return to;
}

// ---------------------------------------------------------------- the end

void exit_mmap(cpu& self, mm& m) {
  m.users.store(0, seq_cst);
  mmap_write_guard lock(self, m);
  unmap_range(self, m, 0, task_size);
}

}  // namespace pgtbl::inline PGTBL_WORLD
