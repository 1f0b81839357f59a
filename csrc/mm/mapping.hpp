// mapping.hpp -- one file: its pages, its size, and who maps it.
//
// Shared memory is its page cache.  A regular file has a disk behind it, which nothing has to be waited for: a page that is
// missing is read from there (or is zeroes), what was stored goes there when it is written back, and not before.
#pragma once
#include <string>

#include "mm/mm.hpp"
#include "mm/page_cache.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class file_kind : u8 { shmem, regular };

/// F_SEAL_.
enum : u32 {
  seal_seal = 1,
  seal_shrink = 2,
  seal_grow = 4,
  seal_write = 8,
  seal_future_write = 16,
  seal_exec = 32
};

struct mapping {
  mapping(machine& m, u32 number, rcu_domain& rcu, u64 bytes, file_kind k)
      : home(m), id(number), kind(k), pages(rcu), size(bytes), disk(rcu) {}

  machine& home;
  const u32 id;
  const file_kind kind;
  page_cache pages;
  alignas(64) spinlock xa_lock;  // all changes of `pages`; not on the line that look-ups read
  rwsem i_mmap_rwsem{lock_class::i_mmap_read, lock_class::i_mmap_write};
  i_mmap_tree i_mmap;    // protected by i_mmap_rwsem
  atomic<u64> size;      // bytes; shrinks before the pages beyond go (truncate)
  atomic<u32> count{1};  // references: the creator's handle and each VMA

  atomic<u32> seals{0};  // F_ADD_SEALS of shared memory: seal_*; only ever more

  // Of a regular file.
  page_cache disk;         // what was written back: frames that nobody else knows; changes under xa_lock
  atomic<u32> writers{0};  // i_writecount: who has it open for writing, and shared mappings made by such
  atomic<u32> nr_thps{
      0};  // huge pages in `pages`, and those about to come; 0 while there are writers, in the end

  bool regular() const { return kind == file_kind::regular; }
  rss_kind rss() const { return regular() ? rss_kind::file : rss_kind::shmem; }  // what its pages count as
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

/// A file is open for writing (get_write_access, do_dentry_open).  Huge pages cannot be written back: a regular file that
/// has some loses its cache as somebody begins to write, and gets none as long as he may (G-48).
void get_write_access(cpu& self, mapping& f);
void put_write_access(mapping& f);
/// What get_write_access() of a regular file begins with: somebody who writes is counted.  Whether the file has huge pages, or
/// a collapse is about to give it one.
bool count_writer(cpu& self, mapping& f);
class [[nodiscard]] write_access {
 public:
  struct already_open {};
  write_access(cpu& self, mapping& f) : file_(f) { get_write_access(self, f); }
  /// Of a file that somebody has open for writing now, and may close: it has no huge page that would have to go.
  write_access(mapping& f, already_open) : file_(f) {
    if (f.regular()) f.writers.fetch_add(1, relaxed);
  }
  ~write_access() { put_write_access(file_); }
  write_access(const write_access&) = delete;
  write_access& operator=(const write_access&) = delete;

 private:
  mapping& file_;
};
/// What is not on the disk yet goes there (fsync): pages that are locked are passed over where wait is not set
/// (filemap_flush).  Throws out_of_memory where the disk is full; nothing for shared memory.
void filemap_write_back(cpu& self, mapping& f, bool wait);
/// Pages of a regular file that are clean, and that nobody maps or refers to, leave the cache (POSIX_FADV_DONTNEED).
/// Returns how many.
u64 filemap_invalidate(cpu& self, mapping& f);
/// A locked, unmapped folio leaves the cache, and the cache's references with it.
void remove_from_cache(cpu& self, mapping& f, pfn_t head);
/// Whether a PTE or PMD maps some page of the folio.
bool folio_mapped(cpu& self, pfn_t head);

/// Adds seals.  Throws os_error: EPERM where they are final, EBUSY where somebody could still store.
void file_seal(cpu& self, mapping& f, u32 seals);
/// Throws os_error(EPERM) if the file has one of these seals.
void refuse_if_sealed(const mapping& f, u32 seals, const char* what);

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
class [[nodiscard]] mapping_ref {
 public:
  mapping_ref(cpu& self, mapping& f) : self_(self), file_(f) { mapping_get(f); }
  ~mapping_ref() { mapping_put(self_, file_); }
  mapping_ref(const mapping_ref&) = delete;
  mapping_ref& operator=(const mapping_ref&) = delete;

 private:
  cpu& self_;
  mapping& file_;
};

// ---------------------------------------------------------------- rmap (mm/rmap.cpp)

/// Unmaps the folio from every VMA that maps it: each PTE (or PMD) is cleared under its lock, references
/// and counters go down, and the flush is done now or put off to flush_unmap_batch() (TTU_BATCH_FLUSH).
/// The caller holds the folio lock and a reference.
void try_to_unmap(cpu& self, pfn_t head);

/// Zaps pages [first, last] of the file out of every mapping (unmap_mapping_range); private copies too if
/// even_cows.
void unmap_mapping_range(cpu& self, mapping& f, pgoff_t first, pgoff_t last, bool even_cows);

}  // namespace pgtbl::inline PGTBL_WORLD
