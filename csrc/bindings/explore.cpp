// pgtbl._model: the explorer.  The only file of bindings/ that is compiled in the model world.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "explore/litmus.hpp"

namespace py = pybind11;

namespace pgtbl::inline PGTBL_WORLD::explore {
namespace {

using namespace py::literals;

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

py::tuple count_litmus(u32 threads, const std::vector<step_row>& rows, const std::string& memory) {
  const litmus_program p = program_of(threads, rows);
  const memory_model m = model_named(memory);
  litmus_count n;
  {
    const py::gil_scoped_release release;
    n = count_graphs(p, m);
  }
  return py::make_tuple(n.executions, n.duplicates);
}

py::dict agree_litmus(u32 threads, const std::vector<step_row>& rows, const std::string& memory) {
  const litmus_program p = program_of(threads, rows);
  const memory_model m = model_named(memory);
  if (m != memory_model::sc && m != memory_model::tso)
    throw py::value_error("interleavings are explored under sc and tso alone");
  litmus_agreement a;
  {
    const py::gil_scoped_release release;
    a = compare_engines(p, m);
  }
  return py::dict("interleavings"_a = a.interleavings, "graphs"_a = a.graphs, "same"_a = a.same);
}

}  // namespace
}  // namespace pgtbl::inline PGTBL_WORLD::explore

PYBIND11_MODULE(_model, m, py::mod_gil_not_used()) {
  using namespace pgtbl::explore;
  m.doc() = "The core in the model world, and the engines that explore it.  Use pgtbl.explore().";
  py::register_exception<program_error>(m, "ProgramError", PyExc_RuntimeError);
  m.def("litmus_count", &count_litmus, py::arg("threads"), py::arg("steps"), py::arg("memory"),
        "Number of executions of a litmus program, and how many were met twice (none).");
  m.def("litmus_agree", &agree_litmus, py::arg("threads"), py::arg("steps"), py::arg("memory"),
        "Whether both engines find the same set of execution graphs.");
}
