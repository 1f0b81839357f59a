#include "explore/scenario.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD::explore {

std::vector<scenario> all_scenarios() {
  std::vector<scenario> all;
  for (const auto part :
       {scenarios_of_primer(), scenarios_of_locks(), scenarios_of_rcu(), scenarios_of_interrupts(),
        scenarios_of_tables(), scenarios_of_collapse(), scenarios_of_forks(), scenarios_of_reclaim(),
        scenarios_of_anon(), scenarios_of_uffd(), scenarios_of_devices(), scenarios_of_files(),
        scenarios_of_arch_tables(), scenarios_of_arch_entries()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

const scenario* find_scenario(const std::string& name) {
  for (const auto part :
       {scenarios_of_primer(), scenarios_of_locks(), scenarios_of_rcu(), scenarios_of_interrupts(),
        scenarios_of_tables(), scenarios_of_collapse(), scenarios_of_forks(), scenarios_of_reclaim(),
        scenarios_of_anon(), scenarios_of_uffd(), scenarios_of_devices(), scenarios_of_files(),
        scenarios_of_arch_tables(), scenarios_of_arch_entries(), scenarios_of_arch_that_offend(),
        scenarios_that_offend()})
    for (const scenario& s : part)
      if (name == s.name) return &s;
  return nullptr;
}

namespace {

guard_mask mask_of(const std::vector<std::string>& names) {
  guard_mask mask;
  for (const std::string& n : names) {
    const unsigned i = guard_named(n);
    if (i == guard_count) throw program_error("unknown guard '" + n + "'");
    mask.set(i);
  }
  return mask;
}

/// Guards taken away for a scope.  One exploration at a time in a process: the mask is the process's.
class without_guards {
 public:
  explicit without_guards(const std::vector<std::string>& names) { guards_removed.set(mask_of(names)); }
  ~without_guards() { guards_removed.set({}); }
  without_guards(const without_guards&) = delete;
  without_guards& operator=(const without_guards&) = delete;
};

struct cast {
  const scenario* s;  // null: written down
  std::string name;
  era rules;
  bool reuse_addresses;
  void set_up(stage& st) const {
    st.use_address_reuse(reuse_addresses);
    st.set_up([&] { return s != nullptr ? s->make(st, rules) : make_written_cast(name, st, rules); });
  }
};

cast cast_of(const request& r) {
  if (r.scenario.rfind(written_cast, 0) == 0)
    return {nullptr, r.scenario, era_named(r.era.empty() ? "v6.6" : r.era), r.reuse_addresses};
  const scenario* s = find_scenario(r.scenario);
  if (s == nullptr) throw program_error("unknown scenario '" + r.scenario + "'");
  const std::string first = std::string(s->eras).substr(0, std::string(s->eras).find(' '));
  return {s, r.scenario, era_named(r.era.empty() ? first : r.era), r.reuse_addresses};
}

interleave_options options_of(const request& r) {
  interleave_options o;
  o.memory = r.memory == memory_model::sc ? memory_model::sc : memory_model::tso;
  o.how = r.how;
  o.preemptions = r.preemptions;
  o.sleep_sets = r.preemptions < 0;
  o.seed = r.seed;
  return o;
}

/// What the guards that were taken away say.
std::string sentences_of(const std::vector<std::string>& without) {
  std::string s;
  for (const std::string& name : without)
    for (const guard_row& g : guard_table)
      if (name == g.name) s += (s.empty() ? "" : "; ") + std::string(g.why);
  return s;
}

/// The fewest preemptions that show a violation, told from one run.  False: not found within the bound, which counts executions:
/// a trace must not depend on how busy the machine is.
bool shorten(const cast& c, memory_model m, verdict& v) {
  constexpr int most_preemptions = 4;
  constexpr u64 executions = 60'000;
  for (int k = 0; k <= most_preemptions; ++k) {
    interleave_options o;
    o.memory = m;
    o.preemptions = k;
    o.sleep_sets = false;
    interleave_engine e(o);
    c.set_up(e);
    bounds limits;
    limits.executions = executions;
    const outcome found = e.explore(limits);
    if (!found.failed && !found.complete) return false;
    if (!found.failed) continue;
    interleave_engine again(o);
    c.set_up(again);
    const outcome told = again.replay(found.why.schedule);
    if (!told.failed) return false;
    v.found.why = told.why;
    v.found.why.preemptions = k;
    v.by_schedule = true;
    v.schedule_memory = m;
    return true;  // of what may be another invariant: the shortest is the easiest to understand
  }
  return false;
}

}  // namespace

verdict explore_scenario(const request& r) {
  const without_guards removed(r.without);
  const cast c = cast_of(r);
  verdict v;
  v.era = c.rules.name;
  if (r.interleavings) {
    interleave_engine e(options_of(r));
    c.set_up(e);
    v.cast = e.roles();
    v.found = e.explore(r.limits);
    v.reached = e.reached();
    if (v.found.failed) {
      v.by_schedule = true;
      v.schedule_memory = options_of(r).memory;
      interleave_engine again(options_of(r));
      c.set_up(again);
      const outcome told = again.replay(v.found.why.schedule);
      if (told.failed) v.found.why = told.why;
    }
  } else {
    graph_engine e(r.memory);
    c.set_up(e);
    v.cast = e.roles();
    e.keep_hashes(r.keep_hashes);
    e.use_symmetry(r.symmetry);
    if (r.only_graphs) e.start_from(r.graphs);
    v.found = e.explore(r.limits);
    if (!v.found.complete && !v.found.failed) v.frontier = e.frontier();
    if (v.found.failed) {
      // Once more, now with what every actor holds at each of its steps.
      graph_engine again(r.memory);
      c.set_up(again);
      again.note_locks(true);
      const outcome told = again.replay(v.found.why.schedule);
      if (told.failed) v.found.why = told.why;
    }
    if (v.found.failed && r.shorten) {
      if (!shorten(c, memory_model::sc, v) && r.memory == memory_model::tso) shorten(c, memory_model::tso, v);
    }
  }
  v.guard = sentences_of(r.without);
  return v;
}

verdict replay_scenario(const request& r, const std::string& schedule, bool by_schedule) {
  const without_guards removed(r.without);
  const cast c = cast_of(r);
  verdict v;
  v.era = c.rules.name;
  v.by_schedule = by_schedule;
  v.schedule_memory = r.memory;
  if (by_schedule) {
    interleave_options o = options_of(r);
    o.sleep_sets = false;
    interleave_engine e(o);
    c.set_up(e);
    v.cast = e.roles();
    v.found = e.replay(schedule);
  } else {
    graph_engine e(r.memory);
    c.set_up(e);
    v.cast = e.roles();
    e.note_locks(true);
    v.found = e.replay(schedule);
  }
  v.guard = sentences_of(r.without);
  return v;
}

engine_agreement compare_on_scenario(const request& r) {
  const without_guards removed(r.without);
  const cast c = cast_of(r);
  graph_engine graphs(r.memory);
  c.set_up(graphs);
  const outcome a = graphs.explore(r.limits);
  interleave_options o = options_of(r);
  o.keep_hashes = true;
  interleave_engine interleavings(o);
  c.set_up(interleavings);
  const outcome b = interleavings.explore(r.limits);
  engine_agreement out;
  out.graphs = graphs.hashes().size();
  out.interleavings = b.executions + b.blocked;
  out.failed_graphs = a.failed;
  out.failed_interleavings = b.failed;
  out.complete = (a.complete || a.failed) && (b.complete || b.failed);
  out.same = a.failed == b.failed && (a.failed || graphs.hashes() == interleavings.hashes());
  return out;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
