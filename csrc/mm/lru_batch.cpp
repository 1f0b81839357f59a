#include "mm/lru_batch.hpp"

#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

void drain(cpu& self, lazyfree_batch& b) {
  if (b.n.load(relaxed) == 0) return;
  lazyfree_batch::item items[lazyfree_batch::capacity];
  u32 n;
  {
    const spin_guard g(self, b.lock, lock_class::other);
    n = b.n.load(relaxed);
    for (u32 i = 0; i < n; ++i) items[i] = b.items[i];
    b.n.store(0, relaxed);
  }
  for (u32 i = 0; i < n; ++i) {
    const auto [head, generation] = items[i];
    // With a reference it stays what it is while it is marked.
    if (!folio_try_get(self, head)) continue;
    frame& h = self.ram->of(head);
    if (h.generation.load(acquire) == generation) h.flags.fetch_or(pg_lazyfree, release);
    folio_put(self, head);
  }
}

}  // namespace

void lru_add_lazyfree(cpu& self, pfn_t head) {
  lazyfree_batch& b = self.lazyfree;
  const frame& h = self.ram->of(head);
  bool full = h.order != 0;
  {
    const spin_guard g(self, b.lock, lock_class::other);
    const u32 n = b.n.load(relaxed);
    b.items[n] = {head, h.generation.load(relaxed)};
    b.n.store(n + 1, relaxed);
    full |= n + 1 == lazyfree_batch::capacity;
  }
  if (full) drain(self, b);
}

void lru_add_drain(cpu& self) { drain(self, self.lazyfree); }

void lru_add_drain_all(cpu& self) {
  const u32 n = self.all->n.load(acquire);
  for (u32 i = 0; i < n; ++i) drain(self, self.all->cpus[i]->lazyfree);
}

}  // namespace pgtbl::inline PGTBL_WORLD
