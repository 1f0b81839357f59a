// Khugepaged for Python: a machine's daemon, and its limits.
#include "khugepaged/khugepaged.hpp"

#include "bindings/objects.hpp"
#include "bindings/size.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

struct py_khugepaged {
  std::shared_ptr<home> where;
};

/// f(cpu, khugepaged) without the GIL; nobody else starts or stops it meanwhile.
template <class F>
auto run_daemon(const py_khugepaged& k, const char* name, F&& f) {
  if constexpr (!geometry.thp) throw unsupported(std::string(name) + ": " + arch_name + " has no huge pages");
  home& h = *k.where;
  return run(h, name, [&](cpu& self) {
    forbid_section(self, name);
    const std::lock_guard held(h.daemon.lock);
    if (h.daemon.it == nullptr) h.daemon.it = std::make_unique<khugepaged>(h.core());
    return f(self, *h.daemon.it);
  });
}

void set_interval(home& h, khugepaged& d, u64 ns) {
  d.stop();
  h.daemon.interval_ns = 0;
  if (ns != 0) d.start(ns);
  h.daemon.interval_ns = ns;
}

/// A property that is a number of khugepaged's, from `least` to `most`.
template <auto Field>
void limit(py::class_<py_khugepaged>& k, const char* name, u64 least, u64 most, const char* doc) {
  k.def_property(
      name,
      [](const py_khugepaged& it) {
        return run_daemon(it, "khugepaged", [](cpu&, khugepaged& d) { return (d.*Field).load(relaxed); });
      },
      [name, least, most](const py_khugepaged& it, const py::object& value) {
        const u64 n = to_u64(value, name);
        if (n < least || n > most)
          throw value_error(std::string(name) + ' ' + std::to_string(n) + ": " +
                            (most == ~u64{0}
                                 ? std::to_string(least) + " or more is allowed"
                                 : std::to_string(least) + " to " + std::to_string(most) + " are allowed"));
        run_daemon(it, "khugepaged", [n](cpu&, khugepaged& d) {
          using number = decltype((d.*Field).load(relaxed));
          (d.*Field).store(static_cast<number>(n), relaxed);
        });
      },
      doc);
}

}  // namespace

void define_khugepaged(py::module_& m, object_classes& c) {
  py::class_<py_khugepaged> k(m, "Khugepaged",
                              R"(The machine's khugepaged: looks for extents to collapse, in all its mms.

Machine.khugepaged. ClosedError once the machine is closed.)");
  k.def(
       "start",
       [](const py_khugepaged& it, const py::object& interval) {
         const u64 ns = to_ns(interval, "interval", 0);
         if (ns == 0)
           throw value_error("interval " + py::cast<std::string>(py::repr(interval)) +
                             ": seconds above 0 are allowed");
         run_daemon(it, "khugepaged.start", [&](cpu&, khugepaged& d) { set_interval(*it.where, d, ns); });
       },
       "interval"_a = 0.01,
       R"(Starts the thread: it looks at pages_to_scan pages, rests for `interval` seconds, and so on.

Started again, it goes on with the new interval. It needs a CPU of the machine: UsageError where all are taken.)")
      .def(
          "stop",
          [](const py_khugepaged& it) {
            run_daemon(it, "khugepaged.stop", [&](cpu&, khugepaged& d) { set_interval(*it.where, d, 0); });
          },
          "Stops the thread, and waits for the end of its round. Harmless where it does not run.")
      .def(
          "scan",
          [](const py_khugepaged& it) {
            return run_daemon(it, "khugepaged.scan",
                              [](cpu& self, khugepaged& d) { return d.scan_once(self); });
          },
          "One pass over every extent of every mm, in this thread; returns how many it changed (int): 0 once "
          "all "
          "that can be huge is.")
      .def_property_readonly(
          "running",
          [](const py_khugepaged& it) {
            return run_daemon(it, "khugepaged.running",
                              [&](cpu&, khugepaged&) { return it.where->daemon.interval_ns != 0; });
          },
          "Whether the thread was started (bool).");
  limit<&khugepaged::max_ptes_none>(k, "max_ptes_none", 0, pages_per_huge - 1,
                                    "How many of an extent's pages may be holes (int; all but one, as in "
                                    "Linux, unless set: 511 on x86-64).");
  limit<&khugepaged::max_ptes_swap>(k, "max_ptes_swap", 0, pages_per_huge,
                                    "How many entries that are not present an extent may have (int; an "
                                    "eighth of its pages, as in Linux, unless set).");
  limit<&khugepaged::max_ptes_shared>(k, "max_ptes_shared", 0, pages_per_huge,
                                      "How many of an extent's pages other programs may share since a fork "
                                      "(int; half of them, as in Linux, unless set).");
  limit<&khugepaged::pages_to_scan>(
      k, "pages_to_scan", 1, ~u64{0},
      "How many pages the thread looks at in one round (int; eight extents, as in Linux, unless set).");
  k.def("__repr__", [](const py_khugepaged&) { return "<pgtbl.Khugepaged>"; });

  c.machine.def_property_readonly(
      "khugepaged",
      [](home& h) {
        const call now(h, h.entrance, "machine.khugepaged");
        return py_khugepaged{h.shared_from_this()};
      },
      "The machine's khugepaged; it runs once started.");
}

}  // namespace pgtbl::inline PGTBL_WORLD
