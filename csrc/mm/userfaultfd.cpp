#include "mm/userfaultfd.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/anon_vma.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/machine.hpp"
#include "mm/uffd_server.hpp"
#include "mm/vma_ops.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

userfaultfd* new_userfaultfd(cpu& self, mm& m, u64 features) {
  u64 known = uffd_known_features;
  if (!self.rules->uffd_poison) known &= ~uffd_feature_poison;
  if (!self.rules->uffd_move) known &= ~uffd_feature_move;
  if ((features & ~known) != 0)
    throw os_error(EINVAL, "features " + std::to_string(features) + ": of bits " + std::to_string(known) +
                               " in this era");
  const mmap_write_guard lock(self, m);
  userfaultfd* u = make<userfaultfd>(m, features);
  u->next = m.uffds;
  m.uffds = u;
  return u;
}

userfaultfd* dup_userfaultfd(mm& child, const userfaultfd& parent) {
  userfaultfd* u = make<userfaultfd>(child, parent.features);
  u->next = child.uffds;
  child.uffds = u;
  return u;
}

void free_userfaultfds(mm& m) {
  for (userfaultfd* u = m.uffds; u != nullptr;) {
    userfaultfd* next = u->next;
    if (u->server != nullptr) destroy(u->server);
    destroy(u);
    u = next;
  }
  m.uffds = nullptr;
}

void stop_uffd_servers(mm& m) {
  for (userfaultfd* u = m.uffds; u != nullptr; u = u->next)
    if (u->server != nullptr) u->server->stop();
}

void check_uffd_range(va_t start, u64 length) {
  check_range(start, length);
  if ((length & (page_size - 1)) != 0 || length == 0)
    throw os_error(EINVAL, "length " + std::to_string(length) + ": whole pages are needed, one at least");
  if (start < mmap_bottom) throw os_error(EINVAL, "address " + std::to_string(start) + " is too low");
}

uffd_filling::uffd_filling(cpu& self, userfaultfd& u)
    : self_(self), of_(u), hold_(u.map_changing.read_lock(self)) {
  if (u.mmap_changing.load(acquire) == 0 || !guard(Guard::uffd_changing)) return;
  u.map_changing.read_unlock(self, hold_);
  throw os_error(EAGAIN, "a change of the mapping waits to be read");
}

namespace {

// ---------------------------------------------------------------- write protection

/// One entry.  Whether the right to write changed.
void protect_pte(pte_locked& t, va_t va, bool on, bool markers) {
  pte_t old = t.get(va);
  while (old.present()) {
    const u64 v = on ? (old.v | bit_uffd_wp) & ~bit_write : old.v & ~bit_uffd_wp;
    if (t.replace(va, old, {v})) return;
    old = t.get(va);  // the hardware set a bit meanwhile
  }
  if (old.none()) {
    if (on && markers) t.set(va, mk_marker(marker_uffd_wp));
  } else if (old.marker() == marker_uffd_wp && !on) {
    t.get_and_clear(va);
  }
}

/// False: the table was not there any more.
bool protect_ptes(cpu& self, vma& v, pmd_ref pmdp, va_t start, va_t end, bool on) {
  auto t = pte_offset_map_lock(self, pmdp, start);
  if (!t) return false;
  flush_batched_pending(self, v.owner);
  const bool markers = uffd_uses_markers(v);
  for (va_t va = start; va < end; va += page_size) protect_pte(*t, va, on, markers);
  return true;
}

void protect_huge_pmd(cpu& self, pmd_ref pmdp, bool on) {
  const spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  pmd_t old = pmdp.get();
  while (old.huge()) {
    const u64 v = on ? (old.v | bit_uffd_wp) & ~bit_write : old.v & ~bit_uffd_wp;
    if (pmdp.slot->compare_exchange_strong(old.v, v, acq_rel)) return;
  }
}

/// One extent's part.  False: the PMD changed under us.
bool protect_extent(cpu& self, vma& v, va_t start, va_t end, bool on) {
  const bool markers = on && uffd_uses_markers(v);
  const pmd_ref pmdp = markers ? pmd_alloc(self, v.owner, start) : pmd_offset(self, v.owner, start);
  if (!pmdp) {
    if (markers) throw os_error(ENOMEM, "no frame is left for a page table");
    return true;
  }
  const pmd_t pmd = pmdp.get();
  if (pmd.huge()) {
    if (end - start == pmd_size && v.is_anon()) {
      protect_huge_pmd(self, pmdp, on);
      return true;
    }
    // Markers are entries of a table: a file's huge page is not protected as a whole.
    split_huge_pmd(self, v, pmdp, pmd_align_down(start));
    return false;
  }
  if (pmd.none()) {
    if (!markers) return true;
    if (!pte_alloc(self, v.owner, pmdp)) throw os_error(ENOMEM, "no frame is left for a page table");
  }
  return protect_ptes(self, v, pmdp, start, end, on) || !self.rules->map_may_fail;
}

/// Under mmap_lock in any mode.
void protect_range(cpu& self, vma& v, va_t start, va_t end, bool on) {
  const notifier_range notifier(self, v.owner, start, end);
  for (va_t va = start; va < end;) {
    const va_t next = std::min(pmd_align_down(va) + pmd_size, end);
    while (!protect_extent(self, v, va, next, on)) {}
    va = next;
  }
  if (guard(Guard::uffd_wp_flush)) flush_tlb_range(self, v.owner, start, end, false);
}

}  // namespace

void uffd_writeprotect(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool on, bool wake) {
  load_mm(self, m);
  check_uffd_range(start, length);
  mmap_read_guard lock(self, m);
  const uffd_filling filling(self, u);
  bool any = false;
  for (vma_entry e = m.vmas.first_at_or_after(start); e && e.start < start + length;
       e = m.vmas.first_at_or_after(e.end)) {
    if (!e.vma->is(vm_uffd_wp))
      throw os_error(ENOENT, "address " + std::to_string(std::max(start, e.start)) +
                                 " is not registered for write protection");
    any = true;
    protect_range(self, *e.vma, std::max(start, e.start), std::min(start + length, e.end), on);
    if (e.end >= start + length) break;
  }
  if (!any) throw os_error(ENOENT, "nothing is registered there");
  lock.unlock();
  if (!on && wake) uffd_wake(self, u, start, length);
}

// ---------------------------------------------------------------- registering

void uffd_register(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, u64 modes) {
  load_mm(self, m);
  check_uffd_range(start, length);
  if (modes == 0 || (modes & ~vm_uffd_flags) != 0)
    throw os_error(EINVAL, "modes: of missing, wp and minor one at least is needed");
  const mmap_write_guard lock(self, m);
  bool any = false;
  m.vmas.for_each(start, start + length, [&](const vma_entry& e) {
    any = true;
    if (e.vma->file != nullptr && e.vma->file->regular())
      throw os_error(EINVAL, "address " + std::to_string(e.start) +
                                 " maps a regular file: anonymous and shared memory alone can be registered");
    if ((modes & vm_uffd_minor) != 0 && e.vma->is_anon())
      throw os_error(
          EINVAL, "minor faults are of files; address " + std::to_string(e.start) + " is anonymous memory");
    if (e.vma->uffd != nullptr && e.vma->uffd != &u)
      throw os_error(EBUSY, "address " + std::to_string(e.start) + " is registered with another userfaultfd");
  });
  if (!any) throw os_error(EINVAL, "nothing is mapped at address " + std::to_string(start));
  const auto changes = [&](const vma& v) { return v.uffd != &u || (v.flags() & modes) != modes; };
  change_vmas(self, m, start, start + length, changes, [&](vma& v) {
    v.uffd = &u;
    v.set_flags((v.flags() & ~vm_uffd_flags) | modes);
  });
}

namespace {

/// Under mmap_lock write, the VMA marked.
void clear_vma(cpu& self, vma& v) {
  if (v.is(vm_uffd_wp)) protect_range(self, v, v.start, v.end, false);
  v.uffd = nullptr;
  v.set_flags(v.flags() & ~vm_uffd_flags);
}

}  // namespace

void uffd_unregister(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length) {
  load_mm(self, m);
  check_uffd_range(start, length);
  const mmap_write_guard lock(self, m);
  bool any = false;
  m.vmas.for_each(start, start + length, [&](const vma_entry& e) {
    any = true;
    if (e.vma->uffd != nullptr && e.vma->uffd != &u)
      throw os_error(EINVAL,
                     "address " + std::to_string(e.start) + " is registered with another userfaultfd");
  });
  if (!any) throw os_error(EINVAL, "nothing is mapped at address " + std::to_string(start));
  change_vmas(
      self, m, start, start + length, [](const vma& v) { return v.uffd != nullptr; },
      [&](vma& v) { clear_vma(self, v); });
  // Its faults are served from now on, and those that sleep would never be told of.
  uffd_wake(self, u, start, length);
}

void uffd_release(cpu& self, mm& m, userfaultfd& u) {
  {
    const spin_guard g(self, u.lock, lock_class::other);
    u.released.store(1, release);
  }
  load_mm(self, m);
  {
    const mmap_write_guard lock(self, m);
    if (!m.exiting())
      change_vmas(
          self, m, 0, task_size, [&](const vma& v) { return v.uffd == &u; },
          [&](vma& v) { clear_vma(self, v); });
  }
  uffd_let_all_go(self, u);
}

}  // namespace pgtbl::inline PGTBL_WORLD
