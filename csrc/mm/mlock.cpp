// mlock, munlock and mincore.  Nothing is reclaimed in the laboratory: locked memory differs in its VMA's flags, and
// in that it is brought in at once.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/lru_batch.hpp"
#include "mm/populate.hpp"
#include "mm/syscalls.hpp"
#include "mm/vma_ops.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

[[noreturn]] void hole(va_t at) {
  throw os_error(ENOMEM, "nothing is mapped at address " + std::to_string(at));
}

struct page_range {
  va_t start, end;
};
page_range whole_pages(va_t start, u64 length) {
  const va_t first = page_align_down(start);
  check_range(first, length);
  check_range(first, length + (start - first));
  return {first, page_align_up(start + length)};
}

/// VMAs up to the first hole get the flags; then the hole is told of.
void set_lock_flags(cpu& self, mm& m, const page_range& r, u64 flags) {
  lru_add_drain(self);
  mmap_write_guard lock(self, m);
  va_t upto = r.start;
  m.vmas.for_each(r.start, r.end, [&](const vma_entry& e) {
    if (e.start <= upto) upto = std::min(e.end, r.end);
  });
  if (upto > r.start)
    change_vmas(
        self, m, r.start, upto, [&](const vma& v) { return (v.flags() & vm_locked_mask) != flags; },
        [&](vma& v) { v.set_flags((v.flags() & ~vm_locked_mask) | flags); });
  if (upto < r.end) hole(upto);
}

}  // namespace

void sys_mlock(cpu& self, mm& m, va_t start, u64 length, bool on_fault) {
  load_mm(self, m);
  const page_range r = whole_pages(start, length);
  if (r.start == r.end) return;
  set_lock_flags(self, m, r, vm_locked | (on_fault ? vm_lockonfault : u64{0}));
  if (on_fault) return;
  const auto part = [&](const vma& v, va_t from, va_t to) {
    const populate_result got = populate_for_use(self, m, v, from, to);
    switch (got.what) {
      case populated::waits:
      case populated::all: return got;
      case populated::no_memory: throw os_error(EAGAIN, "mlock: no frame is left");
      default:
        throw os_error(ENOMEM, "mlock: not all of [" + std::to_string(from) + ", " + std::to_string(to) +
                                   ") can be brought in");
    }
  };
  populate_range(self, m, r.start, r.end, part, [] {});
}

void sys_munlock(cpu& self, mm& m, va_t start, u64 length) {
  load_mm(self, m);
  const page_range r = whole_pages(start, length);
  if (r.start != r.end) set_lock_flags(self, m, r, 0);
}

// ---------------------------------------------------------------- mincore

namespace {

bool in_cache(cpu& self, const vma& v, va_t va) {
  if (v.file == nullptr) return false;
  const rcu_section section(self.rcu);
  const pgoff_t index = v.pgoff_of(va);
  const cache_entry e = v.file->pages.load(index);
  if (!e.is_page()) return false;
  const pfn_t head = self.ram->head_of(e.pfn());
  return (self.ram->of(head).flags.load(acquire) & pg_uptodate) != 0;
}

/// The part of one extent.  False: the PMD changed; once more.
bool mincore_extent(cpu& self, mm& m, const vma& v, va_t start, va_t end, u8* out) {
  const pmd_ref p = pmd_offset(self, m, start);
  const pmd_t pmd = p ? p.get() : pmd_t{};
  if (pmd.huge()) {
    std::fill_n(out, (end - start) >> page_shift, u8{1});
    return true;
  }
  if (pmd.none()) {
    for (va_t va = start; va < end; va += page_size) *out++ = in_cache(self, v, va) ? 1 : 0;
    return true;
  }
  const auto t = pte_offset_map(self, p, start);
  if (!t) return false;
  for (va_t va = start; va < end; va += page_size) {
    const pte_t e = t->get(va);
    const bool in = e.present() || e.migration() || in_cache(self, v, va);
    *out++ = in ? 1 : 0;
  }
  return true;
}

}  // namespace

void sys_mincore(cpu& self, mm& m, va_t start, u64 length, u8* out) {
  load_mm(self, m);
  check_range(start, length);
  const mmap_read_guard lock(self, m);
  const va_t end = start + page_align_up(length);
  for (va_t va = start; va < end;) {
    const vma* v = m.vmas.find(va);
    if (v == nullptr) hole(va);
    const va_t next = std::min({pmd_align_down(va) + pmd_size, v->end.get(), end});
    while (!mincore_extent(self, m, *v, va, next, out) && guard(Guard::walk_again)) {}
    out += (next - va) >> page_shift;
    va = next;
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
