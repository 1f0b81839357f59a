#include "explore/growing_graph.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

void growing_graph::begin() {
  ++epoch_;
  seq_cst_events_ = 0;
  frees.clear();
  const std::size_t n = events.size();
  details.resize(n);
  clocks.resize(n);
  next_at_.resize(n);
  next_of_.resize(n);
  for (u32 t = 0; t < stage::max_actors; ++t) {
    lengths_[t] = 0;
    hb_[t] = porf_[t] = acquired_[t] = released_[t] = event_clock{};
  }
  for (std::size_t p = 0; p < n; ++p) link(events[p], static_cast<u16>(p));
}

void growing_graph::link(const event& e, u16 p) {
  positions_[e.name()] = p;
  if (lengths_[e.actor] <= e.index) lengths_[e.actor] = static_cast<u16>(e.index + 1);
  located& l = at_[e.loc];
  if (l.epoch != epoch_) l = {epoch_, no_event, 0, no_event};
  next_at_[p] = l.newest;
  l.newest = p;
  if (e.writes && e.rank > l.top) l.top = e.rank, l.top_at = p;
  if (e.object == no_object) return;
  owned& o = of_[e.object];
  next_of_[p] = o.epoch == epoch_ ? o.newest : no_event;
  o = {epoch_, p};
  if (e.kind == op_kind::free) frees.push_back(p);
}

void growing_graph::append(const event& e, const event_detail& d) {
  const auto p = static_cast<u16>(events.size());
  events.push_back(e);
  details.push_back(d);
  clocks.emplace_back();
  next_at_.emplace_back();
  next_of_.emplace_back();
  link(e, p);
  take_clocks(e);
}

u16 growing_graph::floor_rank(event_clock hb, location loc) const {
  u16 floor = 0;
  for (u16 p = first_at(loc); p != no_event; p = next_at_[p]) {
    const event& e = events[p];
    if (hb[e.actor] > e.index && e.rank > floor) floor = e.rank;
  }
  return floor;
}

bool growing_graph::read_by_rmw(location loc, u16 rank) const {
  for (u16 p = first_at(loc); p != no_event; p = next_at_[p])
    if (events[p].writes && events[p].rank == rank) return events[p].reads;
  return false;
}

void growing_graph::make_room(location loc, u16 rank) {
  for (u16 p = first_at(loc); p != no_event; p = next_at_[p])
    if (events[p].rank >= rank) ++events[p].rank;
  if (at_[loc].top >= rank) ++at_[loc].top;
}

void growing_graph::become_write(u16 p) {
  event& e = events[p];
  const auto rank = static_cast<u16>(e.rank + 1);
  make_room(e.loc, rank);
  e.rank = rank;
  e.writes = true;
  located& l = at_[e.loc];
  if (rank > l.top) l.top = rank, l.top_at = p;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
