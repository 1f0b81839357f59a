// psc.hpp -- the order of seq_cst operations of RC11.
//
// psc of Lahav, Vafeiadis, Kang, Hur, Dreyer: "Repairing sequential consistency in C/C++11", PLDI 2017:
//   scb      = po | po-other-location ; hb ; po-other-location | hb-same-location | co | fr
//   psc_base = ([sc] | [fence sc] ; hb?) ; scb ; ([sc] | hb? ; [fence sc])
//   psc_f    = [fence sc] ; (hb | hb ; eco ; hb) ; [fence sc]
// Method.  Between two fences all of it comes down to: the first happens before the second, or there is a location
// where something after the first is older than something before the second.  So a graph whose seq_cst operations
// are fences costs one pass for each fence.  Only with seq_cst accesses the relations are built, as sets of bits:
// events are numbered actor by actor, so that a row of po or hb is a few ranges.
#pragma once
#include "explore/dense_graph.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class seq_cst_order {
 public:
  /// `hb`: what each event happens after, by position in the graph that g was built from.
  bool acyclic(const dense_graph& g, std::span<const event_clock> hb);

 private:
  using word = u64;
  void find_events(const dense_graph& g);
  void look_beyond_fences(const dense_graph& g);
  bool between_fences(std::size_t i, std::size_t j) const;
  void build_relations(const dense_graph& g);
  void build_scb(const dense_graph& g, u16 x);
  void order_by_relations(const dense_graph& g);
  bool has_cycle();

  bool hb(u16 a, u16 b, const dense_graph& g) const { return hb_of_[b][g[a].actor] > g[a].index; }
  word* row(std::vector<word>& rows, std::size_t i) const { return rows.data() + i * words_; }
  static bool test(const word* row, std::size_t bit) { return (row[bit / 64] >> (bit % 64) & 1) != 0; }
  static void set(word* row, std::size_t bit) { row[bit / 64] |= word{1} << (bit % 64); }
  void set_range(word* row, std::size_t from, std::size_t to) const;

  std::vector<event_clock> hb_of_;  // by number
  std::vector<u16> sc_;             // the seq_cst events
  bool accesses_ = false;           // some of them are no fences
  std::vector<u16> low_, high_;     // of each fence and location: the levels beyond it
  std::size_t locations_ = 0, words_ = 0;
  std::vector<word> hb_, scb_, reach_, psc_;
  std::vector<char> has_scb_;
  std::vector<u16> next_other_;  // in program order, of another location
  std::vector<u16> same_next_, same_first_;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
