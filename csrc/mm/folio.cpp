// The folio lock (a sleeping bit lock in the folio's flags) and its references.
#include "base/hooks.hpp"
#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

bool try_bit(frame& f) { return (f.flags.fetch_or(pg_locked, acquire) & pg_locked) == 0; }

hold taken(cpu& self, frame& f) {
  note_locked(self, &f, lock_class::folio);
  return {self.led.acquired(lock_class::folio)};
}

void lock_slow(cpu& self, frame& f) {
  const u64 start = now_ns();
  for (unsigned n = 0; !try_bit(f); ++n) {
    if (n < 64) {
      cpu_relax();
      continue;
    }
    const u32 seen = f.flags.fetch_or(pg_waiters, relaxed) | pg_waiters;
    if ((seen & pg_locked) == 0) continue;
    // Bounded: a wake-up that finds the word changed by another flag must not leave us asleep for ever.
    park(f.flags, seen, 1'000'000);
  }
  self.led.waited(lock_class::folio, now_ns() - start);
}

}  // namespace

hold folio_lock(cpu& self, pfn_t head) {
  frame& f = self.ram->of(head);
  might_sleep(self, self.irq, "folio_lock");
  note_locking(self, &f, lock_class::folio);
  if (!try_bit(f)) lock_slow(self, f);
  return taken(self, f);
}

std::optional<hold> folio_trylock_hold(cpu& self, pfn_t head) {
  frame& f = self.ram->of(head);
  if (!try_bit(f)) {
    self.led.of(lock_class::folio).failed.add();
    return std::nullopt;
  }
  return taken(self, f);
}

void folio_unlock(cpu& self, pfn_t head, hold h) {
  frame& f = self.ram->of(head);
  note_unlocked(self, &f);
  self.led.released(lock_class::folio, h.token);
  const u32 before = f.flags.fetch_and(~(pg_locked | pg_waiters), release);
  if constexpr (checked_build) {
    if ((before & pg_locked) == 0)
      breach(self, "G-39",
             "CPU " + std::to_string(self.id) + " unlocks folio " + std::to_string(head) +
                 ", which is not locked");
  }
  if ((before & pg_waiters) != 0) unpark_all(f.flags);
}

bool folio_try_get(cpu& self, pfn_t head) {
  atomic<u32>& refs = self.ram->of(head).refcount;
  u32 n = refs.load(relaxed);
  while (n != 0)
    if (refs.compare_exchange_weak(n, n + 1, acquire, relaxed)) return true;
  return false;
}

void folio_put(cpu& self, pfn_t head, u32 n) {
  frame& f = self.ram->of(head);
  // Release pairs with the acquire of whoever gives the last one back: all uses before the free.
  const u32 before = f.refcount.fetch_sub(n, acq_rel);
  if (before == n) {
    self.ram->free_folio(self, self.frames, head);
  } else if (before < n) [[unlikely]] {
    breach(self, "G-26",
           "the references of folio " + std::to_string(head) + " fall below zero (" + std::to_string(before) +
               " - " + std::to_string(n) + ")");
    f.refcount.store(0, relaxed);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
