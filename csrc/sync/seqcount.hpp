// seqcount.hpp -- a sequence count: readers that never write, and notice that a writer was there.
//
// Guarantee.  If read_seqcount_retry() says no, everything read since the matching begin is one state,
// as no writer was between write_seqcount_begin() and _end() meanwhile.
// Method.  The writer makes the count odd, writes, and makes it even.  Writers exclude each other by a
// lock of their own.  What is read between must be atomic (relaxed will do): the reader may see it torn
// between two states, though never inside one word, before it is told to retry.
// Cost.  A reader pays two loads; on x86 no barrier.
#pragma once
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class seqcount {
 public:
  /// Waits while a writer is inside.
  u32 read_begin() const {
    const u32 s =
        seq_.load(acquire);  // pairs with the release in write_end(): the reads that follow see its writes
    if ((s & 1) == 0) [[likely]]
      return s;
    return await(seq_, [](u32 v) { return (v & 1) == 0; }, acquire);
  }
  /// Does not wait: an odd result always fails the retry.  (raw_seqcount_begin)
  u32 raw_begin() const { return seq_.load(acquire) & ~1U; }

  [[nodiscard]] bool read_retry(u32 start) const {
    // Orders the reads of the data before the second read of the count; pairs with the fence in
    // write_begin(): a reader that saw any write of the section sees the odd count here.
    fence(acquire);
    return seq_.load(relaxed) != start;
  }

  void write_begin() {
    seq_.store(seq_.load(relaxed) + 1, relaxed);
    fence(release);  // the odd count before the writes; pairs with the fence in read_retry()
  }
  void write_end() { seq_.store(seq_.load(relaxed) + 1, release); }

  u32 sequence() const { return seq_.load(acquire); }

 private:
  atomic<u32> seq_{0};
};

/// A writer's section, which ends however its scope is left.
class [[nodiscard]] seqcount_section {
 public:
  explicit seqcount_section(seqcount& s) : of_(s) { of_.write_begin(); }
  ~seqcount_section() { of_.write_end(); }
  seqcount_section(const seqcount_section&) = delete;
  seqcount_section& operator=(const seqcount_section&) = delete;

 private:
  seqcount& of_;
};

// The kernel's spelling.
using seqcount_t = seqcount;
inline u32 read_seqcount_begin(const seqcount& s) { return s.read_begin(); }
inline u32 raw_seqcount_begin(const seqcount& s) { return s.raw_begin(); }
[[nodiscard]] inline bool read_seqcount_retry(const seqcount& s, u32 start) { return s.read_retry(start); }
inline void write_seqcount_begin(seqcount& s) { s.write_begin(); }
inline void write_seqcount_end(seqcount& s) { s.write_end(); }

}  // namespace pgtbl::inline PGTBL_WORLD
