// wait_watch.hpp -- what a long wait is asked now and then: whether it is still wanted.
//
// Some waits last as long as another thread likes.  Who waits on behalf of a user gives it a watch, which is
// asked about every 50 ms, under no lock that others wait for, and may say no.  The wait then withdraws: it leaves
// nothing behind, and whoever queued after it does not notice.
#pragma once
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct wait_watch {
  static constexpr u64 ask_every_ns = 50'000'000;

  bool (*go_on)(void* arg);  // may run anything but what waits for this very wait
  void* arg;
  u64 ask_at = 0;      // 0: the wait has not been looked at yet
  bool spent = false;  // it has given up, and stays so

  /// False: give up.  Asks only where the time has come.
  static bool lasts(wait_watch* p) {
    if (p == nullptr) return true;
    if (p->spent || (p->ask_at != 0 && now_ns() < p->ask_at)) return !p->spent;
    if (p->ask_at != 0) p->spent = !p->go_on(p->arg);
    p->ask_at = now_ns() + ask_every_ns;
    return !p->spent;
  }
};

}  // namespace pgtbl::inline PGTBL_WORLD
