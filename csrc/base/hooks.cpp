#include "base/hooks.hpp"

#include <algorithm>
#include <string>

#include "base/breach.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace checked {

namespace {

constexpr unsigned unranked = 0;
constexpr unsigned slots = std::extent_v<decltype(context::held)>;
// A collapse of a file holds the lock of every small page of the extent.  Beyond this many entries they
// share one, without a name, so that there is always room for the locks that matter.
constexpr unsigned named_folios = 16;

constexpr unsigned rank(lock_class c) {
  switch (c) {
    case lock_class::mmap_read:
    case lock_class::mmap_write: return 1;
    case lock_class::vma_read: return 2;
    case lock_class::folio: return 3;
    case lock_class::vma_write: return 4;
    case lock_class::i_mmap_read:
    case lock_class::i_mmap_write: return 5;
    case lock_class::anon_vma_read:
    case lock_class::anon_vma_write: return 6;
    case lock_class::pml: return 7;
    case lock_class::ptl: return 8;
    case lock_class::page_cache: return 9;
    case lock_class::rcu: return 10;
    case lock_class::allocator: return 11;
    case lock_class::other:
    case lock_class::other_read:
    case lock_class::other_write: return unranked;
  }
  return unranked;
}

constexpr bool spins(lock_class c) { return rank(c) >= rank(lock_class::pml); }

const char* name(lock_class c) { return lock_class_names[static_cast<unsigned>(c)]; }

u32 recorded(const context& self) { return std::min<u32>(self.held_count, slots); }

u32 held_of(const context& self, lock_class c) {
  u32 n = 0;
  for (u32 i = 0; i < recorded(self); ++i)
    if (self.held[i].cls == c) n += self.held[i].times;
  return n;
}

// May a thread that holds `h` wait for a lock of class c?  `nested` is how many of c it holds.
bool may_wait(lock_class h, lock_class c, u32 nested) {
  const unsigned above = rank(h), below = rank(c);
  if (above == unranked || below == unranked) return true;
  if (h == lock_class::vma_read && c == lock_class::vma_write) return false;  // would wait for itself
  if (above != below) return above < below;
  if (h != c) return false;  // the two modes of one lock class
  return nested == 1 && (c == lock_class::ptl || c == lock_class::pml || c == lock_class::mmap_write);
}

std::string held_text(const context& self) {
  std::string s;
  for (u32 i = 0; i < recorded(self); ++i) {
    if (i != 0) s += ", ";
    s += name(self.held[i].cls);
    if (self.held[i].times > 1) s += " x" + std::to_string(self.held[i].times);
  }
  return s;
}

std::string who(const context& self) {
  return "context " + std::to_string(self.id) + " (thread " + std::to_string(self.tid.load(relaxed)) + ")";
}

}  // namespace

void locking(context& self, const void* lock, lock_class c) {
  const u32 nested = held_of(self, c);
  const bool mmap_lock = c == lock_class::mmap_read || c == lock_class::mmap_write;
  if ((mmap_lock || (c == lock_class::vma_write && !self.marks_under_folio)) &&
      held_of(self, lock_class::folio) != 0) {
    breach(self, "G-36", who(self) + " waits for " + name(c) + " while it holds " + held_text(self));
    return;
  }
  for (u32 i = 0; i < recorded(self); ++i) {
    const held_lock& h = self.held[i];
    if (h.lock == lock) {
      breach(self, "G-31", who(self) + " waits for a " + name(c) + " that it holds already");
      return;
    }
    if (may_wait(h.cls, c, nested)) continue;
    breach(self, "G-31",
           who(self) + " waits for " + name(c) + " while it holds " + held_text(self) +
               ": the lock order puts " + name(c) +
               (h.cls == c ? " beside itself only by trying" : std::string(" before ") + name(h.cls)));
    return;
  }
}

void locked(context& self, const void* lock, lock_class c) {
  if (c == lock_class::folio && held_of(self, c) >= named_folios) {
    for (u32 i = 0; i < recorded(self); ++i) {
      held_lock& h = self.held[i];
      if (h.cls == c && h.lock == nullptr) {
        ++h.times;
        return;
      }
    }
    lock = nullptr;
  }
  if (self.held_count < slots) self.held[self.held_count] = {lock, c, 1};
  ++self.held_count;
}

void unlocked(context& self, const void* lock) {
  held_lock* unnamed = nullptr;
  for (u32 i = recorded(self); i-- != 0;) {
    held_lock& h = self.held[i];
    if (h.lock == nullptr) unnamed = &h;
    if (h.lock != lock) continue;
    std::copy(&h + 1, self.held + recorded(self), &h);
    --self.held_count;
    return;
  }
  if (unnamed != nullptr) {
    if (--unnamed->times != 0) return;
    std::copy(unnamed + 1, self.held + recorded(self), unnamed);
    --self.held_count;
  } else if (self.held_count > slots) {
    --self.held_count;
  } else {
    breach(self, "G-31", who(self) + " gives back a lock that it does not hold");
  }
}

void sleeping(context& self, const char* what) {
  if (self.mapped_depth != 0)
    breach(self, "G-32", who(self) + " may sleep (" + what + ") while it has a page table mapped");
  for (u32 i = 0; i < recorded(self); ++i) {
    if (!spins(self.held[i].cls)) continue;
    breach(self, "G-32", who(self) + " may sleep (" + what + ") while it holds " + held_text(self));
    return;
  }
}

void sleeping_irqs_off(context& self, const char* what) {
  breach(self, "G-32", who(self) + " may sleep (" + what + ") with interrupts off");
}

bool holds(const context& self, const void* lock) {
  for (u32 i = 0; i < recorded(self); ++i)
    if (self.held[i].lock == lock) return true;
  return false;
}

bool holds_class(const context& self, lock_class c) { return held_of(self, c) != 0; }

}  // namespace checked
}  // namespace pgtbl::inline PGTBL_WORLD
