// What is told of a graph: its bytes, its hash, its trace.
#include "explore/graph_engine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
void put16(std::string& s, u16 v) {
  s += static_cast<char>(v & 0xff);
  s += static_cast<char>(v >> 8);
}
u16 get16(const std::string& s, std::size_t at) {
  return static_cast<u16>(static_cast<u8>(s[at]) | static_cast<u8>(s[at + 1]) << 8);
}
constexpr std::size_t bytes_per_event = 13;

/// Structure alone: values come back when the program runs along it.
std::string to_bytes(std::span<const event> g) {
  std::string s;
  for (const event& e : g) {
    s += static_cast<char>(e.actor);
    put16(s, e.index);
    s += static_cast<char>(e.kind);
    s += static_cast<char>(e.reads | e.writes << 1 | e.blocked << 2 | e.undecided << 3 | e.failed_rmw << 4);
    put16(s, e.loc);
    put16(s, e.object);
    put16(s, e.from);
    put16(s, e.rank);
  }
  return s;
}

graph from_bytes(const std::string& s) {
  if (s.size() % bytes_per_event != 0)
    throw program_error("this is not a graph: its length is no multiple of 13");
  graph g;
  for (std::size_t i = 0; i < s.size(); i += bytes_per_event) {
    event e;
    e.actor = static_cast<u8>(s[i]);
    e.index = get16(s, i + 1);
    e.kind = static_cast<op_kind>(s[i + 3]);
    const u8 flags = static_cast<u8>(s[i + 4]);
    e.reads = (flags & 1) != 0, e.writes = (flags & 2) != 0, e.blocked = (flags & 4) != 0;
    e.undecided = (flags & 8) != 0, e.failed_rmw = (flags & 16) != 0;
    e.loc = get16(s, i + 5);
    e.object = get16(s, i + 7);
    e.from = get16(s, i + 9);
    e.rank = get16(s, i + 11);
    if (e.actor >= stage::max_actors || e.index >= stage::max_steps || e.kind > op_kind::fail ||
        e.loc >= stage::location_count)
      throw program_error("this is not a graph: event " + std::to_string(i / bytes_per_event) +
                          " makes no sense");
    g.push_back(e);
  }
  return g;
}
}  // namespace

// ---- what is told of a graph --------------------------------------------------------------------------

u64 graph_engine::final_value(location loc) const {
  const u16 p = g_.top_write(loc);
  return p == no_event ? initial(loc) : g_.details[p].value;
}

u64 graph_engine::graph_hash() const {
  u64 hash = 0;
  for (const event& e : g_.events) {
    if (e.reads) hash += reads_from_edge(e.from, e.name());
    if (!e.writes) continue;
    u16 before = e.reads ? e.from : u16{0};
    if (!e.reads && e.rank > 1)
      for (u16 p = g_.first_at(e.loc); p != no_event; p = g_.next_at(p))
        if (g_[p].writes && g_[p].rank + 1 == e.rank) before = g_[p].name();
    hash += coherence_edge(before, e.name());
  }
  return hash;
}

violation graph_engine::tell() {
  violation v;
  v.invariant = failed_invariant();
  v.message = failed_message();
  const graph& g = g_.events;
  consistency::told_order story = consistent_.interleaving(g);
  const bool interleaved = !story.order.empty() || g.empty();
  if (!interleaved) story = consistent_.story(g);
  v.preemptions = story.preemptions;
  v.roles = roles();
  std::vector<char> told(g.size(), 0);
  for (const u16 p : story.order) {
    const event& e = g[p];
    const event_detail& d = g_.details[p];
    told[p] = 1;
    operation op{.kind = e.kind, .fn = d.fn, .order = e.order, .size = d.size};
    op.loc = e.loc;
    op.operand = d.operand;
    op.expected = d.expected;
    op.at = d.at;
    if (e.reads) op.result = value_of(e.from, e.loc);
    trace_step s = line_of(e.actor, op, e.index);
    if (e.blocked) s.text = "waits for " + describe(e.loc) + ", which is " + describe_value(e.loc, op.result);
    if (!interleaved && e.reads)
      for (u16 q = g_.first_at(e.loc); q != no_event; q = g_.next_at(q)) {
        const event& w = g[q];
        if (!told[q] || !w.writes || w.rank <= e.source_rank() || &w == &e) continue;
        s.note = "stale: " + actor_name(w.actor) + " already wrote " +
                 describe_value(w.loc, g_.details[q].value) + " at " + place_of(g_.details[q].at);
        break;
      }
    if (cause_.first == e.name()) s.note += (s.note.empty() ? "" : "; ") + cause_.invariant;
    v.steps.push_back(s);
  }
  if (!interleaved) v.message += " (no interleaving does this: it takes a weak memory)";
  v.schedule = to_bytes(g);
  return v;
}

std::vector<std::string> graph_engine::frontier() const {
  std::vector<std::string> all;
  for (std::size_t i = 0; i < stack_.size(); ++i) all.push_back(to_bytes(stack_[i]));
  return all;
}

void graph_engine::start_from(const std::vector<std::string>& graphs) {
  stack_.clear();
  for (const std::string& s : graphs) stack_.push(from_bytes(s), 1.0 / static_cast<double>(graphs.size()));
  started_ = true;
}

outcome graph_engine::replay(const std::string& schedule) {
  start_from({schedule});
  replaying_ = true;
  bounds one;
  one.executions = 1;
  return explore(one);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
