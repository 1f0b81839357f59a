// mprotect: what a range allows, from now on, to those who fault and to those who have entries already.
//
// Lock order.  mmap_lock (write) > VMA mark > pml | ptl.  Entries change in place; the flush at the end of each VMA
// comes before the marks are given up, so that nobody stores by a right that was taken away.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/syscalls.hpp"
#include "mm/vma_ops.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// What the entry of this page may allow: what is not the program's alone must fault before it is written.
prot_bits allowed(cpu& self, const vma& v, u64 entry, prot_bits prot) {
  const pfn_t pfn = pte_t{entry}.pfn();
  if ((entry & bit_uffd_wp) != 0) return {prot.read || prot.write, false, prot.exec};
  const bool own = v.shared() || (!self.ram->is_zero(pfn) &&
                                  (self.ram->of(pfn).flags.load(acquire) & pg_anon_exclusive) != 0);
  if (own) return prot;
  return {prot.read || prot.write, false, prot.exec};
}

/// False: the table was not there any more.
bool change_ptes(cpu& self, vma& v, pmd_ref pmdp, va_t start, va_t end, prot_bits prot) {
  auto t = pte_offset_map_lock(self, pmdp, start);
  if (!t) return false;
  flush_batched_pending(self, v.owner);
  for (va_t va = start; va < end; va += page_size) {
    pte_t old = t->get(va);
    while (old.present()) {
      if (t->replace(va, old, {modify_prot(old.v, allowed(self, v, old.v, prot))})) break;
      old = t->get(va);  // the hardware set a bit meanwhile
    }
    // A page that is being split comes back as the VMA then says; only the right to write was noted.
    if (old.migration() && !prot.write) t->set(va, {old.v & ~bit_write});
  }
  return true;
}

void change_huge_pmd(cpu& self, vma& v, pmd_ref pmdp, prot_bits prot) {
  const spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  pmd_t old = pmdp.get();
  while (old.huge()) {
    const u64 changed = modify_prot(old.v, allowed(self, v, old.v, prot));
    if (pmdp.slot->compare_exchange_strong(old.v, changed, acq_rel)) return;
  }
}

void change_protection(cpu& self, vma& v, prot_bits prot) {
  const notifier_range notifier(self, v.owner, v.start, v.end);
  for (va_t va = v.start; va < v.end;) {
    const va_t next = std::min(pmd_align_down(va) + pmd_size, v.end.get());
    const pmd_ref pmdp = pmd_offset(self, v.owner, va);
    while (pmdp) {
      const pmd_t pmd = pmdp.get();
      if (pmd.none()) break;
      if (pmd.huge()) {
        if (next - va == pmd_size) {
          change_huge_pmd(self, v, pmdp, prot);
          break;
        }
        split_huge_pmd(self, v, pmdp, pmd_align_down(va));
      } else if (change_ptes(self, v, pmdp, va, next, prot) || !self.rules->map_may_fail) {
        break;
      }
    }
    va = next;
  }
  if (guard(Guard::mprotect_flush)) flush_tlb_range(self, v.owner, v.start, v.end, false);
}

[[noreturn]] void refuse(const vma& v, prot_bits prot) {
  if (prot.write && v.is(vm_opened_to_read))
    throw os_error(EACCES, "the file of address " + std::to_string(v.start) +
                               " was opened for reading only, or is sealed against stores");
  throw os_error(EPERM, "the mapping of address " + std::to_string(v.start) + " is sealed");
}

/// Private memory that becomes writable counts as memory that may be needed; it stops where none was ever used.
u64 new_flags(const vma& v, prot_bits prot) {
  u64 f = (v.flags() & ~vm_access_flags) | prot_flags(prot);
  if ((f & vm_write) != 0) {
    if (!v.is(vm_account | vm_write | vm_shared | vm_noreserve)) f |= vm_account;
  } else if (v.is_anon() && v.anon_vma.load(relaxed) == nullptr) {
    f &= ~vm_account;
  }
  return f;
}

}  // namespace

void sys_mprotect(cpu& self, mm& m, va_t start, u64 length, prot_bits prot) {
  load_mm(self, m);
  check_range(start, length);
  const va_t end = start + page_align_up(length);
  if (start == end) return;
  mmap_write_guard lock(self, m);
  if (m.vmas.find(start) == nullptr)
    throw os_error(ENOMEM, "nothing is mapped at address " + std::to_string(start));
  // Up to the first hole, as the kernel does before it tells of it.
  va_t upto = start;
  const vma* refused = nullptr;  // the first that may not change so
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    if (refused != nullptr || e.start > upto) return;
    if (e.vma->is(vm_sealed) || (prot.write && e.vma->is(vm_opened_to_read)))
      refused = e.vma;
    else
      upto = std::min(e.end, end);
  });
  if (refused != nullptr && upto == start) refuse(*refused, prot);
  const auto changes = [&](const vma& v) { return new_flags(v, prot) != v.flags(); };
  change_vmas(self, m, start, upto, changes, [&](vma& v) {
    const u64 f = new_flags(v, prot);
    {
      const i_mmap_write_guard g(self, v.file);
      v.set_flags(f);
    }
    change_protection(self, v, prot);
  });
  if (refused != nullptr) refuse(*m.vmas.find(upto), prot);
  if (upto < end) throw os_error(ENOMEM, "nothing is mapped at address " + std::to_string(upto));
}

}  // namespace pgtbl::inline PGTBL_WORLD
