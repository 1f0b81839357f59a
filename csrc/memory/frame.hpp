// frame.hpp -- the descriptor of one frame of simulated memory: struct page, struct folio and
// struct ptdesc in one.
//
// A data page uses flags to index; a page table uses ptl, head and the life state.  A huge page is
// 2^huge_order consecutive frames whose first one, the head, holds the folio's flags, references and
// entire_mapcount; each frame keeps its own mapcount.
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
  pg_tail = 1u << 6,  // not the head of its folio
};

/// On one cache line, so that neighbours do not disturb each other.
struct alignas(64) frame {
  atomic<u32> flags{0};
  atomic<u32> refcount{0};         // the folio's references: cache, mappings, look-ups, isolation (A4)
  atomic<u32> mapcount{0};         // PTEs that map this very frame
  atomic<u32> entire_mapcount{0};  // PMDs that map the folio; head only
  atomic<mapping*> file{
      nullptr};           // the page cache that has it; null once truncated.  Changes under the folio lock
  var<pgoff_t> index{0};  // its page number in that file; stable under the folio lock
  rcu_head head{};        // a table waiting for RCU; overlays the list of deposited tables in Linux
  spinlock ptl;           // the table's own lock: ptl of a PTE table, pml of a PMD table
  atomic<u32> generation{0};  // goes up each time the frame is freed; stale translations show by it
  atomic<frame_state> state{frame_state::free};
  u8 order = 0;              // of the folio; head only
  u8 level = 0;              // of a table: 1 = PTE ... 4 = top
  u8 queued = 0;             // head is in use (G-8)
  atomic<u16> alloc_cpu{0};  // who had it last: for the histories of an error
  atomic<u16> free_cpu{0};
};

}  // namespace pgtbl::inline PGTBL_WORLD
