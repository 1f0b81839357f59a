#include "explore/consistency.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
constexpr u16 none = dense_graph::none;

/// Orders everything around it under x86: a locked instruction, a full fence, and what frees memory.
bool fences_on_x86(const event& e) {
  return e.kind == op_kind::rmw || e.kind == op_kind::update || e.kind == op_kind::free ||
         e.kind == op_kind::heavy_fence ||
         ((e.kind == op_kind::fence || e.kind == op_kind::store) && is_seq_cst(e.order));
}
}  // namespace

bool consistency::operator()(std::span<const event> g, std::span<const event_clock> hb) {
  switch (model_) {
    case memory_model::ra: return true;
    case memory_model::rc11: g_.build(g); return psc_.acyclic(g_, hb);
    case memory_model::sc: g_.build(g); return sc();
    case memory_model::tso:
      prepare(g);
      if (!coherent()) return false;
      edges_of_model();
      return acyclic();
  }
  return true;
}

// ---- sequential consistency -----------------------------------------------------------------------

/// Takes any step that may come next, as long as there is one: if the orders have no cycle, that gets to the end.
bool consistency::sc() {
  readers_.assign(g_.row_count(), 0);  // of each write: readers that have not read yet
  current_.assign(g_.locations(), 0);  // of each location: the rank of what it holds
  for (u16 i = 0; i < g_.size(); ++i)
    if (g_[i].reads && !g_[i].writes) ++readers_[g_.row(i, g_[i].rank)];
  u16 next[stage::max_actors];
  for (u32 t = 0; t < stage::max_actors; ++t) next[t] = g_.begin(t);
  u32 left = g_.size();
  for (bool more = true; left != 0 && more;) {
    more = false;
    for (u32 t = 0; t < stage::max_actors; ++t) {
      for (; next[t] != g_.end(t); ++next[t], --left, more = true) {
        const u16 i = next[t];
        const event& e = g_[i];
        if (!e.reads && !e.writes) continue;
        u16& holds = current_[g_.location_of(i)];
        if (e.writes) {
          if (holds + 1 != e.rank || readers_[g_.row(i, holds)] != 0) break;
          holds = e.rank;
        } else {
          if (holds != e.rank) break;
          --readers_[g_.row(i, e.rank)];
        }
      }
    }
  }
  return left == 0;
}

// ---- edges ----------------------------------------------------------------------------------------

void consistency::prepare(std::span<const event> g) {
  g_.build(g);
  exits_.resize(g_.size());
  nodes_ = g_.size();
  for (u16 i = 0; i < g_.size(); ++i) exits_[i] = g_[i].kind == op_kind::light_fence ? nodes_++ : i;
  edges_.clear();
}

void consistency::program_order_sc() {
  for (u32 t = 0; t < stage::max_actors; ++t)
    for (u32 i = g_.begin(t) + 1U; i < g_.end(t); ++i) connect(exit_of(static_cast<u16>(i - 1)), i);
  for (u16 i = 0; i < g_.size(); ++i)
    if (exits_[i] != i) connect(i, exits_[i]);
}

void consistency::program_order_tso(u32 actor) {
  u16 last_read = none, last_write = none, last_fence = none, last_light = none;
  for (u16 p = g_.begin(actor); p != g_.end(actor); ++p) {
    const event& e = g_[p];
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
    if (last_read != none && last_read != last_fence) connect(last_read, p);
    if (last_write != none && last_write != last_fence && writes) connect(last_write, p);
    if (last_light != none) connect(exit_of(last_light), p);
    if (full) last_fence = p;
    if (reads) last_read = p;
    if (writes) last_write = p;
  }
}

void consistency::communication(bool external_only) {
  for (u16 i = 0; i < g_.size(); ++i) {
    const event& e = g_[i];
    if ((!e.reads && !e.writes) || (external_only && e.is_asymmetric())) continue;
    if (e.reads && e.from != 0 && (!external_only || actor_of(e.from) != e.actor))
      connect(g_.write_at(i, e.source_rank()), i);
    // From-reads, or coherence.
    const u16 next = g_.write_at(i, static_cast<u16>(e.rank + 1));
    if (next != none) connect(i, next);
  }
}

/// The order of interrupts and light fences on each handshake word.
void consistency::handshakes() {
  for (u16 i = 0; i < g_.size(); ++i) {
    // Each word is walked from its first write.
    if (!g_[i].is_asymmetric() || g_[i].rank != 1) continue;
    u16 interrupt = none, light = none, rank = 1;
    for (u16 p = i; p != none; p = g_.write_at(i, ++rank)) {
      if (g_[p].kind == op_kind::light_fence) {
        if (interrupt != none) connect(interrupt, exit_of(p));
        light = p;
      } else {
        if (light != none) connect(light, p);
        if (interrupt != none) connect(interrupt, p);
        interrupt = p;
      }
    }
  }
}

void consistency::edges_of_model() {
  if (model_ == memory_model::tso) {
    for (u32 t = 0; t < stage::max_actors; ++t) program_order_tso(t);
    communication(true);
    handshakes();
  } else {
    program_order_sc();
    communication(false);
  }
}

void consistency::chain_edges(bool forwards) {
  heads_.assign(nodes_, no_edge);
  next_edge_.resize(edges_.size());
  for (u32 k = 0; k < edges_.size(); ++k) {
    u32& head = heads_[forwards ? edges_[k].from : edges_[k].to];
    next_edge_[k] = head;
    head = k;
  }
}

bool consistency::acyclic() {
  chain_edges(true);
  degrees_.assign(nodes_, 0);
  for (const edge& e : edges_) ++degrees_[e.to];
  queue_.clear();
  for (u16 i = 0; i < nodes_; ++i)
    if (degrees_[i] == 0) queue_.push_back(i);
  for (std::size_t done = 0; done < queue_.size(); ++done)
    for (u32 k = heads_[queue_[done]]; k != no_edge; k = next_edge_[k])
      if (--degrees_[edges_[k].to] == 0) queue_.push_back(edges_[k].to);
  return queue_.size() == nodes_;
}

/// Of each location: no actor sees it go back.
bool consistency::coherent() {
  std::vector<u16>& seen = current_;
  for (u32 t = 0; t < stage::max_actors; ++t) {
    if (g_.begin(t) == g_.end(t)) continue;
    seen.assign(g_.locations(), 0);
    for (u16 i = g_.begin(t); i != g_.end(t); ++i) {
      if (!g_[i].reads && !g_[i].writes) continue;
      u16& level = seen[g_.location_of(i)];
      if (g_[i].level() < level) return false;
      level = static_cast<u16>(g_[i].level());
    }
  }
  return true;
}

const std::vector<char>& consistency::before(std::span<const event> g, std::size_t p) {
  prepare(g);
  edges_of_model();
  chain_edges(false);
  reached_.assign(nodes_, 0);
  queue_.assign(1, g_.number(g[p]));
  reached_[queue_[0]] = 1;
  for (std::size_t done = 0; done < queue_.size(); ++done)
    for (u32 k = heads_[queue_[done]]; k != no_edge; k = next_edge_[k])
      if (const u16 from = edges_[k].from; !reached_[from]) reached_[from] = 1, queue_.push_back(from);
  before_.assign(g.size(), 0);
  for (u16 i = 0; i < g_.size(); ++i) before_[g_.position(i)] = reached_[i];
  return before_;
}

// ---- a graph told as a story ------------------------------------------------------------------------

/// One order of the graph's events: the actor that runs goes on while it can, and then the first in `rank` that can.
consistency::told_order consistency::linearise(bool obey_edges, const std::vector<u32>& rank) {
  told_order out;
  std::vector<char> told(nodes_, 0);
  u16 next[stage::max_actors];
  for (u32 t = 0; t < stage::max_actors; ++t) next[t] = g_.begin(t);
  const auto ready = [&](u32 t) {
    const u16 n = next[t];
    if (n == g_.end(t)) return false;
    if (!obey_edges) {
      const u16 source = g_[n].reads && g_[n].from != 0 ? g_.write_at(n, g_[n].source_rank()) : none;
      return source == none || told[source] != 0;
    }
    for (u32 k = heads_[n]; k != no_edge; k = next_edge_[k])
      if (told[edges_[k].from] == 0) return false;
    return true;
  };
  u32 current = rank.front();
  while (out.order.size() < g_.size()) {
    if (!ready(current)) {
      const auto other = std::find_if(rank.begin(), rank.end(), ready);
      if (other == rank.end()) return {};
      if (next[current] != g_.end(current) && next[current] != g_.begin(current)) {
        // One that waits is not interrupted: it sleeps.
        const op_kind kind = g_[next[current]].kind;
        if (kind != op_kind::await && kind != op_kind::update) ++out.preemptions;
      }
      current = *other;
    }
    const u16 n = next[current]++;
    told[n] = told[exits_[n]] = 1;
    out.order.push_back(g_.position(n));
  }
  return out;
}

/// The order with the fewest interruptions, of those that some ranking of the actors gives.
consistency::told_order consistency::best_order(bool obey_edges) {
  constexpr u32 most_rankings = 120;
  chain_edges(false);
  std::vector<u32> rank;
  for (u32 t = 0; t < stage::max_actors; ++t)
    if (g_.begin(t) != g_.end(t)) rank.push_back(t);
  if (rank.empty()) return {};
  told_order best;
  u32 tried = 0;
  do {
    told_order one = linearise(obey_edges, rank);
    if (one.order.empty()) break;  // no ranking changes that there is none
    if (best.order.empty() || one.preemptions < best.preemptions) best = std::move(one);
  } while (++tried < most_rankings && std::next_permutation(rank.begin(), rank.end()));
  return best;
}

consistency::told_order consistency::interleaving(std::span<const event> g) {
  prepare(g);
  program_order_sc();
  communication(false);
  return best_order(true);
}

consistency::told_order consistency::story(std::span<const event> g) {
  prepare(g);
  return best_order(false);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
