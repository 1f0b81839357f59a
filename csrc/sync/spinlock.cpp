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

void spinlock::lock_slow(context& self, lock_class c) {
  const u64 start = now_ns();
  // A dead lock is reported and entered all the same: the thread must get on, to raise at its next call.
  if (!word_.take_slow()) used_when_dead(self, c, "waited for it or came to it");
  self.led.waited(c, now_ns() - start);
}

void spinlock::died_while_held(context& self, lock_class c) { used_when_dead(self, c, "held it"); }

}  // namespace pgtbl::inline PGTBL_WORLD
