// mapping.hpp -- one file of shared memory: its pages, its size, and who maps it.
#pragma once
#include <string>

#include "mm/mm.hpp"
#include "mm/page_cache.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct mapping {
  mapping(machine& m, u32 number, rcu_domain& rcu, u64 bytes)
      : home(m), id(number), pages(rcu), size(bytes) {}

  machine& home;
  const u32 id;
  page_cache pages;
  alignas(64) spinlock xa_lock;  // all changes of `pages`; not on the line that look-ups read
  rwsem i_mmap_rwsem{lock_class::i_mmap_read, lock_class::i_mmap_write};
  i_mmap_tree i_mmap;    // protected by i_mmap_rwsem
  atomic<u64> size;      // bytes; shrinks before the pages beyond go (truncate)
  atomic<u32> count{1};  // references: the creator's handle and each VMA

  pgoff_t size_pages() const { return page_align_up(size.load(acquire)) >> page_shift; }
};

/// A folio found in the page cache, with a reference of the finder's: put_folio() gives it back.
struct cached_page {
  pfn_t head = 0;  // the folio
  pfn_t pfn = 0;   // the frame of the index asked for
  explicit operator bool() const { return head != 0; }
};

// ---------------------------------------------------------------- folios (mm/folio.cpp)

bool folio_trylock(cpu& self, pfn_t head);
[[nodiscard]] hold folio_lock(cpu& self, pfn_t head);
void folio_unlock(cpu& self, pfn_t head, hold h);
std::optional<hold> folio_trylock_hold(cpu& self, pfn_t head);

inline void folio_get(cpu& self, pfn_t head, u32 n = 1) { self.ram->of(head).refcount.fetch_add(n, relaxed); }
/// A reference unless the folio has none left (folio_try_get).
bool folio_try_get(cpu& self, pfn_t head);
/// Gives n references back; the last one frees the folio.
void folio_put(cpu& self, pfn_t head, u32 n = 1);

/// Holds a folio lock for a scope.
class [[nodiscard]] folio_guard {
 public:
  folio_guard(cpu& self, pfn_t head) : self_(&self), head_(head), hold_(folio_lock(self, head)) {}
  folio_guard(cpu& self, pfn_t head, hold h) : self_(&self), head_(head), hold_(h) {}
  folio_guard(folio_guard&& o) noexcept : self_(o.self_), head_(std::exchange(o.head_, 0)), hold_(o.hold_) {}
  folio_guard& operator=(folio_guard&&) = delete;
  ~folio_guard() { unlock(); }
  void unlock() {
    if (head_ != 0) folio_unlock(*self_, head_, hold_);
    head_ = 0;
  }

 private:
  cpu* self_;
  pfn_t head_;
  hold hold_;
};

// ---------------------------------------------------------------- the page cache (mm/filemap.cpp)

/// The page at index with a reference, or none; under no lock (filemap_get_folio).
cached_page filemap_get(cpu& self, mapping& f, pgoff_t index);
/// The page at index, allocated, zeroed and inserted where there was none; a reference.  Nothing when
/// memory is exhausted.  The folio is not locked.  Waits where a collapse has marked the hole.
cached_page filemap_get_or_create(cpu& self, mapping& f, pgoff_t index, bool uptodate = true);

/// Whether the folio is still the file's page at index: what a look-up found may have been truncated, or
/// replaced by a collapse, before the finder had its lock.
bool still_cached(cpu& self, mapping& f, pgoff_t index, const cached_page& p);
/// Takes a page out again that was created beyond the end of the file, where a truncate had looked before.  The
/// caller still holds the folio lock under which it saw that, so nobody can have mapped or filled the page.
void filemap_remove_new(cpu& self, mapping& f, pfn_t head);

/// Bytes of the file from outside of any mapping (pread, pwrite); throws beyond the end.
void file_read(cpu& self, mapping& f, u64 offset, void* out, u64 n);
void file_write(cpu& self, mapping& f, u64 offset, const void* in, u64 n);
/// ftruncate: shrinks or grows; pages beyond the end go, mapped or not.
void file_truncate(cpu& self, mapping& f, u64 bytes);
/// FALLOC_FL_PUNCH_HOLE | KEEP_SIZE: whole pages in [offset, offset + length) go, parts are zeroed.
void file_punch(cpu& self, mapping& f, u64 offset, u64 length);
/// fallocate: every page of [offset, offset + length) is there afterwards; the file grows where it must.
void file_allocate(cpu& self, mapping& f, u64 offset, u64 length);

/// A reference to the file, and giving it back; the last one drops every page.
inline void mapping_get(mapping& f) { f.count.fetch_add(1, relaxed); }
void mapping_put(cpu& self, mapping& f);

// ---------------------------------------------------------------- rmap (mm/rmap.cpp)

/// Unmaps the folio from every VMA that maps it: each PTE (or PMD) is cleared under its lock, references
/// and counters go down, and the flush is done now or put off to flush_unmap_batch() (TTU_BATCH_FLUSH).
/// The caller holds the folio lock and a reference.
void try_to_unmap(cpu& self, pfn_t head);

/// Zaps pages [first, last] of the file out of every mapping (unmap_mapping_range); private copies too if
/// even_cows.
void unmap_mapping_range(cpu& self, mapping& f, pgoff_t first, pgoff_t last, bool even_cows);

}  // namespace pgtbl::inline PGTBL_WORLD
