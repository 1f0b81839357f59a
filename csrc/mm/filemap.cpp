// The page cache of a file: finding, creating, reading, truncating and punching pages.
#include <cstring>

#include "base/errors.hpp"
#include "mm/machine.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

cached_page filemap_get(cpu& self, mapping& f, pgoff_t index) {
  self.rcu.read_lock();
  cached_page found;
  for (unsigned tries = 0;; ++tries) {
    const cache_entry e = f.pages.load(index);
    if (!e.is_page()) break;
    if (!folio_try_get(self, e.pfn())) {   // being freed or split: the entry is about to change
      tries < 64 ? cpu_relax() : yield();  // by a thread that may have lost its processor to us
      continue;
    }
    // The frame may have become another page between the look-up and the reference.
    if (f.pages.load(index) == e) {
      found = {e.pfn(), e.pfn_at(index)};
      break;
    }
    folio_put(self, e.pfn());
  }
  self.rcu.read_unlock();
  return found;
}

bool still_cached(cpu& self, mapping& f, pgoff_t index, const cached_page& p) {
  if (self.ram->of(p.head).file.load(acquire) != &f) return false;
  self.rcu.read_lock();
  const bool there = f.pages.load(index).pfn_at(index) == p.pfn;
  self.rcu.read_unlock();
  return there;
}

namespace {

/// A fresh zeroed page of the file, with the cache's reference and the caller's.
std::optional<pfn_t> new_cache_page(cpu& self, mapping& f, pgoff_t index) {
  const auto pfn = self.ram->alloc_page(self, self.frames);
  if (!pfn) return pfn;
  self.ram->phys.clear_page(*pfn);
  frame& p = self.ram->of(*pfn);
  p.index = index;
  // Added, not stored: a look-up that found the frame's former page may have a reference for a moment.
  p.refcount.fetch_add(1, relaxed);
  p.flags.store(pg_uptodate | pg_lru, relaxed);
  p.file.store(&f, release);
  return pfn;
}

enum class insertion { done, occupied, marked };

insertion insert(cpu& self, mapping& f, pgoff_t index, pfn_t pfn) {
  const spin_guard g(self, f.xa_lock, lock_class::page_cache);
  const cache_entry e = f.pages.load(index);
  if (e.is_retry()) return insertion::marked;
  if (e.is_page()) return insertion::occupied;
  f.pages.store(self.rcu, index, cache_entry::small(pfn));
  return insertion::done;
}

void discard(cpu& self, pfn_t pfn) {
  self.ram->of(pfn).file.store(nullptr, relaxed);
  folio_put(self, pfn, 2);
}

}  // namespace

cached_page filemap_get_or_create(cpu& self, mapping& f, pgoff_t index) {
  for (unsigned tries = 0;; ++tries) {
    if (const cached_page p = filemap_get(self, f, index)) return p;
    const auto fresh = new_cache_page(self, f, index);
    if (!fresh) return {};
    const insertion how = insert(self, f, index, *fresh);
    if (how == insertion::done) return {*fresh, *fresh};
    discard(self, *fresh);
    // collapse_file has marked the hole, and decides within microseconds what becomes of it.
    if (how == insertion::marked) tries < 64 ? cpu_relax() : yield();
  }
}

// ---------------------------------------------------------------- reading and writing from outside

namespace {

void check_inside(const mapping& f, u64 offset, u64 n) {
  const u64 size = f.size.load(acquire);
  if (offset > size || n > size - offset)
    throw value_error("bytes " + std::to_string(offset) + " to " + std::to_string(offset + n) +
                      " are not within the file's " + std::to_string(size) + " bytes");
}

/// Calls use(page, offset in page, offset in buffer, length) for each page of [offset, offset + n).
template <class Use>
void each_part(u64 offset, u64 n, Use&& use) {
  for (u64 done = 0; done < n;) {
    const u64 in_page = (offset + done) & (page_size - 1);
    const u64 part = n - done < page_size - in_page ? n - done : page_size - in_page;
    use((offset + done) >> page_shift, in_page, done, part);
    done += part;
  }
}

}  // namespace

void file_read(cpu& self, mapping& f, u64 offset, void* out, u64 n) {
  check_inside(f, offset, n);
  each_part(offset, n, [&](pgoff_t index, u64 in_page, u64 at, u64 part) {
    u8* to = static_cast<u8*>(out) + at;
    const cached_page p = filemap_get(self, f, index);
    if (!p) {
      std::memset(to, 0, part);
      return;
    }
    self.ram->phys.load_bytes(p.pfn, in_page, to, part);
    folio_put(self, p.head);
  });
}

void file_write(cpu& self, mapping& f, u64 offset, const void* in, u64 n) {
  check_inside(f, offset, n);
  each_part(offset, n, [&](pgoff_t index, u64 in_page, u64 at, u64 part) {
    for (;;) {
      const cached_page p = filemap_get_or_create(self, f, index);
      if (!p) throw out_of_memory("no frame is left for page " + std::to_string(index) + " of the file");
      folio_guard lock(self, p.head);
      // Truncated, or collapsed into a huge page, while we waited for the lock.
      const bool still = still_cached(self, f, index, p);
      const bool inside = index < f.size_pages();  // looked at under the folio lock, as a fault does
      if (still && inside) {
        self.ram->phys.store_bytes(p.pfn, in_page, static_cast<const u8*>(in) + at, part);
        self.ram->of(p.head).flags.fetch_or(pg_dirty, relaxed);
      }
      if (still && !inside) filemap_remove_new(self, f, p.head);
      lock.unlock();
      folio_put(self, p.head);
      if (still && inside) return;
      if (still) check_inside(f, offset, n);  // truncated meanwhile
    }
  });
}

// ---------------------------------------------------------------- taking pages away

namespace {

bool folio_mapped(cpu& self, pfn_t head) {
  const frame& h = self.ram->of(head);
  if (h.entire_mapcount.load(acquire) != 0) return true;
  for (u64 i = 0; i < 1ULL << h.order; ++i)
    if (self.ram->of(head + i).mapcount.load(acquire) != 0) return true;
  return false;
}

/// Takes a locked, unmapped folio out of the cache.  The cache's references go with it.
void remove_from_cache(cpu& self, mapping& f, pfn_t head) {
  frame& h = self.ram->of(head);
  const pgoff_t index = h.index;
  {
    const spin_guard g(self, f.xa_lock, lock_class::page_cache);
    f.pages.erase(self.rcu, index);
    h.file.store(nullptr, release);  // a fault that waits for the folio lock sees it, and starts over
  }
  folio_put(self, head, 1U << h.order);
}

/// Splits a huge folio of the cache back into small pages.  False if somebody else has a reference
/// (a pin, a look-up): it cannot be split now.  The caller holds the folio lock and one reference.
bool split_folio(cpu& self, mapping& f, pfn_t head) {
  try_to_unmap(self, head);
  flush_unmap_batch(self);
  frame& h = self.ram->of(head);
  // The cache's references and ours, and nobody else's: frozen by taking them all in one step.
  u32 expected = static_cast<u32>(pages_per_huge) + 1;
  if (!h.refcount.compare_exchange_strong(expected, 0, acq_rel)) return false;
  const pgoff_t index = h.index;
  cache_entry entries[ptrs_per_table];
  for (u64 i = 0; i < pages_per_huge; ++i) entries[i] = cache_entry::small(head + i);
  {
    const spin_guard g(self, f.xa_lock, lock_class::page_cache);
    self.ram->split_descriptors(head);
    f.pages.split_huge(self.rcu, index, entries);
    h.refcount.store(2, release);  // the cache's, and the caller's
  }
  return true;
}

/// Zeroes part of one page.  Under the folio lock: a collapse that has copied the page would lose the zeroes.
void zero_part(cpu& self, mapping& f, u64 offset, u64 n) {
  if (n == 0) return;
  const pgoff_t index = offset >> page_shift;
  for (;;) {
    const cached_page p = filemap_get(self, f, index);
    if (!p) return;
    folio_guard lock(self, p.head);
    const bool still = still_cached(self, f, index, p);
    if (still) {
      const u64 zeroes[page_size / 8] = {};
      self.ram->phys.store_bytes(p.pfn, offset & (page_size - 1), zeroes, n);
    }
    lock.unlock();
    folio_put(self, p.head);
    if (still) return;
  }
}

/// Removes pages [first, last] of the file, mapped or not; private copies of them too if even_cows.
void truncate_pages(cpu& self, mapping& f, pgoff_t first, pgoff_t last, bool even_cows) {
  unmap_mapping_range(self, f, first, last, even_cows);
  for (pgoff_t at = first; at <= last;) {
    self.rcu.read_lock();
    const cache_item item = f.pages.find(at, last);
    self.rcu.read_unlock();
    if (!item) return;
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
        remove_from_cache(self, f, p.head);
        at = start + pages;
      } else if (split_folio(self, f, p.head)) {
        // small now: look again
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

}  // namespace

void filemap_remove_new(cpu& self, mapping& f, pfn_t head) {
  const frame& h = self.ram->of(head);
  // What is mapped, or huge, was there before the truncate, which takes it away itself.
  if (h.order == 0 && h.mapcount.load(acquire) == 0 && h.file.load(acquire) == &f)
    remove_from_cache(self, f, head);
}

void file_truncate(cpu& self, mapping& f, u64 bytes) {
  const u64 before = f.size.load(acquire);
  // First the size: from now on no fault puts a page beyond it (it looks again under the folio lock).
  f.size.store(bytes, seq_cst);
  if (bytes >= before) return;
  zero_part(self, f, bytes, (page_size - (bytes & (page_size - 1))) & (page_size - 1));
  truncate_pages(self, f, page_align_up(bytes) >> page_shift, page_cache::max_index, true);
}

void file_punch(cpu& self, mapping& f, u64 offset, u64 length) {
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
