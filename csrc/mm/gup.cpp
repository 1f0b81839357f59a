#include "mm/gup.hpp"

#include <cerrno>

#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/mapping.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"
#include "pgtable/map.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// FOLL_GET counts in the low half of frame::pins, FOLL_PIN in the high one.
constexpr u32 pin_weight(u32 flags) { return (flags & gup_pin) != 0 ? pins_pinned : 1; }

/// What is pinned to be read must be the program's alone first (gup_must_unshare): else a store of its own would take it to a
/// copy, and leave the page to whoever pinned it.  `v` null: the VMA is not known.  Pages of files matter for long pins
/// only, and in private mappings.
bool must_unshare(cpu& self, pfn_t pfn, u64 entry, bool by_pmd, const vma* v, u32 flags) {
  if ((flags & (gup_write | gup_pin)) != gup_pin || (entry & bit_write) != 0 || !guard(Guard::gup_unshare))
    return false;
  const memory& ram = *self.ram;
  const pfn_t head = ram.head_of(pfn);
  if (ram.is_zero(head) || (ram.of(head).flags.load(acquire) & pg_anon) == 0)
    return (flags & gup_longterm) != 0 && (v == nullptr || !v->shared());
  // What a PMD maps is exclusive as a whole, and its head says so.
  return (ram.of(by_pmd ? head : pfn).flags.load(acquire) & pg_anon_exclusive) == 0;
}

/// A shared mapping of a regular file cannot be pinned to be written for long: whoever writes the page back would not know of
/// what the device stores later.
bool refused(cpu& self, u32 flags) {
  constexpr u32 stores_for_long = gup_write | gup_pin | gup_longterm;
  return (flags & stores_for_long) == stores_for_long && self.rules->longterm_only_ram != 0;
}

void let_go(cpu& self, pfn_t head, u32 flags) {
  self.ram->of(head).pins.fetch_sub(pin_weight(flags), relaxed);
  folio_put(self, head);
}

/// An entry on the way to a page, as it was read, and the one above it.
struct found_entry {
  const entry_word& slot;
  u64 seen;
  const entry_word& above;
  u64 seen_above;
  bool is_pmd() const { return &slot == &above; }
};

/// What a look came to: a frame with a reference, or 0: nothing there, or not now.
struct looked {
  pfn_t pfn = 0;
  bool shared = false;  // it is there, and the program must have it alone first (-EMLINK)
};

/// The frame with a reference, if the reference could be had and `e` still holds what led there.
looked take(cpu& self, pfn_t pfn, const found_entry& e, const vma* v, u32 flags) {
  const pfn_t head = self.ram->head_of(pfn);
  if (self.ram->is_zero(head)) {  // never freed, and never counted
    const bool shared = must_unshare(self, pfn, e.seen, e.is_pmd(), v, flags);
    return {shared ? 0 : pfn, shared};
  }
  pause_at(self, point::gf_pte_read);
  if (!folio_try_get(self, head)) return {};
  // Counted as a pin before the looks: fork looks at the count, and then changes the entry.
  self.ram->of(head).pins.fetch_add(pin_weight(flags), relaxed);
  pause_at(self, point::gf_pinned);
  // Who cleared the entry, or took the table with it, before our reference was counted did not see it; then the entry, or the
  // PMD, tells (B01): an anonymous collapse leaves the entries in the table that it has detached.
  // (Ours has shut such walks out by its interrupt to all CPUs, B02; Linux had the look first, and has both.)
  const bool same =
      !guard(Guard::gup_recheck) || (e.slot.load(acquire) == e.seen && e.above.load(acquire) == e.seen_above);
  const bool refusable =
      refused(self, flags) && (self.ram->of(head).flags.load(relaxed) & (pg_fs | pg_anon)) == pg_fs;
  looked found;
  if (same && self.ram->head_of(pfn) == head && !refusable) {
    found.shared = must_unshare(self, pfn, e.seen, e.is_pmd(), v, flags);
    if (!found.shared) return {pfn};
  }
  let_go(self, head, flags);
  return found;
}

constexpr u64 needed(u32 flags) {
  return bit_present | bit_user | ((flags & gup_write) != 0 ? u64{bit_write} : u64{0});
}

/// GUP-fast's section: interrupts are off, and a flush by broadcast goes on beside it.  Where tables are freed by RCU, a
/// grace period waits for it, as for every section with interrupts off in Linux.
class gup_section {
 public:
  explicit gup_section(cpu& self) : self_(self) {
    self.walks_for_software.store(1, seq_cst);
    section_.emplace(self);
    if (self.rules->free_by_rcu && guard(Guard::gup_rcu)) rcu_.emplace(self.rcu);
  }
  ~gup_section() {
    rcu_.reset();
    section_.reset();
    self_.walks_for_software.store(0, release);
  }
  gup_section(const gup_section&) = delete;
  gup_section& operator=(const gup_section&) = delete;

 private:
  cpu& self_;
  std::optional<mmu_section> section_;
  std::optional<rcu_section> rcu_;
};

/// A page that is mapped as it must be.
looked look(cpu& self, mm& m, va_t va, const vma* v, u32 flags) {
  const gup_section off(self);
  const u64 want = needed(flags);
  const pmd_ref pmdp = pmd_offset(self, m, va);
  if (!pmdp) return {};
  const pmd_t pmd = pmdp_get_lockless(self, pmdp);
  if (pmd.huge() && (pmd.v & want) == want)
    return take(self, pmd.pfn() + index_at(va, page_shift), {*pmdp.slot, pmd.v, *pmdp.slot, pmd.v}, v, flags);
  if (!pmd.table()) return {};
  pause_at(self, point::gf_pmd_read);
  const entry_word& slot = self.ram->phys.entry(pmd.pgtable(), index_at(va, page_shift));
  const pte_t pte{slot.load(acquire)};
  if ((pte.v & want) != want) return {};
  return take(self, pte.pfn(), {slot, pte.v, *pmdp.slot, pmd.v}, v, flags);
}

/// The same without a lock.  What fork shares while it is pinned would be neither's alone: so a pin that a fork went beside
/// is no pin (write_protect_seq).
pfn_t gup_fast(cpu& self, mm& m, va_t va, u32 flags) {
  if ((flags & gup_pin) == 0) return look(self, m, va, nullptr, flags).pfn;
  const u32 seen = m.write_protect_seq.raw_begin();
  const pfn_t pfn = look(self, m, va, nullptr, flags).pfn;
  if (pfn == 0) return 0;
  pause_at(self, point::gf_before_seq);
  // The pin before the look at the sequence; pairs with the fence in fork.
  if (guard(Guard::gup_fork_fence)) fence(seq_cst);
  if (!guard(Guard::gup_fork_seq) || !m.write_protect_seq.read_retry(seen)) return pfn;
  if (!self.ram->is_zero(self.ram->head_of(pfn))) let_go(self, self.ram->head_of(pfn), flags);
  return 0;
}

/// What a fault brings may go again before it is looked at.  After so many rounds mmap_lock is given up for a moment, and its
/// caller asked whether he still wants the page.
constexpr unsigned rounds_under_lock = 32;

/// By faulting it in, under mmap_lock, which is given up where a userfaultfd is waited for; 0: it cannot be had.
pfn_t gup_slow(cpu& self, mm& m, va_t va, u32 flags) {
  const bool write = (flags & gup_write) != 0;
  for (;;) {
    uffd_waiter* waiter = nullptr;
    try {
      const mmap_read_guard lock(self, m);  // no fork meanwhile
      for (unsigned rounds = 0; waiter == nullptr && rounds < rounds_under_lock; ++rounds) {
        const vma* const v = m.vmas.find(va);
        if (v != nullptr && v->file != nullptr && v->file->regular() && v->shared() && refused(self, flags))
          return 0;
        const looked found = look(self, m, va, v, flags);
        if (found.pfn != 0) return found.pfn;
        self.led.add(event::fault);
        waiter =
            fault_under_mmap_lock(self, m, va, write ? access::write : access::read, found.shared && !write);
      }
    } catch (const segmentation_fault&) {
      return 0;
    } catch (const bus_error&) {
      return 0;
    }
    if (waiter != nullptr)
      uffd_wait(self, waiter);
    else if (self.still_wanted != nullptr && !self.still_wanted(self.wanted_by))
      throw interrupted("the pin of address " + std::to_string(va) + " is wanted no longer");
  }
}

}  // namespace

pinned_pages pin_pages(cpu& self, mm& m, va_t start, u64 pages, u32 flags) {
  load_mm(self, m);
  pinned_pages p;
  p.frames.reserve(pages);
  p.each = pin_weight(flags);
  p.written = (flags & gup_write) != 0;
  for (u64 i = 0; i < pages; ++i) {
    const va_t va = start + i * page_size;
    if (va >= task_size) break;
    pfn_t pfn = gup_fast(self, m, va, flags);
    try {
      if (pfn == 0) pfn = gup_slow(self, m, va, flags);
    } catch (...) {
      unpin_pages(self, p);
      throw;
    }
    if (pfn == 0) break;
    p.frames.push_back(pfn);
  }
  if (p.frames.empty()) throw os_error(EFAULT, "address " + std::to_string(start) + " cannot be read");
  return p;
}

void unpin_pages(cpu& self, pinned_pages& p) {
  for (const pfn_t pfn : p.frames) {
    const pfn_t head = self.ram->head_of(pfn);
    if (self.ram->is_zero(head)) continue;
    // Its owner's entry does not tell (unpin_user_pages_dirty_lock).
    if (p.written) self.ram->of(head).flags.fetch_or(pg_dirty, relaxed);
    self.ram->of(head).pins.fetch_sub(p.each, relaxed);
    folio_put(self, head);
  }
  p.frames.clear();
}

}  // namespace pgtbl::inline PGTBL_WORLD
