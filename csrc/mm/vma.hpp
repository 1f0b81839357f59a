// vma.hpp -- one mapping: a range of addresses that one rule covers, and its per-VMA lock.
#pragma once
#include "arch/arch.hpp"
#include "mm/i_mmap.hpp"
#include "pgtable/cpu.hpp"
#include "sync/rwsem.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct mm;
struct mapping;
struct anon_vma;
struct anon_vma_chain;
struct userfaultfd;

/// VmFlags, with Linux's values.
enum : u64 {
  vm_read = 1,
  vm_write = 2,
  vm_exec = 4,
  vm_shared = 8,  // stores reach the file
  vm_uffd_missing = 0x200,
  vm_maybe_guard = 0x800,  // guard markers were put here once; set under mmap_lock read too, never cleared
  vm_uffd_wp = 0x1000,
  vm_locked = 0x2000,
  vm_seq_read = 0x8000,
  vm_rand_read = 0x10000,
  vm_dontcopy = 0x20000,  // fork leaves it out
  vm_lockonfault = 0x80000,
  vm_account = 0x100000,  // private and writable: counts as memory that may be needed
  vm_noreserve = 0x200000,
  vm_wipeonfork = 0x2000000,
  vm_dontdump = 0x4000000,
  vm_hugepage = 0x20000000,
  vm_nohugepage = 0x40000000,
  vm_uffd_minor = 1ULL << 41,
  vm_sealed = 1ULL << 42,  // by mseal: stays as it is to the end of the program
  // A file that was opened for reading, or sealed against stores: no mprotect gives the right to store (in Linux, VM_MAYWRITE is not set).
  vm_opened_to_read = 1ULL << 62,
};
inline constexpr u64 vm_uffd_flags = vm_uffd_missing | vm_uffd_wp | vm_uffd_minor;
inline constexpr u64 vm_access_flags = vm_read | vm_write | vm_exec;
inline constexpr u64 vm_locked_mask = vm_locked | vm_lockonfault;
/// What two VMAs that become one may differ in.
inline constexpr u64 vm_ignore_merge = vm_maybe_guard;

struct vma : rcu_head, pooled<vma> {
  vma(mm& m, va_t s, va_t e, u64 f, mapping* b, pgoff_t off)
      : rcu_head{},
        owner(m),
        start(s),
        end(e),
        flags_(f),
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
  atomic<u64> flags_;  // read by flags()
  var<pgoff_t>
      pgoff;  // page of the file at start; of anonymous memory, start >> page_shift where it was made
  mapping* const file;  // null: anonymous memory
  // Set once, null to non-null, under mmap_lock read or write and before the page table's lock is taken
  // (retraction reads it under that lock: B22).  Where the VMA has, or had, private pages of its own.
  atomic<struct anon_vma*> anon_vma{nullptr};
  // Through which its pages can be met: its own anon_vma, and those of its ancestors.  Changes under mmap_lock
  // write, or under mmap_lock read and page_table_lock (the first).
  var<anon_vma_chain*> chain{nullptr};
  // Where its faults are reported; changes under mmap_lock write and the write mark, as do the flags of it.
  userfaultfd* uffd = nullptr;
  atomic<u32> detached{0};  // out of the tree: nobody may start to use it

  // The per-VMA lock, as 6.4's: write-locked while lock_seq equals the mm's sequence.
  rwsem lock;
  atomic<u32> lock_seq{~0u};  // written under mmap_lock write and the lock in write mode

  i_mmap_node node;             // in file->i_mmap; protected by i_mmap_rwsem
  vma* next_removed = nullptr;  // while munmap has it: its alone
  atomic<u32> alive{1};         // 0 once freed: a use of a stale pointer shows (G-7)

  u64 flags() const { return flags_.load(relaxed); }
  bool is(u64 flag) const { return (flags() & flag) != 0; }
  /// Under mmap_lock write and the write mark, where others than the VMA lock's readers look.
  void set_flags(u64 f) { flags_.store(f, release); }
  bool is_anon() const { return file == nullptr; }
  bool shared() const { return is(vm_shared); }
  /// Stores through it may reach the file, now or after mprotect: it was opened for writing.
  bool may_write_to_file() const { return (flags() & (vm_shared | vm_opened_to_read)) == vm_shared; }
  bool has_anon_vma() const { return anon_vma.load(acquire) != nullptr; }
  bool contains(va_t va) const { return va >= start && va < end; }
  pgoff_t pgoff_of(va_t va) const { return pgoff + ((va - start) >> page_shift); }
  va_t va_of(pgoff_t index) const { return start + ((index - pgoff) << page_shift); }
  u64 pages() const { return (end - start) >> page_shift; }
  bool covers(va_t lo, va_t hi) const { return lo >= start && hi <= end; }
  prot_bits prot() const {
    const u64 f = flags();
    return {(f & vm_read) != 0, (f & vm_write) != 0, (f & vm_exec) != 0};
  }
};

}  // namespace pgtbl::inline PGTBL_WORLD
