// stress.hpp -- many threads do everything at once on one machine, and nothing may get lost.
//
// Problem.  The race that nobody thought of is found by luck, so luck must be given its chance: every operation
// beside every other, on shared tables, VMAs and pages, from a seed.
// Guarantee.  A store that was acknowledged is read by whoever looks later, through whichever mapping, in
// whichever mm, or from the page cache (G-12); what a private mapping wrote stays its own (G-13); a punched or
// truncated page reads as zeroes; memory that was mapped anew is empty.  At the end the machine is checked, with
// everything still mapped and again with everything closed.  The first breach ends the run.
// Method.  Roles, one or more threads each:
//   writer      stamps (who, which sequence number) in cells of its own, through any mapping
//   reader      a stamp must not be older than the one acknowledged before the look; DONTNEED, mprotect, mincore
//   collapser   punches one unused page, so that the extent falls apart, and asks MADV_COLLAPSE for it
//   khugepaged  its rounds
//   puncher     punches whole extents of its own, and writes them again
//   mapper      maps, unmaps and protects in a place of its own, beside the places of others in one PTE table
//   truncator   shrinks and grows a second file, of which it knows every stamp
//   program     new mms that map the file, run shortly, and exit
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class stress_role : u8 { writer, reader, collapser, khugepaged, puncher, mapper, truncator, program };
inline constexpr const char* stress_role_names[] = {"writer",  "reader", "collapser", "khugepaged",
                                                    "puncher", "mapper", "truncator", "program"};
inline constexpr unsigned stress_roles = std::size(stress_role_names);

// Identifier, what one of it is.
#define PGTBL_STRESS_OPS(X)                                        \
  X(store, "stamps stored")                                        \
  X(load, "stamps looked at through a mapping")                    \
  X(file_read, "stamps read from the page cache")                  \
  X(private_store, "words stored in a private mapping")            \
  X(private_load, "words of a private mapping that were as left")  \
  X(collapse, "MADV_COLLAPSE calls")                               \
  X(collapsed, "of these, the ones that succeeded")                \
  X(split, "single pages punched, so that a huge page fell apart") \
  X(khugepaged, "rounds of khugepaged")                            \
  X(punch, "extents punched and written again")                    \
  X(map, "mmap calls")                                             \
  X(unmap, "munmap calls")                                         \
  X(protect, "mprotect calls")                                     \
  X(dontneed, "MADV_DONTNEED calls")                               \
  X(populate, "MADV_POPULATE_WRITE calls")                         \
  X(mincore, "mincore calls")                                      \
  X(touch, "words touched in mappings of the thread's own")        \
  X(truncate, "truncations and growths")                           \
  X(program, "programs run to their end")                          \
  X(no_memory, "operations given up because no frame was left")

enum class stress_op : u8 {
#define X(id, doc) id,
  PGTBL_STRESS_OPS(X)
#undef X
};
inline constexpr const char* stress_op_names[] = {
#define X(id, doc) #id,
    PGTBL_STRESS_OPS(X)
#undef X
};
inline constexpr unsigned stress_ops = std::size(stress_op_names);

struct stress_options {
  machine_config machine;
  u64 seed = 1;
  u64 ns = 1'000'000'000;  // the run ends after this time ...
  u64 ops = ~0ULL;         // ... or this many operations, whichever comes first
  u32 threads[stress_roles] = {2, 1, 1, 1, 1, 2, 1, 1};
  u32 mms = 3;
  u32 extents = 3;          // with stamps; each puncher has one more
  bool exit_checks = true;  // close everything at the end, and check once more
  u32 jitter = 0;           // torture build: once in so many times a thread rests where it could be paused

  /// Called about every 20 ms by the caller's thread; true ends the run.
  std::function<bool()> interrupted;
};

struct stress_result {
  bool interrupted = false;
  double seconds = 0;
  u64 done[stress_ops] = {};
  u64 total = 0;                      // of all kinds
  std::vector<std::string> lost;      // wrong contents: who, where, what was expected
  std::vector<std::string> breaches;  // what the hooks and the check at the end found
  std::vector<std::string> errors;    // exceptions that no operation may throw
  bool clean() const { return lost.empty() && breaches.empty() && errors.empty(); }
};

/// Throws value_error where the options make no run.  A machine that was found broken is abandoned, not torn
/// down: its memory stays until the process ends.
stress_result run_stress(const stress_options& o);

}  // namespace pgtbl::inline PGTBL_WORLD
