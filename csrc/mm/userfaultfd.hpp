// userfaultfd.hpp -- faults on registered ranges are reported instead of served.
//
// Modes.  missing: nothing is there (no page in the file, for a file).  minor: the file has the page, the table does not.
// wp: a store to an entry that was write-protected on purpose.  A fault that would be reported raises a bus error
// (UFFD_FEATURE_SIGBUS): nobody waits.
//
// Method.  A range belongs to a userfaultfd by its VMA: pointer and flags change under mmap_lock for write.  Write
// protection is a bit of the entry (or of an anonymous huge PMD), which takes the right to write away.  For a file it outlives the
// entry: what clears one that had the bit leaves a marker, and the next fault gives the bit back.  So a table of such a
// VMA is never without meaning, even if it maps nothing: retraction leaves it alone (G-12).
//
// Lock order.  mmap_lock (write) for registering; mmap_lock (read) > ptl for the other calls.
#pragma once
#include "mm/vma.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Bits of the features as UFFDIO_API has them.
enum : u64 {
  uffd_feature_wp_unpopulated = 1ULL << 13,
  uffd_feature_wp_async = 1ULL << 15,
};
inline constexpr u64 uffd_known_features = (1ULL << 17) - 1;

/// One userfaultfd of an address space.  Lives as long as that does.
struct userfaultfd {
  explicit userfaultfd(u64 f) : features(f) {}
  const u64 features;
  userfaultfd* next = nullptr;  // of the same mm
};

userfaultfd* new_userfaultfd(cpu& self, mm& m, u64 features);
void free_userfaultfds(mm& m);

/// Each throws os_error with the ioctl's errno.  modes: of vm_uffd_missing, vm_uffd_wp, vm_uffd_minor.
void uffd_register(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, u64 modes);
void uffd_unregister(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length);
void uffd_writeprotect(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool on);
/// Puts pages where nothing is mapped: of `source`, as many whole pages as length says; zeros; or what the file has.
void uffd_copy(cpu& self, mm& m, userfaultfd& u, va_t start, const void* source, u64 length, bool wp);
void uffd_zeropage(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length);
void uffd_continue(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length);
/// Every range is given up.
void uffd_release(cpu& self, mm& m, userfaultfd& u);

/// Whether protecting a page that is not there leaves a marker.
inline bool uffd_uses_markers(const vma& v) {
  return v.is(vm_uffd_wp) && (!v.is_anon() || (v.uffd->features & uffd_feature_wp_unpopulated) != 0);
}
inline bool uffd_wp_async(const vma& v) {
  return v.uffd != nullptr && (v.uffd->features & uffd_feature_wp_async) != 0;
}

}  // namespace pgtbl::inline PGTBL_WORLD
