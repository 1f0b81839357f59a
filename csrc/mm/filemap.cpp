// The page cache of a file: finding and creating pages, reading and writing from outside.
#include <cstring>

#include "base/errors.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

cached_page filemap_get(cpu& self, mapping& f, pgoff_t index) {
  self.rcu.read_lock();
  cached_page found;
  for (unsigned tries = 0;; ++tries) {
    const cache_entry e = f.pages.load(index);
    if (!e.is_page()) break;
    const pfn_t head = self.ram->head_of(e.pfn());
    if (!folio_try_get(self, head)) {      // being freed or split: the entry is about to change
      tries < 64 ? cpu_relax() : yield();  // by a thread that may have lost its processor to us
      continue;
    }
    // The frame may have become another page, or its folio smaller, between the look-up and the reference.
    if (f.pages.load(index) == e && self.ram->head_of(e.pfn()) == head) {
      found = {head, e.pfn_at(index)};
      break;
    }
    folio_put(self, head);
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
std::optional<pfn_t> new_cache_page(cpu& self, mapping& f, pgoff_t index, bool uptodate) {
  const auto pfn = self.ram->alloc_page(self, self.frames);
  if (!pfn) return pfn;
  self.ram->phys.clear_page(*pfn);
  frame& p = self.ram->of(*pfn);
  p.index = index;
  // Added, not stored: a look-up that found the frame's former page may have a reference for a moment.
  p.refcount.fetch_add(1, relaxed);
  p.flags.store((uptodate ? u32{pg_uptodate} : 0) | (f.regular() ? u32{pg_fs} : 0) | pg_lru, relaxed);
  p.file.store(&f, release);
  return pfn;
}

enum class insertion { done, occupied, marked };

insertion insert(cpu& self, mapping& f, pgoff_t index, pfn_t pfn) {
  const spin_guard g(self, f.xa_lock, lock_class::page_cache);
  const cache_entry e = f.pages.load(index);
  if (e.is_retry()) return insertion::marked;
  if (e.is_page()) return insertion::occupied;
  // Read in here: as long as no page is cached, what is on the disk stays what it is.
  if (f.regular())
    if (const cache_entry block = f.disk.load(index); block.is_page())
      self.ram->phys.copy_page(pfn, block.pfn());
  f.pages.store(self.rcu, index, cache_entry::small(pfn));
  return insertion::done;
}

void discard(cpu& self, pfn_t pfn) {
  self.ram->of(pfn).file.store(nullptr, relaxed);
  folio_put(self, pfn, 2);
}

}  // namespace

cached_page filemap_get_or_create(cpu& self, mapping& f, pgoff_t index, bool uptodate) {
  for (unsigned tries = 0;; ++tries) {
    if (const cached_page p = filemap_get(self, f, index)) return p;
    pause_at(self, point::pc_missing);
    const auto fresh = new_cache_page(self, f, index, uptodate);
    if (!fresh) return {};
    const insertion how = insert(self, f, index, *fresh);
    if (how == insertion::done) return {*fresh, *fresh};
    discard(self, *fresh);
    // collapse_file has marked the hole, and decides within microseconds what becomes of it.
    if (how == insertion::marked) tries < 64 ? cpu_relax() : yield();
  }
}

bool folio_mapped(cpu& self, pfn_t head) {
  const frame& h = self.ram->of(head);
  if (h.entire_mapcount.load(acquire) != 0) return true;
  for (u64 i = 0; i < 1ULL << h.order; ++i)
    if (self.ram->of(head + i).mapcount.load(acquire) != 0) return true;
  return false;
}

void remove_from_cache(cpu& self, mapping& f, pfn_t head) {
  frame& h = self.ram->of(head);
  const pgoff_t index = h.index;
  {
    const spin_guard g(self, f.xa_lock, lock_class::page_cache);
    if (h.order == huge_order)
      f.pages.erase(self.rcu, index);
    else
      for (u64 i = 0; i < 1ULL << h.order; ++i) f.pages.erase(self.rcu, index + i);
    h.file.store(nullptr, release);  // a fault that waits for the folio lock sees it, and starts over
    if (h.order == huge_order && f.regular()) f.nr_thps.fetch_sub(1, relaxed);
  }
  folio_put(self, head, 1U << h.order);
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

/// A page of a regular file that is not cached comes from the disk.  Nothing: the file ends before it by now, and a truncate that
/// has been here would not take it away again.
cached_page read_in(cpu& self, mapping& f, pgoff_t index) {
  const cached_page p = filemap_get_or_create(self, f, index);
  if (!p) throw out_of_memory("no frame is left for page " + std::to_string(index) + " of the file");
  folio_guard lock(self, p.head);
  const bool inside = index < f.size_pages();  // looked at under the folio lock, as a fault does
  if (inside) return p;
  if (still_cached(self, f, index, p)) filemap_remove_new(self, f, p.head);
  lock.unlock();
  folio_put(self, p.head);
  return {};
}

}  // namespace

void file_read(cpu& self, mapping& f, u64 offset, void* out, u64 n) {
  check_inside(f, offset, n);
  each_part(offset, n, [&](pgoff_t index, u64 in_page, u64 at, u64 part) {
    u8* to = static_cast<u8*>(out) + at;
    cached_page p = filemap_get(self, f, index);
    while (!p && f.regular()) {
      check_inside(f, offset, n);  // truncated meanwhile
      p = read_in(self, f, index);
    }
    if (!p) {
      std::memset(to, 0, part);
      return;
    }
    {
      const kernel_mapping bytes(self, p.pfn);
      self.ram->phys.load_bytes(p.pfn, in_page, to, part);
    }
    folio_put(self, p.head);
  });
}

void file_write(cpu& self, mapping& f, u64 offset, const void* in, u64 n) {
  refuse_if_sealed(f, seal_write | seal_future_write, "pwrite");
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
        const kernel_mapping bytes(self, p.pfn);
        self.ram->phys.store_bytes(p.pfn, in_page, static_cast<const u8*>(in) + at, part);
        self.ram->of(p.head).flags.fetch_or(pg_dirty | pg_uptodate, relaxed);
      }
      if (still && !inside) filemap_remove_new(self, f, p.head);
      lock.unlock();
      folio_put(self, p.head);
      if (still && inside) return;
      if (still) check_inside(f, offset, n);  // truncated meanwhile
    }
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
