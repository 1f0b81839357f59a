// dense_graph.hpp -- an execution graph as the checks of consistency want it.
//
// Events are numbered actor by actor, so that program order is counting, and what one event knows of an actor is a
// prefix of a range; locations are numbered from 0; a table has the writes of each location by rank.  Built in two
// passes over the events, without a search.
#pragma once
#include <span>

#include "explore/event.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class dense_graph {
 public:
  static constexpr u16 none = 0xffff;

  void build(std::span<const event> g);

  u16 size() const { return static_cast<u16>(events_.size()); }
  u16 number(const event& e) const { return static_cast<u16>(base_[e.actor] + e.index); }
  const event& operator[](u16 n) const { return events_[n]; }
  /// Where the event with this number stands in the graph that was given.
  u16 position(u16 n) const { return positions_[n]; }
  u16 begin(u32 actor) const { return base_[actor]; }
  u16 end(u32 actor) const { return base_[actor + 1]; }
  u16 locations() const { return locations_; }
  /// Of an event with a location.
  u16 location_of(u16 n) const { return places_[n]; }
  /// The write of that rank at the location of event n; none if there is none.
  u16 write_at(u16 n, u16 rank) const {
    const u16 l = places_[n];
    return rank == 0 || rank > ranks_[l] ? none : writes_[first_[l] + rank];
  }
  /// A number of its own for each rank, from 0, of each location; row_count() of them.
  u32 row(u16 n, u16 rank) const { return first_[places_[n]] + rank; }
  u32 row_count() const { return static_cast<u32>(writes_.size()); }

 private:
  std::vector<event> events_;
  std::vector<u16> positions_, places_;
  u16 base_[stage::max_actors + 1] = {};
  u16 locations_ = 0;
  std::vector<u32> first_;
  std::vector<u16> ranks_, writes_;
  u32 epoch_ = 0;
  struct numbered {
    u32 epoch = 0;
    u16 number = 0;
  };
  std::vector<numbered> numbers_ = std::vector<numbered>(stage::location_count);
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
