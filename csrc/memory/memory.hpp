// memory.hpp -- simulated physical memory: frames, their descriptors, and the allocator.
//
// Guarantee.  alloc() and alloc_huge() hand out frames that nobody else has; a freed frame's
// generation goes up before anybody can have it again.  Tables are zeroed when allocated and poisoned
// when freed.  Two modes: `reuse` gives the frame freed last to the next who asks (a use after free
// meets foreign data at once); `quarantine` holds freed frames back, poisoned, and verifies the poison
// when they leave (a write after free is found, whoever did it).
//
// Method.  Memory is cut into blocks of 2^huge_order frames.  A block is whole (free for a huge page),
// taken (it is one), or broken into single frames, which return to it and make it whole again.  Each
// CPU keeps a small stack of single frames, so that most calls take no lock.  Where some tables take several frames in a
// row, blocks are cut into such rows, too; a row is handed out again once all of its frames are back.
//
// Cost.  alloc and free of a frame from the stack: a few ns; every 32nd takes the allocator's lock.
#pragma once
#include <optional>

#include "base/context.hpp"
#include "memory/frame.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class alloc_mode : u8 { reuse, quarantine };

/// A CPU's stack of free frames.  Owned by the CPU's thread.
struct frame_cache {
  static constexpr u32 capacity = 64, batch = 32;
  u32 n = 0;
  pfn_t frames[capacity];
};

class memory {
 public:
  static constexpr u64 poison = 0x6b6b6b6b6b6b6b6aULL;  // not present, no table, no marker

  memory(u64 frames, alloc_mode mode);
  ~memory();
  memory(const memory&) = delete;
  memory& operator=(const memory&) = delete;

  physical phys;

  frame& of(pfn_t pfn) { return descriptors_[pfn]; }
  const frame& of(pfn_t pfn) const { return descriptors_[pfn]; }
  u64 frames() const { return frames_; }
  /// In the pool, in stacks and in quarantine.  Exact once nothing runs.
  u64 free_frames() const;
  pfn_t head_of(pfn_t pfn) const {
    const u32 f = of(pfn).flags.load(relaxed);
    return (f & pg_tail) != 0 ? pfn & ~((pfn_t{1} << (f >> tail_order_shift)) - 1) : pfn;
  }

  /// One frame as a data page with one reference; contents undefined.  Nothing when memory is exhausted.
  std::optional<pfn_t> alloc_page(context& self, frame_cache& c);
  /// 2^huge_order consecutive, aligned frames as one folio with one reference.
  std::optional<pfn_t> alloc_huge(context& self, frame_cache& c);
  /// A zeroed page table of that level, its lock initialised: the first of its frames (table_order), the others being tails.
  std::optional<pfn_t> alloc_table(context& self, frame_cache& c, u8 level);

  /// Gives a data page or a huge folio back: its last reference is gone.
  void free_folio(context& self, frame_cache& c, pfn_t head);
  /// Gives a table back.  Its lock dies here or has died before.
  void free_table(context& self, frame_cache& c, pfn_t pfn);
  /// Returns a CPU's stack to the common pool.
  void drain(context& self, frame_cache& c);
  /// Splits a folio's descriptors; the caller holds the folio lock, and nobody maps it or has a reference.
  /// uniform: into single pages.  Else in halves, and the half that holds page `at` again, down to single pages.
  /// Each new folio has as many references as pages, for the cache, if `cached`.
  void split_descriptors(pfn_t head, pfn_t at, bool uniform, bool cached);

  /// The page of zeroes that read faults on anonymous memory map; it is nobody's, and never counted.
  static constexpr pfn_t zero_page = 1;
  /// The same for an extent: allocated when it is first asked for, and kept.  Nothing when memory is exhausted.
  std::optional<pfn_t> huge_zero_page(context& self, frame_cache& c);
  bool is_zero(pfn_t pfn) const { return pfn == zero_page || is_huge_zero(pfn); }
  bool is_huge_zero(pfn_t head) const {
    const pfn_t h = huge_zero_.load(relaxed);
    return h != 0 && (head & ~(pages_per_huge - 1)) == h;
  }

  /// The frame whose descriptor holds this rcu_head.
  pfn_t pfn_of_head(const rcu_head* h) const;
  /// PTE tables waiting for a grace period: how many more (or fewer), and the most there ever were.
  void note_pending(i64 d);
  u64 pending() const { return pending_.load(relaxed); }
  u64 pending_max() const { return pending_max_.load(relaxed); }
  /// Frames that hold page tables of any level, now and at most.  Counted in checked builds alone: each table that is
  /// made or freed goes through one counter.
  u64 table_frames() const { return table_frames_.load(relaxed); }
  u64 table_frames_max() const { return table_frames_max_.load(relaxed); }
  void reset_maxima() {
    pending_max_.store(pending_.load(relaxed), relaxed);
    table_frames_max_.store(table_frames_.load(relaxed), relaxed);
  }

  /// Frames that are neither free nor quarantined, by state (for check()).
  u64 count(frame_state s) const;

 private:
  std::optional<pfn_t> take(context& self, frame_cache& c);
  void give(context& self, frame_cache& c, pfn_t pfn);
  bool refill(context& self, frame_cache& c);
  u32 take_block(context& self, frame_cache& c);
  std::optional<pfn_t> take_row(context& self, frame_cache& c);
  void give_row(context& self, pfn_t head);
  void cut_into_rows(u32 b);
  void spill(context& self, frame_cache& c, u32 keep);
  void pool_put(pfn_t pfn);
  void put_in_block(var<u32>& list, pfn_t first, u64 frames);
  void note_table_frames(i64 d);
  void quarantine_put(context& self, pfn_t pfn);
  std::optional<pfn_t> quarantine_take(context& self);
  void retire(context& self, pfn_t pfn);
  void verify_poison(context& self, pfn_t pfn);

  struct block {
    var<u32> free_in_block{0};  // single frames of it in the pool
    var<u32> first{0};          // 1 + index of its first free frame; 0: none
    var<u32> next{0}, prev{0};  // 1 + block number in the list that it is on
    var<u8> kind{0};            // 0 whole, 1 broken, 2 huge, 3 cut into rows
  };
  void list_push(var<u32>& list, u32 b);
  void list_remove(var<u32>& list, u32 b);

  struct alignas(64) tally {
    counter frames;  // taken by this context, less those that it gave back; may be negative
  };

  // Read by every access, and never written: no line of it is shared with what allocation writes.
  u64 frames_;
  u64 blocks_;
  alloc_mode mode_;
  frame* descriptors_;
  atomic<pfn_t> huge_zero_{0};
  u32* next_free_;    // 1 + pfn of the next free frame of the same block; protected by lock_
  block* blocks_of_;  // protected by lock_

  alignas(64) spinlock lock_;
  var<u32> whole_{0};       // lists of blocks, 1 + number of the first; protected by lock_
  var<u32> broken_{0};      // broken blocks with at least one free frame
  var<u32> rows_{0};        // blocks cut into rows with at least one free row
  u8* row_back_ = nullptr;  // by row: how many of its frames came back; protected by lock_
  alignas(64) atomic<u64> pending_{0}, pending_max_{0};
  atomic<u64> table_frames_{0}, table_frames_max_{0};
  tally taken_[max_contexts];
  pfn_t* fifo_ = nullptr;  // quarantine; protected by lock_
  u64 fifo_size_ = 0;
  var<u64> fifo_head_{0}, fifo_tail_{0};
};

}  // namespace pgtbl::inline PGTBL_WORLD
