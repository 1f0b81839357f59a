// The module: what the build is, what the laboratory knows (eras, switches, guards, ledger rows), and the
// classes of the other files.
#include "arch/arch.hpp"
#include "base/era.hpp"
#include "base/guards.hpp"
#include "base/ledger.hpp"
#include "bindings/arch.hpp"
#include "bindings/fast.hpp"

#if !defined(PGTBL_VERSION)
#define PGTBL_VERSION "0"
#endif
#if !defined(PGTBL_SANITIZE)
#define PGTBL_SANITIZE ""
#endif
#if !defined(PGTBL_BUILD_TYPE)
#define PGTBL_BUILD_TYPE ""
#endif
#if !defined(PGTBL_MODULE)
#define PGTBL_MODULE _core
#endif

namespace pgtbl::inline PGTBL_WORLD {

namespace {

py::dict build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "g++ " __VERSION__;
#endif
#if defined(Py_GIL_DISABLED)
  constexpr bool free_threaded = true;
#else
  constexpr bool free_threaded = false;
#endif
#if defined(NDEBUG)
  constexpr bool asserts = false;
#else
  constexpr bool asserts = true;
#endif
  return py::dict("version"_a = PGTBL_VERSION, "world"_a = checked_build ? "torture" : "real",
                  "compiler"_a = compiler, "build_type"_a = PGTBL_BUILD_TYPE, "sanitize"_a = PGTBL_SANITIZE,
                  "asserts"_a = asserts, "python"_a = PY_VERSION, "free_threaded"_a = free_threaded,
                  "arch"_a = arch_name, "membarrier"_a = membarrier_available());
}

std::vector<std::string> era_names() {
  std::vector<std::string> names;
  for (const era& e : eras) names.emplace_back(e.name);
  return names;
}

py::list switch_rows() {
  py::list rows;
  for (const switch_row& s : switch_table) {
    py::dict values;
    for (const era& e : eras) values[e.name] = py::int_(e.*s.field);
    rows.append(
        py::dict("name"_a = s.name, "highest"_a = py::int_(s.highest), "doc"_a = s.doc, "eras"_a = values));
  }
  return rows;
}

py::list guard_rows() {
  py::list rows;
  for (const guard_row& g : guard_table)
    rows.append(py::dict("name"_a = g.name, "prevents"_a = g.bug, "since"_a = g.era, "doc"_a = g.why));
  return rows;
}

py::dict ledger_names() {
  py::dict d;
  for (const char* name : lock_class_names) {
    const std::string n = name;
    d[py::str(n)] = n + ": acquisitions";
    d[py::str(n + ".contended")] = n + ": acquisitions that had to wait";
    d[py::str(n + ".failed")] = n + ": tries that did not get it";
    d[py::str(n + ".wait_ns")] = n + ": nanoseconds waited for it";
    d[py::str(n + ".held_ns")] =
        n + ": nanoseconds held" + (n == "mmap_lock.write" ? "" : ", estimated from every 64th acquisition");
  }
  for (const event_row& e : event_table) d[e.name] = e.doc;
  d["table.pte.pending"] = "PTE tables that wait for a grace period now";
  d["table.pte.pending_max"] = "the most PTE tables that ever waited for a grace period";
  if constexpr (checked_build) {
    d["table.frames"] = "frames that hold page tables of any level";
    d["table.frames_max"] = "the most frames that ever held page tables at once";
  }
  d["rcu.grace_periods"] = "RCU grace periods";
  return d;
}

PyObject* echo(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 1) {
    PyErr_SetString(PyExc_TypeError, "echo() takes one argument");
    return nullptr;
  }
  const u64 v = PyLong_AsUnsignedLongLong(args[0]);
  if (v == ~u64{0} && PyErr_Occurred() != nullptr) return nullptr;
  return PyLong_FromUnsignedLongLong(v);
}

/// Two ways to crash that pybind11 leaves open.  A method of an object whose __init__ never ran gets raw memory
/// (Mm.__new__(Mm).vmas()); and pickle.dumps(mm, protocol=1) makes a bare base object, which throws through C.
void close_back_doors(py::module_& m) {
  for (const auto& [name, value] : m.attr("__dict__").cast<py::dict>()) {
    if (!py::isinstance<py::type>(value)) continue;
    auto* const type = py::detail::get_type_info(reinterpret_cast<PyTypeObject*>(value.ptr()));
    if (type == nullptr) continue;
    type->operator_new = [](std::size_t) -> void* { throw py::type_error("__init__() was not called"); };
    const auto own = value.attr("__dict__");
    if (own.contains("__getstate__") || own.contains("__reduce__")) continue;
    value.attr("__reduce__") = py::cpp_function(
        [](const py::object& self) -> py::object {
          throw py::type_error(std::string("cannot pickle or copy '") + Py_TYPE(self.ptr())->tp_name +
                               "' object");
        },
        py::name("__reduce__"), py::is_method(value));
  }
}

PyMethodDef echo_def = {"echo", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&echo)),
                        METH_FASTCALL,
                        "echo(value: int) -> int\n\nReturns value, an int from 0 to 2**64 - 1: the least "
                        "that a call into C costs."};

}  // namespace

void bind_last(py::module_& m) { close_back_doors(m); }

void bind_tables(py::module_& m) {
  m.def("build_info", &build_info,
        "How this module was built: a dict (version, world, compiler, sanitize, ...).");
  m.def("eras", &era_names,
        "Names of the eras: the kernel releases whose rules a Machine can follow (list of str).");
  m.def("switches", &switch_rows,
        "The rules that make an era, one dict each: name, highest (allowed value), doc, and eras (value in "
        "each era).");
  m.def("guards", &guard_rows,
        "The named lines that each prevent a bug, one dict each: name, prevents (bug or invariant), since "
        "(era), doc.");
  m.def("ledger_names", &ledger_names, "What each row of a Ledger counts: a dict of names to sentences.");
  m.attr("PAGE_SIZE") = page_size;
  m.attr("PMD_SIZE") = pmd_size;
  m.attr("TASK_SIZE") = task_size;
  m.add_object("echo", py::reinterpret_steal<py::object>(
                           PyCFunction_NewEx(&echo_def, nullptr, m.attr("__name__").ptr())));
}

}  // namespace pgtbl::inline PGTBL_WORLD

// The core is thread-safe by itself: importing this does not turn the GIL back on.
PYBIND11_MODULE(PGTBL_MODULE, m, py::mod_gil_not_used()) {
  m.doc() = pgtbl::checked_build
                ? "The laboratory with run-time checks, guards that can be switched off, and pauses."
                : "The laboratory, compiled for real threads.";
  m.attr("__version__") = PGTBL_VERSION;
  pgtbl::bind_errors(m);
  pgtbl::bind_gil(m);
  pgtbl::bind_tables(m);
  pgtbl::bind_rcu(m);
#if !defined(PGTBL_ARCH_TABLES)
  pgtbl::bind_locks(m);
  pgtbl::bind_lock_stress(m);
#endif
  pgtbl::bind_machine(m);
  pgtbl::bind_race(m);
  pgtbl::bind_replay(m);
  pgtbl::bind_stress(m);
#if !defined(PGTBL_ARCH_TABLES)
  pgtbl::bind_arch(m);
#endif
#if defined(PGTBL_WORLD_TORTURE)
  pgtbl::bind_torture(m);
#endif
  pgtbl::bind_last(m);
}
