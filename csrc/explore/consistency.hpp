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
// Cost.  sc and tso: one topological sort.  rc11: nothing unless two seq_cst events are there.
#pragma once
#include "explore/event.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class consistency {
 public:
  explicit consistency(memory_model m);
  ~consistency();

  bool operator()(const graph& g);

  /// Positions of all events that every linearisation of the graph puts before the event at position p (sc, tso).
  /// Returns one flag an event.
  const std::vector<char>& before(const graph& g, std::size_t p);
  /// A linearisation of program order, rf, co and fr with few switches of actor; empty if there is none.
  std::vector<u16> interleaving(const graph& g);
  /// The same of program order and rf alone; always possible.
  std::vector<u16> story(const graph& g);
  u64 checks() const { return checks_; }

 private:
  struct edge {
    u16 to;
    u32 next;
  };
  void prepare(const graph& g);
  void order_by_coherence(const graph& g);
  void connect(u32 from, u32 to);
  void program_order_sc(const graph& g);
  void program_order_tso(const graph& g);
  void program_order_by_location(const graph& g);
  void communication(const graph& g, bool external_only);
  void handshakes(const graph& g);
  bool acyclic();
  bool sc(const graph& g);
  bool tso(const graph& g);
  void tso_edges(const graph& g);
  bool rc11(const graph& g);
  void happens_before(const graph& g);
  u16 exit_of(u16 p) const { return exits_[p]; }
  std::vector<u16> linearise(const graph& g, bool obey_edges);

  memory_model model_;
  event_index index_;
  std::vector<u32> heads_;
  std::vector<edge> edges_;
  std::vector<u16> degrees_, queue_;
  std::vector<u16> exits_;    // the second point of a light fence; of others the event itself
  std::vector<u16> by_rank_;  // positions of writes, sorted by location and rank
  std::vector<u16> co_next_,
      fr_next_;  // the next write in coherence order, after a write or what a read reads
  std::vector<event_clock> hb_, message_;
  std::vector<char> before_;
  struct relations;  // of rc11: scratch that is kept between calls
  std::unique_ptr<relations> relations_;
  u64 checks_ = 0;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
