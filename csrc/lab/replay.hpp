// replay.hpp -- a recorded program, performed once: each recorded thread by a thread, each process by a mm.
//
// Order.  What the recording had in an order that matters stays in that order.  A step that changes an address
// space (a mapping call, fork, exec, exit) waits for every earlier step of that space, by whichever thread; a touch waits for
// the last change before it.  Touches between two changes run side by side, as they may.  A step says how many changes and how
// many steps of its space must be done; all waiting is for steps that were earlier in the recording, so it ends.
//
// Beside them, collapsers scan all address spaces as khugepaged does, one pass after the other, until the program has ended.
#pragma once
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class replay_op : u8 {
  touch_read,
  touch_write,
  touch_exec,
  begin,     // a new, empty address space
  fork,      // `other` becomes a copy of `space`
  end,       // the space is noted, and gone
  map_anon,  // fixed, over whatever is there
  map_file,
  unmap,
  protect,
  remap,  // from addr, length to `to`, `offset` bytes
  advise,
};
inline constexpr unsigned replay_ops = 12;

enum : u8 { replay_shared = 1, replay_noreserve = 2, replay_unasked = 4 };

/// The layout is shared with NumPy (pgtbl/_program.py).
struct replay_step {
  u64 addr;
  u64 length;   // bytes
  u64 offset;   // into the file; of a remap: the new length
  u64 to;       // of a remap: where it goes
  u32 changes;  // of its space that must be done before
  u32 steps;    // the same, of any kind; 0 where only the changes matter
  u16 space, other;
  u16 file;
  u16 advice;
  replay_op op;
  u8 kind;  // under which the sample is filed; Python gives it its meaning
  u8 prot;  // 1 read, 2 write, 4 exec
  u8 flags;
  u32 spare;
};
static_assert(sizeof(replay_step) == 56);

struct replay_config {
  machine_config machine;
  std::vector<u64> file_bytes;
  u32 spaces = 0;
  std::vector<std::vector<replay_step>> threads;
  u32 collapsers = 0;
  u32 max_ptes_none = static_cast<u32>(pages_per_huge) - 1;
  std::function<bool()> interrupted;  // asked now and then
};

struct replay_sample {
  u32 own_ns = 0;
  u8 kind = 0;
  u8 faults = 0;  // 255: that many or more
  u8 refused = 0;
};

/// A mapping as it was when its space ended.
struct replay_area {
  u32 space;
  u64 start, end;
  u64 flags;
  u64 offset;  // bytes
  u32 file;    // ~0: anonymous memory
};

struct replay_result {
  std::vector<std::vector<replay_sample>> samples;  // of each thread
  std::vector<replay_area> areas;                   // of every space that ended, upwards
  std::vector<std::pair<std::string, u64>> ledger;
  std::vector<u64> passes_ns;  // how long each pass of a collapser took
  u64 collapsed = 0;           // extents
  u64 wall_ns = 0;
  bool interrupted = false;
};

/// Throws what the program's memory management throws beyond refusals (out_of_memory), invariant_error where the
/// machine is not in order at the end, value_error for steps that name what is not there.
replay_result run_replay(const replay_config& c);

}  // namespace pgtbl::inline PGTBL_WORLD
