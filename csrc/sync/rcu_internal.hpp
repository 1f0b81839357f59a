// rcu_internal.hpp -- what the three files of an RCU domain share.
#pragma once
#include "sync/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

constexpr u64 least(u64 a, u64 b) { return a < b ? a : b; }

/// Holds lock_ for a scope.
class rcu_domain::locked {
 public:
  explicit locked(const rcu_domain& d) : lock_(d.lock_) { take(); }
  locked(const locked&) = delete;
  locked& operator=(const locked&) = delete;
  ~locked() { lock_.give(); }

  template <class F>
  void without(F&& f) {
    lock_.give();
    f();
    take();
  }

 private:
  void take() {
    if (!lock_.take()) lock_.take_slow();
  }
  lock_word& lock_;
};

/// First pauses, then yields, then sleeps.  It yields for about 60 us (100 us in a hurry), longer than most
/// sections last, since the shortest sleep takes as long.
class rcu_domain::back_off {
 public:
  back_off(const rcu_domain& d, rcu_gp_kind kind) : domain_(d), expedited_(kind == rcu_gp_kind::expedited) {}

  void operator()(u64 n) {
    const bool hurry = expedited_ || domain_.hurry_.load(relaxed) != 0;
    if (n < pauses) {
      cpu_relax();
    } else if (n < pauses + (hurry ? 256 : 160)) {
      yield();
    } else {
      sleep_ns(hurry ? shortest_ns : sleep_ns_);
      sleep_ns_ = least(sleep_ns_ * 2, 1'000'000);
    }
  }
  static constexpr u64 pauses = 128;

 private:
  static constexpr u64 shortest_ns = 20'000;
  const rcu_domain& domain_;
  bool expedited_;
  u64 sleep_ns_ = shortest_ns;
};

/// gp_seq only grows, and will not wrap around.
inline bool rcu_domain::passed(u64 cookie) const { return gp_seq_.load(acquire) >= cookie; }

}  // namespace pgtbl::inline PGTBL_WORLD
