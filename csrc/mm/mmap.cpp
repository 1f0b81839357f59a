// The system calls that change what is mapped: mmap, munmap, mprotect, brk, and the end of a program.
//
// All of them hold mmap_lock for write and mark each VMA that they touch, so that faults under VMA locks
// are out.  The tree changes by one edit, seen whole or not at all; i_mmap changes under its own lock.
#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/machine.hpp"
#include "mm/syscalls.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

inline constexpr va_t mmap_top = task_size - pmd_size;
inline constexpr va_t mmap_bottom = 16 * page_size;

u32 vma_flags(prot_bits p, bool shared) {
  return (p.read ? vm_read : 0U) | (p.write ? vm_write : 0U) | (p.exec ? vm_exec : 0U) |
         (shared ? vm_shared : 0U);
}

/// i_mmap_rwsem in write mode, where the VMA maps a file.
class i_mmap_write_guard {
 public:
  i_mmap_write_guard(cpu& self, mapping* f) : self_(self), file_(f) {
    if (file_ != nullptr) hold_ = file_->i_mmap_rwsem.write_lock(self);
  }
  ~i_mmap_write_guard() {
    if (file_ != nullptr) file_->i_mmap_rwsem.write_unlock(self_, hold_);
  }
  i_mmap_write_guard(const i_mmap_write_guard&) = delete;
  i_mmap_write_guard& operator=(const i_mmap_write_guard&) = delete;

 private:
  cpu& self_;
  mapping* file_;
  hold hold_;
};

void link_file(vma& v) {
  if (v.file == nullptr) return;
  v.node.first = v.pgoff;
  v.node.last = v.pgoff + ((v.end - v.start) >> page_shift) - 1;
  v.file->i_mmap.insert(&v.node);
}
void unlink_file(vma& v) {
  if (v.file != nullptr && v.node.linked()) v.file->i_mmap.erase(&v.node);
}

vma* new_vma(mm& m, va_t start, va_t end, u32 flags, mapping* f, pgoff_t pgoff) {
  vma* v = make<vma>(m, start, end, flags, f, pgoff);
  if (f != nullptr) mapping_get(*f);
  return v;
}

/// Gives a VMA that is out of the tree back.
void drop_vma(cpu& self, vma* v) {
  if (v->file != nullptr) mapping_put(self, *v->file);
  vma_free(self, v);
}

/// Cuts v at `at`; the upper part becomes a VMA of its own.
void split_vma(cpu& self, mm& m, vma& v, va_t at) {
  vma_start_write(self, v);
  vma* upper = new_vma(m, at, v.end, v.flags, v.file, v.pgoff_of(at));
  upper->anon_vma.store(v.anon_vma.load(relaxed), relaxed);
  const va_t old_start = v.start, old_end = v.end;
  {
    const i_mmap_write_guard g(self, v.file);
    unlink_file(v);
    v.end = at;
    link_file(v);
    link_file(*upper);
  }
  mark_new_vma(m, *upper);
  vma_tree::edit e(m.vmas, self.rcu);
  e.resize(old_start, old_start, at);
  e.insert(at, old_end, upper);
  e.commit();
}

/// Cuts the VMAs at both ends of the range, so that it holds whole ones only.
void split_at_ends(cpu& self, mm& m, va_t start, va_t end) {
  if (vma* v = m.vmas.find(start); v != nullptr && v->start < start) split_vma(self, m, *v, start);
  if (vma* v = m.vmas.find(end); v != nullptr && v->start < end) split_vma(self, m, *v, end);
}

bool can_follow(const vma& lower, const vma& upper) {
  if (lower.end != upper.start || lower.flags != upper.flags || lower.file != upper.file) return false;
  if (lower.file == nullptr) return true;
  return lower.anon_vma.load(relaxed) == upper.anon_vma.load(relaxed) &&
         lower.pgoff_of(lower.end) == upper.pgoff;
}

/// Joins the VMA that starts at `at` with the one before it, where the two could be one.
void merge_at(cpu& self, mm& m, va_t at) {
  vma* upper = m.vmas.find(at);
  const vma_entry before = m.vmas.last_before(at);
  if (upper == nullptr || !before || upper->start != at || !can_follow(*before.vma, *upper)) return;
  vma& lower = *before.vma;
  vma_start_write(self, lower);
  vma_start_write(self, *upper);
  if (upper->anon_vma.load(relaxed) != 0) lower.anon_vma.store(1, release);
  const va_t end = upper->end;
  {
    // One section: a truncate that came between would find no VMA for the upper pages, and leave them mapped.
    const i_mmap_write_guard g(self, upper->file);
    unlink_file(*upper);
    unlink_file(lower);
    lower.end = end;
    link_file(lower);
  }
  vma_tree::edit e(m.vmas, self.rcu);
  e.erase(at);
  e.resize(lower.start, lower.start, end);
  e.commit();
  upper->detached.store(1, release);
  drop_vma(self, upper);
}

// ---------------------------------------------------------------- munmap

/// A chain of VMAs that left the tree.
struct removed {
  vma* first = nullptr;
  va_t floor = 0, ceiling = task_size;  // nothing else is mapped between these
};

/// Takes the VMAs of the range out of the tree, under mmap_lock write.  They stay on i_mmap.
removed detach_range(cpu& self, mm& m, va_t start, va_t end) {
  split_at_ends(self, m, start, end);
  removed r;
  vma** tail = &r.first;
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    vma_start_write(self, *e.vma);
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

/// Zaps what the VMAs had, and frees the tables that nobody else uses.  mmap_lock in any mode: the VMAs are
/// ours alone.  Each is unlinked from i_mmap before its tables are freed: retraction and rmap walks of other
/// programs come by that tree, and must not meet tables under demolition (G-6).
void unmap_detached(cpu& self, mm& m, const removed& r) {
  for (vma* v = r.first; v != nullptr; v = v->next_removed) {
    gather g(self, m);
    zap_range(self, *v, v->start, v->end, g);
  }
  if (guard(Guard::unlink_before_free)) {
    for (vma* v = r.first; v != nullptr; v = v->next_removed) {
      const i_mmap_write_guard g(self, v->file);
      unlink_file(*v);
    }
  }
  pause_at(self, point::mu_unlinked);
  {
    gather g(self, m);
    for (vma* v = r.first; v != nullptr; v = v->next_removed) {
      // A table that the next VMA uses too is left to it.
      const va_t ceiling = v->next_removed != nullptr ? v->next_removed->start.get() : r.ceiling;
      free_pgd_range(self, m, v->start, v->end, r.floor, ceiling, g);
    }
  }
  for (vma* v = r.first; v != nullptr;) {
    vma* next = v->next_removed;
    {
      const i_mmap_write_guard g(self, v->file);
      unlink_file(*v);
    }
    drop_vma(self, v);
    v = next;
  }
}

void check_range(va_t start, u64 length) {
  if ((start & (page_size - 1)) != 0)
    throw os_error(EINVAL, "address " + std::to_string(start) + " is not a multiple of the page size " +
                               std::to_string(page_size));
  if (start > task_size || length > task_size - start)
    throw os_error(EINVAL, "[" + std::to_string(start) + ", +" + std::to_string(length) +
                               ") leaves the address space of " + std::to_string(task_size) + " bytes");
}

u64 whole_pages(u64 length) {
  if (length > task_size)
    throw os_error(ENOMEM, "length " + std::to_string(length) + " is larger than the address space");
  return page_align_up(length);
}

va_t choose_address(const mm& m, const mmap_args& a, u64 length) {
  if (a.addr) {
    if (a.fixed) {
      check_range(*a.addr, length);
      if (*a.addr < mmap_bottom)
        throw os_error(EPERM, "address " + std::to_string(*a.addr) + " is below the lowest, " +
                                  std::to_string(mmap_bottom));
      return *a.addr;
    }
    const va_t hint = page_align_down(*a.addr);
    if (hint >= mmap_bottom && hint <= mmap_top && length <= mmap_top - hint &&
        !m.vmas.snapshot().overlaps(hint, hint + length))
      return hint;
  }
  const u64 align = length >= pmd_size ? pmd_size : page_size;
  const auto at = m.vmas.gap_below(mmap_bottom, mmap_top, length, align);
  if (!at)
    throw os_error(ENOMEM, "no gap of " + std::to_string(length) + " bytes is left in the address space");
  return *at;
}

}  // namespace

// ---------------------------------------------------------------- mmap

va_t sys_mmap(cpu& self, mm& m, const mmap_args& a) {
  load_mm(self, m);
  if (a.length == 0) throw os_error(EINVAL, "length 0: a mapping has at least one byte");
  if ((a.offset & (page_size - 1)) != 0)
    throw os_error(EINVAL, "offset " + std::to_string(a.offset) + " is not a multiple of the page size " +
                               std::to_string(page_size));
  if (a.fixed && !a.addr) throw os_error(EINVAL, "fixed needs an address");
  const u64 length = whole_pages(a.length);
  if (a.file != nullptr && a.offset > (page_cache::max_index << page_shift) - length)
    throw os_error(EOVERFLOW, "offset " + std::to_string(a.offset) + " is beyond what a file can hold");

  mmap_write_guard lock(self, m);
  const va_t start = choose_address(m, a, length), end = start + length;
  if (a.fixed) {
    const removed r = detach_range(self, m, start, end);
    unmap_detached(self, m, r);
  }
  const u32 flags = vma_flags(a.prot, a.shared && a.file != nullptr);
  vma* v =
      new_vma(m, start, end, flags, a.file, a.file != nullptr ? a.offset >> page_shift : start >> page_shift);
  mark_new_vma(m, *v);
  {
    const i_mmap_write_guard g(self, v->file);
    link_file(*v);
  }
  vma_tree::edit e(m.vmas, self.rcu);
  e.insert(start, end, v);
  e.commit();
  merge_at(self, m, end);
  merge_at(self, m, start);
  return start;
}

void sys_munmap(cpu& self, mm& m, va_t start, u64 length) {
  load_mm(self, m);
  check_range(start, length);
  if (length == 0) throw os_error(EINVAL, "length 0");
  const va_t end = start + page_align_up(length);
  mmap_write_guard lock(self, m);
  const removed r = detach_range(self, m, start, end);
  if (r.first == nullptr) return;
  // The VMAs are out of reach: readers of the rest of the address space need not wait for the zap.
  lock.downgrade();
  pause_at(self, point::mu_downgraded);
  unmap_detached(self, m, r);
}

// ---------------------------------------------------------------- mprotect

namespace {

void change_ptes(cpu& self, vma& v, pmd_ref pmdp, va_t start, va_t end, prot_bits prot) {
  auto t = pte_offset_map_lock(self, pmdp, start);
  if (!t) return;
  for (va_t va = start; va < end; va += page_size) {
    pte_t old = t->get(va);
    while (old.present()) {
      // A private file page must still be copied before it is written.
      const bool own =
          v.shared() || (self.ram->of(self.ram->head_of(old.pfn())).flags.load(relaxed) & pg_anon) != 0;
      const prot_bits p = own ? prot : prot_bits{prot.read || prot.write, false, prot.exec};
      if (t->replace(va, old, {modify_prot(old.v, p)})) break;
      old = t->get(va);  // the hardware set a bit meanwhile
    }
  }
}

void change_protection(cpu& self, vma& v, prot_bits prot) {
  for (va_t va = v.start; va < v.end;) {
    const va_t next = std::min(pmd_align_down(va) + pmd_size, v.end.get());
    if (const pmd_ref pmdp = pmd_offset(self, v.owner, va)) {
      const pmd_t pmd = pmdp.get();
      if (pmd.huge()) {  // dropped: the extent faults in again with the new rights
        gather g(self, v.owner);
        zap_range(self, v, va, next, g);
      } else if (pmd.table()) {
        change_ptes(self, v, pmdp, va, next, prot);
      }
    }
    va = next;
  }
  flush_tlb_range(self, v.owner, v.start, v.end, false);
}

}  // namespace

void sys_mprotect(cpu& self, mm& m, va_t start, u64 length, prot_bits prot) {
  load_mm(self, m);
  check_range(start, length);
  const va_t end = start + page_align_up(length);
  if (start == end) return;
  mmap_write_guard lock(self, m);
  va_t covered = start;
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    if (e.start <= covered) covered = e.end;
  });
  if (covered < end) throw os_error(ENOMEM, "nothing is mapped at address " + std::to_string(covered));
  split_at_ends(self, m, start, end);
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    vma& v = *e.vma;
    vma_start_write(self, v);
    {
      const i_mmap_write_guard g(self, v.file);
      v.flags = vma_flags(prot, v.shared());
    }
    change_protection(self, v, prot);
  });
  merge_at(self, m, end);
  for (va_t at = end; at > start;) {  // downwards, so that each merge finds its upper neighbour whole
    const vma_entry e = m.vmas.last_before(at);
    if (!e || e.start < start) break;
    at = e.start;
    merge_at(self, m, at);
  }
  merge_at(self, m, start);
}

// ---------------------------------------------------------------- brk

va_t sys_brk(cpu& self, mm& m, va_t to) {
  load_mm(self, m);
  mmap_write_guard lock(self, m);
  const va_t now = m.brk_end, base = m.brk_start;
  if (to < base || to > task_size) return now;
  const va_t old_end = page_align_up(now), new_end = page_align_up(to);
  if (new_end < old_end) {
    const removed r = detach_range(self, m, new_end, old_end);
    unmap_detached(self, m, r);
  } else if (new_end > old_end) {
    if (m.vmas.snapshot().overlaps(old_end, new_end)) return now;
    vma* v = new_vma(m, old_end, new_end, vm_read | vm_write, nullptr, old_end >> page_shift);
    mark_new_vma(m, *v);
    vma_tree::edit e(m.vmas, self.rcu);
    e.insert(old_end, new_end, v);
    e.commit();
    merge_at(self, m, old_end);
  }
  m.brk_end = to;
  return to;
}

// ---------------------------------------------------------------- madvise, mincore

void madvise_dontneed(cpu& self, mm& m, va_t start, va_t end) {
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    gather g(self, m);
    zap_range(self, *e.vma, std::max(start, e.start), std::min(end, e.end), g);
  });
}

void madvise_populate(cpu& self, mm& m, va_t start, va_t end, bool write) {
  const access a = write ? access::write : access::read;
  for (va_t va = start; va < end; va += page_size) {
    while (!mmu_access(self, va, a, [](pfn_t, u64) {})) {
      self.led.add(event::fault);
      fault_under_mmap_lock(self, m, va, a);
    }
  }
}

void sys_mincore(cpu& self, mm& m, va_t start, u64 length, u8* out) {
  load_mm(self, m);
  check_range(start, length);
  const mmap_read_guard lock(self, m);
  const va_t end = start + page_align_up(length);
  for (va_t va = start; va < end; va += page_size) {
    const vma* v = m.vmas.find(va);
    if (v == nullptr) throw os_error(ENOMEM, "nothing is mapped at address " + std::to_string(va));
    bool in = false;
    if (const pmd_ref p = pmd_offset(self, m, va)) {
      const pmd_t pmd = p.get();
      in = pmd.huge();
      if (pmd.table())
        if (const auto t = pte_offset_map(self, p, va)) in = t->get().present();
    }
    if (!in && v->file != nullptr) {
      self.rcu.read_lock();
      in = v->file->pages.load(v->pgoff_of(va)).is_page();
      self.rcu.read_unlock();
    }
    *out++ = in ? 1 : 0;
  }
}

// ---------------------------------------------------------------- the end

void exit_mmap(cpu& self, mm& m) {
  m.users.store(0, seq_cst);
  mmap_write_guard lock(self, m);
  const removed r = detach_range(self, m, 0, task_size);
  unmap_detached(self, m, r);
}

}  // namespace pgtbl::inline PGTBL_WORLD
