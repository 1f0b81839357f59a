// consistency.hpp -- which execution graphs a memory model allows.
//
// A graph is program order, reads-from (event::from) and coherence (event::rank).  Its orders:
//
//   sc     some interleaving: program order, rf, co and fr together have no cycle
//   tso    x86: the same with each actor's reads free to pass its earlier writes (until a locked operation or a
//          full fence), and its own writes visible to itself at once; and coherence of each location
//   ra     release-acquire: what the engine ensures for every model while it builds, no more
//   rc11   the repaired C11 model: ra, and the order of seq_cst accesses and fences (psc) has no cycle
//
// The half-fences of asymmetric ordering: a light fence is an exchange on its actor's handshake word, so an
// interrupt lies before or after it.  Under tso it must not fence by itself: it is two points, one after all
// that precedes it in program order, one before all that follows, with nothing from the first to the second.
//
// Cost.  sc: one interleaving, tried.  tso: one topological sort.  rc11: nothing unless two seq_cst events are there;
// with fences alone a table of what lies beyond each, by location (psc.hpp).
#pragma once
#include "explore/dense_graph.hpp"
#include "explore/psc.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class consistency {
 public:
  explicit consistency(memory_model m) : model_(m) {}

  /// `hb`: what each event happens after, by position; looked at under rc11 alone.
  bool operator()(std::span<const event> g, std::span<const event_clock> hb);

  /// All events that every linearisation of the graph puts before the one at position p (sc, tso): one flag a
  /// position.
  const std::vector<char>& before(std::span<const event> g, std::size_t p);
  /// Positions, in an order in which a graph is told, and how often that interrupts an actor that could go on.
  struct told_order {
    std::vector<u16> order;
    int preemptions = 0;
  };
  /// A linearisation of program order, rf, co and fr with few interruptions; empty if there is none.
  told_order interleaving(std::span<const event> g);
  /// The same of program order and rf alone; always possible.
  told_order story(std::span<const event> g);

 private:
  struct edge {
    u16 from, to;
  };
  void connect(u32 from, u32 to) { edges_.push_back({static_cast<u16>(from), static_cast<u16>(to)}); }
  void prepare(std::span<const event> g);
  void program_order_sc();
  void program_order_tso(u32 actor);
  void communication(bool external_only);
  void handshakes();
  void edges_of_model();
  bool acyclic();
  bool sc();
  bool coherent();
  void chain_edges(bool forwards);
  u16 exit_of(u16 n) const { return exits_[n]; }
  told_order linearise(bool obey_edges, const std::vector<u32>& rank);
  told_order best_order(bool obey_edges);

  static constexpr u32 no_edge = ~0U;

  memory_model model_;
  dense_graph g_;
  seq_cst_order psc_;
  u16 nodes_ = 0;
  std::vector<u16> exits_;  // the second point of a light fence; of others the event itself
  std::vector<edge> edges_;
  std::vector<u32> heads_, next_edge_;
  std::vector<u16> degrees_, queue_, readers_, current_;
  std::vector<char> reached_, before_;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
