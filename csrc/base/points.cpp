#include "base/points.hpp"

#if defined(PGTBL_WORLD_TORTURE)
#include "base/context.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
// Test machinery, not protocol: a place of rest per point, guarded by nothing but its atomics.
struct resting_place {
  atomic<u32> skip{0};      // arrivals to let pass
  atomic<u32> arrivals{0};  // threads still to be stopped
  atomic<u32> waiting{0};   // threads that stand here
  atomic<u32> release_seq{0};
};
resting_place places[point_count];
resting_place& at(point p) { return places[static_cast<unsigned>(p)]; }

bool take_one(atomic<u32>& n) {
  u32 v = n.load(relaxed);
  while (v != 0)
    if (n.compare_exchange_weak(v, v - 1, acq_rel)) return true;
  return false;
}
}  // namespace

void points_set_jitter(u32 one_in) { points_jitter.set(one_in); }

void pause_slow(context& self, point p) {
  if (const u64 one_in = points_jitter.get(); one_in != 0) {
    // Any number will do that differs from visit to visit.
    const u64 x = (ticks() ^ self.id) * 0x9e3779b97f4a7c15 >> 32;
    if (x % one_in == 0) x / one_in % 4 != 0 ? yield() : sleep_ns(x / one_in % 64 * 1000);
  }
  if ((points_armed[static_cast<unsigned>(p) / 64].get() >> static_cast<unsigned>(p) % 64 & 1) == 0) return;
  resting_place& r = at(p);
  const u32 seq = r.release_seq.load(acquire);
  if (take_one(r.skip) || !take_one(r.arrivals)) return;
  r.waiting.fetch_add(1, acq_rel);
  while (r.release_seq.load(acquire) == seq) park(r.release_seq, seq, 1'000'000);
  r.waiting.fetch_sub(1, acq_rel);
}

void point_arm(point p, u32 arrivals, u32 skip) {
  at(p).skip.store(skip, release);
  at(p).arrivals.store(arrivals, release);
  counter& armed = points_armed[static_cast<unsigned>(p) / 64];
  armed.set(armed.get() | 1ULL << static_cast<unsigned>(p) % 64);
}

bool point_wait(point p, u64 timeout_ns) {
  const u64 end = now_ns() + timeout_ns;
  while (at(p).waiting.load(acquire) == 0) {
    if (now_ns() > end) return false;
    sleep_ns(20'000);
  }
  return true;
}

void point_release(point p) {
  counter& armed = points_armed[static_cast<unsigned>(p) / 64];
  armed.set(armed.get() & ~(1ULL << static_cast<unsigned>(p) % 64));
  at(p).arrivals.store(0, release);
  at(p).skip.store(0, release);
  at(p).release_seq.fetch_add(1, acq_rel);
  unpark_all(at(p).release_seq);
}

void points_release_all() {
  for (unsigned i = 0; i < point_count; ++i) point_release(static_cast<point>(i));
}

u32 point_waiting(point p) { return at(p).waiting.load(acquire); }

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
