// The primer (csrc/explore/scenarios/primer.cpp) for relacy, as like as the two interfaces allow: the casts "wc" and
// "wwc", RCU by its definition, page table and locks of relacy's own.  bench/bench_explore.py compiles and runs it:
//
//   primer CAST EXECUTIONS      prints the executions that were made, and the seconds of processor time they took
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <relacy/relacy.hpp>
#include <sstream>

namespace {

unsigned const entries = 2, most_readers = 2;

struct tiny_table {
  rl::mutex ptl;
  rl::atomic<unsigned> pte[entries];
  tiny_table() {
    for (unsigned i = 0; i < entries; ++i) pte[i].store(0, rl::memory_order_relaxed);
  }
};

template <unsigned Walkers>
struct primer : rl::test_suite<primer<Walkers>, Walkers + 1> {
  rl::mutex pml;
  rl::atomic<tiny_table*> pmd;
  rl::atomic<unsigned> word[most_readers];
  bool set[Walkers];

  void before() {
    for (unsigned r = 0; r < Walkers; ++r) word[r].store(0, rl::memory_order_relaxed), set[r] = false;
    pmd.store(new tiny_table, rl::memory_order_relaxed);
  }
  void thread(unsigned i) {
    if (i < Walkers) {
      set[i] = set_pte(i);
    } else {
      retract();
    }
  }
  void after() {
    tiny_table* const table = pmd.load(rl::memory_order_relaxed);
    for (unsigned i = 0; i < Walkers; ++i) {
      if (!set[i]) continue;
      RL_ASSERT(table != 0);
      RL_ASSERT(table->pte[i % entries].load(rl::memory_order_relaxed) == 100 + i);
    }
    delete table;
  }

  tiny_table* map_lock(unsigned i) {
    for (;;) {
      word[i].fetch_add(1, rl::memory_order_acq_rel);
      tiny_table* const table = pmd.load(rl::memory_order_acquire);
      if (table == 0) {
        word[i].fetch_add(1, rl::memory_order_acq_rel);
        return 0;
      }
      table->ptl.lock($);
      if (pmd.load(rl::memory_order_relaxed) == table) return table;
      table->ptl.unlock($);
      word[i].fetch_add(1, rl::memory_order_acq_rel);
    }
  }
  bool set_pte(unsigned i) {
    tiny_table* const table = map_lock(i);
    if (table == 0) return false;
    table->pte[i % entries].store(100 + i, rl::memory_order_relaxed);
    table->ptl.unlock($);
    word[i].fetch_add(1, rl::memory_order_acq_rel);
    return true;
  }
  void synchronize() {
    unsigned seen[Walkers];
    for (unsigned r = 0; r < Walkers; ++r) seen[r] = word[r].fetch_add(0, rl::memory_order_acq_rel);
    for (unsigned r = 0; r < Walkers; ++r)
      if ((seen[r] & 1) != 0)
        while (word[r].load(rl::memory_order_acquire) == seen[r]) rl::yield(1, $);
  }
  void retract() {
    pml.lock($);
    tiny_table* table = pmd.load(rl::memory_order_relaxed);
    table->ptl.lock($);
    bool none = true;
    for (unsigned i = 0; i < entries; ++i) none &= table->pte[i].load(rl::memory_order_relaxed) == 0;
    if (none) pmd.store(0, rl::memory_order_relaxed);
    table->ptl.unlock($);
    pml.unlock($);
    if (!none) return;
    synchronize();
    delete table;
  }
};

template <unsigned Walkers>
int run(unsigned long executions) {
  std::ostringstream quiet;
  rl::test_params params;
  params.iteration_count = executions;
  params.search_type = rl::random_scheduler_type;
  params.output_stream = &quiet;
  params.progress_stream = &quiet;
  params.progress_output_period = 1000000;
  std::clock_t const start = std::clock();
  bool const good = rl::simulate<primer<Walkers>>(params);
  double const seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  if (!good) std::fputs(quiet.str().c_str(), stderr);
  std::printf("%lu %.6f\n", static_cast<unsigned long>(params.stop_iteration), seconds);
  return good ? 0 : 1;
}

}  // namespace

int main(int n, char** arguments) {
  if (n != 3) return 2;
  unsigned long const executions = std::strtoul(arguments[2], 0, 10);
  return std::strcmp(arguments[1], "wwc") == 0 ? run<2>(executions) : run<1>(executions);
}
