// collapse_file.cpp -- the small pages of an extent become one huge page in the page cache.
//
// Guarantee.  The file's contents are the same before and after, also when it fails, and whoever stores to a
// page of the extent meanwhile, through any mapping or from outside, finds his store afterwards.
//
// Method.  Every small page is locked, taken off the LRU, unmapped from everywhere, and found to have no
// reference but the cache's and ours.  After the TLB flush nobody can store to it: then it is copied.  A fault
// that wants one of them waits for its folio lock, sees that it has left the file, and starts over.  Holes are
// counted, marked so that nobody fills them, and counted again.  Then one store puts the huge page in the place
// of all, its folio lock held until the old tables are retracted.
//
// Of a regular file (READ_ONLY_THP_FOR_FS) the pages must be on the disk already, as a huge page is never written back:
// what is dirty is written now, and this collapse gives up.  Holes are read in.  Nobody may have the file open for writing, or
// open it meanwhile (mm/regular_file.cpp).
//
// Lock order.  The folio locks of the extent are only tried (any order is safe); i_mmap_rwsem and the cache's
// lock come under them.  No mmap_lock.
//
// Cost.  Copies 2 MiB; one flush a mapped page while only this CPU runs the mm, else one a mm.
#include "base/errors.hpp"
#include "khugepaged/scan_trace.hpp"
#include "mm/lru_batch.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// A page that is being collapsed: locked, isolated, and ours.
struct small_page {
  pfn_t pfn = 0;      // 0: a hole
  bool head = false;  // of its folio, whose lock it has
  hold lock;
};

class file_collapse {
 public:
  file_collapse(cpu& self, mapping& f, pgoff_t start, const collapse_control& cc)
      : self_(self), file_(f), start_(start), cc_(cc) {}
  scan_result run();

 private:
  frame& of(pfn_t pfn) { return self_.ram->of(pfn); }
  scan_result prepare();
  scan_result take_all();
  scan_result take(u64 i);
  scan_result take_missing(u64 i);
  scan_result take_locked(u64 i, pfn_t pfn, hold h);
  scan_result count_huge_page();
  scan_result isolate(u64 i, pfn_t pfn, hold h);
  scan_result only_our_references(u64 i);
  void copy();
  scan_result mark_holes();
  void publish();
  void release_small_pages();
  void roll_back();

  cpu& self_;
  mapping& file_;
  const pgoff_t start_;
  const collapse_control& cc_;
  pfn_t huge_ = 0;
  hold huge_lock_;
  u64 taken_ = 0;  // pages[0 .. taken_) are dealt with
  u64 holes_ = 0;
  bool marked_ = false;
  small_page pages_[pages_per_huge];
};

scan_result file_collapse::take_all() {
  self_.rcu.read_lock();
  const bool any = static_cast<bool>(file_.pages.find(start_, start_ + pages_per_huge - 1));
  self_.rcu.read_unlock();
  if (!any && !file_.regular()) return scan_result::truncated;  // the extent has gone
  pause_at(self_, point::cf_page_seen);
  while (taken_ < pages_per_huge) {
    const scan_result r = take(taken_);
    if (r != scan_result::succeed) return r;
    taken_ += pages_[taken_].pfn == 0 ? 1 : 1ULL << of(pages_[taken_].pfn).order;
  }
  // Punched since we looked.  And with one page locked the cache keeps its node of the extent, so that marking the
  // holes and publishing, under locks, never have to allocate.
  return holes_ == pages_per_huge ? scan_result::truncated : scan_result::succeed;
}

scan_result file_collapse::take(u64 i) {
  self_.rcu.read_lock();
  const cache_entry e = file_.pages.load(start_ + i);
  self_.rcu.read_unlock();
  if (e.empty() && file_.regular()) return take_missing(i);
  if (e.empty()) {
    ++holes_;
    return scan_result::succeed;
  }
  if (e.is_retry()) return scan_result::page_lock;  // another collapse is here
  const cached_page p = filemap_get(self_, file_, start_ + i);
  if (!p) return scan_result::page_null;
  const unsigned order = of(p.head).order;
  if (order == huge_order || (order != 0 && (!self_.rules->collapse_large_folios || p.head != p.pfn))) {
    folio_put(self_, p.head);
    return order == huge_order ? scan_result::pte_mapped_hugepage : scan_result::page_compound;
  }
  if (file_.regular() && (of(p.head).flags.load(acquire) & pg_dirty) != 0 && guard(Guard::file_thp_clean)) {
    folio_put(self_, p.head);
    // It was stored before the file was closed, and nothing has made it go to the disk.  The next collapse may find it
    // clean; what this one has locked is clean.
    try {
      filemap_write_back(self_, file_, false);
    } catch (const out_of_memory&) {
      // The disk is full: sync() tells that.  The pages stay dirty, and small.
    }
    return scan_result::fail;
  }
  const auto h = folio_trylock_hold(self_, p.head);
  if (!h) {
    folio_put(self_, p.head);
    return scan_result::page_lock;
  }
  return take_locked(i, p.head, *h);
}

/// A page of a regular file that is not cached is read in.  Beyond the end there is nothing to read.
scan_result file_collapse::take_missing(u64 i) {
  if (start_ + i >= file_.size_pages()) return scan_result::fail;
  const cached_page p = filemap_get_or_create(self_, file_, start_ + i);
  lru_add_drain(self_);
  if (!p) return scan_result::fail;
  // Not the one that was read in, if it is larger: a collapse by somebody else.
  const auto h = of(p.head).order == 0 ? folio_trylock_hold(self_, p.head) : std::nullopt;
  if (!h) {
    folio_put(self_, p.head);
    return scan_result::page_lock;
  }
  // Truncated since the look at the size, and by now through with this index: nobody else takes the page away again.
  if (start_ + i >= file_.size_pages()) {
    filemap_remove_new(self_, file_, p.head);
    folio_unlock(self_, p.head, *h);
    folio_put(self_, p.head);
    return scan_result::fail;
  }
  return take_locked(i, p.head, *h);
}

/// Takes the reference and the lock over; gives both back where it cannot have the page.
scan_result file_collapse::take_locked(u64 i, pfn_t pfn, hold h) {
  pause_at(self_, point::cf_folio_locked_i);
  const scan_result r = isolate(i, pfn, h);
  if (r != scan_result::succeed) {
    folio_unlock(self_, pfn, h);
    folio_put(self_, pfn);
  }
  return r;
}

/// The page is locked and has our reference: off the LRU (which holds one more), out of every mapping.
scan_result file_collapse::isolate(u64 i, pfn_t pfn, hold h) {
  frame& f = of(pfn);
  if (f.file.load(acquire) != &file_) return scan_result::truncated;
  // Stored to, from outside, before it was locked.
  if (file_.regular() && (f.flags.load(acquire) & pg_dirty) != 0 && guard(Guard::file_thp_clean))
    return scan_result::fail;
  if ((f.flags.fetch_and(~u32{pg_lru}, acq_rel) & pg_lru) == 0) return scan_result::del_page_lru;
  folio_get(self_, pfn);
  f.flags.fetch_or(pg_uptodate, relaxed);  // set aside by fallocate, and not read yet: zeroes
  const u64 pages = 1ULL << f.order;
  bool mapped = false;
  for (u64 k = 0; k < pages; ++k) {
    pages_[i + k] = {pfn + k, k == 0, k == 0 ? h : hold{}};
    mapped |= of(pfn + k).mapcount.load(acquire) != 0;
  }
  if (mapped) try_to_unmap(self_, pfn);
  pause_at(self_, point::cf_unmapped_i);
  const scan_result r = only_our_references(i);
  if (r != scan_result::succeed) {
    for (u64 k = 0; k < pages; ++k) pages_[i + k] = {};
    f.flags.fetch_or(pg_lru, release);
    folio_put(self_, pfn);
  }
  return r;
}

/// The cache's references (one a page), the isolation's and the look-up's: with one more somebody may read or write the
/// page behind our back (a pin: B30).  After the unmapping, so that a mapping cannot become one; and only now it is known whether
/// somebody has stored to the page: an entry's dirty bit, and a device's word as it unpins, came to the folio until then.
scan_result file_collapse::only_our_references(u64 i) {
  const spin_guard g(self_, file_.xa_lock, lock_class::page_cache);
  if (file_.pages.load(start_ + i) != cache_entry::small(pages_[i].pfn)) return scan_result::truncated;
  const u32 expected = 2 + (1U << of(pages_[i].pfn).order);
  if (of(pages_[i].pfn).refcount.load(acquire) != expected && guard(Guard::file_refcount))
    return scan_result::page_count;
  if (file_.regular() && (of(pages_[i].pfn).flags.load(acquire) & pg_dirty) != 0 &&
      guard(Guard::file_thp_clean))
    return scan_result::fail;
  return scan_result::succeed;
}

/// The huge page of a regular file is counted before it comes, and then looked whether anybody writes to the file.  Who opens it
/// for writing does the same the other way round (count_writer): one sees the other.
scan_result file_collapse::count_huge_page() {
  if (!file_.regular()) return scan_result::succeed;
  file_.nr_thps.fetch_add(1, relaxed);
  if (guard(Guard::file_thp_fence)) fence(seq_cst);  // pairs with the fence in count_writer
  pause_at(self_, point::cf_thp_counted);
  if (file_.writers.load(acquire) == 0 || !guard(Guard::file_thp_writers)) return scan_result::succeed;
  file_.nr_thps.fetch_sub(1, relaxed);
  return scan_result::fail;
}

void file_collapse::copy() {
  for (u64 i = 0; i < pages_per_huge; ++i) {
    if (pages_[i].pfn == 0)
      self_.ram->phys.clear_page(huge_ + i);
    else
      self_.ram->phys.copy_page(huge_ + i, pages_[i].pfn);
    pause_at(self_, point::cf_copied_i);
  }
}

/// Holes become retry markers: a fault that wants to fill one waits.  One filled since it was counted would
/// be lost under the zeroes that we copied for it.
scan_result file_collapse::mark_holes() {
  if (holes_ == 0 || !guard(Guard::file_hole_recheck)) return scan_result::succeed;
  const hold im = file_.i_mmap_rwsem.read_lock(self_);
  u64 still = 0;
  {
    const spin_guard g(self_, file_.xa_lock, lock_class::page_cache);
    marked_ = true;
    for (u64 i = 0; i < pages_per_huge; ++i) {
      if (pages_[i].pfn != 0 || !file_.pages.load(start_ + i).empty()) continue;
      file_.pages.store(self_.rcu, start_ + i, cache_entry::retry());
      ++still;
    }
  }
  // Who handles missing pages would never hear of those that the huge page brings.
  bool reported = false;
  file_.i_mmap.for_each(start_, start_ + pages_per_huge - 1,
                        [&](i_mmap_node& n) { reported |= n.owner->is(vm_uffd_missing); });
  file_.i_mmap_rwsem.read_unlock(self_, im);
  pause_at(self_, point::cf_holes_marked);
  if (still != holes_) return scan_result::page_filled;
  return reported && guard(Guard::file_missing) ? scan_result::exceed_none_pte : scan_result::succeed;
}

void file_collapse::publish() {
  frame& h = of(huge_);
  h.index = start_;
  h.file.store(&file_, release);
  h.refcount.fetch_add(static_cast<u32>(pages_per_huge) - 1, relaxed);  // one for each page in the cache
  h.flags.fetch_or(pg_uptodate | (file_.regular() ? pg_fs : pg_dirty) | pg_lru, release);
  const spin_guard g(self_, file_.xa_lock, lock_class::page_cache);
  file_.pages.store_huge(self_.rcu, start_, cache_entry::huge(huge_));
}

/// The huge page is in their place: the small ones go.
void file_collapse::release_small_pages() {
  for (small_page& p : pages_) {
    if (!p.head) continue;
    const u32 references = 2 + (1U << of(p.pfn).order);
    of(p.pfn).file.store(nullptr, release);  // who waits for the folio lock sees that it has left
    folio_unlock(self_, p.pfn, p.lock);
    folio_put(self_, p.pfn, references);
  }
}

void file_collapse::roll_back() {
  if (marked_) {
    const spin_guard g(self_, file_.xa_lock, lock_class::page_cache);
    for (u64 i = 0; i < pages_per_huge; ++i)
      if (file_.pages.load(start_ + i).is_retry()) file_.pages.erase(self_.rcu, start_ + i);
  }
  for (u64 i = 0; i < taken_; ++i) {
    small_page& p = pages_[i];
    if (!p.head) continue;
    of(p.pfn).flags.fetch_or(pg_lru, release);
    folio_unlock(self_, p.pfn, p.lock);
    folio_put(self_, p.pfn, 2);
  }
  folio_unlock(self_, huge_, huge_lock_);
  folio_put(self_, huge_);
}

/// All before the huge page is published.  What it has taken, also where it throws, is rolled back by its caller.
scan_result file_collapse::prepare() {
  scan_result r = take_all();
  if (r == scan_result::succeed) r = count_huge_page();
  pause_at(self_, point::cf_before_flush);
  // Before the copy: through a translation that is left somebody could store to the page behind us (B29).
  if (guard(Guard::file_flush_first) || r != scan_result::succeed) flush_unmap_batch(self_);
  if (r == scan_result::succeed) {
    copy();
    flush_unmap_batch(self_);
    r = mark_holes();
  }
  return r;
}

scan_result file_collapse::run() {
  const auto fresh = self_.ram->alloc_huge(self_, self_.frames);
  if (!fresh) return scan_result::alloc_huge_page_fail;
  huge_ = *fresh;
  huge_lock_ = folio_lock(self_, huge_);
  scan_result r = scan_result::fail;
  try {
    r = prepare();
  } catch (...) {  // the computer's memory is exhausted
    flush_unmap_batch(self_);
    roll_back();
    throw;
  }
  if (r != scan_result::succeed) {
    roll_back();
    return r;
  }
  publish();
  self_.led.add(event::collapse_file);
  pause_at(self_, point::cf_published);
  r = retract_page_tables(self_, file_, start_, huge_, cc_);
  pause_at(self_, point::cf_retracted);
  folio_unlock(self_, huge_, huge_lock_);
  pause_at(self_, point::cf_unlocked);
  release_small_pages();
  return cc_.is_khugepaged ? scan_result::succeed : r;
}

}  // namespace

scan_result collapse_file(cpu& self, mapping& f, pgoff_t start, const collapse_control& cc) {
  const scan_result r = file_collapse(self, f, start, cc).run();
  trace_collapse_file(self, r);
  return r;
}

scan_result scan_file(cpu& self, mapping& f, pgoff_t start, const collapse_control& cc) {
  u64 present = 0;
  scan_result r = scan_result::succeed;
  self.rcu.read_lock();
  f.pages.for_each(start, start + pages_per_huge - 1, [&](const cache_item& item) {
    if (!item.entry.is_page()) return true;
    if (item.entry.is_huge()) {
      r = scan_result::pte_mapped_hugepage;
      return false;
    }
    const pfn_t head = self.ram->head_of(item.entry.pfn());
    const frame& p = self.ram->of(head);
    const u64 pages = 1ULL << p.order;
    if (pages != 1 && !self.rules->collapse_large_folios) r = scan_result::page_compound;
    if ((p.flags.load(acquire) & pg_lru) == 0) r = scan_result::page_lru;
    if (head == item.entry.pfn()) {
      // The cache's references and one for each mapping: more are somebody's who may be using it.
      u64 expected = pages;
      for (u64 k = 0; k < pages; ++k) expected += self.ram->of(head + k).mapcount.load(acquire);
      if (p.refcount.load(acquire) != expected) r = scan_result::page_count;
    }
    if (r != scan_result::succeed) return false;
    ++present;
    return true;
  });
  self.rcu.read_unlock();
  if (r == scan_result::succeed)
    r = cc.is_khugepaged && present + cc.max_ptes_none < pages_per_huge ? scan_result::exceed_none_pte
                                                                        : collapse_file(self, f, start, cc);
  trace_scan_file(self, r, present, 0);
  return r;
}

}  // namespace pgtbl::inline PGTBL_WORLD
