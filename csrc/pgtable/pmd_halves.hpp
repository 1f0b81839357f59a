// pmd_halves.hpp -- a PMD slot of a machine with x86-pae's entries: read, set and cleared by halves, and watched.
//
// Problem.  What a lockless reader makes of two halves may be a value that nobody ever stored, and nothing that
// comes after would say why: the wild pointer leads to some page.
// Method.  Beside each page of PMDs lies what happened to its slots last: stored, cleared, all CPUs interrupted.  A reader
// compares what it takes for a table with what was stored, as far back as its own first look; a store of a present value
// after a table was taken out asks whether all CPUs were interrupted in between.  Not asked where the slot was set to
// none with readers shut out (mremap under its locks, free_pgtables after the VMAs are unlinked).
// The machines of x86-pae are checked builds; there is nothing of this in any other.
#pragma once
#include "world/world.hpp"

#if defined(PGTBL_ARCH_X86_PAE)
#include "arch/x86_pae_entry.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct cpu;

/// What happened to one slot, the last of it.  Written under its lock; read without.
class pmd_history {
 public:
  static constexpr u64 kept = 8;
  enum class what : u8 { nothing, stored, cleared, taken_out, all_interrupted };
  struct event {
    u64 value;
    what how;
    u32 cpu;
  };

  void note(what how, u64 value, u32 cpu);
  void forget() { n_.store(0, release); }
  u64 count() const { return n_.load(acquire); }
  /// The i-th of `count()`, as long as it is kept.
  event at(u64 i) const;
  bool was_stored(u64 value) const;
  /// A table was taken out, and the CPUs have not been interrupted since.
  bool waits_for_sync() const;
  std::string text() const;

 private:
  struct row {
    atomic<u64> value{0};
    atomic<u32> how{0};  // what, and the CPU above it
  };
  atomic<u64> n_{0};
  row rows_[kept];
};

/// The histories of the slots of each page of PMDs.
class pmd_histories {
 public:
  explicit pmd_histories(u64 frames);
  ~pmd_histories();
  pmd_histories(const pmd_histories&) = delete;
  pmd_histories& operator=(const pmd_histories&) = delete;

  /// The frame becomes a page of PMDs.
  void begin(pfn_t page);
  /// Null: it is none.
  pmd_history* of(pfn_t page) const { return pages_[page].load(acquire); }

 private:
  atomic<pmd_history*>* pages_;
  u64 frames_;
};

u64 pmd_read_halves(cpu& self, const entry_word& slot, pgtable_t in);
void pmd_set_halves(cpu& self, entry_word& slot, pgtable_t in, u64 v);
u64 pmd_clear_halves(cpu& self, entry_word& slot, pgtable_t in);
/// Every CPU was interrupted since the slot was cleared.
void note_all_interrupted(cpu& self, const entry_word& slot, pgtable_t in);

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
