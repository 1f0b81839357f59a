// tell.hpp -- what traces say of a context: which locks its thread holds.
#pragma once
#include <string>

#include "base/context.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

/// "mmap_lock.read, folio_lock x4, ptl", in the order in which they were taken.
inline std::string locks_of(const context& c) {
  u32 times[lock_class_count] = {};
  const u32 n = c.held_count < std::size(c.held) ? c.held_count : static_cast<u32>(std::size(c.held));
  for (u32 i = 0; i < n; ++i) times[static_cast<unsigned>(c.held[i].cls)] += c.held[i].times;
  std::string s;
  for (u32 i = 0; i < n; ++i) {
    const auto cls = static_cast<unsigned>(c.held[i].cls);
    if (times[cls] == 0) continue;
    if (!s.empty()) s += ", ";
    s += lock_class_names[cls];
    if (times[cls] > 1) s += " x" + std::to_string(times[cls]);
    times[cls] = 0;
  }
  return s;
}
inline void add_held(std::string& s, const char* what) { s += s.empty() ? what : std::string(", ") + what; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
