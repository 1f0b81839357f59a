// secondary_mmu.hpp -- a device that works on a program's memory by the program's addresses, and remembers translations.
//
// Kinds.  shadow: it has tables of its own, filled by get_user_pages (a hypervisor's, an RDMA adapter's).  It is told
// where a range of the program is about to change, and where that is over (invalidate_range_start, end).  walker: it
// walks the program's very tables, as an IOMMU with shared virtual addresses does, and caches both translations and the
// tables that led to them.  It is told to forget: before 6.6 where a notifier range ends, and where a gather flushes;
// from 6.6 on by every TLB flush (arch_invalidate_secondary_tlbs).
//
// Guarantee.  A translation that the device uses leads to the frame that the program has there, or had until this
// moment.  One that leads to a frame that was freed since is an error, with both histories (G-16).
//
// Method.  One lock of the device covers its cache, its walks and each use of a translation: who invalidates takes it, so
// no use is under way afterwards.  shadow looks a page up without the lock, and fills it in only if no range that covers
// it was open, or has been closed, since it began (mmu_notifier_retry).
//
// Lock order.  The device's lock is the innermost: invalidation comes under a table's lock.  Its faults hold none.
#pragma once
#include "mm/mm.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class secondary_kind : u8 { shadow, walker };

class secondary_mmu {
 public:
  secondary_mmu(mm& m, u32 id, secondary_kind k) : owner(m), number(id), kind(k) {}
  ~secondary_mmu() { stop(); }
  secondary_mmu(const secondary_mmu&) = delete;
  secondary_mmu& operator=(const secondary_mmu&) = delete;

  mm& owner;
  const u32 number;
  const secondary_kind kind;
  secondary_mmu* next = nullptr;  // of the same mm; stable

  /// One access of the device's: use(physical, pfn, offset of the word), under its lock.  How many faults that took.  Throws what
  /// the program's access would throw; closed_error once the device is closed.
  template <class Use>
  u32 access(cpu& self, va_t va, pgtbl::access a, Use&& use) {
    u32 faults = 0;
    for (;;) {
      {
        const spin_guard g(self, lock_, lock_class::other);
        refuse_closed();
        if (const pfn_t pfn = translate(self, va, a); pfn != 0) {
          const kernel_mapping bytes(self, pfn);
          use(self.ram->phys, pfn, va & (page_size - 1) & ~7ULL);
          accesses_ += 1;
          return faults;
        }
      }
      fault(self, va, a);
      ++faults;
    }
  }

  // ---------------------------------------------------------------- what it is told (mm/notifier.cpp)

  void start(cpu& self, va_t from, va_t to);
  void end(cpu& self, va_t from, va_t to);
  void invalidate(cpu& self, va_t from, va_t to);
  /// It forgets everything, and works no more: closed, or the program ends.
  void close(cpu& self);

  // ---------------------------------------------------------------- its own thread

  /// From now on a thread accesses random pages of [from, from + pages), as stores if `write`.  Throws usage_error where no CPU is
  /// left, or one runs.  By one thread at a time, as stop().
  void run_on(va_t from, u64 pages, bool write, u64 seed);
  void stop();
  bool running() const { return running_.load(acquire) != 0; }

  u64 accesses(cpu& self);
  u64 translations(cpu& self);
  /// The frame that it would use for va; 0: none.
  pfn_t cached(cpu& self, va_t va);
  /// Calls f(va, pfn, writable) for each translation.  Nobody may be at work.
  template <class F>
  void each(F&& f) const {
    for (const line& x : lines_)
      if (x.key != 0) f((x.key - 1) << page_shift, x.pfn, x.writable);
  }

 private:
#if defined(PGTBL_WORLD_MODEL)
  static constexpr u64 line_count = 8, table_count = 4;
#else
  static constexpr u64 line_count = 1024, table_count = 64;
#endif
  struct line {
    u64 key = 0;  // page number + 1
    pfn_t pfn = 0;
    u32 generation = 0;
    bool writable = false;
  };
  struct table {
    u64 key = 0;  // extent's number + 1
    u64 pmd = 0;
    u32 generation = 0;
  };
  line& line_of(va_t va) { return lines_[va >> page_shift & (line_count - 1)]; }
  void refuse_closed() const;
  void drop(va_t from, va_t to);
  pfn_t translate(cpu& self, va_t va, pgtbl::access a);
  void fill(cpu& self, va_t va, pfn_t pfn, bool writable);
  void fault(cpu& self, va_t va, pgtbl::access a);
  void fault_shadow(cpu& self, va_t va, pgtbl::access a);
  pfn_t walk(cpu& self, va_t va, pgtbl::access a);
  pmd_t walk_to_pmd(cpu& self, va_t va, entry_word*& slot);
  void report(cpu& self, va_t va, pfn_t pfn, u32 filled, const char* what);
  bool invalid(va_t va) const { return open_ != 0 && va >= open_from_ && va < open_to_; }
  void work(va_t from, u64 pages, bool write, u64 seed);

  spinlock lock_;
  // Protected by lock_.
  line lines_[line_count];
  table tables_[table_count];
  u64 sequence_ = 0;  // ranges that ended
  u32 open_ = 0;      // ranges between start and end, which lie in [open_from_, open_to_)
  va_t open_from_ = 0, open_to_ = 0;
  u64 accesses_ = 0;
  bool closed_ = false;

  enum : u32 { starting, started, no_cpu };
  thread thread_;
  atomic<u32> state_{starting};
  atomic<u32> running_{0}, stop_{0};
};

/// A new one, which sees every range that begins from now on, and every flush.
secondary_mmu* register_secondary_mmu(cpu& self, mm& m, secondary_kind k);
/// Their threads end; nobody is inside of a call.  Then, before anything is unmapped, they forget everything
/// (mmu_notifier_release).
void stop_secondary_mmus(mm& m);
void release_secondary_mmus(cpu& self, mm& m);
void free_secondary_mmus(mm& m);

}  // namespace pgtbl::inline PGTBL_WORLD
