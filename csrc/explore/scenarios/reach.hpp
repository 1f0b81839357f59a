// reach.hpp -- private statistics that a scenario leaves unexplored, and the worker's round that it plays.
//
// Statistics of the core are atomics that many threads add to.  Explored, their order would multiply the graphs
// and mean nothing.  They are private, and no concern of the classes' users, so they are named here instead of
// being opened there: an explicit instantiation may name a private member.
#pragma once
#include "explore/stage.hpp"
#include "memory/memory.hpp"
#include "sync/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

template <class Tag, typename Tag::type Member>
struct opened {
  friend constexpr typename Tag::type member_of(Tag) { return Member; }
};

#define PGTBL_REACH(tag, owner, of, member)                     \
  struct tag {                                                  \
    using type = of owner::*;                                   \
    friend constexpr type member_of(tag);                       \
  };                                                            \
  template struct opened<tag, &owner::member>;      \
  inline void leave_unexplored_##tag(stage& s, owner& o) { s.leave_unexplored(o.*member_of(tag{})); }

PGTBL_REACH(rcu_pending, rcu_domain, atomic<u64>, pending_)
PGTBL_REACH(rcu_pending_bytes, rcu_domain, atomic<u64>, pending_bytes_)
PGTBL_REACH(rcu_invoked, rcu_domain, atomic<u64>, invoked_)
PGTBL_REACH(rcu_worker_word, rcu_domain, atomic<u32>, worker_word_)
PGTBL_REACH(rcu_hurry, rcu_domain, atomic<u32>, hurry_)
PGTBL_REACH(rcu_membarriers, rcu_domain, atomic<u64>, membarriers_)
PGTBL_REACH(rcu_membarrier_ticks, rcu_domain, atomic<u64>, membarrier_ticks_)
PGTBL_REACH(rcu_soft_throttles, rcu_domain, atomic<u64>, soft_throttles_)
PGTBL_REACH(rcu_epoch, rcu_domain, atomic<u64>, epoch_)
PGTBL_REACH(rcu_gp_seq, rcu_domain, atomic<u64>, gp_seq_)
PGTBL_REACH(memory_pending, memory, atomic<u64>, pending_)
PGTBL_REACH(memory_pending_max, memory, atomic<u64>, pending_max_)
#undef PGTBL_REACH

struct rcu_run_leftovers {
  using type = bool (rcu_domain::*)(bool, bool&);
  friend constexpr type member_of(rcu_run_leftovers);
};
template struct opened<rcu_run_leftovers, &rcu_domain::run_leftovers>;
/// One round of the RCU worker thread, by the actor that plays it.
inline bool run_worker_round(rcu_domain& d, bool quiet_only) {
  bool all_shut = false;
  return (d.*member_of(rcu_run_leftovers{}))(quiet_only, all_shut);
}

inline void leave_statistics_unexplored(stage& s, rcu_domain& d) {
  leave_unexplored_rcu_pending(s, d);
  leave_unexplored_rcu_pending_bytes(s, d);
  leave_unexplored_rcu_invoked(s, d);
  leave_unexplored_rcu_worker_word(s, d);
  leave_unexplored_rcu_hurry(s, d);
  leave_unexplored_rcu_membarriers(s, d);
  leave_unexplored_rcu_membarrier_ticks(s, d);
  leave_unexplored_rcu_soft_throttles(s, d);
}
inline void name_parts(stage& s, rcu_domain& d) {
  s.name_all(d, "RCU domain");
  s.name_all(d.*member_of(rcu_epoch{}), "epoch");
  s.name_all(d.*member_of(rcu_gp_seq{}), "gp_seq");
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
