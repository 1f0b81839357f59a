// cpu.hpp -- one CPU of the machine: the context of one thread, with a TLB, interrupts, an RCU reader
// and a stack of free frames; and the part of a mm that a CPU deals with.
#pragma once
#include "base/era.hpp"
#include "memory/memory.hpp"
#include "pgtable/arch_tables.hpp"
#include "pgtable/tlb.hpp"
#include "sync/irq.hpp"
#include "sync/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class machine;
struct cpu;
struct scan_trace;

inline constexpr u32 max_cpus = max_contexts - 1;  // the last is the RCU worker's

/// A set of CPUs, as mm_cpumask: bits change by atomic operations.
class cpumask {
 public:
  void set(u32 i) { words_[i / 64].fetch_or(1ULL << i % 64, seq_cst); }
  void clear(u32 i) { words_[i / 64].fetch_and(~(1ULL << i % 64), seq_cst); }
  bool test(u32 i) const { return (words_[i / 64].load(acquire) >> i % 64 & 1) != 0; }
  u64 word(u32 w) const { return words_[w].load(acquire); }
  static constexpr u32 words = max_cpus / 64;
  /// Whether any CPU but `i` is in the set.
  bool any_but(u32 i) const {
    for (u32 w = 0; w < words; ++w) {
      u64 bits = word(w);
      if (w == i / 64) bits &= ~(1ULL << i % 64);
      if (bits != 0) return true;
    }
    return false;
  }

 private:
  atomic<u64> words_[words] = {};
};

/// The page tables of a mm, and who may have them cached.
struct mm_tables {
  u32 id = 0;
  pgtable_t root{};                // the top table; stable from birth to the mm's end
  entry_word* pgd = nullptr;       // its entries; likewise
  atomic<u32> count{1};            // mm_count: references to the structure; CPUs that have it loaded hold one
  cpumask cpus;                    // CPUs that may hold translations of it
  atomic<i64> pgtables_bytes{0};   // falls when a table is detached, not when RCU frees it (A4)
  atomic<u64> flushes_put_off{0};  // PTEs that rmap walks cleared without a flush; goes up under their ptl
  atomic<u64> flushes_done{0};     // of these, how many a flush of the whole mm has covered
  atomic<u32> zaps{0};             // zaps that may have cleared entries and not flushed yet
  spinlock page_table_lock;        // serialises the installation of upper tables
  // What flushes tell secondary MMUs by (mm/notifier.cpp); null: there never was one.  Set once.
  atomic<void (*)(cpu& self, mm_tables&, va_t start, va_t end)> flush_secondary{nullptr};
  void (*release)(cpu& self, mm_tables&) = nullptr;  // frees the structure, when count reaches 0
#if defined(PGTBL_ARCH_TABLES)
  arch_context context;
#endif
};

/// Flushes that other CPUs ask of this one.  Filled under lock; drained by the owner as it enters its
/// next interrupts-off section, so before it uses another translation.
struct flush_mailbox {
  static constexpr u32 capacity = 8;
  struct range {
    u32 mm;
    bool tables;
    va_t start, end;
  };
  spinlock lock;
  var<u32> n{0};           // protected by lock
  var<u32> all{0};         // more than capacity were asked for: flush everything; protected by lock
  range ranges[capacity];  // protected by lock
  atomic<u32> pending{0};  // something is in the box
};

/// Address spaces whose PTEs an rmap walk cleared without flushing (TTU_BATCH_FLUSH).
struct unmap_batch {
  static constexpr u32 capacity = 16;
  u32 n = 0;
  mm_tables* mms[capacity];  // each with a flush outstanding; one reference (count) each
};

/// Folios that MADV_FREE has found, not yet marked: it marks them in batches (the lru_lazyfree one of a folio_batch).  No
/// references: that a folio has been freed meanwhile shows by its generation.  Its CPU's, and whoever drains all of them.
struct lazyfree_batch {
  static constexpr u32 capacity = 31;
  struct item {
    pfn_t head;
    u32 generation;
  };
  spinlock lock;
  atomic<u32> n{0};      // changes under lock
  item items[capacity];  // protected by lock
};

/// Every CPU of a machine, by id; slots are filled once and never emptied.
struct cpu_set {
  atomic<u32> n{0};
  cpu* cpus[max_cpus] = {};
};

struct alignas(128) cpu : context {
  irq_state irq;
  rcu_reader rcu;
  flush_mailbox mailbox;
  mm_tables* loaded = nullptr;    // the address space that this CPU runs; its bit is set in that mm's mask
  bool collapsing = false;        // its mmap_lock acquisitions count as the collapsers' too
  scan_trace* tracing = nullptr;  // where it notes what its collapses found; null: nowhere
  // Whether a wait that may last for ever, as a userfaultfd's, goes on: asked about every 50 ms; null: it does.
  bool (*still_wanted)(void* arg) = nullptr;
  void* wanted_by = nullptr;
  // The call, or the access, has taken nothing yet: its first wait for mmap_lock may end with it, and leaves nothing behind.
  bool killable = false;
  // Told, with the same argument, that such a wait begins, and that it has ended: the CPU holds no lock meanwhile; null: nobody
  // asks.
  void (*resting)(void* arg, bool rests) = nullptr;
  const era* rules = nullptr;
  machine* home = nullptr;
  memory* ram = nullptr;
#if defined(PGTBL_ARCH_TABLES)
  arch_tables* arch = nullptr;
#endif
  rcu_domain* domain = nullptr;
  cpu_set* all = nullptr;
  bool broadcast_flush = false;  // the machine flushes by broadcast instruction: no IPI
  frame_cache frames;
  unmap_batch batch;
  lazyfree_batch lazyfree;
  // In GUP-fast: interrupts are off, but no translation of the TLB is in use.  A flush by broadcast does not wait for it.
  atomic<u32> walks_for_software{0};
  pgtbl::tlb tlb;
  // Checked builds: PTE tables that this CPU has mapped (context::mapped_depth of them, nested), and the one that
  // its hardware walk reads.
  atomic<pgtable_t> mapped[8] = {};
  atomic<pgtable_t> walking{pgtable_t{}};
};

}  // namespace pgtbl::inline PGTBL_WORLD
