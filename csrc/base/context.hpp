// context.hpp -- what every layer must know of the thread that runs it.
//
// A context belongs to one thread at a time and is passed explicitly, first, as `self`.  Locks count
// in its ledger; checked builds also keep the locks that it holds (check/ reads them).  The machine's
// CPUs (pgtable/cpu.hpp) are contexts with a TLB, an RCU reader and interrupts.
#pragma once
#include "base/ledger.hpp"
#include "base/points.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct breach_log;

/// Ids are below this: what is counted a context at a time has as many slots.
inline constexpr u32 max_contexts = 257;

struct held_lock {
  const void* lock;  // null: one of several folio locks that share this entry
  lock_class cls;
  u16 times;
};

struct context {
  u32 id = 0;                      // index among the machine's contexts, below max_contexts
  atomic<u32> tid{0};              // the kernel's number of the thread that has it; 0: nobody
  breach_log* breaches = nullptr;  // where checked builds report; may be null
  u32 held_count = 0;              // locks held now; used in checked builds only
  u32 mapped_depth = 0;  // page tables mapped now, each in a read section; used in checked builds only
  bool marks_under_folio = false;  // the rules let it wait for a VMA's mark under a folio lock (before 6.6)
  held_lock held[32];
  ledger led;
};

}  // namespace pgtbl::inline PGTBL_WORLD
