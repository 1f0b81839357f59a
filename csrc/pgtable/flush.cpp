#include "pgtable/flush.hpp"

#include "base/guards.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

void post(cpu& self, cpu& target, const flush_mailbox::range& r) {
  flush_mailbox& box = target.mailbox;
  const spin_guard g(self, box.lock, lock_class::other);
  if (box.n < flush_mailbox::capacity) {
    box.ranges[box.n] = r;
    box.n += 1;
  } else {
    box.all = 1;
  }
  // Seen by the target's next section: the membarrier of ipi_wait() stands between this and our look at
  // its sequence (mmu_section reads `pending` after it made the sequence odd).
  box.pending.store(1, release);
}

void flush_local(cpu& self, const flush_mailbox::range& r) {
  if (self.loaded != nullptr && self.loaded->id == r.mm) self.tlb.flush_range(r.start, r.end, r.tables);
}

}  // namespace

namespace {
/// arch_invalidate_secondary_tlbs.  Whoever registers a device waits until every notifier range is over that did not see
/// it: a flush within one that does not see the device is over before that walks.
void tell_secondary(cpu& self, mm_tables& t, va_t start, va_t end) {
  if (const auto tell = t.flush_secondary.load(acquire); tell != nullptr) [[unlikely]]
    tell(self, t, start, end);
}
}  // namespace

#if defined(PGTBL_ARCH_ARM)
void flush_tlb_range(cpu& self, mm_tables& t, va_t start, va_t end, bool tables) {
  flush_tlb_alone(self, t, start, end, tables);
  self.arch->lines.flush_range(t.id, start, end);
}

void flush_tlb_alone
#else
void flush_tlb_range
#endif
    (cpu& self, mm_tables& t, va_t start, va_t end, bool tables) {
  const flush_mailbox::range r{t.id, tables, start, end};
  // The cleared entry before the look at the mask; pairs with the fence in switch_mm(), between its bit and its walks.  So a CPU whose bit is not seen here walks only after the entry is gone.
  fence(seq_cst);
  tell_secondary(self, t, start, end);
  irq_state* targets[max_cpus];
  cpu* others[max_cpus];
  u32 n = 0;
  for (u32 w = 0; w < cpumask::words; ++w) {
    for (u64 bits = t.cpus.word(w); bits != 0; bits &= bits - 1) {
      const u32 id = w * 64 + static_cast<u32>(__builtin_ctzll(bits));
      if (id == self.id) continue;
      cpu& other = *self.all->cpus[id];
      post(self, other, r);
      others[n] = &other;
      targets[n++] = &other.irq;
    }
  }
  const bool here = t.cpus.test(self.id);
  if (here) {
    const mmu_section s(self);
    flush_local(self, r);
  }
  if (n == 0 && !here) return;
  self.led.add(event::tlb_flush);
  if (n == 0) return;
  self.led.add(event::tlb_flush_remote);
  if (self.broadcast_flush) {
    membarrier();
    for (u32 i = 0; i < n; ++i) {
      const u64 seen = targets[i]->seq.load(acquire);
      if ((seen & 1) != 0 && others[i]->walks_for_software.load(acquire) == 0)
        await(targets[i]->seq, [seen](u64 v) { return v != seen; }, acquire);
    }
    return;
  }
  ipi_wait(self, {targets, n});
}

void flush_tlb_mm(cpu& self, mm_tables& t) { flush_tlb_range(self, t, 0, task_size, true); }

void flush_or_defer(cpu& self, mm_tables& t, va_t va) {
  if (!t.cpus.any_but(self.id)) {
    flush_tlb_range(self, t, va, va + page_size, false);
    return;
  }
  self.led.add(event::tlb_batched);
  // The CPUs hear of it at the end of the batch; the others now (arch_tlbbatch_add_pending).
  tell_secondary(self, t, va, va + page_size);
  t.flushes_put_off.fetch_add(1, release);  // after the entry was cleared; both under its ptl
  unmap_batch& b = self.batch;
  for (u32 i = 0; i < b.n; ++i)
    if (b.mms[i] == &t) return;
  if (b.n == unmap_batch::capacity) flush_unmap_batch(self);
  t.count.fetch_add(1, relaxed);
  b.mms[b.n++] = &t;
}

namespace {
/// Flushes the whole mm, and says which put-off flushes that covers.
void flush_put_off(cpu& self, mm_tables& t) {
  // Before the flush: what is put off during it is not covered.
  const u64 covered = t.flushes_put_off.load(acquire);
  flush_tlb_range(self, t, 0, task_size, false);
  for (u64 done = t.flushes_done.load(relaxed);
       done < covered && !t.flushes_done.compare_exchange_weak(done, covered, release, relaxed);) {}
}
}  // namespace

void flush_batched_pending(cpu& self, mm_tables& t) {
  if (t.flushes_put_off.load(acquire) == t.flushes_done.load(acquire) || !guard(Guard::zap_batched)) return;
  flush_put_off(self, t);
}

void flush_unmap_batch(cpu& self) {
  unmap_batch& b = self.batch;
  const u32 n = b.n;
  b.n = 0;
  for (u32 i = 0; i < n; ++i) {
    mm_tables& t = *b.mms[i];
    flush_put_off(self, t);
    if (t.count.fetch_sub(1, acq_rel) == 1) t.release(self, t);
  }
}

void drain_mailbox(cpu& self) {
  flush_mailbox& box = self.mailbox;
  const spin_guard g(self, box.lock, lock_class::other);
  if (box.all != 0) self.tlb.flush_all();
  for (u32 i = 0; i < box.n; ++i) flush_local(self, box.ranges[i]);
  box.n = 0;
  box.all = 0;
  box.pending.store(0, relaxed);
}

void switch_mm(cpu& self, mm_tables* next) {
  mm_tables* old = self.loaded;
  {
    const mmu_section s(self);
    self.tlb.flush_all();
    self.loaded = next;
  }
  if (next != nullptr) {
    next->count.fetch_add(1, relaxed);
    next->cpus.set(self.id);
    // The bit before this CPU's walks; pairs with the fence in flush_tlb_range().
    if (guard(Guard::switch_fence)) fence(seq_cst);
  }
  if (old != nullptr) {
#if defined(PGTBL_ARCH_ARM)
    self.arch->lines.flush_mm(old->id);
#endif
    old->cpus.clear(self.id);
    if (old->count.fetch_sub(1, acq_rel) == 1) old->release(self, *old);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
