// map.hpp -- getting at a page table that somebody may be taking away: the pte_offset_map family.
//
// Problem.  From 6.5 on, and in earnest from 6.6 on, a page table under a file mapping can be retracted
// by a thread that holds neither the walker's mmap_lock nor its VMA lock.  Between reading the PMD and
// using the entries, the table may leave the PMD, and later memory.
//
// Guarantee.  Each function here answers with a handle or with nothing.  "Nothing" means that the PMD does
// not hold a table (any more): it is none, huge, or something that a swap entry can be; the caller looks
// at the PMD again, or treats the range as empty if that is what it would mean.  A handle carries rights:
//
//   pte_map      RCU is held: the memory stays a well-formed table, perhaps emptied and disconnected,
//                until the handle dies.  May read; entries may change under the reader.
//   pte_map_rw   the same, and the PMD value and lock that belong to the table: lock() gives rights to
//                write, after which the caller compares the PMD (or a PTE that is not none).
//   pte_locked   RCU and the table's lock are held, and the PMD pointed to this table after the lock was
//                taken: may write.  While it is held, nobody takes the table away.
//
// Who must not call these.  The cover for the levels above (PGD to PMD page) is the caller's: mmap_lock,
// the VMA lock, i_mmap_rwsem, or interrupts off (lock list in mm/mm.hpp).  After a VMA was unlinked, or
// once the mm has no users, free_pgtables frees tables without ptl and without RCU: outsiders must not
// come here then.
//
// Why the lock is found from pmdval.  Reading the PMD a second time to find the lock may meet another
// table, installed since: lock of one, entries of the other (B13).  And why the PMD is read again under
// the lock: whoever holds a table's ptl may take it out of its PMD; a later winner of the ptl must notice
// before it writes into a table that nobody can reach (B12).
//
// Cost.  Without contention a map costs one store and one load more than reading the PMD; the unmap one store.
#pragma once
#include <optional>
#include <utility>

#include "base/breach.hpp"
#include "base/guards.hpp"
#include "pgtable/cpu.hpp"
#include "pgtable/pmd_halves.hpp"

namespace pgtbl::inline PGTBL_WORLD {

constexpr u64 index_at(va_t va, unsigned shift) {
  const u32 level = shift == page_shift ? 1 : shift == pmd_shift ? 2 : shift == pgd_shift ? 4 : 3;
  return va >> shift & (ptrs_at(level) - 1);
}

/// The life of a table: its state, its generation, its level, its place among the deposited ones.
inline auto& life_of(cpu& self, pgtable_t t) {
#if defined(PGTBL_ARCH_TABLES)
  return self.arch->life(t);
#else
  return self.ram->of(pfn_of(t));
#endif
}

/// A slot that holds a PMD, and the entry that led to the table page that it lies in (whose ptl is the
/// slot's pml).  The entry as it is: most walks never ask for the lock, and need not decode it.
struct pmd_ref {
  entry_word* slot = nullptr;
  pmd_t above;

  explicit operator bool() const { return slot != nullptr; }
  pgtable_t in() const { return above.pgtable(); }
  /// pmdp_get_lockless: whole, and what it points to is visible (pairs with the release in pmd_install).
  pmd_t get(where at = where::current()) const { return {load_at(*slot, acquire, at)}; }
  /// set_pmd_at.  What it points to is visible first.
  void set([[maybe_unused]] cpu& self,
           pmd_t v,
           [[maybe_unused]] memory_order o = release,
           [[maybe_unused]] where at = where::current()) const {
#if defined(PGTBL_ARCH_X86_PAE)
    pmd_set_halves(self, *slot, in(), v.v);
#else
    store_at(*slot, v.v, o, at);
#endif
  }
  /// pmdp_huge_get_and_clear: fetched with the bits that the hardware has set by now.  Of a table: lockless readers may
  /// be there, and are told (pmdp_collapse_flush).
  pmd_t get_and_clear([[maybe_unused]] cpu& self, [[maybe_unused]] where at = where::current()) const {
#if defined(PGTBL_ARCH_X86_PAE)
    return {pmd_clear_halves(self, *slot, in())};
#else
    return {exchange_at(*slot, u64{0}, acq_rel, at)};
#endif
  }
};

/// The lock of a PTE table: one for all tables of its page.
inline spinlock& ptl_of(cpu& self, pmd_t table) {
#if defined(PGTBL_ARCH_TABLES)
  if (!geometry.split_ptl) return self.arch->shared_lock(pfn_of(table.pgtable()));
#endif
  return self.ram->of(pfn_of(table.pgtable())).ptl;
}
inline spinlock& pml_of(cpu& self, pmd_ref p) {
#if defined(PGTBL_ARCH_TABLES)
  if (!geometry.split_pml) return self.arch->shared_lock(pfn_of(p.in()));
#endif
  return self.ram->of(pfn_of(p.in())).ptl;
}

#if defined(PGTBL_ARCH_POWERPC)
/// assert_pte_locked (arch/powerpc.hpp) for a PTE of that table: the PMD of the address is looked up from the top.
void assert_pte_locked(cpu& self, pgtable_t table, va_t va);
#endif

/// Notes for the checkers which table this CPU has mapped (G-1).  Nothing in the real world.
inline void note_mapped(cpu& self, pgtable_t table) {
  if constexpr (checked_build) {
    if (self.mapped_depth < 8) self.mapped[self.mapped_depth].store(table, seq_cst);
    ++self.mapped_depth;
  }
}
inline void note_unmapped(cpu& self) {
  if constexpr (checked_build) {
    --self.mapped_depth;
    if (self.mapped_depth < 8) self.mapped[self.mapped_depth].store(pgtable_t{}, release);
  }
}

class [[nodiscard]] pte_map {
 public:
  /// The table that pmdval points to.  `section` was entered for it, and is left with it; null: none was.
  pte_map(cpu& self, rcu_reader* section, pmd_t pmdval, va_t va)
      : self_(&self),
        section_(section),
        pmdval_(pmdval),
        pte_(&self.ram->phys.entry(pmdval.pgtable(), index_at(va, page_shift))) {
    note_mapped(self, table());
  }
  pte_map(pte_map&& o) noexcept
      : self_(std::exchange(o.self_, nullptr)), section_(o.section_), pmdval_(o.pmdval_), pte_(o.pte_) {}
  pte_map& operator=(pte_map&&) = delete;
  ~pte_map() {
    if (self_ == nullptr) return;
    note_unmapped(*self_);
    if (section_ != nullptr && guard(Guard::unmap_rcu)) [[likely]]
      section_->read_unlock();
  }

  /// The entry for the address that was mapped.
  pte_t get(where at = where::current()) const { return {load_at(*pte_, relaxed, at)}; }
  /// The entry for another address of the same extent.
  pte_t get(va_t va, where at = where::current()) const { return {load_at(entry(va), relaxed, at)}; }
  pgtable_t table() const { return pmdval_.pgtable(); }
  /// Waits until the entry is another.  For entries that somebody is about to change who needs no lock of ours.
  void wait_while(va_t va, pte_t seen) const {
    await(entry(va), [seen](u64 v) { return v != seen.v; }, acquire);
  }

 protected:
  entry_word& entry(va_t va) const { return self_->ram->phys.entry(table(), index_at(va, page_shift)); }
  cpu* self_;
  rcu_reader* section_;  // not asked of the era again: the unmap leaves what the map entered
  pmd_t pmdval_;
  entry_word* pte_;
};

class [[nodiscard]] pte_locked : public pte_map {
 public:
  pte_locked(pte_map&& m, spinlock& ptl, hold h) : pte_map(std::move(m)), ptl_(&ptl), hold_(h) {}
  /// Of a table whose lock is the one that `owner` holds, and goes on holding.
  pte_locked(pte_map&& m, const pte_locked& owner)
      : pte_map(std::move(m)), ptl_(nullptr), hold_(owner.hold_) {}
  pte_locked(pte_locked&& o) noexcept
      : pte_map(std::move(o)), ptl_(std::exchange(o.ptl_, nullptr)), hold_(o.hold_) {}
  ~pte_locked() { unlock(); }

  using pte_map::get;
  pmd_t pmdval() const { return pmdval_; }
  spinlock& ptl() const { return *ptl_; }

  void set(va_t va, pte_t v, where at = where::current()) {
    check_writable(va);
    store_at(entry(va), v.v, release, at);
  }
  /// Fetch and clear in one step: the hardware may set accessed and dirty up to that moment.
  pte_t get_and_clear(va_t va, where at = where::current()) {
    check_updated(va);
    return {exchange_at(entry(va), u64{0}, acq_rel, at)};
  }
  /// Replaces the entry unless the hardware changed it since `expected` was read.
  bool replace(va_t va, pte_t expected, pte_t v) {
    check_updated(va);
    return entry(va).compare_exchange_strong(expected.v, v.v, acq_rel);
  }
  /// pte_unmap_unlock before the handle dies.
  void unlock() {
    if (ptl_ == nullptr) return;
    ptl_->unlock(*self_, lock_class::ptl, hold_);
    ptl_ = nullptr;
  }

 private:
  void check_writable(va_t va) const {
    if constexpr (checked_build) {
      // Before 6.6 a table that file collapse takes away is protected by mmap_lock, not by its state here.
      const frame_state s = life_of(*self_, table()).state.load(acquire);
      if (s != frame_state::table_live)
        breach(*self_, "G-33",
               "CPU " + std::to_string(self_->id) + " writes the PTE of address " + std::to_string(va) +
                   " into frame " + std::to_string(pfn_of(table())) + ", which is a " + to_string(s));
      // Ours, or that of the handle which we stand beside.
      if (!holds(*self_, &ptl_of(*self_, pmdval_)))
        breach(*self_, "G-33",
               "CPU " + std::to_string(self_->id) + " writes the PTE of address " + std::to_string(va) +
                   " without the lock of its table in frame " + std::to_string(pfn_of(table())));
    }
  }
  /// The same of an entry that may be in use (pte_update).
  void check_updated(va_t va) const {
    check_writable(va);
#if defined(PGTBL_ARCH_POWERPC)
    assert_pte_locked(*self_, table(), va);
#endif
  }
  spinlock* ptl_;
  hold hold_;
};

/// pte_offset_map_rw_nolock (and the nolock of 6.5 to 6.12): the table with the PMD value and the lock that
/// belong to it.  Nothing is locked yet.
class [[nodiscard]] pte_map_rw : public pte_map {
 public:
  pte_map_rw(pte_map&& m, pmd_ref pmdp) : pte_map(std::move(m)), pmdp_(pmdp) {}
  pte_map_rw(pte_map_rw&&) noexcept = default;

  pmd_t pmdval() const { return pmdval_; }
  spinlock& ptl() const { return ptl_of(*self_, guard(Guard::lock_from_pmdval) ? pmdval_ : pmdp_.get()); }
  /// pmd_same: the PMD still holds what this map found.
  bool pmd_same() const { return pmdp_.get() == pmdval_; }
  /// Takes the table's lock.  The caller then tests pmd_same(), or compares a PTE that was not none.
  pte_locked lock(where at = where::current()) && {
    spinlock& l = ptl();
    const hold h = l.lock(*self_, lock_class::ptl, at);
    return pte_locked(std::move(*this), l, h);
  }

 private:
  pmd_ref pmdp_;
};

/// G-9: whether what was read was ever stored whole: what it says is a PTE table is one, or was one until it was
/// detached.  Here the read is one load, so nothing but a stray store can break it; where a PMD is read by halves,
/// the halves may be of two lives.  False: there is no such frame.  Checked builds only.
bool read_whole(cpu& self, pmd_t pmdval, va_t va);
#if !defined(PGTBL_WORLD_MODEL) && !defined(PGTBL_ARCH_X86_PAE)
static_assert(sizeof(pmd_t) == sizeof(u64) && atomic<u64>::is_always_lock_free);
#endif

/// What the helpers do about a PMD that is no table: leaves RCU, counts, and clears a bad entry to none
/// (the reader does so, without a lock).
[[gnu::cold]] void map_failed(cpu& self, pmd_ref pmdp, pmd_t pmdval, va_t va);

/// pmdp_get_lockless, between pmdp_get_lockless_start and _end: where a PMD is read by halves, with interrupts off.
inline pmd_t pmdp_get_lockless(cpu& self, pmd_ref pmdp, where at = where::current()) {
#if defined(PGTBL_ARCH_X86_PAE)
  std::optional<irq_guard> off;
  if (guard(Guard::pae_irq_off)) off.emplace(self.irq);
  static_cast<void>(at);
  return {pmd_read_halves(self, *pmdp.slot, pmdp.in())};
#else
  static_cast<void>(self);
  return pmdp.get(at);
#endif
}

/// pte_offset_map: for readers.  Nothing is locked; entries may change under the caller.  What it found stays
/// the PMD that the handle goes by, whatever the slot says later.
inline std::optional<pte_map> pte_offset_map(cpu& self, pmd_ref pmdp, va_t va) {
  const bool rcu = self.rules->map_opens_rcu && guard(Guard::map_rcu);
  const bool first = guard(Guard::map_rcu_first);
  if (rcu && first) [[likely]]
    self.rcu.read_lock();
  pause_at(self, point::map_rcu_entered);
  const pmd_t pmdval = pmdp_get_lockless(self, pmdp);
  if (rcu && !first) {
    pause_at(self, point::map_pmd_read);
    self.rcu.read_lock();
  }
  // None, or a huge page, by now: whoever saw a table there saw it before (B56).
  if (guard(Guard::map_validates) && !pmdval.table()) [[unlikely]] {
    map_failed(self, pmdp, pmdval, va);
    return std::nullopt;
  }
  if constexpr (checked_build) {
    if (!read_whole(self, pmdval, va)) {
      map_failed(self, pmdp, pmdval, va);
      return std::nullopt;
    }
  }
  pause_at(self, point::map_pmd_read);
  // Made where the caller wants it: a handle that is moved about does not stay in registers.
  return std::optional<pte_map>(std::in_place, self, rcu ? &self.rcu : nullptr, pmdval, va);
}
inline std::optional<pte_map> pte_offset_map_ro_nolock(cpu& self, pmd_ref pmdp, va_t va) {
  return pte_offset_map(self, pmdp, va);
}

inline std::optional<pte_map_rw> pte_offset_map_rw_nolock(cpu& self, pmd_ref pmdp, va_t va) {
  auto m = pte_offset_map(self, pmdp, va);
  if (!m) return std::nullopt;
  pause_at(self, point::nolock_returned);
  return pte_map_rw(std::move(*m), pmdp);
}
inline std::optional<pte_map_rw> pte_offset_map_nolock(cpu& self, pmd_ref pmdp, va_t va) {
  return pte_offset_map_rw_nolock(self, pmdp, va);
}

/// pte_offset_map_lock: the table that the PMD holds, locked.
inline std::optional<pte_locked> pte_offset_map_lock(cpu& self, pmd_ref pmdp, va_t va) {
  for (;;) {
    auto m = pte_offset_map(self, pmdp, va);
    if (!m) return std::nullopt;
    pause_at(self, point::maplock_before_lock);
    pte_locked t = pte_map_rw(std::move(*m), pmdp).lock();
    pause_at(self, point::maplock_locked_before_recheck);
    // The retract of another thread may have emptied the slot, and a fault filled it again, between the
    // read and the lock (B12).
    if (!self.rules->maplock_rechecks || !guard(Guard::pmd_recheck) || pmdp.get() == t.pmdval()) [[likely]]
      return t;
    self.led.add(event::map_retry);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
