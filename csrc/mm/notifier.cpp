// mmu notifiers: who tells the secondary MMUs of an address space that a range of it changes, and when.
//
// A device may be registered while rmap walks of other programs are between a start and an end: it must see both, or
// neither, and may remember nothing from before.  So a range remembers at which device it began, and registration,
// which excludes everybody else by mmap_lock for write, waits until the ranges are over that did not see the new one.
#include "base/hooks.hpp"
#include "mm/secondary_mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

notifier_range::notifier_range(cpu& self, mm& m, va_t start, va_t end)
    : self_(self), mm_(&m), start_(start), end_(end) {
  might_sleep(self, self.irq, "mmu_notifier_invalidate_range_start");
  // Counted before the look at the list, against the store before the look at the count in register_secondary_mmu().
  m.notifiers_open.fetch_add(1, seq_cst);
  m.notifier_starts.fetch_add(1, relaxed);
  told_ = m.secondaries.load(seq_cst);
  for (secondary_mmu* d = told_; d != nullptr; d = d->next) d->start(self, start, end);
}

void notifier_range::done() {
  if (mm_ == nullptr) return;
  // Before 6.6 this is where those hear of it that walk the tables themselves.
  for (secondary_mmu* d = told_; d != nullptr; d = d->next) {
    if (!self_.rules->secondary_at_flush) d->invalidate(self_, start_, end_);
    d->end(self_, start_, end_);
  }
  mm_->notifiers_open.fetch_sub(1, release);
  mm_ = nullptr;
}

void invalidate_secondary(cpu& self, mm& m, va_t start, va_t end) {
  if (self.rules->secondary_at_flush) return;  // the flush has told them
  for (secondary_mmu* d = m.secondaries.load(acquire); d != nullptr; d = d->next)
    d->invalidate(self, start, end);
}

namespace {
/// arch_invalidate_secondary_tlbs: from a TLB flush, under whatever locks that is under.
void flushed(cpu& self, mm_tables& t, va_t start, va_t end) {
  if (!self.rules->secondary_at_flush) return;
  mm& m = static_cast<mm&>(t);
  for (secondary_mmu* d = m.secondaries.load(acquire); d != nullptr; d = d->next)
    d->invalidate(self, start, end);
}
}  // namespace

secondary_mmu* register_secondary_mmu(cpu& self, mm& m, secondary_kind k) {
  const mmap_write_guard lock(self, m);
  secondary_mmu* const before = m.secondaries.load(relaxed);
  auto* const d = make<secondary_mmu>(m, before == nullptr ? 0 : before->number + 1, k);
  d->next = before;
  m.secondaries.store(d, seq_cst);
  m.flush_secondary.store(flushed, seq_cst);
  await(m.notifiers_open, [](u32 n) { return n == 0; }, acquire);
  return d;
}

void stop_secondary_mmus(mm& m) {
  for (secondary_mmu* d = m.secondaries.load(acquire); d != nullptr; d = d->next) d->stop();
}

void release_secondary_mmus(cpu& self, mm& m) {
  for (secondary_mmu* d = m.secondaries.load(acquire); d != nullptr; d = d->next) d->close(self);
}

void free_secondary_mmus(mm& m) {
  for (secondary_mmu* d = m.secondaries.load(relaxed); d != nullptr;) {
    secondary_mmu* next = d->next;
    destroy(d);
    d = next;
  }
  m.secondaries.store(nullptr, relaxed);
}

}  // namespace pgtbl::inline PGTBL_WORLD
