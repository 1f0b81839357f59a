// vivt.hpp -- arm's cache on a machine: virtually indexed, virtually tagged, and written back late.
//
// Problem.  What a program stores through one address of a page stays in the cache under that address.  A load through
// another address, the kernel's among them, finds what memory has (arch/arm.hpp).
// Method.  One cache for the machine, of lines that are a page each, found by program and address.  A line remembers its
// frame, so it can be written back when the entry is gone.  An entry that says uncached leads past the cache.  Lines are
// given up where Linux flushes: with the TLB's flush of their range (flush_cache_range), as a mapping becomes uncached
// (flush_cache_page), as a CPU leaves the program (cpu_switch_mm), and of a frame as the kernel comes to its bytes
// (flush_dcache_page).
// What is different.  Such a processor is alone: while one program runs, no other does, and nobody touches memory while the
// kernel is in the middle of something.  Here CPUs run at once.  So an access takes a lock that stands for the processor; it
// first writes back what other programs' lines have of the frame, as the switch to this program would have; and lines go after
// the TLB's entries, not before, or a store that came in between would bring one back.
// Elsewhere all of this is nothing: kernel_mapping is an empty object.
#pragma once
#include <vector>

#include "arch/arch.hpp"
#include "memory/memory.hpp"

namespace pgtbl::inline PGTBL_WORLD {

#if defined(PGTBL_ARCH_ARM)

/// A software bit of an entry: the cache is not asked.
inline constexpr u64 bit_uncached = 1ULL << 4;

struct cpu;

class vivt_cache {
 public:
  explicit vivt_cache(memory& ram);
  ~vivt_cache();
  vivt_cache(const vivt_cache&) = delete;
  vivt_cache& operator=(const vivt_cache&) = delete;

  /// A program's access: use(frame, offset), where the frame is the page's or its line's.
  template <class Use>
  void access(u32 mm, va_t va, u64 entry, bool write, Use&& use) {
    const u64 offset = va & (page_size - 1);
    const pfn_t pfn = entry_to_pfn(entry);
    if (ram_.is_zero(pfn)) {
      use(pfn, offset);
      return;
    }
    const processor p(*this);
    if ((entry & bit_uncached) != 0) {
      write_back_others(pfn, mm);
      use(pfn, offset);
      return;
    }
    line& l = line_for(mm, va >> page_shift, pfn);
    use(l.store, offset);
    l.dirty |= write;
  }
  /// Lines that a program has of a frame at other addresses than these: written back and dropped.
  void drop_others(u32 mm, pfn_t pfn, const std::vector<va_t>& kept);
  /// Lines of [start, end) of a program: written back and dropped.
  void flush_range(u32 mm, va_t start, va_t end);
  void flush_mm(u32 mm) { flush_range(mm, 0, task_size); }

  /// The frame that a line of that address holds; 0: there is none.
  pfn_t frame_at(u32 mm, va_t va) const;
  u32 used() const { return used_; }

  /// While it lives, nobody else is at memory.
  class [[nodiscard]] processor {
   public:
    explicit processor(vivt_cache& c) : c_(c) {
      if (!c_.lock_.take()) c_.lock_.take_slow();
    }
    ~processor() { c_.lock_.give(); }
    processor(const processor&) = delete;
    processor& operator=(const processor&) = delete;

   private:
    vivt_cache& c_;
  };
  /// Of a frame, whoever has them.  With the processor.
  void write_back(pfn_t pfn);

 private:
  struct line {
    u32 mm = 0;
    bool dirty = false;
    va_t page = 0;
    pfn_t frame = 0;  // 0: the line holds nothing
    pfn_t store = 0;  // where its bytes lie: a frame behind those of the machine
  };
  /// Which lines a frame has: of one program only.
  struct held {
    u32 mm = 0, n = 0;
  };

  line& place(u32 mm, va_t page) const;
  line& line_for(u32 mm, va_t page, pfn_t pfn);
  void drop(line& l);
  void write_back_others(pfn_t pfn, u32 mm) {
    if (held_[pfn].n != 0 && held_[pfn].mm != mm) write_back(pfn);
  }

  memory& ram_;
  lock_word lock_;  // protects all that follows
  line* lines_;
  held* held_;  // by frame
  u32 used_ = 0;
};

/// The kernel is at the page's bytes, by its own address (kmap, and flush_dcache_page).
class [[nodiscard]] kernel_mapping {
 public:
  kernel_mapping(cpu& self, pfn_t pfn);

 private:
  vivt_cache::processor alone_;
};

#else

struct [[nodiscard]] kernel_mapping {
  template <class Cpu>
  constexpr kernel_mapping(Cpu&, pfn_t) {}
};

#endif

}  // namespace pgtbl::inline PGTBL_WORLD
