#include "sync/spinlock.hpp"

#include <string>

namespace pgtbl::inline PGTBL_WORLD {

namespace {
void used_when_dead(context& self, lock_class c, const char* how) {
  breach(self, "G-3",
         std::string("a ") + lock_class_names[static_cast<unsigned>(c)] + " was destroyed while context " +
             std::to_string(self.id) + ' ' + how);
}
}  // namespace

/// False: p gave up.
bool spinlock::lock_slow(context& self, lock_class c, wait_watch* p) {
  const u64 start = now_ns();
  while (!word_.take_slow(p == nullptr ? lock_word::no_end : p->ask_at)) {
    if (p == nullptr || word_.peek() == lock_word::dead) {
      // Reported and entered all the same: the thread must get on, to raise at its next call.
      used_when_dead(self, c, "waited for it or came to it");
      break;
    }
    if (!wait_watch::lasts(p)) return false;
  }
  self.led.waited(c, now_ns() - start);
  return true;
}

void spinlock::died_while_held(context& self, lock_class c) { used_when_dead(self, c, "held it"); }

}  // namespace pgtbl::inline PGTBL_WORLD
