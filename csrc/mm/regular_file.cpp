// Regular files: what is written back to the disk, and what becomes of their page cache as somebody begins to write.
//
// Guarantee.  While a file is open for writing it has no huge pages, as these cannot be written back (G-48): whoever opens it
// waits until they have gone.  Nothing that was stored is lost by that.
//
// Method.  Who opens the file counts himself in, and then looks for huge pages; collapse_file counts its huge page in, and then
// looks for writers.  With a full fence between the two steps of each, one at least sees the other: the collapse gives
// up, or the opener drops the cache, page by page, each written back first, under its folio lock.  That also waits for
// a collapse that has counted and not yet published: it has every small page locked.
//
// Lock order.  folio lock > i_mmap_rwsem > ... > xa_lock.  No mmap_lock.
#include "base/errors.hpp"
#include "mm/machine.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// Where page index is on the disk; a new place where it has none.  The caller has the folio lock of the page.
pfn_t block_of(cpu& self, mapping& f, pgoff_t index) {
  {
    const spin_guard g(self, f.xa_lock, lock_class::page_cache);
    if (const cache_entry e = f.disk.load(index); e.is_page()) return e.pfn();
  }
  const auto fresh = self.ram->alloc_page(self, self.frames);
  if (!fresh)
    throw out_of_memory("no frame is left for page " + std::to_string(index) + " of the file on its disk");
  const spin_guard g(self, f.xa_lock, lock_class::page_cache);
  f.disk.store(self.rcu, index, cache_entry::small(*fresh));
  return *fresh;
}

/// A locked folio, if it is dirty.  An entry through which it may still be stored to has its own dirty bit, and brings that to
/// the folio when it goes.
void write_folio(cpu& self, mapping& f, pfn_t head) {
  frame& h = self.ram->of(head);
  if ((h.flags.fetch_and(~u32{pg_dirty}, acq_rel) & pg_dirty) == 0) return;
  try {
    for (u64 i = 0; i < 1ULL << h.order; ++i) {
      const pfn_t block = block_of(self, f, h.index + i);
      const kernel_mapping bytes(self, head + i);
      self.ram->phys.copy_page(block, head + i);
    }
  } catch (...) {
    h.flags.fetch_or(pg_dirty, relaxed);
    throw;
  }
}

/// Calls use(head) for each folio of the cache, locked; those that others have locked are passed over unless wait.  A folio that
/// has left the file by the time that it is locked, for another one, is looked for again.
template <class Use>
void each_folio(cpu& self, mapping& f, bool wait, Use&& use) {
  for (pgoff_t at = 0;;) {
    self.rcu.read_lock();
    const cache_item item = f.pages.find(at, page_cache::max_index);
    self.rcu.read_unlock();
    if (!item) return;
    const cached_page p = filemap_get(self, f, item.index);
    if (!p) continue;
    std::optional<hold> h;
    if (wait)
      h = folio_lock(self, p.head);
    else
      h = folio_trylock_hold(self, p.head);
    at = item.next();
    if (h) {
      folio_guard lock(self, p.head, *h);
      try {
        if (still_cached(self, f, item.index, p))
          use(p.head);
        else
          at = item.index;
      } catch (...) {
        lock.unlock();
        folio_put(self, p.head);
        throw;
      }
    }
    folio_put(self, p.head);
  }
}

/// The whole cache goes, mapped or not; private copies stay.
void drop_cache(cpu& self, mapping& f) {
  unmap_mapping_range(self, f, 0, page_cache::max_index, false);
  each_folio(self, f, true, [&](pfn_t head) {
    if (folio_mapped(self, head)) {  // by a fault, since
      try_to_unmap(self, head);
      flush_unmap_batch(self);
    }
    write_folio(self, f, head);
    remove_from_cache(self, f, head);
  });
}

}  // namespace

bool count_writer(cpu& self, mapping& f) {
  f.writers.fetch_add(1, relaxed);
  if (guard(Guard::file_thp_fence)) fence(seq_cst);  // pairs with the fence in collapse_file
  pause_at(self, point::fo_counted);
  return f.nr_thps.load(relaxed) != 0;
}

void get_write_access(cpu& self, mapping& f) {
  if (!f.regular() || !count_writer(self, f) || !guard(Guard::file_open_drops)) return;
  try {
    drop_cache(self, f);
  } catch (...) {
    f.writers.fetch_sub(1, release);
    throw;
  }
}

void put_write_access(mapping& f) {
  if (f.regular()) f.writers.fetch_sub(1, release);
}

void filemap_write_back(cpu& self, mapping& f, bool wait) {
  if (!f.regular()) return;
  each_folio(self, f, wait, [&](pfn_t head) { write_folio(self, f, head); });
}

u64 filemap_invalidate(cpu& self, mapping& f) {
  u64 n = 0;
  if (!f.regular()) return n;
  each_folio(self, f, false, [&](pfn_t head) {
    const frame& h = self.ram->of(head);
    const u64 pages = 1ULL << h.order;
    // The cache's references, and ours.
    if ((h.flags.load(acquire) & pg_dirty) != 0 || folio_mapped(self, head) ||
        h.refcount.load(acquire) != pages + 1)
      return;
    remove_from_cache(self, f, head);
    n += pages;
  });
  return n;
}

}  // namespace pgtbl::inline PGTBL_WORLD
