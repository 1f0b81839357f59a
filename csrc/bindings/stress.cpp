// The stress run of the mm, as one call: options in, a dict out, the GIL released between.
#include "lab/stress.hpp"

#include <map>
#include <optional>

#include "base/errors.hpp"
#include "bindings/bind.hpp"
#include "bindings/size.hpp"
#include "bindings/watch.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

void set_mix(stress_options& o, const std::map<std::string, u32>& mix) {
  std::string known;
  for (const char* role : stress_role_names) known += (known.empty() ? "" : ", ") + std::string(role);
  for (u32& n : o.threads) n = 0;
  for (const auto& [name, n] : mix) {
    bool found = false;
    for (unsigned i = 0; i < stress_roles; ++i) {
      if (name != stress_role_names[i]) continue;
      o.threads[i] = n;
      found = true;
    }
    if (!found) throw value_error("unknown role '" + name + "'; the roles are " + known);
  }
}

py::dict result_of(const stress_result& r) {
  py::dict done;
  for (unsigned i = 0; i < stress_ops; ++i) done[stress_op_names[i]] = r.done[i];
  return py::dict("clean"_a = r.clean(), "interrupted"_a = r.interrupted, "seconds"_a = r.seconds,
                  "ops"_a = r.total, "done"_a = done, "lost"_a = r.lost, "breaches"_a = r.breaches,
                  "errors"_a = r.errors);
}

py::dict stress(const std::string& era_name,
                const std::map<std::string, i64>& switches,
                u64 seed,
                const py::object& seconds,
                std::optional<u64> ops,
                const std::optional<std::map<std::string, u32>>& mix,
                const py::object& memory,
                u32 mms,
                u32 extents,
                const std::string& alloc,
                bool broadcast_flush,
                u32 jitter) {
  stress_options o;
  o.machine.rules = rules_of(era_name, switches);
  o.machine.memory_bytes = to_size(memory, "memory");
  if (o.machine.memory_bytes < 16 * pmd_size || o.machine.memory_bytes % pmd_size != 0)
    throw value_error("memory " + std::to_string(o.machine.memory_bytes) + ": a multiple of " +
                      std::to_string(pmd_size >> 20) + "MiB, from " + std::to_string(16 * pmd_size >> 20) +
                      "MiB on, is allowed");
  if (alloc != "reuse" && alloc != "quarantine")
    throw value_error("unknown alloc '" + alloc + "'; allowed are 'reuse' and 'quarantine'");
  o.machine.alloc = alloc == "reuse" ? alloc_mode::reuse : alloc_mode::quarantine;
  o.machine.broadcast_flush = broadcast_flush;
  o.seed = seed;
  o.ns = to_ns(seconds, "seconds", 1'000'000'000);
  if (ops) o.ops = *ops;
  if (mix) set_mix(o, *mix);
  o.mms = mms;
  o.extents = extents;
  o.jitter = jitter;

  return result_of(run_watched(o, run_stress, true));
}

}  // namespace

void bind_stress(py::module_& m) {
  m.def(
      "stress", &stress, py::kw_only(), "era"_a = "v6.6", "switches"_a = py::dict(), "seed"_a = 1,
      "seconds"_a = 1.0, "ops"_a = py::none(), "mix"_a = py::none(),
      "memory"_a = pmd_size > 4ULL << 20 ? "1GiB" : "128MiB", "mms"_a = 3, "extents"_a = 3,
      "alloc"_a = "reuse", "broadcast_flush"_a = false, "jitter"_a = 0,
      R"(Lets many threads do everything at once on a machine of its own, and looks whether anything gets lost.

Writers store stamps through several mappings in several mms, readers look for them through others and in the page
cache, while extents collapse, fall apart, are punched, truncated, mapped, unmapped and protected, and programs come
and go. The machine is checked at the end, with everything mapped, and again with everything closed.

era, switches, alloc, broadcast_flush: as for Machine; memory likewise, from 16 huge pages on (32 MiB on x86).
seed: of every thread's choices; the interleaving is the processor's.
seconds, ops: the run ends after this time or so many operations, whichever comes first.
mix: threads of each role, a dict; roles that are not named get none. By default writer 2, reader 1, collapser 1,
khugepaged 1, puncher 1, mapper 2, truncator 1 (at most one), program 1.
mms, extents: how many programs map the file, and how many of its extents hold stamps.
jitter: in the torture build, threads rest once in so many times at a point where they could be paused.

Returns a dict: clean (bool), interrupted (bool), seconds, ops (operations done), done (by kind), and three lists
of str that are empty in a clean run: lost (contents that were wrong), breaches, errors. Ctrl-C ends it early:
interrupted says so. ValueError for options that make no run.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
