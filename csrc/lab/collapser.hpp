// collapser.hpp -- a thread that collapses extents of a shared file over and over.
//
// One turn of an extent:
//   prepare   (uncounted) punch the extent out of the file, write it again in small pages through one
//             program, and read them through all others: 512 small pages, mapped everywhere;
//   collapse  (timed) MADV_COLLAPSE through one program, or in every fourth lap by khugepaged;
//   look      (uncounted) every other program reads its pages again: where its table was taken away, one
//             fault maps the extent huge; where the table stayed, the pages of the huge page are mapped one by
//             one, as before 6.6;
//   install   (timed) in every second lap, MADV_COLLAPSE through each of the others: their part of the
//             work, if any is left.  In the other laps they rely on khugepaged.
// Turns have a pace, the same under every era: a kernel whose collapses are quicker must not be charged with
// more of them.
//
// A lap is one turn of each extent.  The programs take turns at being first, by laps.  After every few turns
// khugepaged visits each program (timed): before 6.6 it treats what was put off, if it can.
//
// Its ledger is the difference over the timed calls alone, of its own CPU's block: exact.
#pragma once
#include <exception>
#include <vector>

#include "lab/ledger_sum.hpp"
#include "lab/load.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class collapse_mode : u8 {
  collapse,
  copy,  // clears and copies as many bytes a turn, as often, in frames of its own: the load without a protocol
};

struct collapse_config {
  collapse_mode mode = collapse_mode::collapse;
  mapping* file = nullptr;
  va_t base = 0;             // where page 0 of the file stands in every program
  std::vector<mm*> mms;      // the programs that map it; the walkers' is the first
  std::vector<u32> extents;  // of the file, this thread's own
  u32 khugepaged_every = 0;  // turns between two visits; 0: none, and no collapses by it
  double rate = 0;           // turns a second at most; 0: one after the other
  u64 max_records = 0;
};

enum class collapse_call : u8 { first, install, by_khugepaged, visit, copy };

struct collapse_record {
  u64 begin = 0;    // ticks
  u64 latency = 0;  // ticks
  int error = 0;    // errno, 0: succeeded
  collapse_call call = collapse_call::first;
  u8 window = 0;
};

struct collapser_result {
  std::vector<collapse_record> records;  // `taken` of them are valid
  u64 taken = 0;
  u64 dropped = 0;
  u64 turns = 0;      // in the loaded window
  ledger_sum ledger;  // of the timed calls in the loaded window
  u32 cpu = 0;
  std::exception_ptr error;
};

/// Body of a collapser's thread: prepares every extent, waits for the gate, sleeps until begin_ticks and works
/// until the end of the loaded window.
void run_collapser(machine& m, const collapse_config& c, start_gate& gate, collapser_result& out);

}  // namespace pgtbl::inline PGTBL_WORLD
