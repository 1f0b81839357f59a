// vma.hpp -- one mapping: a range of addresses that one rule covers, and its per-VMA lock.
#pragma once
#include "arch/arch.hpp"
#include "mm/i_mmap.hpp"
#include "pgtable/cpu.hpp"
#include "sync/rwsem.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct mm;
struct mapping;

enum : u32 {
  vm_read = 1,
  vm_write = 2,
  vm_exec = 4,
  vm_shared = 8,  // stores reach the file
};

struct vma : rcu_head, pooled<vma> {
  vma(mm& m, va_t s, va_t e, u32 f, mapping* b, pgoff_t off)
      : rcu_head{},
        owner(m),
        start(s),
        end(e),
        flags(f),
        pgoff(off),
        file(b),
        lock(lock_class::vma_read, lock_class::vma_write) {
    node.owner = this;
    node.first = off;
    node.last = off + ((e - s) >> page_shift) - 1;
  }

  mm& owner;
  // Change under mmap_lock write + VMA write mark + i_mmap write (file VMAs); stable under any of
  // mmap_lock, the VMA lock, i_mmap_rwsem.
  var<va_t> start, end;
  var<u32> flags;
  var<pgoff_t> pgoff;   // page of the file at start; for anonymous memory start >> page_shift
  mapping* const file;  // null: anonymous memory
  // Set once, null to non-null, under mmap_lock read or write and before the page table's lock is taken
  // (retraction reads it under that lock: B22).  1 where the VMA has private pages of its own.
  atomic<u32> anon_vma{0};
  atomic<u32> detached{0};  // out of the tree: nobody may start to use it

  // The per-VMA lock, as 6.4's: write-locked while lock_seq equals the mm's sequence.
  rwsem lock;
  atomic<u32> lock_seq{~0u};  // written under mmap_lock write and the lock in write mode

  i_mmap_node node;             // in file->i_mmap; protected by i_mmap_rwsem
  vma* next_removed = nullptr;  // while munmap has it: its alone
  atomic<u32> alive{1};         // 0 once freed: a use of a stale pointer shows (G-7)

  bool is_anon() const { return file == nullptr; }
  bool shared() const { return (flags & vm_shared) != 0; }
  bool contains(va_t va) const { return va >= start && va < end; }
  pgoff_t pgoff_of(va_t va) const { return pgoff + ((va - start) >> page_shift); }
  va_t va_of(pgoff_t index) const { return start + ((index - pgoff) << page_shift); }
  prot_bits prot() const { return {(flags & vm_read) != 0, (flags & vm_write) != 0, (flags & vm_exec) != 0}; }
};

}  // namespace pgtbl::inline PGTBL_WORLD
