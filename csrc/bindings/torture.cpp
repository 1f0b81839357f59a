// What only the torture build has: guards that can be taken away, and pauses at named points.
#include "bindings/bind.hpp"

#if defined(PGTBL_WORLD_TORTURE)
#include "base/errors.hpp"
#include "base/guards.hpp"
#include "base/points.hpp"
#include "bindings/gil.hpp"
#include "bindings/objects.hpp"
#include "bindings/size.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

template <class F>
unsigned find_row(const char* what, const std::string& name, std::size_t n, F&& name_of) {
  std::string known;
  for (std::size_t i = 0; i < n; ++i) {
    if (name == name_of(i)) return static_cast<unsigned>(i);
    known += (known.empty() ? "" : ", ") + std::string(name_of(i));
  }
  throw value_error(std::string("unknown ") + what + " '" + name + "'; known are " + known);
}

unsigned guard_at(const std::string& name) {
  return find_row("guard", name, guard_count, [](std::size_t i) { return guard_table[i].name; });
}
point point_at(const std::string& name) {
  return static_cast<point>(
      find_row("point", name, point_count, [](std::size_t i) { return point_names[i]; }));
}

void set_guard(const std::string& name, bool on) {
  guard_mask removed = guards_removed.get();
  removed.set(guard_at(name), !on);
  guards_removed.set(removed);
}

std::vector<std::string> removed() {
  std::vector<std::string> names;
  for (unsigned i = 0; i < guard_count; ++i)
    if (guards_removed.test(i)) names.emplace_back(guard_table[i].name);
  return names;
}

u32 to_count(const py::object& value, const char* what, u64 least) {
  const u64 n = to_u64(value, what);
  if (n < least || n > 1'000'000)
    throw value_error(std::string(what) + " " + std::to_string(n) + ": " + std::to_string(least) +
                      " to 1000000 are allowed");
  return static_cast<u32>(n);
}

bool wait_at(const std::string& name, const py::object& timeout) {
  const point p = point_at(name);
  const u64 end_ns = to_ns(timeout, "timeout", u64{3600} * 1'000'000'000);
  const u64 end = now_ns() + end_ns;
  for (;;) {
    bool there;
    {
      const gil_released nogil;
      const u64 now = now_ns();
      const u64 left = end > now ? end - now : 0;
      there = point_wait(p, left < 100'000'000 ? left : 100'000'000);
    }
    if (there) return true;
    if (now_ns() >= end) return false;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

u64 tear_pmd(py_mm& m, const int_arg& addr, u32 low) {
  const u64 va = to_u64(addr, "addr");
  const call c(*m.where, m.entrance, "tear_pmd", m.closed_text());
  const mmap_read_guard lock(c.self(), *m.core);
  const pmd_ref p = va < task_size ? pmd_offset(c.self(), *m.core, va) : pmd_ref{};
  if (!p) throw value_error("address " + std::to_string(va) + " has no PMD");
  const u64 old = p.slot->load(relaxed);
  p.slot->store((old & ~u64{0xffffffff}) | low, release);
  return old;
}

}  // namespace

void bind_torture(py::module_& m) {
  m.def("set_guard", &set_guard, "name"_a, "on"_a,
        "Takes a guard away (on=False) or gives it back, for the whole process; no thread may be in the "
        "laboratory. "
        "ValueError for a name that guards() does not list.");
  m.def("guards_removed", &removed, "Names of the guards that are taken away (list of str).");
  m.def("tear_pmd", &tear_pmd, "mm"_a, "addr"_a, "low"_a,
        "Stores the low half of the PMD of addr, as a stray 32-bit store would, and returns the entry that "
        "was there: "
        "for tests of the checks.");
  m.def(
      "points", [] { return std::vector<std::string>(std::begin(point_names), std::end(point_names)); },
      "Names of the points at which a thread can be held (list of str).");
  m.def(
      "point_arm",
      [](const std::string& name, const py::object& arrivals, const py::object& skip) {
        point_arm(point_at(name), to_count(arrivals, "arrivals", 1), to_count(skip, "skip", 0));
      },
      "name"_a, "arrivals"_a = 1, "skip"_a = 0,
      "The next `arrivals` threads that come to the point stop there, after `skip` others passed.");
  m.def(
      "point_wait", &wait_at, "name"_a, "timeout"_a = py::none(),
      "Waits until a thread stands at the point (True), or for `timeout` seconds (False). Ctrl-C stops it.");
  m.def(
      "point_release", [](const std::string& name) { point_release(point_at(name)); }, "name"_a,
      "Lets the threads at the point go on, and disarms it.");
  m.def("points_release_all", &points_release_all, "Lets every thread go on, and disarms every point.");
  m.def(
      "point_waiting", [](const std::string& name) { return point_waiting(point_at(name)); }, "name"_a,
      "How many threads stand at the point now (int).");
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
