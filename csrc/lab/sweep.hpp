// sweep.hpp -- a program that touches page after page, and lives through what would kill it.
#pragma once
#include "mm/access.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class sweep_kind : u8 {
  load,   // the first word of each page
  store,  // the first word of each page becomes a value
  fill,   // all words do
};

struct sweep_order {
  va_t start = 0;
  u64 pages = 0;   // how many are touched
  u64 stride = 1;  // pages from one to the next
  sweep_kind kind = sweep_kind::load;
  u64 value = 0;  // stored to the first page; each next one's is `step` more
  u64 step = 0;
};

struct sweep_result {
  u64 done = 0;    // accesses that succeeded
  u64 faults = 0;  // page faults that were served
  u64 segv = 0, bus = 0;
  i64 first_failed = -1;  // which access failed first
  u64 sum = 0;            // over the words loaded, in order: sum * 1099511628211 + word
};

/// A fatal fault (segmentation_fault, bus_error) skips that access.  out_of_memory is thrown.
sweep_result sweep(cpu& self, mm& m, const sweep_order& o);

}  // namespace pgtbl::inline PGTBL_WORLD
