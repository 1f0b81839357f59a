// snapshot.hpp -- everything that can be observed of an address space at rest: what each entry holds, which folio
// its page belongs to, and what is in the page.  pagemap, kpageflags, kpagecount and /proc/PID/mem in one.
#pragma once
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// The contents of a page: its first word, and the value of all others where they are alike.
struct page_words {
  u64 first = 0;
  u64 rest = 0;
  u8 mixed = 0;  // the others differ: rest says nothing
};

/// One entry that is not none.
struct snapshot_row {
  u64 va = 0;
  u64 pfn = 0;  // 0 where no page is present
  page_words words;
  u32 mapcount = 0;  // times this very page is mapped, by any size of entry
  u8 kind = 0;       // 'A' anonymous, 'F' file, 'Z' zero page, 's' not present, 'g' guard marker
  u8 order = 0;      // of the folio
  u8 huge = 0;       // mapped by a PMD
  u8 uffd_wp = 0;    // write-protected by a userfaultfd
};

page_words words_of(cpu& self, pfn_t pfn);

/// Every entry of [start, end), upwards.  Takes mmap_lock for read; exact at rest.
void snapshot(cpu& self, mm& m, va_t start, va_t end, std::vector<snapshot_row>& rows);

/// One cached page of a file.
struct cache_row {
  u64 index = 0;
  page_words words;
  u8 order = 0;
  u8 uptodate = 0;
};
void cache_snapshot(cpu& self, mapping& f, std::vector<cache_row>& rows);

}  // namespace pgtbl::inline PGTBL_WORLD
