#include "lab/race.hpp"

#include <map>
#include <memory>

#include "base/errors.hpp"
#include "check/check.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 gap_ns = 30'000'000;     // between the windows: the collapsers get going
constexpr u64 drain_ns = 500'000'000;  // for the steps that were due and are late
constexpr u64 begin_after_ns = 2'000'000;
constexpr u64 look_every_ns = 50'000'000;

using readings = std::map<std::string, u64>;

/// The machine of a round, its files and its programs; takes them down in the right order.
class theatre {
 public:
  theatre(const round_config& c) : machine_(c.machine) {
    self_ = machine_.cpu_get();
    try {
      machine_.ram.phys.populate();
      for (u64 bytes : c.file_bytes) stage_.files.push_back(machine_.new_mapping(*self_, bytes));
      for (u32 i = 0; i < c.mms; ++i) stage_.mms.push_back(machine_.new_mm(*self_));
      stage_.points = std::make_unique<meeting_point[]>(c.walkers.size());
      for (const step& s : c.setup) perform(*self_, stage_, s);
      switch_mm(*self_, nullptr);  // or the walkers' flushes would interrupt this CPU, too
    } catch (...) {
      take_down();
      throw;
    }
  }
  ~theatre() { take_down(); }
  theatre(const theatre&) = delete;
  theatre& operator=(const theatre&) = delete;

  machine& home() { return machine_; }
  const stage& on() const { return stage_; }

  /// Throws if an invariant does not hold; nobody else is on the machine any more.
  void check() {
    std::string text = machine_.breaches.any() ? machine_.breaches.text() : std::string();
    for (const std::string& found : check_machine(*self_, machine_))
      text += (text.empty() ? "" : "\n") + found;
    if (!text.empty())
      throw invariant_error("after a round of " + std::string(machine_.config.rules.name) + ": " + text);
  }

  readings read() const {
    readings r;
    machine_.each_count([&r](const auto& name, u64 value) { r[std::string(name)] += value; });
    return r;
  }

 private:
  void take_down() {
    for (mm* m : stage_.mms) machine_.close_mm(*self_, m);
    for (mapping* f : stage_.files) mapping_put(*self_, *f);
    machine_.cpu_put(self_);
  }

  machine machine_;
  cpu* self_;
  stage stage_;
};

class race_round {
 public:
  explicit race_round(const round_config& c) : c_(c), theatre_(c) {}

  round_result run() {
    prepare();
    try {
      start();
      wait_for_threads();
      measure();
    } catch (...) {
      gate_.stop.store(1, relaxed);
      gate_.go.store(1, release);
      join();
      throw;
    }
    join();
    conclude();
    if (c_.check && !result_.interrupted) theatre_.check();
    return std::move(result_);
  }

 private:
  void prepare() {
    result_.walkers.resize(c_.walkers.size());
    result_.collapsers.resize(c_.collapsers.size());
    const std::size_t workers = c_.walkers.size() + c_.collapsers.size();
    for (std::size_t i = 0; i < c_.walkers.size(); ++i)
      walkers_.push_back(
          {c_.walkers[i], c_.gaps, c_.rates[i], c_.max_samples, workers > c_.processors, c_.walkers.size()});
    for (const std::vector<u32>& extents : c_.collapsers) {
      collapse_config k;
      k.mode = c_.mode;
      k.file = theatre_.on().files[c_.collapse_file];
      k.base = c_.collapse_base;
      for (u16 m : c_.collapse_mms) k.mms.push_back(theatre_.on().mms[m]);
      k.extents = extents;
      k.khugepaged_every = c_.khugepaged_every;
      k.rate = c_.collapse_rate;
      k.max_records = 1'000'000;
      collapsers_.push_back(std::move(k));
    }
  }

  void start() {
    for (std::size_t i = 0; i < walkers_.size(); ++i)
      threads_.emplace_back(
          [this, i] { run_walker(theatre_.home(), theatre_.on(), walkers_[i], gate_, result_.walkers[i]); });
    for (std::size_t i = 0; i < collapsers_.size(); ++i)
      threads_.emplace_back(
          [this, i] { run_collapser(theatre_.home(), collapsers_[i], gate_, result_.collapsers[i]); });
  }

  void wait_for_threads() {
    while (gate_.ready.load(acquire) < threads_.size() && !ended_early()) sleep_ns(200'000);
  }

  void measure() {
    const u64 start = ticks() + ticks_of(begin_after_ns);
    windows& w = gate_.when;
    w.begin[windows::idle] = start;
    w.end[windows::idle] = start + ticks_of(c_.idle_ns);
    w.begin[windows::loaded] = w.end[windows::idle] + ticks_of(c_.idle_ns != 0 ? gap_ns : 0);
    w.end[windows::loaded] = w.begin[windows::loaded] + ticks_of(c_.loaded_ns);
    w.drain = w.end[windows::loaded] + ticks_of(drain_ns);
    for (unsigned i = 0; i < windows::count; ++i) result_.begin[i] = w.begin[i];
    gate_.go.store(1, release);

    for (unsigned i = 0; i < windows::count; ++i) {
      if (!sleep_until(w.begin[i])) return;
      const ledger_sum before = walkers_now();
      const readings all = theatre_.read();
      theatre_.home().ram.reset_maxima();
      sleep_until(w.end[i]);
      const u64 end = ticks();
      (i == windows::idle ? result_.idle_ns : result_.loaded_ns) =
          ticks_to_ns((end < w.end[i] ? end : w.end[i]) - w.begin[i]);
      (i == windows::idle ? result_.walkers_idle : result_.walkers_loaded)
          .add_difference(walkers_now(), before);
      if (i == windows::loaded) note_ledger(all);
      if (gate_.stop.load(relaxed) != 0) return;
    }
  }

  void note_ledger(const readings& before) {
    result_.pending_max = theatre_.home().ram.pending_max();
    if constexpr (checked_build) result_.table_frames_max = theatre_.home().ram.table_frames_max();
    for (const auto& [name, value] : theatre_.read()) {
      const auto was = before.find(name);
      const bool level = name.ends_with("_max") || name.ends_with(".pending") || name == "table.frames";
      result_.ledger.emplace_back(name, level || was == before.end() ? value : value - was->second);
    }
  }

  // The walkers' CPUs, from outside: counts that they are adding to meanwhile.
  ledger_sum walkers_now() {
    ledger_sum s;
    for (const walker_result& w : result_.walkers) s.add(*theatre_.home().cpus.cpus[w.cpu]);
    return s;
  }

  // False if the round is to end now.
  bool sleep_until(u64 t) {
    for (;;) {
      if (ended_early()) return false;
      const u64 now = ticks();
      if (now >= t) return true;
      const u64 left = ticks_to_ns(t - now);
      sleep_ns(left < look_every_ns ? left : look_every_ns);
    }
  }

  bool ended_early() {
    if (gate_.stop.load(relaxed) != 0) return true;
    if (!c_.interrupted || !c_.interrupted()) return false;
    result_.interrupted = true;
    gate_.stop.store(1, relaxed);
    return true;
  }

  void join() {
    for (thread& t : threads_) t.join();
  }

  void conclude() {
    for (const walker_result& w : result_.walkers)
      if (w.error) std::rethrow_exception(w.error);
    for (const collapser_result& k : result_.collapsers) {
      if (k.error) std::rethrow_exception(k.error);
      result_.collapse.add_difference(k.ledger, {});
    }
  }

  static u64 ticks_of(u64 ns) {
    const double per_tick = static_cast<double>(ticks_to_ns(1'000'000'000)) / 1e9;
    return static_cast<u64>(static_cast<double>(ns) / per_tick);
  }

  const round_config& c_;
  theatre theatre_;
  start_gate gate_;
  std::vector<walker_config> walkers_;
  std::vector<collapse_config> collapsers_;
  std::vector<thread> threads_;
  round_result result_;
};

void check(const round_config& c) {
  check_script(c.setup, c.mms, c.file_bytes.size(), 0);  // nobody is there to be met yet
  if (c.walkers.empty()) throw value_error("walkers: a round needs one at least");
  if (c.rates.size() != c.walkers.size()) throw value_error("rates: one for each walker is needed");
  if (c.gaps.empty()) throw value_error("gaps: the schedule is empty");
  for (const script& s : c.walkers) {
    check_script(s, c.mms, c.file_bytes.size(), c.walkers.size());
    bool timed = false;
    for (const step& one : s) timed = timed || (one.flags & step_off_clock) == 0;
    if (!timed) throw value_error("a walker's script has no step that is measured");
  }
  if (c.collapsers.empty()) return;
  if (c.collapse_file >= c.file_bytes.size()) throw value_error("collapse_file: there is no such file");
  if (c.collapse_mms.empty())
    throw value_error("collapse_mms: a collapser needs a program that maps its file");
  for (u16 m : c.collapse_mms)
    if (m >= c.mms) throw value_error("collapse_mms: there is no such address space");
  for (const std::vector<u32>& extents : c.collapsers) {
    if (extents.empty()) throw value_error("collapsers: each needs an extent of its own");
    for (u32 e : extents)
      if ((u64{e} + 1) * pmd_size > c.file_bytes[c.collapse_file])
        throw value_error("collapsers: an extent lies beyond the file");
  }
}

}  // namespace

round_result run_round(const round_config& c) {
  check(c);
  return race_round(c).run();
}

}  // namespace pgtbl::inline PGTBL_WORLD
