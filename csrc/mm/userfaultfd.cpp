#include "mm/userfaultfd.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/anon_vma.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/machine.hpp"
#include "mm/vma_ops.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

userfaultfd* new_userfaultfd(cpu& self, mm& m, u64 features) {
  if ((features & ~uffd_known_features) != 0)
    throw os_error(EINVAL, "features " + std::to_string(features) + ": bits up to " +
                               std::to_string(uffd_known_features) + " are known");
  userfaultfd* u = make<userfaultfd>(features);
  const mmap_write_guard lock(self, m);
  u->next = m.uffds;
  m.uffds = u;
  return u;
}

void free_userfaultfds(mm& m) {
  for (userfaultfd* u = m.uffds; u != nullptr;) {
    userfaultfd* next = u->next;
    destroy(u);
    u = next;
  }
  m.uffds = nullptr;
}

namespace {

void check_uffd_range(va_t start, u64 length) {
  check_range(start, length);
  if ((length & (page_size - 1)) != 0 || length == 0)
    throw os_error(EINVAL, "length " + std::to_string(length) + ": whole pages are needed, one at least");
  if (start < mmap_bottom) throw os_error(EINVAL, "address " + std::to_string(start) + " is too low");
}

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
  flush_tlb_range(self, v.owner, start, end, false);
}

}  // namespace

void uffd_writeprotect(cpu& self, mm& m, userfaultfd&, va_t start, u64 length, bool on) {
  load_mm(self, m);
  check_uffd_range(start, length);
  const mmap_read_guard lock(self, m);
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
}

void uffd_release(cpu& self, mm& m, userfaultfd& u) {
  load_mm(self, m);
  const mmap_write_guard lock(self, m);
  if (m.exiting()) return;
  change_vmas(
      self, m, 0, task_size, [&](const vma& v) { return v.uffd == &u; }, [&](vma& v) { clear_vma(self, v); });
}

// ---------------------------------------------------------------- putting pages in

namespace {

/// The VMA of one page that is to be filled.
vma& registered(mm& m, const userfaultfd& u, va_t va) {
  vma* v = m.vmas.find(va);
  if (v == nullptr || v->uffd != &u)
    throw os_error(ENOENT, "address " + std::to_string(va) + " is not registered");
  return *v;
}

/// A page for an entry that is none, or a marker.  `anon`: a fresh page of the VMA's own; else one of its file.
struct filling {
  pfn_t pfn;
  bool anon;
  bool writable;
  bool wp;
};

/// mfill_atomic_install_pte.  Takes the reference over; gives it back where it throws.
void install(cpu& self, vma& v, va_t va, const filling& p) {
  mm& m = v.owner;
  const pfn_t head = self.ram->head_of(p.pfn);
  const auto give_up = [&](int error, const char* why) {
    folio_put(self, head);
    throw os_error(error, "address " + std::to_string(va) + ": " + why);
  };
  const pmd_ref pmdp = pmd_alloc(self, m, va);
  if (!pmdp || !pte_alloc(self, m, pmdp)) give_up(ENOMEM, "no frame is left for a page table");
  if (pmdp.get().huge()) give_up(EEXIST, "it is mapped by a huge page");
  auto t = pte_offset_map_lock(self, pmdp, va);
  if (!t) give_up(EAGAIN, "its table has gone");
  const pte_t old = t->get(va);
  if (!old.none() && old.marker() != marker_uffd_wp) {
    t.reset();
    give_up(EEXIST, "a page is mapped there");
  }
  prot_bits prot = v.prot();
  prot.write = prot.write && p.writable && !p.wp;
  pte_t e = mk_pte(p.pfn, prot);
  e.v |= bit_dirty | (p.wp ? bit_uffd_wp : 0);
  self.ram->of(p.pfn).mapcount.fetch_add(1, relaxed);
  m.rss.add(self, p.anon ? rss_kind::anon : rss_kind::shmem, 1);
  t->set(va, e);
}

/// A private page: filled before anybody sees it.
template <class Fill>
void fill_private(cpu& self, vma& v, va_t va, bool wp, Fill&& fill) {
  anon_vma_prepare(self, v);
  const auto pfn = self.ram->alloc_page(self, self.frames);
  if (!pfn) throw os_error(ENOMEM, "no frame is left");
  fill(*pfn);
  folio_set_new_anon(self, *pfn, v, va);
  install(self, v, va, {*pfn, true, true, wp});
}

/// A page of the file, which must have none there.
template <class Fill>
void fill_shared(cpu& self, vma& v, va_t va, bool wp, Fill&& fill) {
  mapping& f = *v.file;
  const pgoff_t index = v.pgoff_of(va);
  if (index >= f.size_pages()) throw os_error(EFAULT, "beyond the end of the file");
  if (const cached_page p = filemap_get(self, f, index)) {
    folio_put(self, p.head);
    throw os_error(EEXIST, "the file has a page for address " + std::to_string(va));
  }
  const cached_page p = filemap_get_or_create(self, f, index);
  if (!p) throw os_error(ENOMEM, "no frame is left");
  const folio_guard lock(self, p.head);
  if (!still_cached(self, f, index, p)) {
    folio_put(self, p.head);
    throw os_error(EAGAIN, "the file was changed");
  }
  fill(p.pfn);
  self.ram->of(p.head).flags.fetch_or(pg_uptodate | pg_dirty, relaxed);
  install(self, v, va, {p.pfn, false, true, wp});
}

template <class Fill>
void fill_one(cpu& self, vma& v, va_t va, bool wp, Fill&& fill) {
  if (v.shared())
    fill_shared(self, v, va, wp, fill);
  else
    fill_private(self, v, va, wp, fill);
}

/// Calls one(vma, va) for each page; an error at the first is the call's, a later one makes it EAGAIN.
template <class One>
void each_page(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, One&& one) {
  load_mm(self, m);
  check_uffd_range(start, length);
  const mmap_read_guard lock(self, m);
  for (va_t va = start; va < start + length; va += page_size) {
    try {
      one(registered(m, u, va), va);
    } catch (const os_error& error) {
      if (va == start) throw;
      throw os_error(EAGAIN, std::string("after ") + std::to_string((va - start) >> page_shift) +
                                 " pages: " + error.what());
    }
  }
}

/// The zero page, in private memory that has nothing there.
void map_zero(cpu& self, vma& v, va_t va) {
  const pmd_ref pmdp = pmd_alloc(self, v.owner, va);
  if (!pmdp || !pte_alloc(self, v.owner, pmdp)) throw os_error(ENOMEM, "no frame is left for a page table");
  if (pmdp.get().huge()) throw os_error(EEXIST, "it is mapped by a huge page");
  auto t = pte_offset_map_lock(self, pmdp, va);
  if (!t) throw os_error(EAGAIN, "its table has gone");
  if (!t->get(va).none()) throw os_error(EEXIST, "a page is mapped at address " + std::to_string(va));
  prot_bits p = v.prot();
  p.write = false;
  t->set(va, mk_pte(memory::zero_page, p));
}

}  // namespace

void uffd_copy(cpu& self, mm& m, userfaultfd& u, va_t start, const void* source, u64 length, bool wp) {
  each_page(self, m, u, start, length, [&](vma& v, va_t va) {
    if (wp && !v.is(vm_uffd_wp)) throw os_error(EINVAL, "the range is not registered for write protection");
    fill_one(self, v, va, wp, [&](pfn_t pfn) {
      self.ram->phys.store_bytes(pfn, 0, static_cast<const u8*>(source) + (va - start), page_size);
    });
  });
}

void uffd_zeropage(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length) {
  each_page(self, m, u, start, length, [&](vma& v, va_t va) {
    if (!v.shared())
      map_zero(self, v, va);
    else
      fill_shared(self, v, va, false, [&](pfn_t pfn) { self.ram->phys.clear_page(pfn); });
  });
}

void uffd_continue(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length) {
  each_page(self, m, u, start, length, [&](vma& v, va_t va) {
    if (v.is_anon()) throw os_error(EINVAL, "anonymous memory has no file with a page to go on with");
    const pgoff_t index = v.pgoff_of(va);
    const cached_page p = filemap_get(self, *v.file, index);
    if (!p) throw os_error(EFAULT, "the file has no page for address " + std::to_string(va));
    const folio_guard lock(self, p.head);
    if (!still_cached(self, *v.file, index, p) || index >= v.file->size_pages()) {
      folio_put(self, p.head);
      throw os_error(EFAULT, "the file was truncated");
    }
    install(self, v, va, {p.pfn, false, v.shared(), false});
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
