// fault_parts.hpp -- what the files of the fault path share: fault.cpp (the way in), fault_anon.cpp, fault_file.cpp,
// cow.cpp.  Nobody else includes this.
#pragma once
#include "mm/anon_vma.hpp"
#include "mm/fault.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class outcome : u8 {
  done,
  retry,           // the table or the folio changed under the fault
  need_mmap_lock,  // cannot be finished under the VMA lock alone
  sigbus,
  sigsegv,   // a guard marker
  poisoned,  // UFFDIO_POISON's marker
  // A userfaultfd is to handle it, by the reason:
  reported_missing,
  reported_minor,
  reported_wp,
  oom,
};

struct fault_in {
  cpu& self;
  mm& m;
  vma& v;
  va_t va;  // of the page
  bool write;
  bool vma_locked;         // under the VMA's own lock, without mmap_lock
  bool wp_marker = false;  // the entry is a userfaultfd's marker: what comes there is protected
  bool unshare =
      false;  // GUP is to read the page: it becomes the program's alone, not writable (FAULT_FLAG_UNSHARE)
};

/// Nothing is mapped there yet: the entry is none, or the marker that the fault came for.
inline bool entry_is_free(const fault_in& f, pte_t e) {
  return e.none() || (f.wp_marker && e.marker() == marker_uffd_wp);
}
/// The entry of a page that comes where the marker was.
inline pte_t protected_if_marked(const fault_in& f, pte_t e) {
  if (f.wp_marker) e.v = (e.v | bit_uffd_wp) & ~bit_write;
  return e;
}

/// The VMA is about to have private pages.  False: that needs mmap_lock, as neighbours' anon_vmas are looked at.
inline bool prepare_anon_vma(const fault_in& f) {
  if (f.v.anon_vma.load(relaxed) != nullptr) return true;
  if (f.vma_locked) return false;
  anon_vma_prepare(f.self, f.v);
  return true;
}

/// What a file page's entry may allow in a private mapping: never a store.
constexpr prot_bits read_only(prot_bits p) { return {p.read || p.write, false, p.exec}; }

inline void page_add_pte(const fault_in& f, pfn_t pfn, rss_kind kind) {
  f.self.ram->of(pfn).mapcount.fetch_add(1, relaxed);
  f.m.rss.add(f.self, kind, 1);
}

/// A fresh page of the VMA's own, mapped nowhere yet; contents undefined.
inline std::optional<pfn_t> new_anon_page(const fault_in& f) {
  const auto pfn = f.self.ram->alloc_page(f.self, f.self.frames);
  if (pfn) folio_set_new_anon(f.self, *pfn, f.v, f.va);
  return pfn;
}

inline pte_t private_pte(const fault_in& f, pfn_t pfn) {
  pte_t e = mk_pte(pfn, f.v.prot());
  if (f.write) e.v |= bit_dirty;
  return e;
}

/// A copy that was made to be read: the program's alone, and not to be written.
inline pte_t unshared_pte(const fault_in& f, pfn_t pfn) { return mk_pte(pfn, read_only(f.v.prot())); }

/// A locked table at va, allocated where the PMD is none.
struct alloc_map {
  std::optional<pte_locked> table;
  outcome why = outcome::retry;  // where there is none
};
alloc_map pte_alloc_map_lock(const fault_in& f, pmd_ref pmdp, va_t va);

/// Puts a fresh private page into an entry that is still none.  Consumes the page.
outcome install_private(const fault_in& f, pmd_ref pmdp, pfn_t pfn);

// ---------------------------------------------------------------- fault_anon.cpp

outcome do_anonymous_page(const fault_in& f, pmd_ref pmdp);
/// The whole extent by one huge page.  Nothing: not to be had; a small page then.
std::optional<outcome> do_huge_pmd_anonymous_page(const fault_in& f, pmd_ref pmdp);

// ---------------------------------------------------------------- fault_file.cpp

outcome do_file_fault(const fault_in& f, pmd_ref pmdp);

// ---------------------------------------------------------------- cow.cpp

/// A store to an entry that does not allow it, in a VMA that does.
outcome do_wp_page(const fault_in& f, pmd_ref pmdp, pte_t orig);
/// The same for a huge PMD.  Nothing: it was taken apart; go on with the entry.
std::optional<outcome> wp_huge_pmd(const fault_in& f, pmd_ref pmdp, pmd_t orig);

}  // namespace pgtbl::inline PGTBL_WORLD
