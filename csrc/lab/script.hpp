// script.hpp -- what a walker does, as data: a list of steps that is repeated for ever.
//
// A script comes from a recorded trace or from a generator (pgtbl/trace.py, pgtbl/workload.py), one array
// for each walker, the same for every era.  A step names an address space and a file by number; the round
// (race.hpp) knows which objects these are.
#pragma once
#include <memory>
#include <vector>

#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class step_op : u8 {
  touch_read,
  touch_write,
  touch_exec,
  map_anon,  // fixed, over whatever is there
  map_file,  // the same, of a file; shared or private by the step's flags
  unmap,
  protect,
  dontneed,
  populate,  // MADV_POPULATE_WRITE
  mincore,
  map_unmap,  // mmap and munmap of `length` bytes, never touched: at `addr`; of anonymous memory, or of a file
  post,       // one more at the meeting point `addr`
  meet,       // until `length` more posts than at the last time were made at the meeting point `addr`
};
inline constexpr unsigned step_ops = 13;
inline constexpr u16 no_file = 0xffff;

enum : u8 {
  step_off_clock = 1,  // done between two operations, while the schedule stands still
  step_shared = 2,     // map_file: stores reach the file
};
enum : u8 { step_prot_read = 1, step_prot_write = 2, step_prot_exec = 4 };

/// The layout is shared with NumPy (pgtbl/workload.py).
struct step {
  u64 addr;
  u64 length;  // bytes
  u64 offset;  // into the file
  u16 mm;
  u16 file;
  step_op op;
  u8 kind;  // under which the sample is filed; Python gives it its meaning
  u8 prot;
  u8 flags;
};
static_assert(sizeof(step) == 32);

using script = std::vector<step>;

/// Where walkers wait for each other: a count of posts, which grows and wraps.
struct alignas(64) meeting_point {
  atomic<u32> posts{0};
};

/// The objects that steps name by number.
struct stage {
  std::vector<mm*> mms;
  std::vector<mapping*> files;
  std::unique_ptr<meeting_point[]> points;
};

/// Throws value_error where a step names what is not on the stage, or an operation that is none.
void check_script(const script& s, std::size_t mms, std::size_t files, std::size_t points);

/// Performs one step; returns the number of faults that it took.  Throws what the operation throws.  Waiting for others
/// (meet) is the walker's own business (load.cpp): here it does nothing.
u32 perform(cpu& self, const stage& on, const step& s);

}  // namespace pgtbl::inline PGTBL_WORLD
