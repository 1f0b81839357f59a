#include "lab/load.hpp"

#include <sys/resource.h>

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 long_ns = 50'000;           // no interrupt takes that long
constexpr u32 spins = 2'000;              // looks at a meeting point before the thread sleeps there
constexpr u64 meet_again_ns = 1'000'000;  // a sleeper looks by itself, too: whether all is over

u64 nanoseconds(const timeval& t) {
  return static_cast<u64>(t.tv_sec) * 1'000'000'000 + static_cast<u64>(t.tv_usec) * 1000;
}

thread_usage usage_now() {
  rusage r{};
  getrusage(RUSAGE_THREAD, &r);
  return {r.ru_minflt, r.ru_nivcsw, r.ru_nvcsw, nanoseconds(r.ru_utime) + nanoseconds(r.ru_stime), now_ns()};
}

thread_usage difference(const thread_usage& later, const thread_usage& earlier) {
  return {later.minor_faults - earlier.minor_faults, later.involuntary - earlier.involuntary,
          later.voluntary - earlier.voluntary, later.cpu_ns - earlier.cpu_ns,
          later.wall_ns - earlier.wall_ns};
}

class paced_walk {
 public:
  paced_walk(cpu& self, const stage& on, const walker_config& c, start_gate& gate, walker_result& out)
      : self_(self), on_(on), c_(c), gate_(gate), out_(out), open_(c.rate > 0), met_(c.points) {}

  void warm_up() {
    for (const step& s : c_.steps) {
      if (s.op != step_op::meet)
        attempt(s);
      else if (!meet(s))
        return;
    }
    warm_ = true;
  }

  void run() {
    const double ns_per_tick = static_cast<double>(ticks_to_ns(1'000'000'000)) / 1e9;
    mean_gap_ = open_ ? 1e9 / c_.rate / ns_per_tick : 0;
    long_ = static_cast<u64>(static_cast<double>(long_ns) / ns_per_tick);
    preemptions_ = usage_now().involuntary;
    last_ = ticks();
    due_ = static_cast<double>(last_);
    while (next()) {}
    watch(~u64{0});
  }

 private:
  // One step; false at the end of the loaded window.
  bool next() {
    const step& s = c_.steps[at_];
    if (++at_ == c_.steps.size()) {
      at_ = 0;
      ++out_.rounds;
    }
    if ((s.flags & step_off_clock) != 0) {
      return off_clock(s) && !stopped();
    }
    u64 due = next_due();
    watch(due);
    if (due >= gate_.when.end[windows::loaded] || stopped()) return false;
    if (open_) due += wait_until(due);
    const u64 begin = open_ ? last_ : due;
    if (begin > gate_.when.drain) {
      ++out_.unserved;
      return true;
    }
    const u64 waited = waited_ns();
    const u32 faults = attempt(s);
    const u64 end = last_ = ticks();
    if (end - begin > long_ && preempted(begin, end, waited)) return true;
    record(s, due, begin, end, faults);
    return true;
  }

  // Whether the system took the processor away during a step that took long, and the locks do not explain it.
  bool preempted(u64 begin, u64 end, u64 waited_before) {
    const i64 before = preemptions_;
    preemptions_ = usage_now().involuntary;
    const u64 took = ticks_to_ns(end - begin), waited = waited_ns() - waited_before;
    if (preemptions_ == before || took < waited + long_ns) return false;
    const u64 excess = static_cast<u64>(static_cast<double>(end - begin) *
                                        static_cast<double>(took - waited) / static_cast<double>(took));
    stand_still(end, excess);
    if (const unsigned w = gate_.when.of(end); w < windows::count) ++out_.preempted[w];
    return true;
  }

  void stand_still(u64 now, u64 how_long) {
    due_ += static_cast<double>(how_long);
    if (const unsigned w = gate_.when.of(now); w < windows::count) out_.stolen[w] += how_long;
  }

  // What this walker's CPU has waited for locks so far.
  u64 waited_ns() const {
    u64 n = 0;
    for (const lock_counts& l : self_.led.locks) n += l.wait_ns.get();
    return n;
  }

  // Waits for the others; false where there is nothing to wait for any more, since the round is over.
  bool meet(const step& s) {
    const atomic<u32>& posts = on_.points[s.addr].posts;
    const u32 wanted = met_[s.addr] += static_cast<u32>(s.length);
    for (u32 n = 0;; ++n) {
      const u32 seen = posts.load(acquire);
      if (seen - wanted <= ~u32{0} / 2) break;  // counts wrap
      if (n < spins) {
        cpu_relax();
        continue;
      }
      if (stopped() || (warm_ && ticks() >= gate_.when.end[windows::loaded])) return false;
      park(posts, seen, meet_again_ns);
    }
    preemptions_ = usage_now().involuntary;
    return true;
  }

  // False at the end.
  bool off_clock(const step& s) {
    const u64 before = ticks();
    if (s.op != step_op::meet)
      attempt(s);
    else if (!meet(s))
      return false;
    last_ = ticks();
    const u64 took = last_ - before;
    due_ += static_cast<double>(took);
    if (const unsigned w = gate_.when.of(before); w < windows::count) out_.off_clock[w] += took;
    return true;
  }

  u64 next_due() {
    if (!open_) return ticks();
    due_ += mean_gap_ * static_cast<double>(c_.gaps[gap_]);
    if (++gap_ == c_.gaps.size()) gap_ = 0;
    return static_cast<u64>(due_);
  }

  // Returns for how long the schedule stood still meanwhile, in ticks.
  u64 wait_until(u64 due) {
    u64 stolen = 0;
    for (u32 n = 1;; ++n) {
      const u64 now = ticks();
      if (now - last_ > long_) stolen += now - last_;
      last_ = now;
      if (now >= due + stolen || (n % 4096 == 0 && stopped())) break;
      if (c_.crowded && n % 64 == 0) {
        yield();
      } else {
        cpu_relax();
      }
    }
    if (stolen != 0) {
      stand_still(last_, stolen);
      preemptions_ = usage_now().involuntary;
    }
    return stolen;
  }

  u32 attempt(const step& s) {
    try {
      return perform(self_, on_, s);
    } catch (const segmentation_fault&) {
    } catch (const bus_error&) {
    } catch (const os_error&) {}
    ++out_.refused[static_cast<unsigned>(s.op)];
    return 0;
  }

  void record(const step& s, u64 due, u64 begin, u64 end, u32 faults) {
    const unsigned w = gate_.when.of(due);
    if (w == windows::count) return;
    ++out_.steps[w];
    out_.faults[w] += faults;
    if (out_.taken == out_.samples.size()) {
      ++out_.dropped;
      return;
    }
    sample& x = out_.samples[out_.taken++];
    x.due = due;
    x.latency = end - due;
    x.own = static_cast<u32>(std::min<u64>(end - begin, ~u32{0}));
    x.kind = s.kind;
    x.window = static_cast<u8>(w);
    x.faults = static_cast<u8>(std::min(faults, 255U));
    x.write = s.op == step_op::touch_write;
  }

  // Notes what the operating system counts as a window begins and ends.
  void watch(u64 due) {
    const windows& when = gate_.when;
    const unsigned now = edge_ / 2;
    if (now == windows::count || due < (edge_ % 2 == 0 ? when.begin[now] : when.end[now])) return;
    const thread_usage u = usage_now();
    if (edge_ % 2 == 0) {
      began_ = u;
    } else {
      out_.usage[now] = difference(u, began_);
    }
    ++edge_;
    watch(due);
  }

  bool stopped() const { return gate_.stop.load(relaxed) != 0; }

  cpu& self_;
  const stage& on_;
  const walker_config& c_;
  start_gate& gate_;
  walker_result& out_;
  const bool open_;
  std::vector<u32> met_;  // posts of each meeting point that were waited for
  bool warm_ = false;
  double mean_gap_ = 0;  // ticks
  u64 long_ = ~u64{0};   // ticks
  u64 last_ = 0;         // the last look at the clock
  i64 preemptions_ = 0;  // involuntary context switches so far
  double due_ = 0;       // ticks
  std::size_t at_ = 0, gap_ = 0;
  unsigned edge_ = 0;  // begins and ends of windows that were passed
  thread_usage began_;
};

}  // namespace

void run_walker(machine& m, const stage& on, const walker_config& c, start_gate& gate, walker_result& out) {
  take_part(m, gate, "pgtbl-walker", out.cpu, out.error, [&](cpu& self) {
    out.samples.resize(c.max_samples);
    auto work = std::make_unique<paced_walk>(self, on, c, gate, out);
    work->warm_up();
    return work;
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
