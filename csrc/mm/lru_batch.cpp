#include "mm/lru_batch.hpp"

#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void lru_add_lazyfree(cpu& self, pfn_t head) {
  lazyfree_batch& b = self.lazyfree;
  const frame& h = self.ram->of(head);
  b.items[b.n++] = {head, h.generation.load(relaxed)};
  if (b.n == lazyfree_batch::capacity || h.order != 0) lru_add_drain(self);
}

void lru_add_drain(cpu& self) {
  lazyfree_batch& b = self.lazyfree;
  for (u32 i = 0; i < b.n; ++i) {
    const auto [head, generation] = b.items[i];
    // With a reference it stays what it is while it is marked.
    if (!folio_try_get(self, head)) continue;
    frame& h = self.ram->of(head);
    if (h.generation.load(acquire) == generation) h.flags.fetch_or(pg_lazyfree, release);
    folio_put(self, head);
  }
  b.n = 0;
}

}  // namespace pgtbl::inline PGTBL_WORLD
