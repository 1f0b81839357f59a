// frame.hpp -- the descriptor of one frame of simulated memory: struct page, struct folio and
// struct ptdesc in one.
//
// A data page uses flags to index; a page table uses ptl, head and the life state.  A huge page is
// 2^huge_order consecutive frames whose first one, the head, holds the folio's flags, references and
// entire_mapcount; each frame keeps its own mapcount.  A split can leave folios of any order in between.  A tail
// has its folio's order in its flags: folios lie at multiples of their size, so that leads to the head.
#pragma once
#include "sync/rcu.hpp"
#include "sync/spinlock.hpp"
#include "world/geometry.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct mapping;

enum class frame_state : u8 {
  free,            // with the allocator
  quarantined,     // freed, poisoned, not to be handed out yet
  data,            // a page of memory
  table_live,      // a page table that a slot points to, or that is about to be installed
  table_detached,  // a PTE table taken out of its PMD
  table_queued,    // waiting for a grace period
};
constexpr const char* to_string(frame_state s) {
  constexpr const char* names[] = {"free",  "quarantined",    "data",
                                   "table", "detached table", "table queued for RCU"};
  return names[static_cast<unsigned>(s)];
}

// Folio flags, in the head's `flags`.
enum : u32 {
  pg_locked = 1u << 0,
  pg_waiters = 1u << 1,  // somebody sleeps on pg_locked
  pg_uptodate = 1u << 2,
  pg_dirty = 1u << 3,
  pg_lru = 1u << 4,
  pg_anon = 1u << 5,
  pg_tail = 1u << 6,            // not the head of its folio
  pg_anon_exclusive = 1u << 7,  // of each page: this mm's alone, a store needs no copy
  pg_lazyfree = 1u << 8,        // MADV_FREE: gone at will until it is written again
  pg_reserved = 1u << 9,        // the zero pages: never counted, never freed
  pg_fs = 1u << 10,             // of a regular file (in Linux: not swapbacked)
};

/// On one cache line, so that neighbours do not disturb each other.
struct alignas(64) frame {
  atomic<u32> flags{0};
  atomic<u32> refcount{0};         // the folio's references: cache, mappings, look-ups, isolation (A4)
  atomic<u32> mapcount{0};         // PTEs that map this very frame
  atomic<u32> entire_mapcount{0};  // PMDs that map the folio; head only
  // The page cache that has it; null once truncated.  Changes under the folio lock.  Of an anonymous folio: its
  // anon_vma (folio_anon_vma() in mm/anon_vma.hpp).
  atomic<mapping*> file{nullptr};
  // Its page number in that file, or in its anon_vma; stable under the folio lock.  Of a table: the next of the
  // tables deposited with a PMD page, and of a PMD page the first of them; under its pml.
  var<pgoff_t> index{0};
  rcu_head head{};            // a table waiting for RCU; overlays the list of deposited tables in Linux
  spinlock ptl;               // the table's own lock: ptl of a PTE table, pml of a PMD table
  atomic<u32> generation{0};  // goes up each time the frame is freed; stale translations show by it
  atomic<frame_state> state{frame_state::free};
  hint<u8> order{};  // of the folio; head only.  A scan looks at it without a reference
  u8 level = 0;      // of a table: 1 = PTE ... 4 = top
  u8 queued = 0;     // head is in use (G-8)
  // Of its references, those that pin_pages() gave out: in the low half FOLL_GET's, which only check() knows of; in the high
  // half FOLL_PIN's, which others look at (folio_maybe_dma_pinned).  Head only.
  atomic<u32> pins{0};
  atomic<u16> alloc_cpu{0};  // who had it last: for the histories of an error
  atomic<u16> free_cpu{0};
};

inline constexpr u32 pins_pinned = 1u << 16;
inline bool maybe_dma_pinned(const frame& head) { return head.pins.load(acquire) >= pins_pinned; }
inline u32 known_pins(const frame& head) {
  const u32 n = head.pins.load(acquire);
  return n % pins_pinned + n / pins_pinned;
}

inline constexpr unsigned tail_order_shift = 24;
/// Flags of a tail of a folio of that order.
constexpr u32 tail_flags(unsigned order) { return pg_tail | order << tail_order_shift; }

}  // namespace pgtbl::inline PGTBL_WORLD
