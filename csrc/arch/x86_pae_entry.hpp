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

  /// Low, high, low again.  Whole, where nobody can bring the same low half back in between.  `after_low` and `after_high`
  /// are called in between: a test holds the reader there.
  template <class L, class H>
  u64 load_halves(L&& after_low, H&& after_high) const {
    for (;;) {
      const u32 low = load_low(acquire);
      after_low();
      const u32 high = load_high(acquire);  // acquire: before the second look at low
      after_high();
      if (guard(Guard::pae_low_again) && load_low(relaxed) != low) {
        cpu_relax();
        continue;
      }
      // The low half alone says whether there is an entry; the high half comes before it, and goes after it.
      return low == 0 ? 0 : low | static_cast<u64>(high) << 32;
    }
  }
  u64 load(memory_order = acquire) const { return load_halves(nothing, nothing); }

  /// A present value where there is none.
  template <class B>
  void store_halves(u64 v, B&& between) {
    const u32 low = static_cast<u32>(v), high = static_cast<u32>(v >> 32);
    if (!guard(Guard::pae_high_first)) {
      store_low(low, release);
      between();
      store_high(high, relaxed);
      return;
    }
    store_high(high, relaxed);
    between();
    // Release: the high half, and the table, before the low half that says present.
    store_low(low, release);
  }
  void store(u64 v, memory_order o = release) {
    if (v == 0)
      clear_halves(nothing);
    else if (load_low(relaxed) != 0)
      store_whole(v, o);
    else
      store_halves(v, nothing);
  }

  /// Fetches and clears.
  template <class B>
  u64 clear_halves(B&& between) {
    if (!guard(Guard::pae_low_off_first)) {
      const u64 high = exchange_high(0);
      between();
      return exchange_low(0) | high << 32;
    }
    const u32 low = exchange_low(0);
    between();
    const u32 high = load_high(relaxed);
    store_high(0, release);  // release: the low half before the high half
    return low | static_cast<u64>(high) << 32;
  }
  u64 exchange(u64 v, memory_order = acq_rel) { return v != 0 ? exchange_whole(v) : clear_halves(nothing); }

  bool compare_exchange_strong(u64& expected, u64 v, memory_order = acq_rel) {
    return compare_exchange_whole(expected, v);
  }

 private:
  static void nothing() {}
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
