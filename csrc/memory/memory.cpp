#include "memory/memory.hpp"

#include <string>

#include "base/breach.hpp"
#include "base/errors.hpp"
#include "base/guards.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
enum : u8 { whole = 0, broken = 1, huge = 2, rows = 3 };
constexpr u64 block_frames = pages_per_huge;
constexpr u64 row_frames = 1ULL << largest_table_order;
constexpr bool has_rows = largest_table_order != 0;
/// Whether a table of that level is a row; else it is a frame.
constexpr bool is_row(u32 level) { return has_rows && table_order(level) != 0; }
static_assert(table_order(1) == 0 && block_frames % row_frames == 0);
static_assert(!is_row(2) || table_order(2) == largest_table_order);
static_assert(!is_row(3) || table_order(3) == largest_table_order);
static_assert(!is_row(4) || table_order(4) == largest_table_order);
}  // namespace

memory::memory(u64 frames, alloc_mode mode)
    : phys(frames + geometry.cache_lines),
      frames_(frames),
      blocks_(frames / block_frames),
      mode_(mode),
      descriptors_(make_array<frame>(frames)),
      next_free_(make_array<u32>(frames)),
      blocks_of_(make_array<block>(blocks_)) {
  lock_.init();
  // Block 0 is broken at once, so that frame 0 stays out: an entry of zero is "none".  Frame 1 is the zero page.
  for (u64 b = blocks_; b-- > 1;) list_push(whole_, static_cast<u32>(b));
  blocks_of_[0].kind = broken;
  list_push(broken_, 0);
  for (pfn_t p = block_frames; p-- > zero_page + 1;) {
    next_free_[p] = blocks_of_[0].first;
    blocks_of_[0].first = static_cast<u32>(p + 1);
    blocks_of_[0].free_in_block += 1;
  }
  phys.clear_page(zero_page);
  frame& zero = descriptors_[zero_page];
  zero.flags.store(pg_reserved | pg_anon | pg_uptodate, relaxed);
  zero.refcount.store(1, relaxed);
  zero.state.store(frame_state::data, relaxed);
  descriptors_[0].ptl.kill();  // who takes the lock of the table that "none" points to is told
  if constexpr (has_rows) row_back_ = make_array<u8>(frames / row_frames);
  if (mode_ == alloc_mode::quarantine) {
    fifo_size_ = frames / 8 + 1;
    fifo_ = make_array<pfn_t>(fifo_size_);
  }
}

memory::~memory() {
  destroy_array(descriptors_, frames_);
  destroy_array(next_free_, frames_);
  destroy_array(blocks_of_, blocks_);
  if (row_back_ != nullptr) destroy_array(row_back_, frames_ / row_frames);
  if (fifo_ != nullptr) destroy_array(fifo_, fifo_size_);
}

// ---------------------------------------------------------------- the pool: under lock_

void memory::list_push(var<u32>& list, u32 b) {
  blocks_of_[b].prev = 0;
  blocks_of_[b].next = list.get();
  if (list != 0) blocks_of_[list - 1].prev = b + 1;
  list = b + 1;
}

void memory::list_remove(var<u32>& list, u32 b) {
  block& x = blocks_of_[b];
  if (x.prev != 0)
    blocks_of_[x.prev - 1].next = x.next.get();
  else
    list = x.next.get();
  if (x.next != 0) blocks_of_[x.next - 1].prev = x.prev.get();
}

void memory::pool_put(pfn_t pfn) {
  if constexpr (has_rows) {
    if (blocks_of_[pfn / block_frames].kind == rows) {
      const u64 row = pfn / row_frames;
      if (++row_back_[row] != row_frames) return;
      row_back_[row] = 0;
      put_in_block(rows_, row * row_frames, row_frames);
      return;
    }
  }
  put_in_block(broken_, pfn, 1);
}

/// To the free ones of its block, whose list is the one for its kind.
void memory::put_in_block(var<u32>& list, pfn_t first, u64 frames) {
  const u32 b = static_cast<u32>(first / block_frames);
  block& x = blocks_of_[b];
  if (x.first == 0) list_push(list, b);
  next_free_[first] = x.first;
  x.first = static_cast<u32>(first + 1);
  x.free_in_block += static_cast<u32>(frames);
  if (x.free_in_block != block_frames) return;
  list_remove(list, b);  // every frame came back: whole again
  x.first = 0;
  x.free_in_block = 0;
  x.kind = whole;
  list_push(whole_, b);
}

bool memory::refill(context& self, frame_cache& c) {
  const spin_guard g(self, lock_, lock_class::allocator);
  while (c.n < frame_cache::batch) {
    if (broken_ == 0) {
      if (whole_ == 0) break;
      const u32 b = whole_ - 1;  // break a whole block; all of its frames are free
      list_remove(whole_, b);
      block& x = blocks_of_[b];
      x.kind = broken;
      for (u64 i = block_frames; i-- > 0;) {
        const pfn_t p = b * block_frames + i;
        next_free_[p] = x.first;
        x.first = static_cast<u32>(p + 1);
      }
      x.free_in_block = static_cast<u32>(block_frames);
      list_push(broken_, b);
    }
    const u32 b = broken_ - 1;
    block& x = blocks_of_[b];
    const pfn_t p = x.first - 1;
    x.first = next_free_[p];
    x.free_in_block -= 1;
    if (x.first == 0) list_remove(broken_, b);
    c.frames[c.n++] = p;
  }
  return c.n != 0;
}

void memory::spill(context& self, frame_cache& c, u32 keep) {
  if (c.n <= keep) return;
  const spin_guard g(self, lock_, lock_class::allocator);
  // The oldest go, so that the frame freed last stays the next one handed out.
  const u32 out = c.n - keep;
  for (u32 i = 0; i < out; ++i) pool_put(c.frames[i]);
  for (u32 i = 0; i < keep; ++i) c.frames[i] = c.frames[i + out];
  c.n = keep;
}

void memory::drain(context& self, frame_cache& c) { spill(self, c, 0); }

// ---------------------------------------------------------------- quarantine

void memory::verify_poison(context& self, pfn_t pfn) {
  for (u64 at = 0; at < page_size; at += 8) {
    const u64 w = phys.load_word(pfn, at);
    if (w == poison) continue;
    breach(self, "G-1",
           "frame " + std::to_string(pfn) + " was written after CPU " +
               std::to_string(of(pfn).free_cpu.load(relaxed)) + " freed it: word " + std::to_string(at / 8) +
               " is " + std::to_string(w));
    return;
  }
}

void memory::quarantine_put(context& self, pfn_t pfn) {
  phys.fill_page(pfn, poison);
  of(pfn).state.store(frame_state::quarantined, release);
  pfn_t out = 0;
  {
    const spin_guard g(self, lock_, lock_class::allocator);
    if (fifo_tail_ - fifo_head_ == fifo_size_) {
      out = fifo_[fifo_head_ % fifo_size_];
      fifo_head_ += 1;
    }
    fifo_[fifo_tail_ % fifo_size_] = pfn;
    fifo_tail_ += 1;
  }
  if (out == 0) return;
  verify_poison(self, out);
  of(out).state.store(frame_state::free, release);
  const spin_guard g(self, lock_, lock_class::allocator);
  pool_put(out);
}

std::optional<pfn_t> memory::quarantine_take(context& self) {
  for (;;) {
    pfn_t out = 0;
    {
      const spin_guard g(self, lock_, lock_class::allocator);
      if (fifo_head_ != fifo_tail_) {
        out = fifo_[fifo_head_ % fifo_size_];
        fifo_head_ += 1;
      }
    }
    if (out == 0) return std::nullopt;
    verify_poison(self, out);
    if constexpr (has_rows) {
      const spin_guard g(self, lock_, lock_class::allocator);
      if (blocks_of_[out / block_frames].kind == rows) {  // of a row: no single frame
        of(out).state.store(frame_state::free, release);
        pool_put(out);
        continue;
      }
    }
    return out;
  }
}

// ---------------------------------------------------------------- single frames

std::optional<pfn_t> memory::take(context& self, frame_cache& c) {
  pfn_t pfn;
  if (c.n != 0 || refill(self, c)) {
    pfn = c.frames[--c.n];
  } else {
    // Rather end a quarantine early than fail.
    const auto early = quarantine_take(self);
    if (!early) return std::nullopt;
    pfn = *early;
  }
  taken_[self.id].frames.add(1);
  self.led.add(event::frames_allocated);
  of(pfn).alloc_cpu.store(static_cast<u16>(self.id), relaxed);
  return pfn;
}

void memory::retire(context& self, pfn_t pfn) {
  frame& f = of(pfn);
  f.free_cpu.store(static_cast<u16>(self.id), relaxed);
  f.generation.fetch_add(1, release);  // before the frame can be handed out: a stale translation must differ
  f.flags.store(0, relaxed);
  f.file.store(nullptr, relaxed);
}

void memory::give(context& self, frame_cache& c, pfn_t pfn) {
  taken_[self.id].frames.add(-u64{1});
  self.led.add(event::frames_freed);
  if (mode_ == alloc_mode::quarantine) {
    quarantine_put(self, pfn);
    return;
  }
  of(pfn).state.store(frame_state::free, release);
  if (c.n == frame_cache::capacity) spill(self, c, frame_cache::capacity - frame_cache::batch);
  c.frames[c.n++] = pfn;
}

std::optional<pfn_t> memory::alloc_page(context& self, frame_cache& c) {
  const auto pfn = take(self, c);
  if (!pfn) return pfn;
  frame& f = of(*pfn);
  f.order = 0;
  f.flags.store(0, relaxed);
  f.mapcount.store(0, relaxed);
  f.entire_mapcount.store(0, relaxed);
  f.state.store(frame_state::data, release);
  // Last, and release: a folio_try_get that meant the frame's former page may succeed from here on, and then
  // reads the fields above until it sees its mistake.
  f.refcount.store(1, release);
  return pfn;
}

void memory::note_table_frames(i64 d) {
  const u64 now = table_frames_.fetch_add(static_cast<u64>(d), relaxed) + static_cast<u64>(d);
  u64 most = table_frames_max_.load(relaxed);
  while (d > 0 && now > most && !table_frames_max_.compare_exchange_weak(most, now, relaxed)) {}
}

std::optional<pfn_t> memory::alloc_table(context& self, frame_cache& c, u8 level) {
  const auto pfn = is_row(level) ? take_row(self, c) : take(self, c);
  if (!pfn) return pfn;
  if constexpr (checked_build) note_table_frames(i64{1} << table_order(level));
  if constexpr (has_rows) {
    for (pfn_t p = *pfn + 1; is_row(level) && p < *pfn + row_frames; ++p) {
      frame& tail = of(p);
      phys.clear_page(p);
      tail.level = level;
      tail.refcount.store(0, relaxed);
      tail.flags.store(tail_flags(largest_table_order), relaxed);
      tail.state.store(frame_state::table_live, release);
    }
  }
  frame& f = of(*pfn);
  phys.clear_page(*pfn);
  f.level = level;
  f.queued = 0;
  f.index = 0;                   // of a PMD page: nothing is deposited
  f.refcount.store(0, relaxed);  // a late folio_try_get by the frame's former page finds nothing
  f.ptl.init();
  f.state.store(frame_state::table_live, release);
  if (level == 1) self.led.add(event::pte_page_allocated);
  return pfn;
}

void memory::free_table(context& self, frame_cache& c, pfn_t pfn) {
  frame& f = of(pfn);
  if constexpr (checked_build) {
    const frame_state s = f.state.load(acquire);
    if (s != frame_state::table_live && s != frame_state::table_detached && s != frame_state::table_queued)
      breach(self, "G-1", "frame " + std::to_string(pfn) + " is freed as a table, and is " + to_string(s));
  }
  if (f.level == 1) self.led.add(event::pte_page_freed);
  f.ptl.kill();
  f.refcount.store(0, relaxed);
  if constexpr (checked_build) note_table_frames(-(i64{1} << table_order(f.level)));
  if (is_row(f.level)) {
    give_row(self, pfn);
    return;
  }
  retire(self, pfn);
  if (mode_ != alloc_mode::quarantine) phys.fill_page(pfn, poison);
  give(self, c, pfn);
}

// ---------------------------------------------------------------- rows of frames

/// A whole block, which is the caller's to cut.
void memory::cut_into_rows(u32 b) {
  block& x = blocks_of_[b];
  x.kind = rows;
  const pfn_t begin = b * block_frames;
  for (pfn_t p = begin + block_frames; p != begin;) {
    p -= row_frames;
    next_free_[p] = x.first;
    x.first = static_cast<u32>(p + 1);
  }
  x.free_in_block = static_cast<u32>(block_frames);
  list_push(rows_, b);
}

std::optional<pfn_t> memory::take_row(context& self, frame_cache& c) {
  if constexpr (!has_rows) return std::nullopt;
  pfn_t head = 0;
  for (int attempt = 0; attempt < 2 && head == 0; ++attempt) {
    const u32 fresh = attempt != 0 ? take_block(self, c) : 0;
    const spin_guard g(self, lock_, lock_class::allocator);
    if (fresh != 0) cut_into_rows(fresh - 1);
    if (rows_ == 0) continue;
    const u32 b = rows_ - 1;
    block& x = blocks_of_[b];
    head = x.first - 1;
    x.first = next_free_[head];
    x.free_in_block -= static_cast<u32>(row_frames);
    if (x.first == 0) list_remove(rows_, b);
  }
  if (head == 0) return std::nullopt;
  taken_[self.id].frames.add(row_frames);
  self.led.add(event::frames_allocated, row_frames);
  for (pfn_t p = head; p < head + row_frames; ++p) of(p).alloc_cpu.store(static_cast<u16>(self.id), relaxed);
  return head;
}

void memory::give_row(context& self, pfn_t head) {
  taken_[self.id].frames.add(-row_frames);
  self.led.add(event::frames_freed, row_frames);
  for (pfn_t p = head; p < head + row_frames; ++p) {
    retire(self, p);
    if (mode_ == alloc_mode::quarantine) {
      quarantine_put(self, p);
      continue;
    }
    phys.fill_page(p, poison);
    of(p).state.store(frame_state::free, release);
    const spin_guard g(self, lock_, lock_class::allocator);
    pool_put(p);
  }
}

// ---------------------------------------------------------------- huge pages

/// 1 + the number of a block that was whole, and is the caller's now; 0: there is none.
u32 memory::take_block(context& self, frame_cache& c) {
  u32 b = 0;
  for (int attempt = 0; attempt < 2 && b == 0; ++attempt) {
    {
      const spin_guard g(self, lock_, lock_class::allocator);
      if (whole_ != 0) {
        b = whole_;
        list_remove(whole_, b - 1);
        blocks_of_[b - 1].kind = huge;
      }
    }
    if (b == 0) {  // frames in the caller's stack may be all that keeps a block broken
      drain(self, c);
      while (const auto early = quarantine_take(self)) {
        of(*early).state.store(frame_state::free, release);
        const spin_guard g(self, lock_, lock_class::allocator);
        pool_put(*early);
      }
    }
  }
  return b;
}

std::optional<pfn_t> memory::alloc_huge(context& self, frame_cache& c) {
  const u32 b = take_block(self, c);
  if (b == 0) return std::nullopt;
  const pfn_t head = static_cast<u64>(b - 1) * block_frames;
  for (pfn_t p = head; p < head + block_frames; ++p) {
    frame& f = of(p);
    f.flags.store(p == head ? 0U : tail_flags(huge_order), relaxed);
    f.refcount.store(0, relaxed);
    f.mapcount.store(0, relaxed);
    f.alloc_cpu.store(static_cast<u16>(self.id), relaxed);
    f.state.store(frame_state::data, release);
  }
  frame& h = of(head);
  h.order = static_cast<u8>(huge_order);
  h.entire_mapcount.store(0, relaxed);
  h.refcount.store(1, release);
  taken_[self.id].frames.add(block_frames);
  self.led.add(event::frames_allocated, block_frames);
  return head;
}

void memory::free_folio(context& self, frame_cache& c, pfn_t head) {
  frame& h = of(head);
  if constexpr (checked_build) {
    if (h.state.load(acquire) != frame_state::data)
      breach(self, "G-26",
             "frame " + std::to_string(head) + " is freed as a page, and is " +
                 to_string(h.state.load(acquire)));
  }
  if (h.order == 0) {
    retire(self, head);
    give(self, c, head);
    return;
  }
  if (h.order < huge_order) {  // what a split left: its frames are single ones from now on
    const u64 pages = 1ULL << h.order;
    h.order = 0;
    for (pfn_t p = head; p < head + pages; ++p) {
      retire(self, p);
      give(self, c, p);
    }
    return;
  }
  h.order = 0;
  for (pfn_t p = head; p < head + block_frames; ++p) {
    retire(self, p);
    of(p).state.store(frame_state::free, release);
  }
  taken_[self.id].frames.add(-block_frames);
  self.led.add(event::frames_freed, block_frames);
  const spin_guard g(self, lock_, lock_class::allocator);
  const u32 b = static_cast<u32>(head / block_frames);
  blocks_of_[b].kind = whole;
  list_push(whole_, b);
}

std::optional<pfn_t> memory::huge_zero_page(context& self, frame_cache& c) {
  if (const pfn_t have = huge_zero_.load(acquire); have != 0) return have;
  const auto fresh = alloc_huge(self, c);
  if (!fresh) return fresh;
  for (u64 i = 0; i < pages_per_huge; ++i) phys.clear_page(*fresh + i);
  of(*fresh).flags.store(pg_reserved | pg_anon | pg_uptodate, relaxed);
  pfn_t none = 0;
  if (huge_zero_.compare_exchange_strong(none, *fresh, acq_rel)) return fresh;
  free_folio(self, c, *fresh);
  return none;
}

void memory::split_descriptors(pfn_t head, pfn_t at, bool uniform, bool cached) {
  frame& h = of(head);
  const u32 kept = h.flags.load(relaxed) & (pg_uptodate | pg_dirty | pg_lru | pg_anon | pg_lazyfree | pg_fs);
  mapping* owner = h.file.load(relaxed);
  const pgoff_t index = h.index;
  const unsigned whole_order = h.order;
  const auto make_folio = [&](pfn_t first, unsigned order) {
    const u64 pages = 1ULL << order;
    frame& f = of(first);
    f.order = static_cast<u8>(order);
    f.index = index + (first - head);
    f.entire_mapcount.store(0, relaxed);
    f.file.store(owner, relaxed);
    // Each page keeps whether it is exclusive.
    const u32 mine = f.flags.load(relaxed) & pg_anon_exclusive;
    if (first != head) {
      f.refcount.store(cached ? static_cast<u32>(pages) : 0, relaxed);
      f.flags.store(kept | mine, release);
    }
    for (u64 i = 1; i < pages; ++i) {
      frame& t = of(first + i);
      t.flags.store(tail_flags(order) | (t.flags.load(relaxed) & pg_anon_exclusive), release);
    }
  };
  if (uniform) {
    for (u64 i = 0; i < 1ULL << whole_order; ++i) make_folio(head + i, 0);
  } else {
    pfn_t first = head;
    for (unsigned order = whole_order; order-- > 0;) {
      const pfn_t upper = first + (1ULL << order);
      make_folio(at < upper ? upper : first, order);
      if (at >= upper) first = upper;
    }
    make_folio(first, 0);
  }
  // From now on the block's frames come back one by one: it is broken, with none of them free yet.
  // Its kind stays "huge": pool_put works from the counts, and asks the kind only whether it is cut into rows.
}

pfn_t memory::pfn_of_head(const rcu_head* h) const {
  const auto offset =
      reinterpret_cast<const char*>(&descriptors_[0].head) - reinterpret_cast<const char*>(descriptors_);
  const auto at = reinterpret_cast<const char*>(h) - reinterpret_cast<const char*>(descriptors_) - offset;
  return static_cast<pfn_t>(at) / sizeof(frame);
}

void memory::note_pending(i64 d) {
  const u64 now = pending_.fetch_add(static_cast<u64>(d), relaxed) + static_cast<u64>(d);
  u64 most = pending_max_.load(relaxed);
  while (d > 0 && now > most && !pending_max_.compare_exchange_weak(most, now, relaxed)) {}
}

u64 memory::free_frames() const {
  u64 n = blocks_ * block_frames - 2;  // without frame 0 and the zero page
  for (const tally& t : taken_) n -= t.frames.get();
  return n;
}

u64 memory::count(frame_state s) const {
  u64 n = 0;
  for (pfn_t p = 1; p < frames_; ++p) n += of(p).state.load(relaxed) == s ? 1 : 0;
  return n;
}

}  // namespace pgtbl::inline PGTBL_WORLD
