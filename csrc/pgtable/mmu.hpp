// mmu.hpp -- the hardware: how an access of a simulated program finds its page.
//
// mmu_access() looks the address up in the TLB; where it is not there, walks the tables (from the
// paging-structure cache if it can), sets the accessed and dirty bits by atomic operations, and fills
// the TLB.  The page is used inside the same interrupts-off section, so that a flush waits for the use.
// False means a page fault: the caller handles it (mm/fault.hpp) and tries again.
//
// The hardware knows no lock.  It walks tables that software may be taking away, and is safe because
// software waits for it: it is what a forgotten flush breaks.  A translation that is used after its
// frame was freed is reported with both histories (G-14).
#pragma once
#include "base/breach.hpp"
#include "pgtable/flush.hpp"
#include "pgtable/walk.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class access : u8 { read, write, exec };
constexpr const char* to_string(access a) {
  return a == access::read ? "read" : a == access::write ? "write" : "exec";
}

/// The frame and the entry that translate va for this access, or none: a fault.
struct translated {
  pfn_t pfn = 0;  // 0: fault
#if defined(PGTBL_ARCH_ARM)
  u64 entry = 0;  // which says whether the cache is asked
#endif
  explicit operator bool() const { return pfn != 0; }
};

/// Whether a cached entry allows the access without another walk; a first write must set the dirty bit.
constexpr bool entry_allows(u64 entry, access a) {
  switch (a) {
    case access::read: return true;
    case access::write: return (entry & (bit_write | bit_dirty)) == (bit_write | bit_dirty);
    case access::exec: return (entry & bit_nx) == 0;
  }
  return false;
}

void report_stale(cpu& self, va_t va, pfn_t pfn, u32 filled, const char* what);
translated mmu_walk(cpu& self, va_t va, access a);

/// Inside an mmu_section.
inline translated mmu_translate(cpu& self, va_t va, access a) {
  const translation* t = self.tlb.find_small(va);
  [[maybe_unused]] u64 subpage = 0;
  if (t == nullptr || !entry_allows(t->entry, a)) [[unlikely]] {
    t = self.tlb.find_huge(va);
    if (t == nullptr || !entry_allows(t->entry, a)) return mmu_walk(self, va, a);
    subpage = index_at(va, page_shift);
  }
  // What the TLB says must still be true of the frame: a generation goes by when it is freed.
  const pfn_t pfn = entry_to_pfn(t->entry);
  if (self.ram->of(pfn).generation.load(relaxed) != t->generation) [[unlikely]] {
    report_stale(self, va, pfn, t->generation, "a TLB entry");
    self.tlb.flush_all();
    return mmu_walk(self, va, a);
  }
#if defined(PGTBL_ARCH_ARM)
  return {pfn, t->entry};  // no huge pages
#else
  return {pfn + subpage};
#endif
}

/// One access at va by the program that self runs: calls use(pfn, offset in the page).  False: page fault.
template <class Use>
inline bool mmu_access(cpu& self, va_t va, access a, Use&& use) {
  if (va >= task_size) [[unlikely]]
    return false;  // the kernel's half, or no address at all
  const mmu_section s(self);
  const translated t = mmu_translate(self, va, a);
  if (!t) [[unlikely]]
    return false;
#if defined(PGTBL_ARCH_ARM)
  self.arch->lines.access(self.loaded->id, va, t.entry, a == access::write, use);
#else
  use(t.pfn, va & (page_size - 1));
#endif
  return true;
}

}  // namespace pgtbl::inline PGTBL_WORLD
