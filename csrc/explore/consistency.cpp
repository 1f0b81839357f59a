#include "explore/consistency.hpp"

#include <algorithm>
#include <bitset>

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
constexpr u16 none = 0xffff;
constexpr u32 no_edge = ~0U;

/// Orders everything around it under x86: a locked instruction, a full fence, and what frees memory.
bool fences_on_x86(const event& e) {
  return e.kind == op_kind::rmw || e.kind == op_kind::update || e.kind == op_kind::free ||
         e.kind == op_kind::heavy_fence ||
         ((e.kind == op_kind::fence || e.kind == op_kind::store) && is_seq_cst(e.order));
}
}  // namespace

bool consistency::operator()(const graph& g) {
  ++checks_;
  switch (model_) {
    case memory_model::sc: return sc(g);
    case memory_model::tso: return tso(g);
    case memory_model::ra: return true;
    case memory_model::rc11: return rc11(g);
  }
  return true;
}

// ---- edges --------------------------------------------------------------------------------------

void consistency::prepare(const graph& g) {
  index_.build(g);
  const std::size_t n = g.size();
  exits_.resize(n);
  u16 nodes = static_cast<u16>(n);
  for (std::size_t p = 0; p < n; ++p)
    exits_[p] = g[p].kind == op_kind::light_fence ? nodes++ : static_cast<u16>(p);
  heads_.assign(nodes, no_edge);
  edges_.clear();
  order_by_coherence(g);
}

void consistency::connect(u32 from, u32 to) {
  edges_.push_back({static_cast<u16>(to), heads_[from]});
  heads_[from] = static_cast<u32>(edges_.size() - 1);
}

void consistency::order_by_coherence(const graph& g) {
  const std::size_t n = g.size();
  by_rank_.clear();
  for (std::size_t p = 0; p < n; ++p)
    if (g[p].writes) by_rank_.push_back(static_cast<u16>(p));
  std::sort(by_rank_.begin(), by_rank_.end(),
            [&](u16 a, u16 b) { return g[a].loc != g[b].loc ? g[a].loc < g[b].loc : g[a].rank < g[b].rank; });
  co_next_.assign(n, none);
  fr_next_.assign(n, none);
  for (std::size_t i = 0; i + 1 < by_rank_.size(); ++i)
    if (g[by_rank_[i]].loc == g[by_rank_[i + 1]].loc) co_next_[by_rank_[i]] = by_rank_[i + 1];
  for (std::size_t p = 0; p < n; ++p) {
    const event& e = g[p];
    if (!e.reads) continue;
    if (e.from != 0) {
      fr_next_[p] = co_next_[index_(e.from)];
    } else {
      const auto first = std::lower_bound(by_rank_.begin(), by_rank_.end(), e.loc,
                                          [&](u16 a, u16 loc) { return g[a].loc < loc; });
      if (first != by_rank_.end() && g[*first].loc == e.loc) fr_next_[p] = *first;
    }
    if (fr_next_[p] == p) fr_next_[p] = co_next_[p];  // a read-modify-write is itself the next
  }
}

void consistency::program_order_sc(const graph& g) {
  for (u32 t = 0; t < stage::max_actors; ++t)
    for (u32 i = 1; i < index_.length(t); ++i) connect(exit_of(index_(t, i - 1)), index_(t, i));
  for (std::size_t p = 0; p < g.size(); ++p)
    if (exits_[p] != p) connect(static_cast<u32>(p), exits_[p]);
}

void consistency::program_order_tso(const graph& g) {
  for (u32 t = 0; t < stage::max_actors; ++t) {
    u16 last_read = none, last_write = none, last_fence = none, last_light = none;
    for (u32 i = 0; i < index_.length(t); ++i) {
      const u16 p = index_(t, i);
      const event& e = g[p];
      if (e.kind == op_kind::light_fence) {
        for (const u16 q : {last_read, last_write, last_fence})
          if (q != none) connect(q, p);
        if (last_light != none) connect(last_light, p), connect(exit_of(last_light), exit_of(p));
        if (last_fence != none) connect(last_fence, exit_of(p));
        if (last_read != none) connect(last_read, exit_of(p));
        last_light = p;
        continue;
      }
      const bool full = fences_on_x86(e);
      const bool reads = e.reads || full || e.kind == op_kind::plain_load;
      const bool writes = e.writes || full || !reads;  // a weaker fence, an allocation: in order with writes
      if (last_fence != none) connect(last_fence, p);
      if (last_read != none) connect(last_read, p);
      if (last_write != none && writes) connect(last_write, p);
      if (last_light != none) connect(exit_of(last_light), p);
      if (full) last_fence = p;
      if (reads) last_read = p;
      if (writes) last_write = p;
    }
  }
}

void consistency::program_order_by_location(const graph& g) {
  std::vector<u16>& last = queue_;
  for (u32 t = 0; t < stage::max_actors; ++t)
    for (u32 i = 1; i < index_.length(t); ++i) {
      const u16 p = index_(t, i);
      if (g[p].loc == 0) continue;
      for (u32 j = i; j-- > 0;) {
        if (g[index_(t, j)].loc != g[p].loc) continue;
        connect(index_(t, j), p);
        break;
      }
    }
  last.clear();
}

void consistency::communication(const graph& g, bool external_only) {
  for (std::size_t p = 0; p < g.size(); ++p) {
    const event& e = g[p];
    if (external_only && e.is_asymmetric()) continue;
    const u32 at = static_cast<u32>(p);
    if (e.reads && e.from != 0 && (!external_only || actor_of(e.from) != e.actor))
      connect(index_(e.from), at);
    if (e.reads && fr_next_[p] != none) connect(at, fr_next_[p]);
    if (e.writes && co_next_[p] != none) connect(at, co_next_[p]);
  }
}

/// The order of interrupts and light fences on each handshake word.
void consistency::handshakes(const graph& g) {
  u16 interrupt = none, light = none, loc = 0;
  for (const u16 p : by_rank_) {
    const event& e = g[p];
    if (!e.is_asymmetric()) continue;
    if (e.loc != loc) interrupt = light = none;
    loc = e.loc;
    if (e.kind == op_kind::light_fence) {
      if (interrupt != none) connect(interrupt, exit_of(p));
      light = p;
    } else {
      if (light != none) connect(light, p);
      if (interrupt != none) connect(interrupt, p);
      interrupt = p;
    }
  }
}

bool consistency::acyclic() {
  const std::size_t n = heads_.size();
  degrees_.assign(n, 0);
  for (const edge& e : edges_) ++degrees_[e.to];
  queue_.clear();
  for (std::size_t i = 0; i < n; ++i)
    if (degrees_[i] == 0) queue_.push_back(static_cast<u16>(i));
  for (std::size_t done = 0; done < queue_.size(); ++done)
    for (u32 k = heads_[queue_[done]]; k != no_edge; k = edges_[k].next)
      if (--degrees_[edges_[k].to] == 0) queue_.push_back(edges_[k].to);
  return queue_.size() == n;
}

// ---- sequential consistency and x86 ---------------------------------------------------------------

bool consistency::sc(const graph& g) {
  prepare(g);
  program_order_sc(g);
  communication(g, false);
  return acyclic();
}

void consistency::tso_edges(const graph& g) {
  prepare(g);
  program_order_tso(g);
  communication(g, true);
  handshakes(g);
}

bool consistency::tso(const graph& g) {
  tso_edges(g);
  if (!acyclic()) return false;
  std::fill(heads_.begin(), heads_.end(), no_edge);
  edges_.clear();
  program_order_by_location(g);
  communication(g, false);
  return acyclic();
}

const std::vector<char>& consistency::before(const graph& g, std::size_t p) {
  if (model_ == memory_model::tso) {
    tso_edges(g);
  } else {
    prepare(g);
    program_order_sc(g);
    communication(g, false);
  }
  // Backwards over the edges until nothing is new: graphs are small, and this runs only where memory is freed.
  before_.assign(heads_.size(), 0);
  before_[p] = 1;
  for (bool more = true; more;) {
    more = false;
    for (std::size_t from = 0; from < heads_.size(); ++from) {
      if (before_[from]) continue;
      for (u32 k = heads_[from]; k != no_edge && !before_[from]; k = edges_[k].next)
        if (before_[edges_[k].to]) before_[from] = 1, more = true;
    }
  }
  return before_;
}

// ---- RC11 -----------------------------------------------------------------------------------------

/// hb of every event, in an order that respects reads-from.
void consistency::happens_before(const graph& g) {
  hb_.assign(g.size(), event_clock{});
  message_.assign(g.size(), event_clock{});
  event_clock known[stage::max_actors] = {}, acquired[stage::max_actors] = {},
              released[stage::max_actors] = {};
  u32 next[stage::max_actors] = {};
  for (std::size_t left = g.size(); left != 0;) {
    for (u32 t = 0; t < stage::max_actors; ++t) {
      for (; next[t] < index_.length(t); ++next[t], --left) {
        const u16 p = index_(t, next[t]);
        const event& e = g[p];
        if (e.reads && e.from != 0) {
          if (next[actor_of(e.from)] <= index_of(e.from)) break;
          const event_clock m = message_[index_(e.from)];
          event_clock& into = is_acquire(e.read_order()) ? known[t] : acquired[t];
          into = latest(into, m);
        }
        if (e.kind == op_kind::fence && is_acquire(e.order)) known[t] = latest(known[t], acquired[t]);
        known[t][t] = static_cast<u16>(e.index + 1);
        if (e.kind == op_kind::fence && is_release(e.order)) released[t] = known[t];
        hb_[p] = known[t];
        if (!e.writes) continue;
        message_[p] = is_release(e.order) ? known[t] : released[t];
        if (e.reads && e.from != 0) message_[p] = latest(message_[p], message_[index_(e.from)]);
      }
    }
  }
}

namespace {

constexpr std::size_t most_events = 2048;
using event_set = std::bitset<most_events>;

/// Extended coherence order: a before b at their location, by way of rf, co and fr.
bool communicates(const graph& g, const event_index& at, const event& a, const event& b) {
  if (a.loc != b.loc || a.loc == 0) return false;
  const auto read_rank = [&](const event& e) { return e.from == 0 ? u16{0} : g[at(e.from)].rank; };
  if (!(a.reads || a.writes) || !(b.reads || b.writes)) return false;
  if (a.writes) return b.writes ? a.rank < b.rank : read_rank(b) >= a.rank;
  return b.writes ? b.rank > read_rank(a) : read_rank(b) > read_rank(a);
}

}  // namespace

struct consistency::relations {
  std::vector<event_set> hb, eco, scb;
};
consistency::consistency(memory_model m) : model_(m), relations_(std::make_unique<relations>()) {}
consistency::~consistency() = default;

// psc of Lahav, Vafeiadis, Kang, Hur, Dreyer: "Repairing sequential consistency in C/C++11", PLDI 2017:
//   scb      = po | po-other-location ; hb ; po-other-location | hb-same-location | co | fr
//   psc_base = ([sc] | [fence sc] ; hb?) ; scb ; ([sc] | hb? ; [fence sc])
//   psc_f    = [fence sc] ; (hb | hb ; eco ; hb) ; [fence sc]
bool consistency::rc11(const graph& g) {
  std::vector<u16> sc_events;
  bool accesses = false;
  for (std::size_t p = 0; p < g.size(); ++p) {
    if (!g[p].seq_cst()) continue;
    sc_events.push_back(static_cast<u16>(p));
    accesses |= g[p].kind != op_kind::fence;
  }
  if (sc_events.size() < 2) return true;
  const std::size_t n = g.size();
  if (n > most_events)
    throw program_error("rc11: an execution of more than 2048 steps with seq_cst operations");
  index_.build(g);
  happens_before(g);

  relations& o = *relations_;
  o.hb.assign(n, {});
  o.eco.assign(n, {});
  o.scb.assign(n, {});
  for (std::size_t a = 0; a < n; ++a) {
    const event& x = g[a];
    for (std::size_t b = 0; b < n; ++b) {
      if (a == b) continue;
      const event& y = g[b];
      const bool hb = hb_[b][x.actor] > x.index, po = x.actor == y.actor && x.index < y.index;
      if (hb) o.hb[a].set(b);
      if (po) o.scb[a].set(b);
      if (x.loc == 0 || x.loc != y.loc) continue;
      if (hb) o.scb[a].set(b);
      if (!communicates(g, index_, x, y)) continue;
      o.eco[a].set(b);
      if (y.writes) o.scb[a].set(b);  // co, fr; rf to a read-modify-write is inside of them
    }
  }
  if (accesses) {
    std::vector<event_set> elsewhere(n);
    for (std::size_t a = 0; a < n; ++a)
      for (u32 i = g[a].index + 1u; i < index_.length(g[a].actor); ++i)
        if (const u16 b = index_(g[a].actor, i); g[a].loc != g[b].loc) elsewhere[a].set(b);
    for (std::size_t a = 0; a < n; ++a) {
      event_set reach;
      for (std::size_t b = 0; b < n; ++b)
        if (elsewhere[a][b]) reach |= o.hb[b];
      for (std::size_t b = 0; b < n; ++b)
        if (reach[b]) o.scb[a] |= elsewhere[b];
    }
  }

  std::vector<event_set> psc(sc_events.size());
  for (std::size_t i = 0; i < sc_events.size(); ++i) {
    const u16 a = sc_events[i];
    const bool fence_a = g[a].kind == op_kind::fence;
    event_set from;
    from.set(a);
    if (fence_a) from |= o.hb[a];
    event_set reach, communicated, after;
    for (std::size_t x = 0; x < n; ++x) {
      if (!from[x]) continue;
      reach |= o.scb[x];
      if (fence_a && x != a) communicated |= o.eco[x];
    }
    for (std::size_t x = 0; x < n; ++x)
      if (communicated[x]) after |= o.hb[x];
    for (std::size_t j = 0; j < sc_events.size(); ++j) {
      const u16 b = sc_events[j];
      const bool fence_b = g[b].kind == op_kind::fence;
      bool ordered = reach[b];
      for (std::size_t x = 0; !ordered && fence_b && x < n; ++x) ordered = reach[x] && o.hb[x][b];
      if (!ordered && fence_a && fence_b) ordered = (i != j && o.hb[a][b]) || after[b];
      if (ordered) psc[i].set(j);
    }
  }
  for (std::size_t k = 0; k < psc.size(); ++k)
    for (event_set& row : psc)
      if (row[k]) row |= psc[k];
  for (std::size_t i = 0; i < psc.size(); ++i)
    if (psc[i][i]) return false;
  return true;
}

// ---- a graph told as a story ------------------------------------------------------------------------

std::vector<u16> consistency::linearise(const graph& g, bool obey_edges) {
  std::vector<u16> order;
  std::vector<char> told(heads_.size(), 0);
  std::vector<std::vector<u16>> needs(heads_.size());
  if (obey_edges)
    for (std::size_t from = 0; from < heads_.size(); ++from)
      for (u32 k = heads_[from]; k != no_edge; k = edges_[k].next)
        needs[edges_[k].to].push_back(static_cast<u16>(from));
  const auto ready = [&](u16 p) {
    if (!obey_edges) return !(g[p].reads && g[p].from != 0) || told[index_(g[p].from)] != 0;
    return std::all_of(needs[p].begin(), needs[p].end(), [&](u16 q) { return told[q] != 0; });
  };
  u32 next[stage::max_actors] = {}, current = 0;
  while (order.size() < g.size()) {
    bool went = false;
    for (u32 d = 0; d < stage::max_actors && !went; ++d) {
      const u32 t = (current + d) % stage::max_actors;
      if (next[t] >= index_.length(t)) continue;
      const u16 p = index_(t, next[t]);
      if (!ready(p)) continue;
      current = t;
      ++next[t];
      told[p] = told[exits_[p]] = 1;
      order.push_back(p);
      went = true;
    }
    if (!went) return {};
  }
  return order;
}

std::vector<u16> consistency::interleaving(const graph& g) {
  prepare(g);
  program_order_sc(g);
  communication(g, false);
  return linearise(g, true);
}

std::vector<u16> consistency::story(const graph& g) {
  prepare(g);
  return linearise(g, false);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
