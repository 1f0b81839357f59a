// syscalls.hpp -- what a program asks of its address space.
//
// Each call acts as the program whose mm it names, on the calling thread's CPU: the CPU loads that mm
// first.  Arguments are checked as the kernel checks them; a failure is an os_error with Linux's errno.
#pragma once
#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct mmap_args {
  mapping* file = nullptr;   // null: anonymous memory
  u64 length = 0;            // bytes; rounded up to pages
  u64 offset = 0;            // into the file; a multiple of the page size
  std::optional<va_t> addr;  // a hint, or with `fixed` the place, over whatever is there
  prot_bits prot{true, true, false};
  bool shared = true;
  bool fixed = false;
};

enum : int {
  madv_dontneed = 4,
  madv_hugepage = 14,
  madv_nohugepage = 15,
  madv_populate_read = 22,
  madv_populate_write = 23,
  madv_collapse = 25,
};

/// Returns the address.  Where it may choose: top-down, 2 MiB-aligned if the length reaches 2 MiB.
va_t sys_mmap(cpu& self, mm& m, const mmap_args& a);
void sys_munmap(cpu& self, mm& m, va_t start, u64 length);
void sys_mprotect(cpu& self, mm& m, va_t start, u64 length, prot_bits prot);
/// Returns the new break; the old one where the request cannot be met.
va_t sys_brk(cpu& self, mm& m, va_t to);
/// MADV_DONTNEED and MADV_POPULATE_*; MADV_COLLAPSE is in khugepaged/madvise.hpp, and sys_madvise there
/// takes every advice.
void madvise_dontneed(cpu& self, mm& m, va_t start, va_t end);
void madvise_populate(cpu& self, mm& m, va_t start, va_t end, bool write);
/// One byte a page: 1 if a touch would not have to allocate.  Under mmap_lock read, as mincore.
void sys_mincore(cpu& self, mm& m, va_t start, u64 length, u8* out);

/// The program ends: mm_users goes to 0, every VMA is unlinked, every table freed.
void exit_mmap(cpu& self, mm& m);

}  // namespace pgtbl::inline PGTBL_WORLD
