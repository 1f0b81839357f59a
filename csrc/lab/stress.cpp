#include "lab/stress.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "check/check.hpp"
#include "lab/stress_run.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace stress_stage {

namespace {

void check(const stress_options& o) {
  if (o.mms == 0 || o.mms > 64) throw value_error("mms " + std::to_string(o.mms) + ": 1 to 64 are allowed");
  if (o.extents == 0 || o.extents > 256)
    throw value_error("extents " + std::to_string(o.extents) + ": 1 to 256 are allowed");
  u64 n = 0;
  for (u32 t : o.threads) n += t;
  if (n == 0 || n >= o.machine.cpus)
    throw value_error(std::to_string(n) + " threads: 1 to " + std::to_string(o.machine.cpus - 1) +
                      " are allowed on a machine of " + std::to_string(o.machine.cpus) + " CPUs");
  if (o.threads[static_cast<unsigned>(stress_role::truncator)] > 1)
    throw value_error("one truncator at most: it must know every stamp of its file");
  validate(o.machine.rules);
}

}  // namespace

stress_run::stress_run(const stress_options& o) : o_(o) {
  check(o);
  machine_ = make<machine>(o.machine);
  main_ = machine_->cpu_get();
}

// ---------------------------------------------------------------- set-up

void stress_run::set_up() {
  const u64 extents = o_.extents + threads(stress_role::puncher);
  file_ = machine_->new_mapping(*main_, extents * pmd_size);
  tail_ = machine_->new_mapping(*main_, 2 * pmd_size + tail_bytes);
  cells_ = std::make_unique<cell[]>(std::max<u32>(threads(stress_role::writer), 1) * cells());
  for (u32 i = 0; i < o_.mms; ++i) {
    mm* m = machine_->new_mm(*main_, i % 2 != 0 && machine_->has_pgste());
    mms_.push_back(m);
    mmap_args a;
    a.file = file_;
    const auto add = [&](u64 bytes, u64 offset, bool aligned) {
      a.length = bytes, a.offset = offset;
      if (aligned) aligned_.push_back(views_.size());
      views_.push_back({m, sys_mmap(*main_, *m, a), offset >> page_shift, bytes >> page_shift, aligned});
    };
    add(extents * pmd_size, 0, true);
    if (i % 3 == 1) add(extents * pmd_size - page_size, page_size, false);  // misaligned
    if (i % 3 == 2) add(pmd_size - pmd_size / 4, 0, false);                 // too short
    if (i % 3 == 0) add(extents * pmd_size, 0, true);                       // twice in one mm
    a.shared = false;
    a.length = extents * pmd_size, a.offset = 0;
    private_views_.push_back({m, sys_mmap(*main_, *m, a), 0, extents * pages_per_huge, true});
    a.shared = true;
    a.file = tail_;
    a.length = tail_->size.load(relaxed);
    tail_views_.push_back({m, sys_mmap(*main_, *m, a), 0, a.length >> page_shift, true});
  }
  private_words_.assign(threads(stress_role::writer), std::vector<u64>(o_.mms * cells(), 0));
}

// ---------------------------------------------------------------- running

void stress_run::turn(stress_actor& a) {
  try {
    switch (a.role) {
      case stress_role::writer: return write_turn(a);
      case stress_role::reader: return read_turn(a);
      case stress_role::collapser: return collapse_turn(a);
      case stress_role::khugepaged: return khugepaged_turn(a);
      case stress_role::puncher: return punch_turn(a);
      case stress_role::mapper: return map_turn(a);
      case stress_role::truncator: return truncate_turn(a);
      case stress_role::program: return program_turn(a);
    }
  } catch (const out_of_memory&) {
    a.count(stress_op::no_memory);
  } catch (const os_error& e) {
    if (e.code != ENOMEM) throw;
    a.count(stress_op::no_memory);
  }
}

void stress_run::body(stress_actor& a) {
  name_thread(stress_role_names[static_cast<unsigned>(a.role)]);
  a.self = machine_->cpu_get();
  try {
    if (a.self == nullptr) throw usage_error("no CPU of the machine is left");
    while (!over()) turn(a);
  } catch (const std::exception& e) {
    a.errors.push_back(std::string(stress_role_names[static_cast<unsigned>(a.role)]) + ": " + e.what());
    stop_.store(1, relaxed);
  }
  if (a.self != nullptr) machine_->cpu_put(a.self);
}

stress_result stress_run::run() {
  stress_result r;
  set_up();
  u64 stream = 0;
  for (unsigned role = 0; role < stress_roles; ++role)
    for (u32 i = 0; i < o_.threads[role]; ++i)
      actors_.push_back(std::make_unique<stress_actor>(static_cast<stress_role>(role), i, o_.seed, stream++));
  const u64 start = now_ns();
  for (auto& a : actors_) a->runner = thread([this, &a] { body(*a); });
  while (!over()) {
    sleep_ns(o_.ns < 200'000'000 ? 2'000'000 : 20'000'000);
    u64 total = 0;
    for (auto& a : actors_) total += a->total.get();
    if (o_.interrupted && o_.interrupted()) r.interrupted = true;
    if (r.interrupted || total >= o_.ops || now_ns() - start >= o_.ns || machine_->breaches.any())
      stop_.store(1, relaxed);
  }
  for (auto& a : actors_) a->runner.join();
  r.seconds = static_cast<double>(now_ns() - start) / 1e9;
  finish(r);
  return r;
}

void stress_run::finish(stress_result& r) {
  for (auto& a : actors_) {
    for (unsigned i = 0; i < stress_ops; ++i) r.done[i] += a->done[i].get();
    r.total += a->total.get();
    r.lost.insert(r.lost.end(), a->lost.begin(), a->lost.end());
    r.errors.insert(r.errors.end(), a->errors.begin(), a->errors.end());
  }
  if (machine_->breaches.any()) r.breaches.push_back(machine_->breaches.text());
  if (!r.clean()) return;
  // At rest the last stamp of every cell is in the file, exactly.
  stress_actor last(stress_role::reader, 0, o_.seed, ~0ULL);
  last.self = main_;
  for (u32 w = 0; w < threads(stress_role::writer); ++w)
    for (u64 c = 0; c < cells(); ++c) look(last, w, c, nullptr);
  r.lost = std::move(last.lost);
  for (const std::string& s : check_machine(*main_, *machine_)) r.breaches.push_back(s);
  if (!r.clean() || !o_.exit_checks) return;
  close_all();
  for (const std::string& s : check_machine(*main_, *machine_)) r.breaches.push_back("after the exit: " + s);
  if (r.clean()) {
    machine_->cpu_put(main_);
    destroy(machine_);
  }
}

void stress_run::close_all() {
  for (mm* m : mms_) machine_->close_mm(*main_, m);
  mapping_put(*main_, *file_);
  mapping_put(*main_, *tail_);
}

}  // namespace stress_stage

#if defined(PGTBL_WORLD_TORTURE)
namespace {
struct jitter_for_a_scope {
  explicit jitter_for_a_scope(u32 one_in) { points_set_jitter(one_in); }
  ~jitter_for_a_scope() { points_set_jitter(0); }
  jitter_for_a_scope(const jitter_for_a_scope&) = delete;
  jitter_for_a_scope& operator=(const jitter_for_a_scope&) = delete;
};
}  // namespace
#endif

stress_result run_stress(const stress_options& o) {
#if defined(PGTBL_WORLD_TORTURE)
  const jitter_for_a_scope jitter(o.jitter);
#endif
  return stress_stage::stress_run(o).run();
}

}  // namespace pgtbl::inline PGTBL_WORLD
