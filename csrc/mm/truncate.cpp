// Pages leave a file: truncate, hole punching; and fallocate, which brings them in.
#include "base/errors.hpp"
#include "mm/folio_split.hpp"
#include "mm/lru_batch.hpp"
#include "mm/machine.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// What was written back of pages [first, last] is forgotten, up to the first page that is cached.  Returns that one.
std::optional<pgoff_t> forget_blocks(cpu& self, mapping& f, pgoff_t first, pgoff_t last) {
  for (;;) {
    pfn_t block = 0;
    {
      const spin_guard g(self, f.xa_lock, lock_class::page_cache);
      const cache_item item = f.disk.find(first, last);
      if (!item) return std::nullopt;
      if (f.pages.load(item.index).is_page()) return item.index;
      block = f.disk.erase(self.rcu, item.index).pfn();
    }
    folio_put(self, block);
  }
}

/// Takes a locked folio out of the file.  Off the disk first: while it is cached, nobody reads it in.
void remove_from_file(cpu& self, mapping& f, pfn_t head) {
  const frame& h = self.ram->of(head);
  const pgoff_t index = h.index;
  for (u64 i = 0; f.regular() && i < 1ULL << h.order; ++i) {
    pfn_t block = 0;
    {
      const spin_guard g(self, f.xa_lock, lock_class::page_cache);
      if (const cache_entry e = f.disk.erase(self.rcu, index + i); e.is_page()) block = e.pfn();
    }
    if (block != 0) folio_put(self, block);
  }
  remove_from_cache(self, f, head);
}

/// Splits the folio so that its pages [from, to) can go: at the first of them, and where they end.  The caller holds
/// its lock and a reference, and has those of its first part afterwards.
bool cut(cpu& self, pfn_t head, u64 from, u64 to) {
  const bool uniform = self.rules->split_in_halves == 0;
  const u64 pages = 1ULL << self.ram->of(head).order;
  if (!split_folio(self, head, head + from, uniform)) return false;
  if (uniform || to >= pages) return true;
  const pfn_t rest = self.ram->head_of(head + to);
  if (self.ram->of(rest).order == 0 || !folio_try_get(self, rest)) return true;
  if (auto h = folio_trylock_hold(self, rest)) {
    const folio_guard lock(self, rest, *h);
    // Its outcome does not matter: what is larger than need be is zeroed.
    if (self.ram->of(rest).order != 0) split_folio(self, rest, head + to, false);
  }
  folio_put(self, rest);
  return true;
}

constexpr u64 zeroes[page_size / 8] = {};

/// Zeroes part of a page of a regular file that is not cached: on the disk, if it is there, else it is a hole and stays one.
/// Under xa_lock, so nobody reads it in meanwhile.  False: it is cached.
bool zero_uncached(cpu& self, mapping& f, u64 offset, u64 n) {
  const pgoff_t index = offset >> page_shift;
  const spin_guard g(self, f.xa_lock, lock_class::page_cache);
  if (f.pages.load(index).is_page()) return false;
  if (const cache_entry block = f.disk.load(index); block.is_page())
    self.ram->phys.store_bytes(block.pfn(), offset & (page_size - 1), zeroes, n);
  return true;
}

/// Zeroes part of one page.  Under the folio lock: a collapse that has copied the page would lose the zeroes.  A large
/// folio is split there too, as if the page were to go (truncate_inode_partial_folio).
void zero_part(cpu& self, mapping& f, u64 offset, u64 n) {
  if (n == 0) return;
  const pgoff_t index = offset >> page_shift;
  for (;;) {
    if (f.regular() && zero_uncached(self, f, offset, n)) return;
    const cached_page p = filemap_get(self, f, index);
    if (!p && f.regular()) continue;  // dropped meanwhile
    if (!p) return;
    folio_guard lock(self, p.head);
    const bool still = still_cached(self, f, index, p);
    if (still) {
      {
        const kernel_mapping bytes(self, p.pfn);
        self.ram->phys.store_bytes(p.pfn, offset & (page_size - 1), zeroes, n);
      }
      if (f.regular()) self.ram->of(p.head).flags.fetch_or(pg_dirty, relaxed);
      const u64 at = p.pfn - p.head;
      if (self.ram->of(p.head).order != 0) cut(self, p.head, at, at + 1);
    }
    lock.unlock();
    folio_put(self, p.head);
    if (still) return;
  }
}

/// Removes pages [first, last] of the file; those that a fault has mapped since they were unmapped, too.
void remove_pages(cpu& self, mapping& f, pgoff_t first, pgoff_t last) {
  for (pgoff_t at = first; at <= last;) {
    self.rcu.read_lock();
    const cache_item item = f.pages.find(at, last);
    self.rcu.read_unlock();
    if (!item) return;
    lru_add_drain(self);
    const pgoff_t index = item.index < at ? at : item.index;
    if (item.entry.is_retry()) {  // a collapse is deciding about this hole
      yield();
      continue;
    }
    const cached_page p = filemap_get(self, f, index);
    if (!p) continue;
    folio_guard lock(self, p.head);
    frame& h = self.ram->of(p.head);
    at = index;
    if (still_cached(self, f, index, p)) {
      const u64 pages = 1ULL << h.order;
      const pgoff_t start = h.index;
      const bool whole = start >= first && start + pages - 1 <= last;
      if (whole) {
        if (folio_mapped(self, p.head)) {  // by a fault, after the range was unmapped
          try_to_unmap(self, p.head);
          flush_unmap_batch(self);
        }
        remove_from_file(self, f, p.head);
        at = start + pages;
      } else if (cut(self, p.head, start < first ? first - start : 0, last - start + 1)) {
        // smaller now: look again
      } else {
        // Pinned: what should go is zeroed in place, as the kernel does.
        const pgoff_t end = start + pages - 1 < last ? start + pages - 1 : last;
        for (pgoff_t i = index; i <= end; ++i) self.ram->phys.clear_page(p.head + (i - start));
        at = end + 1;
      }
    }
    lock.unlock();
    folio_put(self, p.head);
  }
}

/// Pages [first, last] go from the file and from whoever maps them; private copies of them too if even_cows.
void truncate_pages(cpu& self, mapping& f, pgoff_t first, pgoff_t last, bool even_cows) {
  unmap_mapping_range(self, f, first, last, even_cows);
  remove_pages(self, f, first, last);
  // What is not cached may be on the disk, and may be read in meanwhile: then it goes as what was cached did.
  if (f.regular())
    while (const auto cached = forget_blocks(self, f, first, last)) remove_pages(self, f, *cached, *cached);
  // A store that held its page before it went has put a copy in behind the first pass.
  if (even_cows && guard(Guard::truncate_twice)) unmap_mapping_range(self, f, first, last, true);
}

}  // namespace

void filemap_remove_new(cpu& self, mapping& f, pfn_t head) {
  const frame& h = self.ram->of(head);
  // What is mapped, or huge, was there before the truncate, which takes it away itself.
  if (h.order == 0 && h.mapcount.load(acquire) == 0 && h.file.load(acquire) == &f)
    remove_from_cache(self, f, head);
}

void file_truncate(cpu& self, mapping& f, u64 bytes) {
  const u64 before = f.size.load(acquire);
  if (bytes != before) refuse_if_sealed(f, bytes < before ? seal_shrink : seal_grow, "ftruncate");
  // First the size: from now on no fault puts a page beyond it (it looks again under the folio lock).
  f.size.store(bytes, seq_cst);
  if (bytes >= before) return;
  zero_part(self, f, bytes, (page_size - (bytes & (page_size - 1))) & (page_size - 1));
  truncate_pages(self, f, page_align_up(bytes) >> page_shift, page_cache::max_index, true);
}

void file_allocate(cpu& self, mapping& f, u64 offset, u64 length) {
  const u64 end = offset + length;
  if (end > f.size.load(acquire)) refuse_if_sealed(f, seal_grow, "fallocate");
  // Of a regular file it is room on the disk that is set aside, of which the laboratory has no shortage.
  const pgoff_t last = f.regular() ? 0 : page_align_up(end) >> page_shift;
  for (pgoff_t index = offset >> page_shift; index < last; ++index) {
    cached_page p = filemap_get(self, f, index);
    // Set aside a second time, it is data, if of zeroes.  A new page is not: nobody has read or written it, and
    // SEEK_DATA passes over it.
    const u32 found = p ? u32{pg_uptodate} : 0U;
    if (!p) p = filemap_get_or_create(self, f, index, false);
    if (!p) throw out_of_memory("no frame is left for page " + std::to_string(index) + " of the file");
    // Dirty, so that nothing takes it for a page that need not be kept: also one that was there, and clean.
    self.ram->of(p.head).flags.fetch_or(pg_dirty | found, relaxed);
    folio_put(self, p.head);
  }
  u64 size = f.size.load(acquire);
  while (size < end && !f.size.compare_exchange_weak(size, end, seq_cst)) {}
}

void file_punch(cpu& self, mapping& f, u64 offset, u64 length) {
  refuse_if_sealed(f, seal_write | seal_future_write, "fallocate");
  const u64 end = offset + length;
  const u64 first = page_align_up(offset), last = page_align_down(end);
  if (first >= last) {
    if (page_align_down(offset) == page_align_down(end)) {
      zero_part(self, f, offset, length);
    } else {
      zero_part(self, f, offset, first - offset);
      zero_part(self, f, last, end - last);
    }
    return;
  }
  zero_part(self, f, offset, first - offset);
  zero_part(self, f, last, end - last);
  truncate_pages(self, f, first >> page_shift, (last >> page_shift) - 1, false);
}

}  // namespace pgtbl::inline PGTBL_WORLD
