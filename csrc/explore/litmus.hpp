// litmus.hpp -- litmus programs: a few accesses of x, y and z by a few threads, and their number of executions.
//
// They are the engines' own test: the numbers are known from another tool.
#pragma once
#include <vector>

#include "explore/program.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

enum class litmus_op : u8 { load, store, exchange, fetch_add, compare_exchange, fence };

struct litmus_step {
  u32 thread;
  litmus_op op;
  u8 order;  // std::memory_order
  u32 var = 0;
  u64 value = 0, expect = 0;
};

struct litmus_program {
  u32 threads;
  u32 vars;
  std::vector<litmus_step> steps;
};

struct litmus_count {
  u64 executions = 0, duplicates = 0;
};

/// By the graph engine.
litmus_count count_graphs(const litmus_program& p, memory_model m);
/// By the interleaving engine (sc and tso alone): interleavings, and whether both engines found the same set of graphs.
struct litmus_agreement {
  u64 interleavings = 0, graphs = 0;
  bool same = false;
};
litmus_agreement compare_engines(const litmus_program& p, memory_model m);

}  // namespace pgtbl::inline PGTBL_WORLD::explore
