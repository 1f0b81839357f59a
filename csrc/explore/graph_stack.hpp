// graph_stack.hpp -- the graphs that are still to be explored: one after another in one block of memory.
//
// Each has a share of the search: how much of it lies below that graph, if every alternative is taken to be as
// large as its siblings.  The shares of what is done add up to the part that is done, which is D. Knuth's estimate
// ("Estimating the efficiency of backtrack programs", Math. Comp. 29, 1975) read off a depth-first search.
#pragma once
#include <span>

#include "explore/event.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class graph_stack {
 public:
  bool empty() const { return ends_.empty(); }
  std::size_t size() const { return ends_.size(); }
  void clear() { events_.clear(), ends_.clear(), shares_.clear(); }

  void push(std::span<const event> g, double share = 0) {
    events_.insert(events_.end(), g.begin(), g.end());
    ends_.push_back(events_.size());
    shares_.push_back(share);
  }
  /// Takes the newest; returns its share.
  double pop(graph& into) {
    const std::size_t from = ends_.size() > 1 ? ends_[ends_.size() - 2] : 0;
    into.assign(events_.begin() + static_cast<std::ptrdiff_t>(from), events_.end());
    events_.resize(from);
    const double share = shares_.back();
    ends_.pop_back();
    shares_.pop_back();
    return share;
  }
  std::span<const event> operator[](std::size_t i) const {
    const std::size_t from = i == 0 ? 0 : ends_[i - 1];
    return std::span(events_).subspan(from, ends_[i] - from);
  }
  /// All that were pushed since the stack had `size` get this share.
  void give(std::size_t size, double share) {
    for (std::size_t i = size; i < shares_.size(); ++i) shares_[i] = share;
  }

 private:
  std::vector<event> events_;
  std::vector<std::size_t> ends_;
  std::vector<double> shares_;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
