// pagemap.hpp -- looking at an address space from outside, as /proc/PID/pagemap and a debugger's page walk.
#pragma once
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// One populated page.
struct pagemap_row {
  u64 va = 0;
  u64 pfn = 0;
  u64 index = 0;     // page of the file, or 0
  u32 mapcount = 0;  // times this page is mapped, by any size of entry
  u32 refcount = 0;  // of its folio
  u8 anon = 0;
  u8 order = 0;  // of its folio
  u8 huge = 0;   // mapped by a PMD
  u8 write = 0, dirty = 0, young = 0;
  u8 zero = 0;   // the zero page, or the huge one: no page of the program's
  u8 guard = 0;  // a guard marker: no page
  u8 swap = 0;   // another entry that is not present: a marker, or a page being split
};

/// Every populated page of [start, end), and every marker, upwards.  A snapshot without locks on the entries: exact at rest.
void pagemap(cpu& self, mm& m, va_t start, va_t end, std::vector<pagemap_row>& rows);

/// One level of a walk: the entry that was met there.
struct walk_step {
  u32 level = 0;  // 4 = PGD ... 1 = PTE
  u64 entry = 0;  // its raw value
  u64 table = 0;  // the frame of the table that it lies in
};
/// The entries from the root to what maps va, or to where there is nothing more.
std::vector<walk_step> walk(cpu& self, mm& m, va_t va);

}  // namespace pgtbl::inline PGTBL_WORLD
