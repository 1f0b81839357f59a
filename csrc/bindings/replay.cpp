// The replay of a recorded program, as one call: arrays in, arrays out, the GIL released between.
#include "lab/replay.hpp"

#include <cstring>

#include "base/errors.hpp"
#include "bindings/bind.hpp"
#include "bindings/watch.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

std::vector<replay_step> steps_of(const py::array& a) {
  if (a.ndim() != 1 || a.itemsize() != static_cast<py::ssize_t>(sizeof(replay_step)) ||
      (a.flags() & py::array::c_style) == 0)
    throw value_error("a thread is a one-dimensional contiguous array of records of " +
                      std::to_string(sizeof(replay_step)) + " bytes");
  std::vector<replay_step> s(static_cast<std::size_t>(a.size()));
  if (!s.empty()) std::memcpy(s.data(), a.data(), s.size() * sizeof(replay_step));
  return s;
}

template <class T, class Row, class F>
py::array_t<T> column(const std::vector<Row>& rows, F&& field) {
  py::array_t<T> out(static_cast<py::ssize_t>(rows.size()));
  std::transform(rows.begin(), rows.end(), out.mutable_data(), field);
  return out;
}

py::dict result_of(const replay_result& r) {
  std::vector<replay_sample> all;
  for (const auto& one : r.samples) all.insert(all.end(), one.begin(), one.end());
  py::dict ledger;
  for (const auto& [name, value] : r.ledger) ledger[py::str(name)] = value;
  py::list areas;
  for (const replay_area& a : r.areas)
    areas.append(py::make_tuple(a.space, a.start, a.end, a.flags, a.offset,
                                a.file == ~0U ? py::object(py::none()) : py::object(py::int_(a.file))));
  py::dict d;
  d["kind"] = column<u8>(all, [](const replay_sample& s) { return s.kind; });
  d["own_ns"] = column<u32>(all, [](const replay_sample& s) { return s.own_ns; });
  d["faults"] = column<u8>(all, [](const replay_sample& s) { return s.faults; });
  d["refused"] = column<u8>(all, [](const replay_sample& s) { return s.refused; });
  d["areas"] = areas;
  d["ledger"] = ledger;
  d["passes_ns"] = column<u64>(r.passes_ns, [](u64 ns) { return ns; });
  d["collapsed"] = r.collapsed;
  d["wall_ns"] = r.wall_ns;
  d["interrupted"] = r.interrupted;
  return d;
}

py::dict replay_program(const std::string& era_name,
                        const std::vector<std::pair<std::string, i64>>& switches,
                        u64 memory,
                        const std::vector<u64>& files,
                        u32 spaces,
                        const std::vector<py::array>& threads,
                        u32 collapsers,
                        u32 max_ptes_none) {
  replay_config c;
  c.machine.rules = rules_of(era_name, switches);
  c.machine.memory_bytes = memory;
  c.file_bytes = files;
  c.spaces = spaces;
  for (const py::array& t : threads) c.threads.push_back(steps_of(t));
  c.collapsers = collapsers;
  c.max_ptes_none = max_ptes_none;
  const u64 busy = threads.size() + collapsers + 1;
  if (busy > max_cpus)
    throw value_error(std::to_string(busy) + " threads: at most " + std::to_string(max_cpus) +
                      " are allowed");
  c.machine.cpus = static_cast<u32>(busy);
  return result_of(run_watched(c, run_replay, true));
}

}  // namespace

void bind_replay(py::module_& m) {
  m.def("replay_program", &replay_program, py::kw_only(), "era"_a, "switches"_a, "memory"_a, "files"_a,
        "spaces"_a, "threads"_a, "collapsers"_a, "max_ptes_none"_a,
        "A recorded program, performed once by as many threads as it had, collapsers beside it.\n\n"
        "Blocks without the GIL; a signal ends it early. Use pgtbl.replay().");
}

}  // namespace pgtbl::inline PGTBL_WORLD
