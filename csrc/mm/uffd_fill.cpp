// UFFDIO_COPY, ZEROPAGE, CONTINUE and POISON: what comes where nothing is mapped (mfill_atomic).
//
// Method.  Under the lock of the one VMA that holds the range (6.9), or mmap_lock for read, page by page.  A private page is filled before anybody sees it; a page of the file
// is locked from its look-up until its entry is set.  The table is allocated on a PMD that is none before anything else
// is looked at, and may be gone again when it is mapped: then it is EAGAIN, and the caller tries again.  Faults that wait
// for the pages are woken when no lock is held any more.
//
// Lock order.  mmap_lock (read), or the VMA's lock > map_changing > folio lock > ptl.
#include <cerrno>

#include "base/errors.hpp"
#include "mm/anon_vma.hpp"
#include "mm/coherent.hpp"
#include "mm/mapping.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// The VMA that is to be filled, all of the range in it, and kept for a scope.  If it is private it has an anon_vma: set before
/// any table's lock is taken, as retraction looks at it there (B22).
class fill_target {
 public:
  fill_target(cpu& self, mm& m, const userfaultfd& u, va_t start, u64 length) {
    if (self.rules->uffd_fills_under_vma_lock)
      if (auto v = lock_vma_under_rcu(self, m, start); v && ((*v)->shared() || (*v)->has_anon_vma()))
        own_.emplace(std::move(*v));
    if (!own_) {
      mmap_.emplace(self, m, where::current());
      vma& v = checked(m.vmas.find(start), u, start, length);
      if (!v.shared()) anon_vma_prepare(self, v);
      vma_ = &v;
      if (!self.rules->uffd_fills_under_vma_lock) return;
      own_.emplace(vma_start_read_locked(self, v));
      mmap_.reset();
    }
    vma_ = &checked(&**own_, u, start, length);
  }
  vma& operator*() const { return *vma_; }

 private:
  static vma& checked(vma* v, const userfaultfd& u, va_t start, u64 length) {
    if (v == nullptr || v->uffd != &u)
      throw os_error(ENOENT, "address " + std::to_string(start) + " is not registered");
    if (!v->covers(start, start + length))
      throw os_error(ENOENT, "the mapping of address " + std::to_string(start) + " ends within the range");
    return *v;
  }

  std::optional<mmap_read_guard> mmap_;
  std::optional<vma_read_guard> own_;
  vma* vma_ = nullptr;
};

/// A page for an entry that is none, or a marker.  `anon`: a fresh page of the VMA's own; else one of its file.
struct filling {
  pfn_t pfn;
  bool anon;
  bool writable;
  bool wp;
};

struct fill_map {
  std::optional<pte_locked> table;
  int error = 0;
  const char* why = nullptr;
};
/// The locked table for a page that is to be put in.  Nothing that was seen of the PMD is relied on: between two looks
/// a fault may have mapped it huge, and a zap or a retraction taken it away again (B27).
fill_map map_for_fill(cpu& self, mm& m, va_t va) {
  const pmd_ref pmdp = pmd_alloc(self, m, va);
  if (!pmdp || !pte_alloc(self, m, pmdp)) return {{}, ENOMEM, "no frame is left for a page table"};
  pause_at(self, point::uf_pmd_checked);
  if (pmdp.get().huge()) return {{}, EEXIST, "it is mapped by a huge page"};
  pause_at(self, point::uf_before_maplock);
  auto t = pte_offset_map_lock(self, pmdp, va);
  if (!t && !guard(Guard::mfill_retry))
    breach(self, "B27",
           "UFFDIO_COPY found no table at address " + std::to_string(va) +
               ", where it had just made sure of one");
  if (!t) return {{}, EAGAIN, "its table has gone"};
  return {std::move(t), 0, nullptr};
}

/// mfill_atomic_install_pte.  Takes the reference over; gives it back where it throws.
void install(cpu& self, vma& v, va_t va, const filling& p) {
  mm& m = v.owner;
  const pfn_t head = self.ram->head_of(p.pfn);
  const auto give_up = [&](int error, const char* why) {
    folio_put(self, head);
    throw os_error(error, "address " + std::to_string(va) + ": " + why);
  };
  auto [t, error, why] = map_for_fill(self, m, va);
  if (!t) give_up(error, why);
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
  t->set(va, update_mmu_cache(self, v, *t, va, e, false));
}

/// A private page: filled before anybody sees it.
template <class Fill>
void fill_private(cpu& self, vma& v, va_t va, bool wp, Fill&& fill) {
  pause_at(self, point::uf_anon_vma_set);
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
  std::optional<folio_guard> lock(std::in_place, self, p.head);
  const auto give_back = [&] {
    lock.reset();
    folio_put(self, p.head);
  };
  if (!still_cached(self, f, index, p)) {
    give_back();
    throw os_error(EAGAIN, "the file was changed");
  }
  fill(p.pfn);
  self.ram->of(p.head).flags.fetch_or(pg_uptodate | pg_dirty, relaxed);
  folio_get(self, p.head);  // the mapping's; ours lasts until the lock is given up
  try {
    install(self, v, va, {p.pfn, false, true, wp});
  } catch (const os_error&) {
    filemap_remove_new(self, f, p.head);  // it must not look as if it had come: the caller tries again
    give_back();
    throw;
  }
  give_back();
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
void each_page(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wake, One&& one) {
  load_mm(self, m);
  check_uffd_range(start, length);
  va_t va = start;
  std::optional<os_error> failed;
  {
    const fill_target target(self, m, u, start, length);
    const uffd_filling filling(self, u);
    try {
      for (; va < start + length; va += page_size) one(*target, va);
    } catch (const os_error& error) {
      failed.emplace(error);
    }
  }
  // Those whose pages came, also where the rest did not.
  if (wake && va != start) uffd_wake(self, u, start, va - start);
  if (!failed) return;
  if (va == start) throw *failed;
  throw os_error(EAGAIN, std::string("after ") + std::to_string((va - start) >> page_shift) +
                             " pages: " + failed->what());
}

/// The zero page, in private memory that has nothing there.
void map_zero(cpu& self, vma& v, va_t va) {
  auto [t, error, why] = map_for_fill(self, v.owner, va);
  if (!t) throw os_error(error, "address " + std::to_string(va) + ": " + why);
  if (!t->get(va).none()) throw os_error(EEXIST, "a page is mapped at address " + std::to_string(va));
  prot_bits p = v.prot();
  p.write = false;
  t->set(va, mk_pte(memory::zero_page, p));
}

}  // namespace

void uffd_copy(
    cpu& self, mm& m, userfaultfd& u, va_t start, const void* source, u64 length, bool wp, bool wake) {
  each_page(self, m, u, start, length, wake, [&](vma& v, va_t va) {
    if (wp && !v.is(vm_uffd_wp)) throw os_error(EINVAL, "the range is not registered for write protection");
    fill_one(self, v, va, wp, [&](pfn_t pfn) {
      self.ram->phys.store_bytes(pfn, 0, static_cast<const u8*>(source) + (va - start), page_size);
    });
  });
}

void uffd_zeropage(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wake) {
  each_page(self, m, u, start, length, wake, [&](vma& v, va_t va) {
    if (!v.shared())
      map_zero(self, v, va);
    else
      fill_shared(self, v, va, false, [&](pfn_t pfn) { self.ram->phys.clear_page(pfn); });
  });
}

void uffd_continue(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wp, bool wake) {
  each_page(self, m, u, start, length, wake, [&](vma& v, va_t va) {
    if (v.is_anon()) throw os_error(EINVAL, "anonymous memory has no file with a page to go on with");
    if (wp && !v.is(vm_uffd_wp)) throw os_error(EINVAL, "the range is not registered for write protection");
    const pgoff_t index = v.pgoff_of(va);
    const cached_page p = filemap_get(self, *v.file, index);
    if (!p) throw os_error(EFAULT, "the file has no page for address " + std::to_string(va));
    const folio_guard lock(self, p.head);
    if (!still_cached(self, *v.file, index, p) || index >= v.file->size_pages()) {
      folio_put(self, p.head);
      throw os_error(EFAULT, "the file was truncated");
    }
    install(self, v, va, {p.pfn, false, v.shared(), wp});
  });
}

void uffd_poison(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wake) {
  if (!self.rules->uffd_poison) throw os_error(EINVAL, "UFFDIO_POISON is later than the machine's era");
  each_page(self, m, u, start, length, wake, [&](vma& v, va_t va) {
    auto [t, error, why] = map_for_fill(self, v.owner, va);
    if (!t) throw os_error(error, "address " + std::to_string(va) + ": " + why);
    const pte_t old = t->get(va);
    if (!old.none() && old.marker() != marker_uffd_wp)
      throw os_error(EEXIST, "a page is mapped at address " + std::to_string(va));
    t->set(va, mk_marker(marker_poison));
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
