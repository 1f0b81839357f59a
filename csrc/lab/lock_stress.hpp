// lock_stress.hpp -- threads that do nothing but lock: for tests and for benchmarks of the locks.
//
// Each lock protects two plain words that every section makes unequal and equal again, and counts itself
// in; so a section that was not alone shows as a torn pair or as a lost count.
#pragma once
#include <vector>

#include "base/ledger.hpp"
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct lock_stress_options {
  u32 threads = 2;
  u32 locks = 1;
  u64 milliseconds = 100;
  u32 inside = 50;            // rounds of work in a section (a round is about a nanosecond)
  u32 outside = 50;           // and between two
  u32 write_percent = 10;     // semaphores: the share of write sections
  u32 downgrade_percent = 0;  // of these, the share that is downgraded before it ends
  u32 try_percent = 0;        // share of sections that are entered by a try, or not at all
  u64 seed = 1;
};

struct lock_stress_result {
  u64 reads = 0, writes = 0;  // sections done (a spinlock's are writes)
  u64 failed_tries = 0;
  u64 torn = 0;             // sections that saw another inside
  u64 lost = 0;             // writes that are missing from the protected count
  u64 least = 0, most = 0;  // sections of the slowest and of the fastest thread
  u64 nanoseconds = 0;
  // What the ledgers of the threads say of it.
  u64 acquired_read = 0, acquired_write = 0, failed = 0, contended = 0, wait_ns = 0, longest_wait_ns = 0;
  u64 breaches = 0;  // torture world only
};

lock_stress_result stress_spinlocks(const lock_stress_options& o);
lock_stress_result stress_rwsems(const lock_stress_options& o);

/// What one writer waits, in ns, entry by entry, while `readers` threads read in sections of `section_ns` each
/// without a pause between.  Stops after milliseconds, or twice that if the writer does not get in.
struct writer_wait {
  std::vector<u64> wait_ns;
  u64 reads = 0;
};
writer_wait writer_among_readers(u32 readers, u64 milliseconds, u64 section_ns, u64 pause_ns);

}  // namespace pgtbl::inline PGTBL_WORLD
