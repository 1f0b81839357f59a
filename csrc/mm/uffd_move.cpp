// UFFDIO_MOVE: pages of private memory go from one address of the program to another, without a copy (6.8).
//
// Guarantee.  A page that moves is reachable by one address or the other, never by both, and a store through the old one
// that came before is in it.  A page that somebody else has (fork, a pin) stays where it is: EBUSY.
//
// Method.  One page at a time, under mmap_lock for read, so that faults go on.  The page's folio lock and its anon_vma's
// lock keep rmap walks out.  Both tables are mapped before they are locked; under both locks the entries, and the PMD of
// the destination, are compared with what was seen: the destination is none, and an entry that is none looks the same
// in a table that has left its PMD (B14).  A whole extent that one huge page maps moves by its PMD.
//
// Lock order.  mmap_lock (read) > map_changing > folio lock > anon_vma (write) > notifier > pml | ptl, two of each.
#include <cerrno>

#include "base/errors.hpp"
#include "mm/anon_vma.hpp"
#include "mm/folio_split.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/mapping.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

[[noreturn]] void fail(int error, va_t va, const char* why) {
  throw os_error(error, "UFFDIO_MOVE, address " + std::to_string(va) + ": " + why);
}

/// The ptls of two tables, which may be one; the lower table's first, since another move may go the other way.
class table_pair {
 public:
  table_pair(cpu& self, pte_map_rw&& a, pte_map_rw&& b) : one_(a.table() == b.table()) {
    if (!one_ && &ptl_of(self, a.pmdval()) == &ptl_of(self, b.pmdval())) {  // two tables, and one lock
      first_.emplace(std::move(a).lock());
      second_.emplace(std::move(b), *first_);
    } else if (one_ || a.table() < b.table()) {
      first_.emplace(std::move(a).lock());
      if (!one_) second_.emplace(std::move(b).lock());
    } else {
      second_.emplace(std::move(b).lock());
      first_.emplace(std::move(a).lock());
    }
    flush_batched_pending(self, *self.loaded);
  }
  pte_locked& first() { return *first_; }
  pte_locked& second() { return one_ ? *first_ : *second_; }

 private:
  const bool one_;
  std::optional<pte_locked> first_, second_;
};

class page_move {
 public:
  page_move(cpu& self, vma& from, vma& to) : self_(self), m_(from.owner), from_(from), to_(to) {}

  /// Moves what is at `at` to `target`, of which `left` bytes are to go.  How many bytes it dealt with.
  u64 run(va_t at, va_t target, u64 left, bool allow_holes) {
    const pmd_ref src = pmd_offset(self_, m_, at);
    const pmd_ref dst = pmd_alloc(self_, m_, target);
    if (!dst) fail(ENOMEM, target, "no frame is left for a page table");
    pmd_t pmd = src ? src.get() : pmd_t{};
    const bool whole = ((at | target) & (pmd_size - 1)) == 0 && left >= pmd_size;
    if (pmd.huge()) {
      if (whole && dst.get().none() && move_huge(src, dst, at, target)) return pmd_size;
      split_huge_pmd(self_, from_, src, pmd_align_down(at));
      pmd = src.get();
    }
    if (dst.get().huge()) fail(EEXIST, target, "it is mapped by a huge page");
    if (pmd.none()) {
      if (!allow_holes) fail(ENOENT, at, "nothing is mapped there");
      return page_size;
    }
    if (!pte_alloc(self_, m_, dst)) fail(ENOMEM, target, "no frame is left for a page table");
    move_pte(src, dst, at, target, allow_holes);
    return page_size;
  }

 private:
  struct source {
    pte_t entry;
    pfn_t head = 0;  // with a reference of ours; 0: the zero page, or a hole
  };

  /// The source's entry, and a reference to its folio, taken while the entry keeps it.
  source look(pmd_ref src, va_t at, bool allow_holes) {
    const auto t = pte_offset_map_lock(self_, src, at);
    if (!t) fail(EAGAIN, at, "its table has gone");
    const pte_t e = t->get();
    if (e.none()) {
      if (!allow_holes) fail(ENOENT, at, "nothing is mapped there");
      return {};
    }
    if (e.migration()) fail(EAGAIN, at, "the page is being split");
    if (!e.present()) fail(EFAULT, at, "a marker, and no page");
    if (self_.ram->is_zero(e.pfn())) return {e, 0};
    const pfn_t head = self_.ram->head_of(e.pfn());
    if ((self_.ram->of(e.pfn()).flags.load(acquire) & pg_anon_exclusive) == 0)
      fail(EBUSY, at, "another program may have the page");
    folio_get(self_, head);
    return {e, head};
  }

  void move_pte(pmd_ref src, pmd_ref dst, va_t at, va_t target, bool allow_holes) {
    while (!try_move_pte(src, dst, at, target, allow_holes)) {}
  }

  /// False: the page's large folio was split; once more.
  bool try_move_pte(pmd_ref src, pmd_ref dst, va_t at, va_t target, bool allow_holes) {
    const source s = look(src, at, allow_holes);
    if (s.entry.none()) return true;
    if (s.head == 0) {
      exchange(src, dst, at, target, s);
      return true;
    }
    struct put {
      cpu& self;
      const pfn_t head;
      ~put() { folio_put(self, head); }
    } const putting{self_, s.head};
    const folio_guard lock(self_, s.head);
    if (self_.ram->of(s.head).order != 0) {
      if (!split_folio(self_, s.head, s.head, true))
        fail(EBUSY, at, "its large page is in use, and cannot be split");
      return false;
    }
    const anon_vma_write_guard family(self_, from_);
    exchange(src, dst, at, target, s);
    return true;
  }

  /// Both tables mapped, then locked, then compared with what was seen.
  void exchange(pmd_ref src, pmd_ref dst, va_t at, va_t target, const source& s) {
    const notifier_range notifier(self_, m_, at, at + page_size);
    auto into = pte_offset_map_rw_nolock(self_, dst, target);
    if (!into) fail(EAGAIN, target, "its table has gone");
    const pmd_t dst_pmd = into->pmdval();
    if (!into->get().none()) fail(EEXIST, target, "a page is mapped there");
    auto out_of = pte_offset_map_rw_nolock(self_, src, at);
    if (!out_of) fail(EAGAIN, at, "its table has gone");
    pause_at(self_, point::uf_move_mapped);
    table_pair t(self_, std::move(*out_of), std::move(*into));
    const pte_t now = t.first().get(at);
    if (now.pfn() != s.entry.pfn() || !now.present()) fail(EAGAIN, at, "it has changed");
    // None is none in a table that nobody can reach any more: so its PMD is compared (B14).
    if (!t.second().get(target).none() || (guard(Guard::move_pmd_same) && dst.get() != dst_pmd))
      fail(EAGAIN, target, "it has changed");
    if (s.head == 0) {
      t.first().get_and_clear(at);
      flush_tlb_range(self_, m_, at, at + page_size, false);
      t.second().set(target, {modify_prot(now.v & ~bit_uffd_wp, read_only())});
      return;
    }
    frame& page = self_.ram->of(s.head);
    if ((page.flags.load(acquire) & pg_anon_exclusive) == 0)
      fail(EBUSY, at, "another program may have the page");
    const pte_t old = t.first().get_and_clear(at);
    flush_tlb_range(self_, m_, at, at + page_size, false);
    // Not before the flush: until then somebody may pin the page by its entry.
    if (maybe_dma_pinned(page)) {
      t.first().set(at, old);
      fail(EBUSY, at, "the page is pinned");
    }
    folio_move_anon(self_, s.head, to_);
    page.index = to_.pgoff_of(target);
    pte_t e = mk_pte(s.head, to_.prot());
    e.v |= bit_dirty;
    t.second().set(target, e);
  }

  /// False: not now; by its pages.
  bool move_huge(pmd_ref src, pmd_ref dst, va_t at, va_t target) {
    const pmd_t seen = src.get();
    if (!seen.huge() || self_.ram->is_huge_zero(seen.pfn())) return false;
    const pfn_t head = seen.pfn();
    if (!folio_try_get(self_, head)) return false;
    struct put {
      cpu& self;
      const pfn_t head;
      ~put() { folio_put(self, head); }
    } const putting{self_, head};
    const folio_guard lock(self_, head);
    const anon_vma_write_guard family(self_, from_);
    const notifier_range notifier(self_, m_, at, at + pmd_size);
    const bool src_first = src.in() <= dst.in();
    std::optional<spin_guard> second;
    const spin_guard first(self_, pml_of(self_, src_first ? src : dst), lock_class::pml);
    if (&pml_of(self_, dst) != &pml_of(self_, src))
      second.emplace(self_, pml_of(self_, src_first ? dst : src), lock_class::pml, where::current());
    if (src.get().pfn() != head || !src.get().huge() || !dst.get().none()) return false;
    frame& h = self_.ram->of(head);
    if ((h.flags.load(acquire) & pg_anon_exclusive) == 0)
      fail(EBUSY, at, "another program may have the page");
    const pmd_t old = src.get_and_clear(self_);
    flush_tlb_range(self_, m_, at, at + pmd_size, false);
    if (maybe_dma_pinned(h)) {
      src.set(self_, old);
      fail(EBUSY, at, "the page is pinned");
    }
    folio_move_anon(self_, head, to_);
    h.index = to_.pgoff_of(target);
    deposit_table(self_, dst, withdraw_table(self_, src));
    pmd_t e = mk_huge_pmd(head, to_.prot());
    e.v |= bit_dirty;
    dst.set(self_, e);
    return true;
  }

  prot_bits read_only() const {
    const prot_bits p = to_.prot();
    return {p.read || p.write, false, p.exec};
  }

  cpu& self_;
  mm& m_;
  vma& from_;
  vma& to_;
};

/// The VMA that has all of the range, private and anonymous.
vma& whole_vma(mm& m, va_t start, u64 length, const char* which) {
  vma* v = m.vmas.find(start);
  if (v == nullptr) fail(ENOENT, start, "nothing is mapped there");
  if (!v->covers(start, start + length))
    throw os_error(EINVAL, std::string("UFFDIO_MOVE: the ") + which + " is not of one mapping");
  if (!v->is_anon())
    throw os_error(EINVAL, std::string("UFFDIO_MOVE: the ") + which + " is no private anonymous memory");
  return *v;
}

}  // namespace

void uffd_move(
    cpu& self, mm& m, userfaultfd& u, va_t to, va_t from, u64 length, bool allow_holes, bool wake) {
  if (!self.rules->uffd_move) throw os_error(EINVAL, "UFFDIO_MOVE is later than the machine's era");
#if defined(PGTBL_ARCH_ARM)
  // adjust_pte nests tables' locks in any order, and would wait for a move that goes by the order of the tables.
  if (self.arch->split_ptl)
    throw unsupported(
        "UFFDIO_MOVE: not with arm's hypothetical split locks, whose order adjust_pte does not keep");
#endif
  load_mm(self, m);
  check_uffd_range(to, length);
  check_uffd_range(from, length);
  if (to < from + length && from < to + length) throw os_error(EINVAL, "UFFDIO_MOVE: the ranges overlap");
  u64 done = 0;
  std::optional<os_error> failed;
  {
    const mmap_read_guard lock(self, m);
    const uffd_filling filling(self, u);
    vma& dst = whole_vma(m, to, length, "destination");
    vma& src = whole_vma(m, from, length, "source");
    if (dst.uffd != &u) fail(EINVAL, to, "it is not registered");
    constexpr u64 alike = vm_access_flags | vm_locked;
    if (((dst.flags() ^ src.flags()) & alike) != 0 || !src.is(vm_write))
      throw os_error(EINVAL, "UFFDIO_MOVE: source and destination allow different things");
    anon_vma_prepare(self, dst);
    anon_vma_prepare(self, src);
    try {
      page_move move(self, src, dst);
      while (done < length) done += move.run(from + done, to + done, length - done, allow_holes);
    } catch (const os_error& error) {
      failed.emplace(error);
    }
  }
  if (wake && done != 0) uffd_wake(self, u, to, done);
  if (!failed) return;
  if (done == 0) throw *failed;
  throw os_error(EAGAIN, "after " + std::to_string(done >> page_shift) + " pages: " + failed->what());
}

}  // namespace pgtbl::inline PGTBL_WORLD
