// What every program must keep: lifetimes, no data race, no wait for ever.
#include "explore/graph_engine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

void graph_engine::blame(const std::string& invariant,
                         const std::string& message,
                         const event& first,
                         const event* second) {
  fail(invariant, message);
  cause_ = {invariant, message, first.name(), second == nullptr ? u16{0} : second->name()};
}

/// The object came to life again between the free and the access, and both are ordered so.
bool graph_engine::freed_and_reborn(const event& free, const event& access) const {
  for (u16 p = g_.first_of(access.object); p != no_event; p = g_.next_of(p))
    if (g_[p].kind == op_kind::alloc && g_.happens_before(free, g_[p]) &&
        (g_.happens_before(g_[p], access) || &g_[p] == &access))
      return true;
  return false;
}

/// By happens-before: every access lies after the allocation and before the free of its object's life.
void graph_engine::check_lifetime(const event& e) {
  const auto what = [&] {
    return std::string(to_string(e.kind)) + " of " +
           (e.loc != 0 ? describe(e.loc) : std::string("an object"));
  };
  const auto place = [&](u16 p) { return place_of(g_.details[p].at); };
  for (u16 p = g_.first_of(e.object); p != no_event; p = g_.next_of(p)) {
    const event& x = g_[p];
    // What comes later is judged when its own turn comes: in a replay it is there already.
    if (x.name() == e.name() || g_.happens_before(e, x)) continue;
    if (x.kind == op_kind::free && !freed_and_reborn(x, e)) {
      blame(e.kind == op_kind::free ? "double free" : "use after free",
            actor_name(e.actor) + "'s " + what() + " is not ordered before the free by " +
                actor_name(x.actor) + " at " + place(p),
            e, &x);
      return;
    }
    if (e.kind == op_kind::free && !g_.happens_before(x, e)) {
      blame("use after free",
            actor_name(e.actor) + " frees what " + actor_name(x.actor) + " uses at " + place(p) +
                ", and nothing orders the two",
            x, &e);
      return;
    }
    if (x.kind == op_kind::alloc && !g_.happens_before(x, e)) {
      blame("read before construction",
            actor_name(e.actor) + "'s " + what() + " may come before " + actor_name(x.actor) +
                " has constructed it",
            e, &x);
      return;
    }
  }
}

void graph_engine::check_race(const event& e) {
  for (u16 p = g_.first_at(e.loc); p != no_event; p = g_.next_at(p)) {
    const event& x = g_[p];
    if (x.actor == e.actor || (x.kind != op_kind::plain_store && e.kind != op_kind::plain_store)) continue;
    if (g_.happens_before(x, e) || g_.happens_before(e, x)) continue;  // in a graph handed in, x may be later
    blame("data race",
          actor_name(x.actor) + " and " + actor_name(e.actor) + " access " + describe(e.loc) +
              " at the same time",
          e, &x);
    return;
  }
}

/// A graph that was handed in may hold the offence already.
void graph_engine::check_everything() {
  for (std::size_t p = 0; p < g_.size() && !failed(); ++p) {
    if (g_[p].kind == op_kind::plain_load || g_[p].kind == op_kind::plain_store) check_race(g_[p]);
    if (!failed() && g_[p].object != no_object && !strong_model()) check_lifetime(g_[p]);
  }
}

/// Under sc and tso: is there an order of this graph in which the free comes first?  Not where the access is among
/// what the free depends on: program order up to a free, and reads-from, hold in every order.
void graph_engine::check_lifetimes_in_order() {
  const auto depends_on = [&](u16 f, const event& x) { return g_.clocks[f].porf[x.actor] > x.index; };
  for (const u16 f : g_.frees) {
    const event& free = g_[f];
    bool suspicious = false;
    for (u16 p = g_.first_of(free.object); p != no_event; p = g_.next_of(p))
      suspicious |= p != f && !depends_on(f, g_[p]);
    if (!suspicious) continue;
    const std::vector<char> before = consistent_.before(g_.events, f);
    for (u16 p = g_.first_of(free.object); p != no_event && !failed(); p = g_.next_of(p)) {
      const event& x = g_[p];
      if (p == f || before[p]) continue;
      bool reborn = false;
      for (u16 a = g_.first_of(free.object); a != no_event && !reborn; a = g_.next_of(a)) {
        if (g_[a].kind != op_kind::alloc || before[a]) continue;
        reborn = a == p || (consistent_.before(g_.events, a)[f] && consistent_.before(g_.events, p)[a]);
      }
      if (reborn) continue;
      blame(x.kind == op_kind::free ? "double free" : "use after free",
            actor_name(x.actor) + "'s " + to_string(x.kind) + (x.loc != 0 ? " of " + describe(x.loc) : "") +
                " can come after the free by " + actor_name(free.actor) + " at " + place_of(g_.details[f].at),
            x, &free);
      return;
    }
  }
}

/// Every wait reads the last write there is, and that does not end it.
void graph_engine::find_deadlock() {
  std::string who;
  for (u32 t = 0; t < actors(); ++t) {
    if (!waits_[t]) continue;
    const u16 p = g_.position(t, done_[t]);
    const event& e = g_[p];
    if (e.loc == no_location || e.rank != g_.top_rank(e.loc)) return;
    who += (who.empty() ? "" : "; ") + actor_name(t) + " waits for " + describe(e.loc) + " at " +
           place_of(g_.details[p].at);
  }
  fail("deadlock", who + ": nobody is left who could end that");
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
