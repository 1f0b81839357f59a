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
  bool populate = false;   // bring everything in
  bool locked = false;     // the same, and VM_LOCKED
  bool noreserve = false;  // says VM_NORESERVE, no more: nothing is reserved in the laboratory
};

enum : u32 { mremap_maymove = 1, mremap_fixed = 2, mremap_dontunmap = 4 };
struct mremap_args {
  va_t addr = 0;
  u64 old_length = 0, new_length = 0;  // bytes; rounded up to pages
  u32 flags = 0;
  va_t new_addr = 0;  // with MREMAP_FIXED the place, with MREMAP_DONTUNMAP alone a hint
};

enum : int {
  madv_normal = 0,
  madv_random = 1,
  madv_sequential = 2,
  madv_willneed = 3,
  madv_dontneed = 4,
  madv_free = 8,
  madv_remove = 9,
  madv_dontfork = 10,
  madv_dofork = 11,
  madv_hugepage = 14,
  madv_nohugepage = 15,
  madv_dontdump = 16,
  madv_dodump = 17,
  madv_wipeonfork = 18,
  madv_keeponfork = 19,
  madv_cold = 20,
  madv_pageout = 21,
  madv_populate_read = 22,
  madv_populate_write = 23,
  madv_dontneed_locked = 24,
  madv_collapse = 25,
  madv_guard_install = 102,
  madv_guard_remove = 103,
};

/// Returns the address.  Where it may choose: top-down, 2 MiB-aligned if the length reaches 2 MiB.
va_t sys_mmap(cpu& self, mm& m, const mmap_args& a);
void sys_munmap(cpu& self, mm& m, va_t start, u64 length);
void sys_mprotect(cpu& self, mm& m, va_t start, u64 length, prot_bits prot);
/// Returns the new break; the old one where the request cannot be met.
va_t sys_brk(cpu& self, mm& m, va_t to);
/// Copies the address space; the caller is the parent, and the child's creator (machine::close_mm).
mm* sys_fork(cpu& self, mm& parent);
/// The same in two steps: what userfaultfds are to be told of it is for the caller to tell, when others can know the child.
class uffd_events;
mm* copy_mm(cpu& self, mm& parent, uffd_events& told);
/// Returns where the mapping is then.
va_t sys_mremap(cpu& self, mm& m, const mremap_args& a);
/// mlock2: with on_fault pages count as locked when they come.
void sys_mlock(cpu& self, mm& m, va_t start, u64 length, bool on_fault);
void sys_munlock(cpu& self, mm& m, va_t start, u64 length);
/// What is mapped there stays so, with its rights.  ENOMEM, and nothing done, where there is a hole.
void sys_mseal(cpu& self, mm& m, va_t start, u64 length);
/// MS_SYNC: regular files that are mapped there are written back.
void sys_msync(cpu& self, mm& m, va_t start, u64 length);
/// PR_SET_THP_DISABLE, with PR_THP_DISABLE_EXCEPT_ADVISED (2) or no flags.
void sys_thp_disable(cpu& self, mm& m, bool on, u64 flags);
/// Every advice; MADV_COLLAPSE goes on in khugepaged/.
void sys_madvise(cpu& self, mm& m, va_t start, u64 length, int advice);
/// One byte a page: 1 if a touch would not have to allocate.  Under mmap_lock read, as mincore.
void sys_mincore(cpu& self, mm& m, va_t start, u64 length, u8* out);

/// The program ends: mm_users goes to 0, every VMA is unlinked, every table freed.
void exit_mmap(cpu& self, mm& m);

}  // namespace pgtbl::inline PGTBL_WORLD
