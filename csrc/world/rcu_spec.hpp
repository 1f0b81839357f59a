// rcu_spec.hpp -- what RCU promises, and nothing else.
//
// For each section and each grace period: either the section wholly precedes the end of the grace period, or it
// wholly follows its beginning.  One word per reader, odd inside of a section; the order in which the reader and
// the grace period reach that word is all that is left to chance.  Scenarios about page tables use this in the
// place of epochs: a section is two operations, and a proof does not depend on how RCU is built.  That the
// shipped epochs keep the same promise is proved apart from it (explore/scenarios/rcu.cpp).
#pragma once
#include "world/world.hpp"

#if defined(PGTBL_WORLD_MODEL)
namespace pgtbl::inline PGTBL_WORLD {

class rcu_spec {
 public:
  void enter(where at = where::current()) {
    if (nesting_++ == 0) word_.fetch_add(1, acq_rel, at);
  }
  void leave(where at = where::current()) {
    if (--nesting_ == 0) word_.fetch_add(1, acq_rel, at);
  }
  /// A grace period's look at this reader.
  void wait_for_section(where at = where::current()) {
    const u32 seen = word_.fetch_add(0, acq_rel, at);
    if ((seen & 1) != 0) await(word_, [seen](u32 now) { return now != seen; }, acquire, at);
  }
  u32 nesting() const { return nesting_; }

 private:
  atomic<u32> word_{0};
  u32 nesting_ = 0;  // the reader's own
};

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
