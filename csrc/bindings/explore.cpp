// pgtbl._model: the explorer.  With gil.cpp the only file of bindings/ that is compiled in the model world.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <chrono>
#include <exception>
#include <functional>
#include <optional>
#include <string>

#include "arch/states.hpp"
#include "bindings/gil.hpp"
#include "explore/litmus.hpp"
#include "explore/scenario.hpp"
#include "explore/scenarios/steps.hpp"

namespace py = pybind11;

namespace pgtbl::inline PGTBL_WORLD::explore {
namespace {

using namespace py::literals;

// For the stubs, which say what is in them.
using py_row = py::typing::Dict<py::str, py::object>;
using py_rows = py::typing::List<py_row>;
using py_texts = py::typing::Dict<py::str, py::str>;
using py_change = py::typing::Tuple<py::str, py::int_, py::int_>;

/// (thread, operation, order, variable, value, expected), all numbers; pgtbl/litmus.py has checked them.
using step_row = std::tuple<u32, u32, u32, u32, u64, u64>;

litmus_program program_of(u32 threads, const std::vector<step_row>& rows) {
  litmus_program p{threads, 1, {}};
  for (const auto& [thread, op, order, var, value, expected] : rows) {
    if (thread >= threads || op > static_cast<u32>(litmus_op::fence) || order > 5)
      throw py::value_error("a litmus step out of range");
    p.steps.push_back({thread, static_cast<litmus_op>(op), static_cast<u8>(order), var, value, expected});
    p.vars = std::max(p.vars, var + 1);
  }
  return p;
}

memory_model model_named(const std::string& name) {
  for (unsigned i = 0; i < 4; ++i)
    if (name == memory_model_names[i]) return static_cast<memory_model>(i);
  throw py::value_error("unknown memory model '" + name + "': sc, tso, ra or rc11");
}

py::typing::Tuple<py::int_, py::int_> count_litmus(u32 threads,
                                                   const std::vector<step_row>& rows,
                                                   const std::string& memory) {
  const litmus_program p = program_of(threads, rows);
  const memory_model m = model_named(memory);
  litmus_count n;
  {
    const gil_released nogil;
    n = count_graphs(p, m);
  }
  return py::make_tuple(n.executions, n.duplicates);
}

py_row agree_litmus(u32 threads, const std::vector<step_row>& rows, const std::string& memory) {
  const litmus_program p = program_of(threads, rows);
  const memory_model m = model_named(memory);
  if (m != memory_model::sc && m != memory_model::tso)
    throw py::value_error("interleavings are explored under sc and tso alone");
  litmus_agreement a;
  {
    const gil_released nogil;
    a = compare_engines(p, m);
  }
  return py_row("interleavings"_a = a.interleavings, "graphs"_a = a.graphs, "same"_a = a.same);
}

py_rows scenario_rows() {
  py_rows rows;
  for (const scenario& s : all_scenarios())
    rows.append(py::dict("name"_a = s.name, "about"_a = s.about, "eras"_a = s.eras));
  return rows;
}

std::vector<std::string> verb_names() {
  std::vector<std::string> names;
  for (const verb& v : machine_verbs())
    if (v.shipped) names.emplace_back(v.name);
  return names;
}

std::vector<std::string> step_names() {
  std::vector<std::string> names;
  for (const auto& row : step_table) names.emplace_back(row.name);
  return names;
}

/// {(arch, of): [(operation, from, to), ...]}
py::typing::Dict<py::typing::Tuple<py::str, py::str>, py::typing::List<py_change>> state_rows() {
  py::typing::Dict<py::typing::Tuple<py::str, py::str>, py::typing::List<py_change>> machines;
  for (const state_machine& m : state_machines) {
    py::list rows;
    for (const state_change& c : m.changes) rows.append(py::make_tuple(c.operation, c.from, c.to));
    machines[py::make_tuple(m.arch, m.of)] = rows;
  }
  return machines;
}

py::typing::List<py_texts> guard_rows() {
  py::typing::List<py_texts> rows;
  for (const guard_row& g : guard_table)
    rows.append(py::dict("name"_a = g.name, "bug"_a = g.bug, "era"_a = g.era, "why"_a = g.why));
  return rows;
}

py_row tell(const verdict& v) {
  const outcome& o = v.found;
  py::list steps;
  for (const trace_step& s : o.why.steps)
    steps.append(py::dict("actor"_a = s.actor, "kind"_a = to_string(s.kind), "text"_a = s.text,
                          "function"_a = s.function, "file"_a = s.file, "line"_a = s.line, "note"_a = s.note,
                          "locks"_a = s.locks, "variable"_a = s.variable, "writes"_a = s.writes,
                          "near"_a = s.near));
  py::list left;
  for (const std::string& g : v.frontier) left.append(py::bytes(g));
  py::object why = py::none();
  if (o.failed)
    why = py::dict("invariant"_a = o.why.invariant, "message"_a = o.why.message, "guard"_a = v.guard,
                   "steps"_a = steps, "schedule"_a = py::bytes(o.why.schedule),
                   "by_schedule"_a = v.by_schedule, "schedule_memory"_a = to_string(v.schedule_memory),
                   "preemptions"_a = o.why.preemptions, "roles"_a = o.why.roles);
  return py_row("era"_a = v.era, "cast"_a = v.cast, "executions"_a = o.executions, "blocked"_a = o.blocked,
                "dropped"_a = o.dropped, "duplicates"_a = o.duplicates, "complete"_a = o.complete,
                "progress"_a = o.progress, "seconds"_a = o.seconds, "violation"_a = why, "frontier"_a = left,
                "reached"_a = v.reached);
}

request request_of(const std::string& name,
                   const std::string& era,
                   const std::string& memory,
                   const std::vector<std::string>& without) {
  request r;
  r.scenario = name;
  r.era = era;
  r.memory = model_named(memory);
  r.without = without;
  return r;
}

strategy strategy_named(const std::string& name) {
  if (name == "exhaustive") return strategy::exhaustive;
  if (name == "random") return strategy::random;
  if (name == "pct") return strategy::pct;
  throw py::value_error("unknown strategy '" + name + "': exhaustive, random or pct");
}

/// Calls Python now and then while a search runs without the GIL.  A signal, or an exception of the callable, stops it.
class watcher {
 public:
  explicit watcher(const py::object& callable) : callable_(callable) {}
  bool operator()(const progress& p) {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return true;
    next_ = now + std::chrono::milliseconds(100);
    const py::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!callable_.is_none()) callable_(p.executions, p.blocked, p.done);
      return true;
    } catch (py::error_already_set&) {
      stopped_by_ = std::current_exception();
      return false;
    }
  }
  /// With the GIL, after the search.
  void rethrow() const {
    if (stopped_by_) std::rethrow_exception(stopped_by_);
  }

 private:
  const py::object& callable_;
  std::chrono::steady_clock::time_point next_ =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  std::exception_ptr stopped_by_;
};

py_row explore_named(const std::string& name,
                     const std::string& era,
                     const std::string& memory,
                     const std::vector<std::string>& without,
                     double seconds,
                     u64 executions,
                     const std::string& engine,
                     int preemptions,
                     u64 seed,
                     bool keep_hashes,
                     bool shorten,
                     bool reuse_addresses,
                     bool symmetry,
                     const std::optional<std::vector<py::bytes>>& graphs,
                     const py::object& watch) {
  watcher w(watch);
  request r = request_of(name, era, memory, without);
  r.limits = {seconds, executions, std::ref(w)};
  r.reuse_addresses = reuse_addresses;
  r.symmetry = symmetry;
  r.interleavings = engine != "graphs";
  if (r.interleavings) {
    if (r.memory != memory_model::sc && r.memory != memory_model::tso)
      throw py::value_error("interleavings are explored under sc and tso alone");
    r.how = strategy_named(engine);
  }
  r.preemptions = preemptions;
  r.seed = seed;
  r.keep_hashes = keep_hashes;
  r.shorten = shorten;
  r.only_graphs = graphs.has_value();
  if (graphs) r.graphs.assign(graphs->begin(), graphs->end());
  verdict v;
  {
    const gil_released nogil;
    v = explore_scenario(r);
  }
  w.rethrow();
  return tell(v);
}

py_row replay_named(const std::string& name,
                    const std::string& era,
                    const std::string& memory,
                    const std::vector<std::string>& without,
                    const py::bytes& schedule,
                    bool by_schedule,
                    bool reuse_addresses) {
  request r = request_of(name, era, memory, without);
  r.reuse_addresses = reuse_addresses;
  const std::string steps = schedule;
  verdict v;
  {
    const gil_released nogil;
    v = replay_scenario(r, steps, by_schedule);
  }
  return tell(v);
}

py_row engines_agree(const std::string& name,
                     const std::string& era,
                     const std::string& memory,
                     const std::vector<std::string>& without,
                     double seconds) {
  request r = request_of(name, era, memory, without);
  if (r.memory != memory_model::sc && r.memory != memory_model::tso)
    throw py::value_error("interleavings are explored under sc and tso alone");
  r.limits.seconds = seconds;
  engine_agreement a;
  {
    const gil_released nogil;
    a = compare_on_scenario(r);
  }
  return py_row("graphs"_a = a.graphs, "interleavings"_a = a.interleavings, "same"_a = a.same,
                "complete"_a = a.complete,
                "violation"_a = py::make_tuple(a.failed_graphs, a.failed_interleavings));
}

}  // namespace
}  // namespace pgtbl::inline PGTBL_WORLD::explore

PYBIND11_MODULE(_model, m, py::mod_gil_not_used()) {
  using namespace pgtbl::explore;
  pgtbl::bind_gil(m);
  m.doc() = "The core in the model world, and the engines that explore it.  Use pgtbl.explore().";
  py::register_exception<program_error>(m, "ProgramError", PyExc_RuntimeError);
  m.def("litmus_count", &count_litmus, py::arg("threads"), py::arg("steps"), py::arg("memory"),
        "Number of executions of a litmus program, and how many were met twice (none).");
  m.def("litmus_agree", &agree_litmus, py::arg("threads"), py::arg("steps"), py::arg("memory"),
        "Whether both engines find the same set of execution graphs.");
  m.def("scenarios", &scenario_rows, "name, about and eras of each scenario.");
  m.def("verbs", &verb_names, "What an actor of a written cast can do.");
  m.def("steps", &step_names, "The steps of actors that are written down.");
  m.def("states", &state_rows,
        "What may happen to a page of tables (or to a slot, or a mapping), by architecture: operation, from, "
        "to.");
  m.def("guards", &guard_rows, "name, bug, era and sentence of each guard.");
  m.def("explore", &explore_named, py::arg("scenario"), py::arg("era"), py::arg("memory"), py::arg("without"),
        py::kw_only(), py::arg("seconds") = 1e18, py::arg("executions") = ~std::uint64_t{0},
        py::arg("engine") = "graphs", py::arg("preemptions") = -1, py::arg("seed") = std::uint64_t{1},
        py::arg("keep_hashes") = true, py::arg("shorten") = true, py::arg("reuse_addresses") = false,
        py::arg("symmetry") = true, py::arg("graphs") = py::none(), py::arg("watch") = py::none(),
        "Explores a scenario; pgtbl.explore() checks the arguments.");
  m.def("replay", &replay_named, py::arg("scenario"), py::arg("era"), py::arg("memory"), py::arg("without"),
        py::arg("schedule"), py::arg("by_schedule"), py::arg("reuse_addresses") = false,
        "One execution again.");
  m.def("engines_agree", &engines_agree, py::arg("scenario"), py::arg("era"), py::arg("memory"),
        py::arg("without"), py::arg("seconds"),
        "Whether both engines find the same graphs of a scenario, or both a violation.");
}
