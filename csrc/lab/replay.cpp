#include "lab/replay.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>

#include "base/errors.hpp"
#include "check/check.hpp"
#include "khugepaged/khugepaged.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 replay_look_ns = 1'000'000;
constexpr u64 between_passes_ns = 1'000'000;

/// An address space of the recording, and how far it got.
struct alignas(128) replayed_space {
  atomic<mm*> core{nullptr};
  atomic<u32> changes{0};  // done; written by who did one
  atomic<u32> steps{0};
};

bool is_touch(replay_op op) { return op <= replay_op::touch_exec; }

/// Thrown to leave a thread when another one failed, or the caller wants an end.
struct stopped {};

class replay {
 public:
  explicit replay(const replay_config& c)
      : c_(c), machine_(c.machine), spaces_(std::make_unique<replayed_space[]>(c.spaces)) {
    self_ = machine_.cpu_get();
    for (u64 bytes : c.file_bytes) files_.push_back(machine_.new_mapping(*self_, bytes));
    result_.samples.resize(c.threads.size());
    errors_.resize(c.threads.size() + c.collapsers);
  }
  ~replay() {
    for (u32 i = 0; i < c_.spaces; ++i)
      if (mm* m = spaces_[i].core.load(relaxed)) machine_.close_mm(*self_, m);
    for (mapping* f : files_) mapping_put(*self_, *f);
    machine_.cpu_put(self_);
  }
  replay(const replay&) = delete;
  replay& operator=(const replay&) = delete;

  replay_result run() {
    const u64 start = now_ns();
    std::vector<thread> threads, collapsers;
    for (std::size_t i = 0; i < c_.threads.size(); ++i)
      threads.emplace_back([this, i] { guarded(i, [this, i](cpu& self) { perform_all(self, i); }); });
    for (u32 k = 0; k < c_.collapsers; ++k)
      collapsers.emplace_back(
          [this, k] { guarded(c_.threads.size() + k, [this](cpu& self) { collapse_until_done(self); }); });
    watch();
    for (thread& t : threads) t.join();
    result_.wall_ns = now_ns() - start;
    stop_.store(1, release);
    for (thread& t : collapsers) t.join();
    for (const std::exception_ptr& e : errors_)
      if (e) std::rethrow_exception(e);
    machine_.each_count([this](const auto& name, u64 n) { result_.ledger.emplace_back(name, n); });
    if (!result_.interrupted) check();
    return std::move(result_);
  }

 private:
  template <class F>
  void guarded(std::size_t i, F&& f) {
    cpu* self = machine_.cpu_get();
    try {
      f(*self);
    } catch (const stopped&) {
    } catch (...) {
      errors_[i] = std::current_exception();
      stop_.store(1, release);
    }
    machine_.cpu_put(self);
    if (i < c_.threads.size()) ended_.fetch_add(1, release);
  }

  void watch() {
    while (ended_.load(acquire) < c_.threads.size()) {
      sleep_ns(replay_look_ns);
      if (stop_.load(relaxed) != 0 || !c_.interrupted || !c_.interrupted()) continue;
      result_.interrupted = true;
      stop_.store(1, release);
    }
  }

  // ---- the recorded threads

  void perform_all(cpu& self, std::size_t i) {
    std::vector<replay_sample>& samples = result_.samples[i];
    samples.reserve(c_.threads[i].size());
    for (const replay_step& s : c_.threads[i]) {
      replayed_space& space = spaces_[s.space];
      wait_for(space.changes, s.changes);
      if (!is_touch(s.op)) wait_for(space.steps, s.steps);
      const u64 begin = ticks();
      replay_sample x{0, s.kind, 0, 0};
      attempt(self, s, x);
      x.own_ns = static_cast<u32>(std::min<u64>(ticks_to_ns(ticks() - begin), ~u32{0}));
      if ((s.flags & replay_unasked) == 0) samples.push_back(x);
      if (s.op == replay_op::fork) spaces_[s.other].changes.fetch_add(1, release);
      if (!is_touch(s.op)) space.changes.fetch_add(1, release);
      space.steps.fetch_add(1, release);
    }
  }

  void wait_for(const atomic<u32>& done, u32 wanted) {
    await_with(
        done,
        [this, wanted](u32 n) {
          if (n >= wanted) return true;
          if (stop_.load(relaxed) != 0) throw stopped();
          return false;
        },
        acquire,
        [](u64 n) {
          if (n < 64) {
            cpu_relax();
          } else if (n < 256) {
            yield();
          } else {
            sleep_ns(20'000);
          }
        });
  }

  void attempt(cpu& self, const replay_step& s, replay_sample& x) {
    if (stop_.load(relaxed) != 0) throw stopped();
    try {
      x.faults = static_cast<u8>(std::min(perform(self, s), 255U));
    } catch (const segmentation_fault&) {
      x.refused = 1;
    } catch (const bus_error&) {
      x.refused = 1;
    } catch (const os_error&) {
      x.refused = 1;
    }
  }

  u32 perform(cpu& self, const replay_step& s) {
    replayed_space& space = spaces_[s.space];
    if (s.op == replay_op::begin) {
      space.core.store(machine_.new_mm(self), release);
      return 0;
    }
    mm* const core = space.core.load(acquire);
    if (core == nullptr) throw os_error(ESRCH, "the address space has ended");
    mm& m = *core;
    switch (s.op) {
      case replay_op::touch_read: return mm_touch(self, m, s.addr, access::read);
      case replay_op::touch_write: return mm_touch(self, m, s.addr, access::write);
      case replay_op::touch_exec: return mm_touch(self, m, s.addr, access::exec);
      case replay_op::fork: spaces_[s.other].core.store(sys_fork(self, m), release); return 0;
      case replay_op::end: end_space(self, s.space, m); return 0;
      case replay_op::map_anon: map_at(self, m, s, nullptr); return 0;
      case replay_op::map_file: map_at(self, m, s, files_[s.file]); return 0;
      case replay_op::unmap: sys_munmap(self, m, s.addr, s.length); return 0;
      case replay_op::protect: sys_mprotect(self, m, s.addr, s.length, bits_of(s.prot)); return 0;
      case replay_op::remap: remap(self, m, s); return 0;
      case replay_op::advise: sys_madvise(self, m, s.addr, s.length, s.advice); return 0;
      case replay_op::begin: break;
    }
    return 0;
  }

  static prot_bits bits_of(u8 prot) { return {(prot & 1) != 0, (prot & 2) != 0, (prot & 4) != 0}; }

  static void map_at(cpu& self, mm& m, const replay_step& s, mapping* file) {
    mmap_args a;
    a.file = file;
    a.length = s.length;
    a.offset = file != nullptr ? s.offset : 0;
    a.addr = s.addr;
    a.prot = bits_of(s.prot);
    a.shared = (s.flags & replay_shared) != 0;
    a.noreserve = (s.flags & replay_noreserve) != 0;
    a.fixed = true;
    sys_mmap(self, m, a);
  }

  static void remap(cpu& self, mm& m, const replay_step& s) {
    mremap_args a;
    a.addr = s.addr;
    a.old_length = s.length;
    a.new_length = s.offset;
    a.new_addr = s.to;
    a.flags = s.to == s.addr ? 0 : mremap_maymove | mremap_fixed;
    sys_mremap(self, m, a);
  }

  /// Notes what is mapped, and ends the program.
  void end_space(cpu& self, u32 number, mm& m) {
    {
      const mmap_read_guard lock(self, m);
      const spin_guard g(self, areas_lock_, lock_class::other);
      m.vmas.for_each(0, task_size, [&](const vma_entry& e) {
        const vma& v = *e.vma;
        u32 file = ~0U;
        for (u32 i = 0; i < files_.size(); ++i)
          if (files_[i] == v.file) file = i;
        result_.areas.push_back(
            {number, e.start, e.end, v.flags(), v.file != nullptr ? u64{v.pgoff} << page_shift : 0, file});
      });
    }
    spaces_[number].core.store(nullptr, release);
    machine_.close_mm(self, &m);
  }

  // ---- collapsers

  void collapse_until_done(cpu& self) {
    khugepaged daemon(machine_);
    daemon.max_ptes_none.store(c_.max_ptes_none, relaxed);
    daemon.everywhere.store(1, relaxed);
    u64 collapsed = 0;
    std::vector<u64> passes;
    while (stop_.load(acquire) == 0) {
      const u64 begin = ticks();
      collapsed += daemon.scan_once(self);
      passes.push_back(ticks_to_ns(ticks() - begin));
      sleep_ns(between_passes_ns);
    }
    const spin_guard g(self, areas_lock_, lock_class::other);
    result_.collapsed += collapsed;
    result_.passes_ns.insert(result_.passes_ns.end(), passes.begin(), passes.end());
  }

  void check() {
    std::string text;
    for (const std::string& found : check_machine(*self_, machine_))
      text += (text.empty() ? "" : "\n") + found;
    if (!text.empty())
      throw invariant_error("after the replay under " + std::string(machine_.config.rules.name) + ": " +
                            text);
  }

  const replay_config& c_;
  machine machine_;
  cpu* self_;
  std::vector<mapping*> files_;
  const std::unique_ptr<replayed_space[]> spaces_;
  atomic<u32> stop_{0};   // leave as soon as possible
  atomic<u32> ended_{0};  // recorded threads
  std::vector<std::exception_ptr> errors_;
  spinlock areas_lock_;  // result_.areas and what the collapsers report
  replay_result result_;
};

[[noreturn]] void refuse(std::size_t thread, std::size_t step, const std::string& why) {
  throw value_error("thread " + std::to_string(thread) + ", step " + std::to_string(step) + ": " + why);
}

/// Names what is there, and waits for no more than the threads do: else it would never end.
void check_steps(const replay_config& c) {
  std::vector<u64> changes(c.spaces), steps(c.spaces);
  for (std::size_t t = 0; t < c.threads.size(); ++t) {
    for (std::size_t i = 0; i < c.threads[t].size(); ++i) {
      const replay_step& s = c.threads[t][i];
      if (static_cast<unsigned>(s.op) >= replay_ops) refuse(t, i, "unknown operation");
      if (s.space >= c.spaces || (s.op == replay_op::fork && s.other >= c.spaces))
        refuse(t, i, "there is no such address space");
      if (s.op == replay_op::map_file && s.file >= c.file_bytes.size()) refuse(t, i, "there is no such file");
      ++steps[s.space];
      if (!is_touch(s.op)) ++changes[s.space];
      if (s.op == replay_op::fork) ++changes[s.other];
    }
  }
  for (std::size_t t = 0; t < c.threads.size(); ++t)
    for (std::size_t i = 0; i < c.threads[t].size(); ++i) {
      const replay_step& s = c.threads[t][i];
      if (s.changes > changes[s.space] || s.steps > steps[s.space])
        refuse(t, i, "it waits for more than ever happens");
      if (s.op != replay_op::begin && s.changes == 0) refuse(t, i, "its address space is not there yet");
    }
}

}  // namespace

replay_result run_replay(const replay_config& c) {
  if (c.threads.empty()) throw value_error("a replay needs one thread at least");
  check_steps(c);
  return replay(c).run();
}

}  // namespace pgtbl::inline PGTBL_WORLD
