// growing_graph.hpp -- the graph of the current run, with all that the engine asks about it many times a run.
//
// Guarantee.  What is known of a location or an object is a chain of its events, newest first; of an event, its
// position by name, its value, and three vector clocks.  Nothing is allocated once the vectors have grown, and
// beginning a run costs one pass over the events: what a former run knew of a location is told apart by an epoch.
#pragma once
#include <algorithm>
#include <source_location>

#include "explore/event.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

/// What running the program along a graph gives back.
struct event_detail {
  u64 value = 0;                  // written
  u64 operand = 0, expected = 0;  // of a read-modify-write
  std::source_location at{};
  rmw_fn fn{};
  u8 size = 8;
};

struct event_clocks {
  event_clock hb, porf, message;  // what it happens after; what it depends on; what its readers acquire
};

class growing_graph {
 public:
  static constexpr u16 no_event = 0xffff;

  /// `strong`: every access acquires and releases (sc, tso).
  explicit growing_graph(bool strong) : strong_(strong) {}

  graph events;
  std::vector<event_detail> details;  // by position
  std::vector<event_clocks> clocks;   // by position
  std::vector<u16> frees;             // positions

  /// After `events` was replaced.
  void begin();
  void append(const event& e, const event_detail& d);
  /// The next step of its actor, which has just been made: its clocks.
  void take_clocks(const event& e);

  std::size_t size() const { return events.size(); }
  event& operator[](std::size_t p) { return events[p]; }
  const event& operator[](std::size_t p) const { return events[p]; }
  u16 position(u16 name) const { return positions_[name]; }
  u16 position(u32 actor, u32 index) const { return positions_[event_name(actor, index)]; }
  u32 length(u32 actor) const { return lengths_[actor]; }

  // Chains: for (u16 p = first_at(loc); p != no_event; p = next_at(p))
  u16 first_at(location loc) const { return at_[loc].epoch == epoch_ ? at_[loc].newest : no_event; }
  u16 next_at(u16 p) const { return next_at_[p]; }
  u16 first_of(object_id o) const { return of_[o].epoch == epoch_ ? of_[o].newest : no_event; }
  u16 next_of(u16 p) const { return next_of_[p]; }
  /// The greatest rank at the location; 0 where only the initial value is.
  u16 top_rank(location loc) const { return at_[loc].epoch == epoch_ ? at_[loc].top : u16{0}; }
  /// The write of greatest rank: a position.
  u16 top_write(location loc) const { return at_[loc].epoch == epoch_ ? at_[loc].top_at : no_event; }

  /// What coherence forces on an access that comes after hb: the rank of the newest write seen, or overwritten.
  u16 floor_rank(event_clock hb, location loc) const;
  /// Nothing may come between a read-modify-write and what it read.
  bool read_by_rmw(location loc, u16 rank) const;
  /// A write of this rank is about to be added.
  void make_room(location loc, u16 rank);
  /// A wait turns out to be a read-modify-write.
  void become_write(u16 p);

  event_clock hb(u32 actor) const { return hb_[actor]; }
  event_clock porf(u32 actor) const { return porf_[actor]; }
  event_clock released(u32 actor) const { return released_[actor]; }
  bool acquires(u8 order) const { return strong_ || is_acquire(order); }
  bool releases(u8 order) const { return strong_ || is_release(order); }
  bool happens_before(const event& a, const event& b) const {
    return clocks[position(b.name())].hb[a.actor] > a.index;
  }
  /// Events that take part in the order of seq_cst operations.
  u32 seq_cst_events() const { return seq_cst_events_; }

 private:
  struct located {
    u32 epoch = 0;
    u16 newest = no_event, top = 0, top_at = no_event;
  };
  struct owned {
    u32 epoch = 0;
    u16 newest = no_event;
  };
  void link(const event& e, u16 p);

  const bool strong_;
  u32 epoch_ = 0, seq_cst_events_ = 0;
  u16 lengths_[stage::max_actors] = {};
  event_clock hb_[stage::max_actors], porf_[stage::max_actors], acquired_[stage::max_actors],
      released_[stage::max_actors];
  std::vector<located> at_ = std::vector<located>(stage::location_count);
  std::vector<owned> of_ = std::vector<owned>(65536);
  std::vector<u16> next_at_, next_of_;
  std::vector<u16> positions_ = std::vector<u16>(stage::max_actors * 2048 + 1);
};

inline void growing_graph::take_clocks(const event& e) {
  const u32 t = e.actor;
  const u16 p = position(e.name());
  const event_clocks* const source = e.reads && e.from != 0 ? &clocks[position(e.from)] : nullptr;
  if (source != nullptr) {
    porf_[t] = latest(porf_[t], source->porf);
    event_clock& into = acquires(e.read_order()) ? hb_[t] : acquired_[t];
    into = latest(into, source->message);
  }
  if (e.kind == op_kind::fence && acquires(e.order)) hb_[t] = latest(hb_[t], acquired_[t]);
  hb_[t][t] = porf_[t][t] = static_cast<u16>(e.index + 1);
  if (e.seq_cst()) ++seq_cst_events_;
  if (e.kind == op_kind::fence && releases(e.order)) released_[t] = hb_[t];
  event_clocks& c = clocks[p];
  c.hb = hb_[t];
  c.porf = porf_[t];
  if (!e.writes) return;
  c.message = releases(e.order) ? hb_[t] : released_[t];
  if (source != nullptr) c.message = latest(c.message, source->message);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
