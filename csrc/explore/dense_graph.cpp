#include "explore/dense_graph.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

void dense_graph::build(std::span<const event> g) {
  const std::size_t n = g.size();
  events_.resize(n);
  positions_.resize(n);
  places_.resize(n);
  u16 lengths[stage::max_actors] = {};
  for (const event& e : g) ++lengths[e.actor];
  for (u32 t = 0; t < stage::max_actors; ++t) base_[t + 1] = static_cast<u16>(base_[t] + lengths[t]);

  ++epoch_;
  locations_ = 0;
  ranks_.clear();
  for (std::size_t p = 0; p < n; ++p) {
    const event& e = g[p];
    const u16 at = number(e);
    events_[at] = e;
    positions_[at] = static_cast<u16>(p);
    numbered& l = numbers_[e.loc];
    if (l.epoch != epoch_) {
      l = {epoch_, locations_++};
      ranks_.push_back(0);
    }
    places_[at] = l.number;
    ranks_[l.number] = static_cast<u16>(ranks_[l.number] + e.writes);
  }
  first_.resize(locations_);
  u32 rows = 0;
  for (u16 l = 0; l < locations_; ++l) first_[l] = rows, rows += ranks_[l] + 1U;
  writes_.assign(rows, none);
  for (u16 i = 0; i < n; ++i)
    if (events_[i].writes) writes_[first_[places_[i]] + events_[i].rank] = i;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
