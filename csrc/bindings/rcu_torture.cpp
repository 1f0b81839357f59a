#include "lab/rcu_torture.hpp"

#include <vector>

#include "base/errors.hpp"
#include "bindings/gil.hpp"
#include "bindings/rcu.hpp"
#include "bindings/size.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

guard_mask guards_named(const std::vector<std::string>& names) {
  guard_mask mask;
  for (const std::string& name : names) {
    const unsigned g = guard_named(name);
    if (g == guard_count) throw value_error("there is no guard named '" + name + "'");
    mask.set(g);
  }
#if defined(PGTBL_WORLD_REAL)
  if (!names.empty()) throw value_error("guards are constants in this build: use pgtbl._torture");
#endif
  return mask;
}

u32 ways_named(const std::vector<std::string>& names) {
  u32 mask = 0;
  for (const std::string& name : names) {
    unsigned w = 0;
    while (w < rcu_ways && name != rcu_way_names[w]) ++w;
    if (w == rcu_ways)
      throw value_error("there is no way to wait named '" + name +
                        "': synchronize, expedited, call, polled and conditional are allowed");
    mask |= 1U << w;
  }
  return mask;
}

/// Takes guards, and perhaps membarrier, away for a scope.
class handicap {
 public:
  handicap(const guard_mask& guards, bool use_membarrier)
      : membarrier_(use_membarrier ? membarrier_available() : set_membarrier_enabled(false)) {
#if !defined(PGTBL_WORLD_REAL)
    before_ = guards_removed.get();
    guards_removed.set(before_ | guards);
#else
    (void)guards;
#endif
  }
  handicap(const handicap&) = delete;
  handicap& operator=(const handicap&) = delete;
  ~handicap() {
#if !defined(PGTBL_WORLD_REAL)
    guards_removed.set(before_);
#endif
    if (membarrier_ != membarrier_available()) set_membarrier_enabled(membarrier_);
  }

 private:
  bool membarrier_;
  [[maybe_unused]] guard_mask before_;
};

py::dict run_rcu_torture(const py::object& run_seconds,
                         u32 readers,
                         u32 updaters,
                         u32 fakes,
                         u32 visitors,
                         u64 seed,
                         const std::string& delays,
                         const std::vector<std::string>& ways,
                         const std::vector<std::string>& without,
                         bool use_membarrier,
                         bool stop_at_error) {
  rcu_torture_options o;
  if (delays != "short" && delays != "long")
    throw value_error("delays '" + delays + "' must be 'short' or 'long'");
  if (readers > 64 || updaters > 64 || fakes > 64 || visitors > 64)
    throw value_error("at most 64 threads of each kind are allowed");
  if (updaters == 0) throw value_error("updaters must be at least 1, not 0");
  o.duration_ns = to_ns(run_seconds, "seconds", o.duration_ns);
  o.readers = readers;
  o.updaters = updaters;
  o.fakes = fakes;
  o.visitors = visitors;
  o.seed = seed;
  o.delays = delays == "short" ? rcu_delays::brief : rcu_delays::lengthy;
  o.stop_at_error = stop_at_error;
  if (!ways.empty()) o.ways = ways_named(ways);
  const guard_mask guards = guards_named(without);
  rcu_torture_result r;
  {
    const gil_released nogil;
    const handicap h(guards, use_membarrier);
    r = rcu_torture(o);
  }
  py::dict d, by_way;
  for (unsigned w = 0; w < rcu_ways; ++w) by_way[rcu_way_names[w]] = r.by_way[w];
  py::list ages;
  for (u64 n : r.ages) ages.append(n);
  d["reads"] = r.reads;
  d["updates"] = r.updates;
  d["updates_by_way"] = by_way;
  d["visits"] = r.visits;
  d["cookies"] = r.cookies;
  d["barriers"] = r.barriers;
  d["ages"] = ages;
  d["errors"] = r.errors;
  d["first_error"] = r.errors == 0 ? py::object(py::none()) : py::object(py::str(r.first_error));
  d["first_error_seconds"] = static_cast<double>(r.first_error_ns) * 1e-9;
  d["rcu"] = rcu_stats_dict(r.rcu);
  return d;
}

}  // namespace

void bind_rcu_torture(py::module_& m) {
  m.def("rcu_torture", run_rcu_torture, "seconds"_a = 1.0, py::kw_only(), "readers"_a = 2, "updaters"_a = 2,
        "fakes"_a = 2, "visitors"_a = 1, "seed"_a = 1, "delays"_a = "short",
        "ways"_a = std::vector<std::string>{}, "without"_a = std::vector<std::string>{},
        "membarrier"_a = true, "stop_at_error"_a = true,
        R"(Tortures an RCU domain, after the kernel's rcutorture, and counts what it got wrong.

Updaters publish objects and retire them by every kind of grace period; readers hold them over sections and
report an object that is older than one grace period, or poisoned.

delays: "short" (sections of nanoseconds, many updates: finds missing fences) or "long" (sections of
microseconds to milliseconds: finds grace periods that do not wait). ways: which of "synchronize",
"expedited", "call", "polled" and "conditional" are used; empty for all. without: names of guards to take
away (in pgtbl._torture only). membarrier=False: with the readers' own fences. Each run takes `seconds`
seconds, unless an error ends it.

Returns a dict: reads, updates, updates_by_way, visits, cookies, barriers, ages (how many sections held an
object of that age; beyond 1 is an error), errors, first_error, first_error_seconds, rcu (statistics).)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
