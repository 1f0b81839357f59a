#include "mm/vma_ops.hpp"

#include <cerrno>

#include "base/errors.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/machine.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

u64 prot_flags(prot_bits p) {
  return (p.read ? vm_read : u64{0}) | (p.write ? vm_write : u64{0}) | (p.exec ? vm_exec : u64{0});
}

vma* new_vma(mm& m, va_t start, va_t end, u64 flags, mapping* f, pgoff_t pgoff) {
  vma* v = make<vma>(m, start, end, flags, f, pgoff);
  if (f != nullptr) {
    mapping_get(*f);
    // It keeps the file open, as it was opened: whoever maps it has write_access meanwhile.
    if (f->regular() && v->may_write_to_file()) f->writers.fetch_add(1, relaxed);
  }
  return v;
}

void drop_vma(cpu& self, vma* v) {
  if (mapping* f = v->file; f != nullptr) {
    if (f->regular() && v->may_write_to_file()) f->writers.fetch_sub(1, release);
    mapping_put(self, *f);
  }
  vma_free(self, v);
}

void link_file(vma& v) {
  if (v.file == nullptr) return;
  v.node.first = v.pgoff;
  v.node.last = v.pgoff + v.pages() - 1;
  v.file->i_mmap.insert(&v.node);
}

void unlink_file(vma& v) {
  if (v.file != nullptr && v.node.linked()) v.file->i_mmap.erase(&v.node);
}

void link_vma(cpu& self, vma& v) {
  mm& m = v.owner;
  mark_new_vma(m, v);
  {
    const i_mmap_write_guard g(self, v.file);
    link_file(v);
  }
  vma_tree::edit e(m.vmas, self.rcu);
  e.insert(v.start, v.end, &v);
  e.commit();
}

namespace {

/// A VMA's range changes: it is out of i_mmap and of its anon_vmas meanwhile, whose locks are held for write.
class range_change {
 public:
  range_change(cpu& self, vma& v) : file_(self, v.file), family_(self, v), v_(v) {
    unlink_file(v);
    anon_vma_trees_erase(v);
  }
  ~range_change() {
    link_file(v_);
    anon_vma_trees_insert(v_);
  }
  range_change(const range_change&) = delete;
  range_change& operator=(const range_change&) = delete;

 private:
  i_mmap_write_guard file_;
  anon_vma_write_guard family_;
  vma& v_;
};

}  // namespace

// ---------------------------------------------------------------- cutting and joining

void split_vma(cpu& self, vma& v, va_t at) {
  mm& m = v.owner;
  vma_start_write(self, v);
  vma* upper = new_vma(m, at, v.end, v.flags(), v.file, v.pgoff_of(at));
  upper->uffd = v.uffd;
  anon_vma_clone(self, *upper, v);
  if (anon_vma* a = v.anon_vma.load(relaxed); a != nullptr) {
    const anon_vma_write_guard family(self, a);
    a->active_vmas += 1;
    upper->anon_vma.store(a, release);
  }
  // A PMD that covers both would belong to neither.
  split_huge_pmd_at(self, v, at);
  const va_t old_start = v.start, old_end = v.end;
  {
    const range_change change(self, v);
    v.end = at;
    link_file(*upper);  // in the same section: a truncate in between would leave the upper pages mapped
  }
  mark_new_vma(m, *upper);
  vma_tree::edit e(m.vmas, self.rcu);
  e.resize(old_start, old_start, at);
  e.insert(at, old_end, upper);
  e.commit();
}

void split_at_ends(cpu& self, mm& m, va_t start, va_t end) {
  if (vma* v = m.vmas.find(start); v != nullptr && v->start < start) split_vma(self, *v, start);
  if (vma* v = m.vmas.find(end); v != nullptr && v->start < end) split_vma(self, *v, end);
}

namespace {

/// More than one anon_vma: pages that fork shared may be in it.
bool had_parents(const vma& v) {
  const anon_vma_chain* c = v.chain;
  return c != nullptr && c->next != nullptr;
}

/// One of the two has no private pages of its own yet, or both have theirs from the same anon_vma.  Not where
/// pages shared by fork would come to stand under another's chain.
bool mergeable_anon(const vma& a, const vma& b) {
  const anon_vma* x = a.anon_vma.load(relaxed);
  const anon_vma* y = b.anon_vma.load(relaxed);
  if (x == y) return true;
  if (x == nullptr) return !had_parents(b);
  if (y == nullptr) return !had_parents(a);
  return false;
}

bool can_follow(const vma& lower, const vma& upper) {
  return lower.end == upper.start && ((lower.flags() ^ upper.flags()) & ~vm_ignore_merge) == 0 &&
         lower.file == upper.file && lower.uffd == upper.uffd && lower.pgoff + lower.pages() == upper.pgoff &&
         mergeable_anon(lower, upper);
}

}  // namespace

bool merge_at(cpu& self, mm& m, va_t at) {
  vma* upper = m.vmas.find(at);
  const vma_entry before = m.vmas.last_before(at);
  if (upper == nullptr || !before || upper->start != at || !can_follow(*before.vma, *upper)) return false;
  vma& lower = *before.vma;
  vma_start_write(self, lower);
  vma_start_write(self, *upper);
  lower.set_flags(lower.flags() | upper->flags());
  if (lower.anon_vma.load(relaxed) == nullptr && upper->anon_vma.load(relaxed) != nullptr) {
    anon_vma_clone(self, lower, *upper);
    anon_vma* a = upper->anon_vma.load(relaxed);
    const anon_vma_write_guard family(self, a);
    a->active_vmas += 1;
    lower.anon_vma.store(a, release);
  }
  const va_t end = upper->end;
  {
    // One section: a truncate that came between would find no VMA for the upper pages, and leave them mapped.
    const range_change change(self, lower);
    unlink_file(*upper);
    lower.end = end;
  }
  unlink_anon_vmas(self, *upper);
  vma_tree::edit e(m.vmas, self.rcu);
  e.erase(at);
  e.resize(lower.start, lower.start, end);
  e.commit();
  upper->detached.store(1, release);
  drop_vma(self, upper);
  return true;
}

void resize_vma(cpu& self, vma& v, va_t end) {
  mm& m = v.owner;
  vma_start_write(self, v);
  {
    const range_change change(self, v);
    v.end = end;
  }
  vma_tree::edit e(m.vmas, self.rcu);
  e.resize(v.start, v.start, end);
  e.commit();
}

// ---------------------------------------------------------------- munmap

removed detach_range(cpu& self, mm& m, va_t start, va_t end, uffd_events* told) {
  // Before anything is cut.  A program's end takes it all.
  if (!m.exiting()) m.vmas.for_each(start, end, [](const vma_entry& e) { refuse_sealed(*e.vma); });
  split_at_ends(self, m, start, end);
  removed r;
  vma** tail = &r.first;
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    vma_start_write(self, *e.vma);
    if (told != nullptr && uffd_has(*e.vma, uffd_feature_event_unmap))
      told->unmap(self, *e.vma->uffd, start, end);
    *tail = e.vma;
    tail = &e.vma->next_removed;
  });
  *tail = nullptr;
  if (r.first == nullptr) return r;
  vma_tree::edit e(m.vmas, self.rcu);
  for (vma* v = r.first; v != nullptr; v = v->next_removed) {
    e.erase(v->start);
    v->detached.store(1, release);
  }
  e.commit();
  if (const vma_entry b = m.vmas.last_before(start)) r.floor = b.end;
  if (const vma_entry a = m.vmas.first_at_or_after(end)) r.ceiling = a.start;
  return r;
}

namespace {
void unlink_rmap(cpu& self, vma& v) {
  unlink_anon_vmas(self, v);
  const i_mmap_write_guard g(self, v.file);
  unlink_file(v);
}
}  // namespace

/// Each VMA is unlinked from i_mmap and its anon_vmas before its tables are freed: retraction and rmap walks of
/// other programs come by those trees, and must not meet tables under demolition (G-6).
void unmap_detached(cpu& self, mm& m, const removed& r) {
  if (r.first == nullptr) return;
  gather g(self, m);
  {
    va_t last = r.first->end;
    for (const vma* v = r.first; v != nullptr; v = v->next_removed) last = v->end;
    const notifier_range notifier(self, m, r.first->start, last);
    for (vma* v = r.first; v != nullptr; v = v->next_removed)
      zap_range(self, *v, v->start, v->end, g, {.drop_markers = true});
    g.finish();
  }
  if (guard(Guard::unlink_before_free))
    for (vma* v = r.first; v != nullptr; v = v->next_removed) unlink_rmap(self, *v);
  pause_at(self, point::mu_unlinked);
  for (vma* v = r.first; v != nullptr; v = v->next_removed) {
    // A table that the next VMA uses too is left to it.
    const va_t ceiling = v->next_removed != nullptr ? v->next_removed->start.get() : r.ceiling;
    free_pgd_range(self, m, v->start, v->end, r.floor, ceiling, g);
  }
  g.finish();
  for (vma* v = r.first; v != nullptr;) {
    vma* next = v->next_removed;
    unlink_rmap(self, *v);
    drop_vma(self, v);
    v = next;
  }
}

void unmap_range(cpu& self, mm& m, va_t start, va_t end, uffd_events* told) {
  const removed r = detach_range(self, m, start, end, told);
  unmap_detached(self, m, r);
}

// ---------------------------------------------------------------- arguments

void check_range(va_t start, u64 length) {
  if ((start & (page_size - 1)) != 0)
    throw os_error(EINVAL, "address " + std::to_string(start) + " is not a multiple of the page size " +
                               std::to_string(page_size));
  if (start > task_size || length > task_size - start)
    throw os_error(EINVAL, "[" + std::to_string(start) + ", +" + std::to_string(length) +
                               ") leaves the address space of " + std::to_string(task_size) + " bytes");
}

void refuse_sealed(const vma& v) {
  if (v.is(vm_sealed))
    throw os_error(EPERM, "the mapping of address " + std::to_string(v.start) + " is sealed");
}

bool covered(const mm& m, va_t start, va_t end) {
  va_t upto = start;
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    if (e.start <= upto) upto = e.end;
  });
  return upto >= end;
}

}  // namespace pgtbl::inline PGTBL_WORLD
