// event.hpp -- one step of an execution graph, and the vector clocks that order steps.
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
  rmw_fn fn{};
  u8 order = 0, failure_order = 0, size = 8;
  u8 actor = 0;
  u16 index = 0;  // the index-th step of that actor
  bool reads = false, writes = false;
  bool blocked = false;    // a wait that what it reads does not end
  bool undecided = false;  // a wait that was given another write to read, and has not run since
  bool failed_rmw = false;
  u16 loc = 0;
  object_id object = no_object;
  u16 from = 0;   // the write that it reads: an event_name, or 0
  u16 rank = 0;   // of a write: its place in the location's coherence order, from 1; 0 is the initial value
  u64 value = 0;  // written
  u64 operand = 0, expected = 0;  // of a read-modify-write
  std::source_location at{};

  u16 name() const { return event_name(actor, index); }
  u8 read_order() const { return failed_rmw ? failure_order : order; }
  /// Takes part in the order of seq_cst operations.
  bool seq_cst() const { return is_seq_cst(read_order()); }
  bool is_asymmetric() const { return kind == op_kind::light_fence || kind == op_kind::heavy_fence; }
};

using graph = std::vector<event>;  // in the order in which they were added

inline u32 actor_of(u16 name) { return (name - 1u) / 2048; }
inline u32 index_of(u16 name) { return (name - 1u) % 2048; }

/// Where each event of a graph is: positions by name.
class event_index {
 public:
  void build(const graph& g);
  void add(const event& e, std::size_t position) {
    at_[e.actor][e.index] = static_cast<u16>(position);
    if (length_[e.actor] <= e.index) length_[e.actor] = static_cast<u16>(e.index + 1);
  }
  u16 operator()(u16 name) const { return at_[actor_of(name)][index_of(name)]; }
  u16 operator()(u32 actor, u32 index) const { return at_[actor][index]; }
  u32 length(u32 actor) const { return length_[actor]; }

 private:
  u16 at_[stage::max_actors][2048];
  u16 length_[stage::max_actors] = {};
};

inline void event_index::build(const graph& g) {
  for (u16& n : length_) n = 0;
  for (std::size_t p = 0; p < g.size(); ++p) add(g[p], p);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
