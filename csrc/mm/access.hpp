// access.hpp -- loads and stores of the simulated program: the hardware, and the faults that it takes.
#pragma once
#include "mm/fault.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// One access at va: use(pfn, offset in the page), inside an interrupts-off section.  Faults are handled
/// until it succeeds; returns how many.  Throws segmentation_fault, bus_error, out_of_memory.
template <class Use>
u32 mm_access(cpu& self, mm& m, va_t va, access a, Use&& use) {
  load_mm(self, m);
  u32 faults = 0;
  while (!mmu_access(self, va, a, use)) {
    self.killable = true;
    handle_page_fault(self, m, va, a);
    ++faults;
  }
  return faults;
}

/// Touches the word at va: loads it, or (write) adds 0 to it in one step, so that no store is lost.  Returns the number of faults.
inline u32 mm_touch(cpu& self, mm& m, va_t va, access a) {
  return mm_access(self, m, va, a, [&self, a](pfn_t pfn, u64 offset) {
    if (a == access::write)
      self.ram->phys.touch_word(pfn, offset & ~7ULL);
    else
      self.ram->phys.load_word(pfn, offset & ~7ULL);
  });
}

u64 mm_load(cpu& self, mm& m, va_t va);  // the aligned word at va
void mm_store(cpu& self, mm& m, va_t va, u64 word);
void mm_read(cpu& self, mm& m, va_t va, void* out, u64 n);
void mm_write(cpu& self, mm& m, va_t va, const void* in, u64 n);

}  // namespace pgtbl::inline PGTBL_WORLD
