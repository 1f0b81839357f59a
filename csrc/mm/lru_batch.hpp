// lru_batch.hpp -- what a CPU has to do to folios, put off until it is worth it.
//
// Of Linux's per-CPU batches the laboratory has the one that shows: MADV_FREE marks what it finds 31 folios at a time, and smaps
// counts what is marked.  What is left of a batch waits for the next one who drains: MADV_FREE, MADV_COLD, MADV_PAGEOUT,
// mlock, whatever populates, a truncate or punch that finds something; MADV_COLLAPSE and khugepaged, which drain those of all
// CPUs; not munmap, not MADV_DONTNEED.  (31 as in
// 6.18, in every era.)
#pragma once
#include "pgtable/cpu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// The folio is to be marked lazily freed: at once with all others where it is large, or the batch's last.
void lru_add_lazyfree(cpu& self, pfn_t head);
/// This CPU's batch is done with.
void lru_add_drain(cpu& self);
/// The batch of every CPU, as MADV_COLLAPSE and khugepaged want it.  (Linux asks each CPU, by work items that are waited for.)
void lru_add_drain_all(cpu& self);

}  // namespace pgtbl::inline PGTBL_WORLD
