// tell.hpp -- what traces say of a context: which locks its thread holds; and what an execution says of its states.
#pragma once
#include <string>

#include "arch/states.hpp"
#include "base/context.hpp"
#include "explore/stage.hpp"

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
/// The changes of state of an execution, until it is judged.
class edge_log final : public state_watch {
 public:
  void changed(const char* operation, u32 from, u32 to) override {
    if (n_ < std::size(edges_)) edges_[n_++] = {operation, from, to};
  }
  void note(stage& s) const {
    for (u32 i = 0; i < n_; ++i)
      s.note_reached(std::string(edges_[i].operation) + "|" + std::to_string(edges_[i].from) + "|" +
                     std::to_string(edges_[i].to));
  }

 private:
  state_change edges_[200];
  u32 n_ = 0;
};

inline void add_held(std::string& s, const char* what) { s += s.empty() ? what : std::string(", ") + what; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
