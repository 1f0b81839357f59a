// dice.hpp -- pseudo-random numbers where speed counts and quality hardly does: who moves next, which page is touched.
//
// G. Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8, 2003.  Not for anything that is published as a
// statistic of its own.
#pragma once
#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// A stream for each user, from one seed.
class dice {
 public:
  explicit dice(u64 seed, u64 stream = 0)
      : s_((seed * 0x9e3779b97f4a7c15 + stream + 1) * 0xbf58476d1ce4e5b9 | 1) {}
  u64 roll() {
    s_ ^= s_ << 13, s_ ^= s_ >> 7, s_ ^= s_ << 17;
    return s_;
  }
  /// From 0 to n - 1; n < 2^32.  By multiplication: a division would take longer than all the rest.
  u64 below(u64 n) { return (roll() >> 32) * n >> 32; }
  bool one_in(u64 n) { return below(n) == 0; }

 private:
  u64 s_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
