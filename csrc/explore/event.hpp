// event.hpp -- one step of an execution graph, and the vector clocks that order steps.
//
// An event is sixteen bytes, because graphs are copied for each alternative.  What can be had again by running the
// program along the graph (values, places in the source) is kept beside it, for the current run alone
// (growing_graph.hpp).
#pragma once
#include <vector>

#include "explore/stage.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

/// Per actor, how many of its events are known.
typedef u16 event_clock __attribute__((vector_size(16)));
static_assert(sizeof(event_clock) == stage::max_actors * sizeof(u16));
inline event_clock latest(event_clock a, event_clock b) { return a > b ? a : b; }

struct event {
  op_kind kind{};
  u8 actor = 0;
  u8 order = 0, failure_order = 0;
  bool reads      : 1 = false;
  bool writes     : 1 = false;
  bool blocked    : 1 = false;  // a wait that what it reads does not end
  bool undecided  : 1 = false;  // a wait that was given another write to read, and has not run since
  bool failed_rmw : 1 = false;
  u16 index = 0;  // the index-th step of that actor
  u16 loc = 0;
  object_id object = no_object;
  u16 from = 0;  // the write that it reads: an event_name, or 0
  u16 rank =
      0;  // of a write, its place in the location's coherence order, from 1; of a read, that of what it reads

  u16 name() const { return event_name(actor, index); }
  u8 read_order() const { return failed_rmw ? failure_order : order; }
  /// Takes part in the order of seq_cst operations.
  bool seq_cst() const { return is_seq_cst(read_order()); }
  bool is_asymmetric() const { return kind == op_kind::light_fence || kind == op_kind::heavy_fence; }
  /// The rank of what it reads; a read-modify-write follows it at once.
  u16 source_rank() const { return static_cast<u16>(writes ? rank - 1 : rank); }
  /// Where it stands in the order of all accesses to its location: of two, the lower comes before the other by way
  /// of reads-from, coherence and from-reads; readers of the same write are equal.
  u32 level() const { return writes ? 2U * rank : 2U * rank + 1; }
};
static_assert(sizeof(event) == 16);

using graph = std::vector<event>;  // in the order in which they were added

inline u32 actor_of(u16 name) { return (name - 1u) / 2048; }
inline u32 index_of(u16 name) { return (name - 1u) % 2048; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
