// The same functions twice: with the world's names, and (-DBY_HAND) with std::atomic and nothing else.
// tests/test_seam.py compares the instructions, function by function.
#if defined(BY_HAND)

#include <atomic>
#include <cstdint>

using u32 = std::uint32_t;
using u64 = std::uint64_t;
constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;

struct memory {
  unsigned char* base;
  u64 frames;
  std::atomic<u64>* table(u64 pfn) { return reinterpret_cast<std::atomic<u64>*>(base + (pfn << 12)); }
};
struct shared_data {
  std::atomic<u64> pmd;
  u64 rss;
  std::atomic<u64> section;
  std::atomic<u32> lock;
};
constexpr unsigned page_shift = 12, pmd_shift = 21, pud_shift = 30, pgd_shift = 39;
constexpr u64 ptrs_per_table = 512;

#define LOAD_BARRIER() std::atomic_signal_fence(std::memory_order_seq_cst)
#define FULL_FENCE() std::atomic_thread_fence(std::memory_order_seq_cst)
#define TAKE(s) ((s).lock.exchange(1, acquire) == 0)
#define GIVE(s) (s).lock.store(0, release)
#define SECTION_BEGIN(s)                                          \
  (s).section.store((s).section.load(relaxed) + 1, relaxed), LOAD_BARRIER()
#define SECTION_END(s) (s).section.store((s).section.load(relaxed) + 1, release)
#define GUARDED(name, condition) (condition)

#else

#include "base/guards.hpp"
#include "sync/irq.hpp"
#include "world/geometry.hpp"
#include "world/lock_word.hpp"

using namespace pgtbl;

struct memory {
  physical phys;
  atomic<u64>* table(pfn_t pfn) { return phys.entries(table_at(pfn)); }
};
struct shared_data {
  atomic<u64> pmd;
  var<u64> rss;
  atomic<u64> section;
  lock_word lock;
};

#define FULL_FENCE() fence(seq_cst)
#define TAKE(s) (s).lock.take()
#define GIVE(s) (s).lock.give()
#define SECTION_BEGIN(s) (s).section.store((s).section.load(relaxed) + 1, relaxed), compiler_barrier()
#define SECTION_END(s) (s).section.store((s).section.load(relaxed) + 1, release)
#define GUARDED(name, condition) (!guard(Guard::name) || (condition))

#endif

namespace {
inline u64 index_at(u64 va, unsigned shift) { return (va >> shift) & (ptrs_per_table - 1); }
inline u64 frame_of(u64 entry) { return (entry & 0x000ffffffffff000ULL) >> page_shift; }
}  // namespace

// A four-level walk: each level's entry leads to the next table, unless it is none or a huge page.
extern "C" u64 seam_walk(memory& m, u64 root, u64 va) {
  const u64 pgd = m.table(root)[index_at(va, pgd_shift)].load(acquire);
  if ((pgd & 1) == 0) return 0;
  const u64 pud = m.table(frame_of(pgd))[index_at(va, pud_shift)].load(acquire);
  if ((pud & 1) == 0) return 0;
  const u64 pmd = m.table(frame_of(pud))[index_at(va, pmd_shift)].load(acquire);
  if ((pmd & 1) == 0 || (pmd & 0x80) != 0) return pmd;
  return m.table(frame_of(pmd))[index_at(va, page_shift)].load(relaxed);
}

// The same in an interrupts-off section.
extern "C" u64 seam_section(memory& m, shared_data& s, u64 root, u64 va) {
  SECTION_BEGIN(s);
  const u64 pgd = m.table(root)[index_at(va, pgd_shift)].load(acquire);
  const u64 pte = m.table(frame_of(pgd))[index_at(va, page_shift)].load(relaxed);
  SECTION_END(s);
  return pte;
}

// Taking a table out of a PMD: an exchange, accounting under a lock, a guard.
extern "C" u64 seam_retract(shared_data& s, u64 pmdval) {
  if (!TAKE(s)) return 1;
  u64 old = 0;
  if (GUARDED(pmd_recheck, s.pmd.load(relaxed) == pmdval)) {
    old = s.pmd.exchange(0, std::memory_order_acq_rel);
    s.rss += 512;
    FULL_FENCE();
  }
  GIVE(s);
  return old;
}

// Accessed and dirty bits, as the hardware sets them.
extern "C" bool seam_set_dirty(memory& m, u64 pfn, u64 index, u64 seen) {
  return m.table(pfn)[index].compare_exchange_strong(seen, seen | 0x60, std::memory_order_acq_rel, relaxed);
}
