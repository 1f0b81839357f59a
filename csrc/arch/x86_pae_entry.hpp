// x86_pae_entry.hpp -- an entry of the machine's tables on x86-pae: two halves, as x86_pae.hpp tells it.
//
// It has the operations of the word that an entry is elsewhere, so that the core is written once.  By halves: a load, a
// store from none, a fetch-and-clear.  As one: a compare-and-exchange (cmpxchg8b), and a store over something else than none
// (pmdp_establish, set_64bit).
#pragma once
#include "base/guards.hpp"
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class entry_word : public split_word {
 public:
  constexpr entry_word() = default;
  constexpr entry_word(u64 v) : split_word(v) {}

  /// Low, high, low again.  Whole, where nobody can bring the same low half back in between.
  u64 load(memory_order = acquire) const {
    for (;;) {
      const u32 low = load_low(acquire);
      const u32 high = load_high(acquire);  // acquire: before the second look at low
      if (!guard(Guard::pae_low_again) || load_low(relaxed) == low) return low | static_cast<u64>(high) << 32;
      cpu_relax();
    }
  }

  void store(u64 v, memory_order o = release) {
    if (v == 0) {
      exchange(0);
      return;
    }
    if (load_low(relaxed) != 0) {
      store_whole(v, o);
      return;
    }
    const u32 low = static_cast<u32>(v), high = static_cast<u32>(v >> 32);
    if (guard(Guard::pae_high_first)) store_high(high, relaxed);
    // Release: the high half, and the table, before the low half that says present.
    store_low(low, release);
    if (!guard(Guard::pae_high_first)) store_high(high, relaxed);
  }

  u64 exchange(u64 v, memory_order = acq_rel) {
    if (v != 0) return exchange_whole(v);
    if (!guard(Guard::pae_low_off_first)) {
      const u64 high = exchange_high(0);
      return exchange_low(0) | high << 32;
    }
    const u32 low = exchange_low(0);
    const u32 high = load_high(relaxed);
    store_high(0, release);  // release: the low half before the high half
    return low | static_cast<u64>(high) << 32;
  }

  bool compare_exchange_strong(u64& expected, u64 v, memory_order = acq_rel) {
    return compare_exchange_whole(expected, v);
  }
};
static_assert(sizeof(entry_word) == sizeof(u64));

inline u64 load_at(const entry_word& e, memory_order o, where) { return e.load(o); }
inline void store_at(entry_word& e, u64 v, memory_order o, where) { e.store(v, o); }
inline u64 exchange_at(entry_word& e, u64 v, memory_order o, where) { return e.exchange(v, o); }
template <class P>
u64 await(const entry_word& e, P pred, memory_order o) {
  for (u64 n = 1;; ++n) {
    if (const u64 v = e.load(o); pred(v)) return v;
    n % 64 == 0 ? yield() : cpu_relax();
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
