#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "khugepaged/khugepaged.hpp"
#include "lab/stress_run.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::stress_stage {

// ---------------------------------------------------------------- stamps

void stress_run::store_stamp(stress_actor& a, const view& v, u64 c) {
  cell& x = cell_of(a.number, c);
  const u64 sequence = x.issued.load(relaxed) + 1;
  x.issued.store(sequence, release);
  mm_store(*a.self, *v.in, v.at(page_of(c), u64{a.number} * 8), stamp(a.number, sequence));
  x.acknowledged.store(sequence, release);
  a.count(stress_op::store);
}

/// Looks at a cell through a view, or in the page cache (null).
void stress_run::look(stress_actor& a, u32 writer, u64 c, const view* v) {
  cell& x = cell_of(writer, c);
  const u64 least = x.acknowledged.load(acquire);
  const u64 offset = u64{writer} * 8;
  u64 found = 0;
  if (v != nullptr) {
    found = mm_load(*a.self, *v->in, v->at(page_of(c), offset));
    a.count(stress_op::load);
  } else {
    file_read(*a.self, *file_, (page_of(c) << page_shift) + offset, &found, sizeof found);
    a.count(stress_op::file_read);
  }
  const u64 most = x.issued.load(acquire);
  const u64 sequence = sequence_of(found);
  const bool whose = found == 0 || found == stamp(writer, sequence);
  if (whose && sequence >= least && sequence <= most) return;
  report(a, "writer " + std::to_string(writer) + "'s stamp in page " + std::to_string(page_of(c)) + " " +
                (v != nullptr ? "through mm " + std::to_string(v->in->id) + " at " +
                                    std::to_string(v->at(page_of(c), offset))
                              : std::string("in the page cache")) +
                " reads " + std::to_string(found) + " (sequence " + std::to_string(sequence) +
                "); acknowledged was " + std::to_string(least) + ", issued " + std::to_string(most) +
                "; seen by CPU " + std::to_string(a.self->id));
}

void stress_run::write_turn(stress_actor& a) {
  const view& v = any_view(a);
  for (int i = 0; i < 48 && !over(); ++i) {
    const u64 c = a.random.below(cells());
    if (!v.has(page_of(c))) continue;
    store_stamp(a, v, c);
    // Through another mapping, another mm, or from outside: what was just stored is there.
    if (a.random.one_in(16)) {
      const view& w = any_view(a);
      look(a, a.number, c, a.random.one_in(3) || !w.has(page_of(c)) ? nullptr : &w);
    }
  }
  if (a.random.one_in(8)) private_words(a);
  if (a.random.one_in(4)) yield();
}

/// Words of its own in a private mapping: they stay, whatever becomes of the file (G-13).
void stress_run::private_words(stress_actor& a) {
  const u64 n = a.random.below(private_views_.size());
  const view& v = private_views_[n];
  for (int i = 0; i < 4; ++i) {
    const u64 c = a.random.below(cells());
    u64& mine = private_words_[a.number][n * cells() + c];
    const va_t at = v.at(page_of(c), private_offset + u64{a.number} * 8);
    if (a.random.one_in(2)) {
      expect(a, mm_load(*a.self, *v.in, at), mine, "a word of a private mapping", at);
      a.count(stress_op::private_load);
    } else {
      mm_store(*a.self, *v.in, at, ++mine);
      a.count(stress_op::private_store);
    }
  }
}

void stress_run::read_turn(stress_actor& a) {
  const view& v = any_view(a);
  const u32 writers = threads(stress_role::writer);
  for (int i = 0; i < 48 && !over() && writers != 0; ++i) {
    const u64 c = a.random.below(cells());
    const u32 w = static_cast<u32>(a.random.below(writers));
    look(a, w, c, a.random.one_in(24) || !v.has(page_of(c)) ? nullptr : &v);
  }
  if (a.random.one_in(4)) disturb(a, v);
}

/// What a program may do to a shared mapping at any time without losing anything.
void stress_run::disturb(stress_actor& a, const view& v) {
  cpu& self = *a.self;
  const u64 page = a.random.below(v.pages);
  const u64 pages = std::min<u64>(v.pages - page, 1 + a.random.below(a.random.one_in(2) ? 700 : 8));
  const va_t at = v.at(v.first + page, 0);
  switch (a.random.below(4)) {
    case 0:
      // Splits the VMA and joins it again; nothing that anybody needs is forbidden meanwhile.
      sys_mprotect(self, *v.in, at, pages << page_shift, {true, true, true});
      sys_mprotect(self, *v.in, at, pages << page_shift, {true, true, false});
      a.count(stress_op::protect, 2);
      break;
    case 1: {
      u8 in[1024];
      sys_mincore(self, *v.in, at, std::min<u64>(pages, sizeof in) << page_shift, in);
      a.count(stress_op::mincore);
      break;
    }
    default: sys_madvise(self, *v.in, at, pages << page_shift, madv_dontneed); a.count(stress_op::dontneed);
  }
}

// ---------------------------------------------------------------- collapse

void stress_run::collapse(stress_actor& a, mm& m, va_t at, u64 bytes) {
  if constexpr (!geometry.thp) return;
  a.count(stress_op::collapse);
  try {
    sys_madvise(*a.self, m, at, bytes, madv_collapse);
    a.count(stress_op::collapsed);
  } catch (const os_error& e) {
    if (e.code != EAGAIN && e.code != EINVAL && e.code != ENOMEM && e.code != EBUSY) throw;
  }
}

void stress_run::collapse_turn(stress_actor& a) {
  const view& v = any_aligned(a);
  const u64 extent = a.random.below(v.pages / pages_per_huge);
  const u64 n = std::min<u64>(1 + a.random.below(2), v.pages / pages_per_huge - extent);
  if (a.random.one_in(4)) {
    const u64 i = a.random.below(pages_per_huge);
    if (std::find(std::begin(cell_pages), std::end(cell_pages), i) == std::end(cell_pages) &&
        extent < o_.extents) {
      file_punch(*a.self, *file_, (extent * pages_per_huge + i) << page_shift, page_size);
      a.count(stress_op::split);
    }
  }
  if (a.random.one_in(8)) {
    const view& t = tail_views_[a.random.below(tail_views_.size())];
    collapse(a, *t.in, t.base + a.random.below(2) * pmd_size, pmd_size);
    return;
  }
  if (a.random.one_in(8)) {
    const view& p = private_views_[a.random.below(private_views_.size())];
    collapse(a, *p.in, p.at(extent * pages_per_huge, 0), n * pmd_size);
    return;
  }
  collapse(a, *v.in, v.at(extent * pages_per_huge, 0), n * pmd_size);
}

void stress_run::khugepaged_turn(stress_actor& a) {
  khugepaged k(*machine_);
  k.scan_once(*a.self);
  a.count(stress_op::khugepaged);
  sleep_ns(100'000);
}

void stress_run::punch_turn(stress_actor& a) {
  const u64 extent = o_.extents + a.number;
  file_punch(*a.self, *file_, extent * pmd_size, pmd_size);
  const u64 base = a.total.get() << 16;
  const view& v = any_aligned(a);
  const view& w = any_aligned(a);
  const u64 step = 1 + a.random.below(96);
  for (u64 i = 0; i < pages_per_huge && !over(); i += step) {
    const va_t at = v.at(extent * pages_per_huge + i, 0);
    expect(a, mm_load(*a.self, *v.in, at), 0, "a punched page", at);
    mm_store(*a.self, *v.in, at, base + i);
  }
  if (a.random.one_in(4)) collapse(a, *v.in, v.at(extent * pages_per_huge, 0), pmd_size);
  for (u64 i = 0; i < pages_per_huge && !over(); i += step) {
    const va_t at = w.at(extent * pages_per_huge + i, 0);
    expect(a, mm_load(*a.self, *w.in, at), base + i, "a page written after the punch", at);
  }
  a.count(stress_op::punch);
}

// ---------------------------------------------------------------- mmap, munmap, mprotect

/// Each mapper has half an extent of addresses in every mm; its neighbour has the other half, and one PTE table
/// serves both.
void stress_run::map_turn(stress_actor& a) {
  mm& m = *mms_[a.random.below(mms_.size())];
  const va_t at = mapper_base + u64{a.number} * slot_bytes;
  switch (a.random.below(3)) {
    case 0: map_private_memory(a, m, at); break;
    case 1: map_the_file(a, m, at); break;
    default: map_for_moments(a, m, at);
  }
}

void stress_run::map_private_memory(stress_actor& a, mm& m, va_t at) {
  cpu& self = *a.self;
  mmap_args args;
  args.length = slot_bytes, args.addr = at, args.fixed = true, args.shared = false;
  sys_mmap(self, m, args);
  a.count(stress_op::map);
  const u64 pages = slot_bytes >> page_shift;
  const u64 base = a.total.get() << 12;
  if (a.random.one_in(3)) {
    sys_madvise(self, m, at, slot_bytes / 4, madv_populate_write);
    a.count(stress_op::populate);
  }
  for (int i = 0; i < 24; ++i) {
    const va_t word = at + (a.random.below(pages) << page_shift);
    const u64 was = mm_load(self, m, word);
    if (was != 0) expect(a, was, base + word, "anonymous memory", word);
    mm_store(self, m, word, base + word);
    expect(a, mm_load(self, m, word), base + word, "anonymous memory", word);
    a.count(stress_op::touch);
  }
  // Another mapping over its middle, anonymous or of the file, and what is left of the first is untouched.
  const va_t middle = at + slot_bytes / 4;
  mm_store(self, m, at, base + at);
  args.addr = middle, args.length = slot_bytes / 2;
  args.file = a.random.one_in(2) ? file_ : nullptr;
  sys_mmap(self, m, args);
  a.count(stress_op::map);
  if (args.file == nullptr) expect(a, mm_load(self, m, middle), 0, "memory mapped anew", middle);
  expect(a, mm_load(self, m, at), base + at, "anonymous memory", at);
  if (a.random.one_in(2)) {
    sys_mprotect(self, m, at, slot_bytes / 2, {true, false, false});
    sys_mprotect(self, m, at, slot_bytes / 2, {true, true, false});
    a.count(stress_op::protect, 2);
    mm_store(self, m, at, base);
  } else {
    sys_madvise(self, m, at, page_size, madv_dontneed);
    expect(a, mm_load(self, m, at), 0, "memory after MADV_DONTNEED", at);
    a.count(stress_op::dontneed);
  }
  sys_munmap(self, m, at, slot_bytes);
  a.count(stress_op::unmap);
}

/// Some pages of the file beside a neighbour; then other memory at the same addresses.
void stress_run::map_the_file(stress_actor& a, mm& m, va_t at) {
  cpu& self = *a.self;
  mmap_args args;
  args.file = file_, args.addr = at, args.length = slot_bytes, args.fixed = true;
  args.offset = a.random.below(o_.extents) * pmd_size + (at & (pmd_size - 1));
  args.shared = !a.random.one_in(4);
  sys_mmap(self, m, args);
  a.count(stress_op::map);
  const view v{&m, at, args.offset >> page_shift, slot_bytes >> page_shift, false};
  const u32 writers = threads(stress_role::writer);
  for (int i = 0; i < 16; ++i) {
    const u64 c = a.random.below(cells());
    if (v.has(page_of(c)) && writers != 0 && args.shared)
      look(a, static_cast<u32>(a.random.below(writers)), c, &v);
    mm_touch(self, m, at + (a.random.below(v.pages) << page_shift) + spare_offset,
             a.random.one_in(4) ? access::write : access::read);
    a.count(stress_op::touch);
  }
  // A translation of the file that outlived this would show in the new memory, or the store in the file.
  args.file = nullptr, args.shared = false;
  args.addr = at + (a.random.below(v.pages) << page_shift);
  args.length = page_size, args.offset = 0;
  sys_mmap(self, m, args);
  expect(a, mm_load(self, m, *args.addr), 0, "memory mapped over the file", *args.addr);
  mm_store(self, m, *args.addr, ~0ULL);
  a.count(stress_op::map);
  sys_munmap(self, m, at, slot_bytes);
  a.count(stress_op::unmap);
}

/// Whole extents of the file, mapped huge where they can be, and gone again.
void stress_run::map_for_moments(stress_actor& a, mm& m, va_t) {
  cpu& self = *a.self;
  mmap_args args;
  args.file = file_, args.length = 2 * pmd_size;
  args.addr = mapper_base + (u64{16} + a.number * 4) * pmd_size, args.fixed = true;
  args.offset =
      std::min<u64>(a.random.below(o_.extents), file_->size_pages() / pages_per_huge - 2) * pmd_size;
  const va_t at = sys_mmap(self, m, args);
  for (int i = 0; i < 12; ++i) {
    mm_touch(self, m, at + (a.random.below(2 * pages_per_huge) << page_shift) + spare_offset, access::read);
    a.count(stress_op::touch);
  }
  if (a.random.one_in(4)) collapse(a, m, at, pmd_size);
  const u64 part = a.random.one_in(2) ? pmd_size / 2 : 0;
  sys_munmap(self, m, at + part, pmd_size);
  mm_touch(self, m, at + pmd_size + part, access::read);
  sys_munmap(self, m, at, 2 * pmd_size);
  a.count(stress_op::map);
  a.count(stress_op::unmap, 2);
}

// ---------------------------------------------------------------- truncate, exit

void stress_run::truncate_turn(stress_actor& a) {
  cpu& self = *a.self;
  const u64 whole = 2 * pmd_size + tail_bytes;
  const view& v = tail_views_[a.random.below(tail_views_.size())];
  const view& w = tail_views_[a.random.below(tail_views_.size())];
  const u64 base = (a.total.get() + 1) << 24;
  const u64 step = 1 + a.random.below(64);
  for (u64 i = 0; i < v.pages && !over(); i += step) mm_store(self, *v.in, v.at(i, 0), base + i);
  const u64 size = a.random.below(whole) & ~u64{7};  // whole words
  file_truncate(self, *tail_, size);
  a.count(stress_op::truncate);
  const u64 left = page_align_up(size) >> page_shift;
  for (u64 i = 0; i < left && !over(); i += step)
    expect(a, mm_load(self, *w.in, w.at(i, 0)), i << page_shift < size ? base + i : 0,
           "a page that truncate left", w.at(i, 0));
  file_truncate(self, *tail_, whole);
  a.count(stress_op::truncate);
  for (u64 i = 0; i < v.pages && !over(); i += step)
    expect(a, mm_load(self, *v.in, v.at(i, 0)), i << page_shift < size ? base + i : 0,
           "a page that was truncated, in the file grown again", v.at(i, 0));
  // So that the next round finds zeroes where it did not write.
  file_punch(self, *tail_, 0, whole);
}

void stress_run::program_turn(stress_actor& a) {
  cpu& self = *a.self;
  mm* m = machine_->new_mm(self, machine_->has_pgste() && a.random.one_in(2));
  // Closed whatever happens: an exception ends the turn, not the run.
  const auto close = [&](mm* x) { machine_->close_mm(self, x); };
  const std::unique_ptr<mm, decltype(close)> program(m, close);
  mmap_args args;
  args.file = file_, args.length = file_->size.load(relaxed);
  args.shared = !a.random.one_in(4);
  const view v{m, sys_mmap(self, *m, args), 0, args.length >> page_shift, true};
  mmap_args heap;
  heap.length = pmd_size / 4, heap.shared = false;
  const va_t h = sys_mmap(self, *m, heap);
  const u32 writers = threads(stress_role::writer);
  for (int i = 0; i < 32 && !over(); ++i) {
    if (args.shared && writers != 0)
      look(a, static_cast<u32>(a.random.below(writers)), a.random.below(cells()), &v);
    mm_touch(self, *m, v.at(a.random.below(v.pages), spare_offset), access::read);
    mm_store(self, *m, h + (a.random.below(pages_per_huge / 4) << page_shift), 1);
    a.count(stress_op::touch, 2);
  }
  if (!args.shared) mm_store(self, *m, v.at(a.random.below(v.pages), spare_offset), 1);
  if (a.random.one_in(3)) collapse(a, *m, v.at(a.random.below(o_.extents) * pages_per_huge, 0), pmd_size);
  a.count(stress_op::program);
}

}  // namespace pgtbl::inline PGTBL_WORLD::stress_stage
