// One round of a race, as one call: arrays in, arrays out, the GIL released between.
#include "lab/race.hpp"

#include <cstring>

#include "base/errors.hpp"
#include "bindings/bind.hpp"
#include "bindings/watch.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

script script_of(const py::array& a) {
  if (a.ndim() != 1 || a.itemsize() != static_cast<py::ssize_t>(sizeof(step)) ||
      (a.flags() & py::array::c_style) == 0)
    throw value_error(
        "a script is a one-dimensional contiguous array of records of 32 bytes (pgtbl.workload.STEP)");
  script s(static_cast<std::size_t>(a.size()));
  if (!s.empty()) std::memcpy(s.data(), a.data(), s.size() * sizeof(step));
  return s;
}

template <class T, class F>
py::array_t<T> column(const std::vector<walker_result>& walkers, F&& field) {
  u64 n = 0;
  for (const walker_result& w : walkers) n += w.taken;
  py::array_t<T> out(static_cast<py::ssize_t>(n));
  T* at = out.mutable_data();
  for (const walker_result& w : walkers)
    for (u64 i = 0; i < w.taken; ++i) *at++ = field(w, w.samples[i]);
  return out;
}

py::dict samples_of(const round_result& r) {
  const auto& w = r.walkers;
  py::dict d;
  d["due_ns"] = column<u64>(w, [&r](const walker_result&, const sample& s) {
    const u64 begin = r.begin[s.window];
    return s.due > begin ? ticks_to_ns(s.due - begin) : 0;
  });
  const auto whole_ns = [](u64 t) {
    const u64 ns = ticks_to_ns(t);
    return static_cast<u32>(ns < ~u32{0} ? ns : ~u32{0});  // 4.3 s: more than a step can wait for
  };
  d["latency_ns"] =
      column<u32>(w, [&](const walker_result&, const sample& s) { return whole_ns(s.latency); });
  d["own_ns"] = column<u32>(w, [&](const walker_result&, const sample& s) { return whole_ns(s.own); });
  d["kind"] = column<u8>(w, [](const walker_result&, const sample& s) { return s.kind; });
  d["window"] = column<u8>(w, [](const walker_result&, const sample& s) { return s.window; });
  d["faults"] = column<u8>(w, [](const walker_result&, const sample& s) { return s.faults; });
  d["write"] = column<u8>(w, [](const walker_result&, const sample& s) { return s.write; });
  return d;
}

py::dict usage_of(const thread_usage& u) {
  return py::dict("minor_faults"_a = u.minor_faults, "involuntary"_a = u.involuntary,
                  "voluntary"_a = u.voluntary, "cpu_ns"_a = u.cpu_ns, "wall_ns"_a = u.wall_ns);
}

py::dict walker_of(const walker_result& w) {
  py::list windows_of;
  for (unsigned i = 0; i < windows::count; ++i)
    windows_of.append(py::dict("steps"_a = w.steps[i], "faults"_a = w.faults[i],
                               "off_clock_ns"_a = ticks_to_ns(w.off_clock[i]),
                               "stolen_ns"_a = ticks_to_ns(w.stolen[i]), "preempted"_a = w.preempted[i],
                               "usage"_a = usage_of(w.usage[i])));
  u64 refused = 0;
  for (u64 n : w.refused) refused += n;
  return py::dict("windows"_a = windows_of, "rounds"_a = w.rounds, "refused"_a = refused,
                  "unserved"_a = w.unserved, "dropped"_a = w.dropped);
}

py::dict collapses_of(const round_result& r) {
  u64 n = 0, turns = 0, dropped = 0;
  for (const collapser_result& k : r.collapsers) n += k.taken, turns += k.turns, dropped += k.dropped;
  py::array_t<u64> latency(static_cast<py::ssize_t>(n));
  py::array_t<int> error(static_cast<py::ssize_t>(n));
  py::array_t<u8> call(static_cast<py::ssize_t>(n));
  u64* l = latency.mutable_data();
  int* e = error.mutable_data();
  u8* c = call.mutable_data();
  for (const collapser_result& k : r.collapsers) {
    for (u64 i = 0; i < k.taken; ++i) {
      *l++ = ticks_to_ns(k.records[i].latency);
      *e++ = k.records[i].error;
      *c++ = static_cast<u8>(k.records[i].call);
    }
  }
  return py::dict("latency_ns"_a = latency, "error"_a = error, "call"_a = call, "turns"_a = turns,
                  "dropped"_a = dropped);
}

py::dict ledger_of(const ledger_sum& s) {
  py::dict d;
  const std::vector<std::string> names = ledger_row_names();
  for (unsigned i = 0; i < ledger_rows; ++i) d[py::str(names[i])] = s.rows[i];
  return d;
}

py::dict result_of(const round_result& r) {
  py::dict ledger;
  for (const auto& [name, value] : r.ledger) ledger[py::str(name)] = value;
  py::list walkers;
  for (const walker_result& w : r.walkers) walkers.append(walker_of(w));
  py::dict d;
  d["interrupted"] = r.interrupted;
  d["idle_ns"] = r.idle_ns;
  d["loaded_ns"] = r.loaded_ns;
  d["samples"] = samples_of(r);
  d["walkers"] = walkers;
  d["collapses"] = collapses_of(r);
  d["ledger"] = ledger;
  d["ledger_walkers_idle"] = ledger_of(r.walkers_idle);
  d["ledger_walkers"] = ledger_of(r.walkers_loaded);
  d["ledger_collapse"] = ledger_of(r.collapse);
  d["pending_max"] = r.pending_max;
  d["table_frames_max"] = r.table_frames_max ? py::object(py::int_(*r.table_frames_max)) : py::none();
  return d;
}

py::dict race_round(const std::string& era_name,
                    const std::vector<std::pair<std::string, i64>>& switches,
                    u64 memory,
                    const std::vector<u64>& files,
                    u32 mms,
                    const py::array& setup,
                    const std::vector<py::array>& walkers,
                    const std::vector<double>& rates,
                    const std::vector<float>& gaps,
                    u64 idle_ns,
                    u64 loaded_ns,
                    u64 max_samples,
                    u32 processors,
                    const std::string& mode,
                    u16 collapse_file,
                    u64 collapse_base,
                    const std::vector<u16>& collapse_mms,
                    const std::vector<std::vector<u32>>& collapsers,
                    u32 khugepaged_every,
                    double collapse_rate) {
  round_config c;
  c.machine.rules = rules_of(era_name, switches);
  c.machine.memory_bytes = memory;
  c.file_bytes = files;
  c.mms = mms;
  c.setup = script_of(setup);
  for (const py::array& w : walkers) c.walkers.push_back(script_of(w));
  c.rates = rates;
  c.gaps = gaps;
  c.idle_ns = idle_ns;
  c.loaded_ns = loaded_ns;
  c.max_samples = max_samples;
  c.processors = processors;
  if (mode != "collapse" && mode != "copy")
    throw value_error("mode '" + mode + "': allowed are collapse and copy");
  c.mode = mode == "copy" ? collapse_mode::copy : collapse_mode::collapse;
  c.collapse_file = collapse_file;
  c.collapse_base = collapse_base;
  c.collapse_mms = collapse_mms;
  c.collapsers = collapsers;
  c.khugepaged_every = khugepaged_every;
  c.collapse_rate = collapse_rate;
  return result_of(run_watched(c, run_round, true));
}

}  // namespace

void bind_race(py::module_& m) {
  m.def("race_round", &race_round, py::kw_only(), "era"_a, "switches"_a, "memory"_a, "files"_a, "mms"_a,
        "setup"_a, "walkers"_a, "rates"_a, "gaps"_a, "idle_ns"_a, "loaded_ns"_a, "max_samples"_a,
        "processors"_a, "mode"_a, "collapse_file"_a, "collapse_base"_a, "collapse_mms"_a, "collapsers"_a,
        "khugepaged_every"_a, "collapse_rate"_a = 0.0,
        "One round of pgtbl.race(): a machine of one era, walkers on a schedule, collapsers beside them.\n\n"
        "Blocks without the GIL; a signal ends it early. Use pgtbl.race().");
}

}  // namespace pgtbl::inline PGTBL_WORLD
