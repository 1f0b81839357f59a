// x86_64.hpp -- the reference architecture: how entries are laid out, and how a PTE table is freed.
//
// The other machines' entries have this layout too; what differs is arch/geometry.hpp, and on x86-pae the word in memory.
// An entry is one 64-bit word, stored and read whole.  Layout as the processor's: present, write,
// accessed, dirty, page size, frame number, no-execute.  One table per page, so the table's handle is
// its descriptor, and pte_free_defer() queues that descriptor's own rcu_head.
#pragma once
#include "world/geometry.hpp"

namespace pgtbl::inline PGTBL_WORLD {

inline constexpr u64 bit_present = 1ULL << 0;
inline constexpr u64 bit_write = 1ULL << 1;
inline constexpr u64 bit_user = 1ULL << 2;
inline constexpr u64 bit_accessed = 1ULL << 5;
inline constexpr u64 bit_dirty = 1ULL << 6;
inline constexpr u64 bit_huge = 1ULL << 7;
inline constexpr u64 bit_protnone = 1ULL << 8;  // present to the kernel, not to the hardware
inline constexpr u64 bit_swap = 1ULL << 9;      // in an entry that is not present: what the swap_kind says
inline constexpr u64 bit_uffd_wp = 1ULL
                                   << 10;  // of a present entry: a userfaultfd took the right to write away
inline constexpr u64 bit_nx = 1ULL << 63;
inline constexpr unsigned swap_kind_shift = 59;
inline constexpr unsigned pfn_shift = 12;  // in an entry, however large a page is
inline constexpr u64 pfn_field = ((1ULL << 40) - 1) << pfn_shift;

/// A frame's number as an entry has it, and back.  x86-pae: four neighbours lie 4 GiB apart, and agree in the low half.
#if defined(PGTBL_ARCH_X86_PAE)
constexpr u64 pfn_to_entry(pfn_t pfn) { return (pfn >> 2 | (pfn & 3) << 20) << pfn_shift; }
constexpr pfn_t entry_to_pfn(u64 entry) {
  const u64 n = (entry & pfn_field) >> pfn_shift;
  return (n & ((1ULL << 20) - 1)) << 2 | n >> 20;
}
#else
constexpr u64 pfn_to_entry(pfn_t pfn) { return pfn << pfn_shift; }
constexpr pfn_t entry_to_pfn(u64 entry) { return (entry & pfn_field) >> pfn_shift; }
#endif

/// What an entry is that is neither none nor present.
enum class swap_kind : u8 {
  none,
  migration,  // the page is being split: its frame, and whether it could be written and was exclusive
  marker,     // no page behind it, only what is to happen there
};
/// What a marker says; several at once.
enum : u64 { marker_uffd_wp = 1, marker_poison = 2, marker_guard = 4 };

/// The value of a PTE.
struct pte_t {
  u64 v = 0;
  bool none() const { return v == 0; }
  bool present() const { return (v & (bit_present | bit_protnone)) != 0; }
  bool write() const { return (v & bit_write) != 0; }
  bool dirty() const { return (v & bit_dirty) != 0; }
  bool young() const { return (v & bit_accessed) != 0; }
  bool exec() const { return (v & bit_nx) == 0; }
  pfn_t pfn() const { return entry_to_pfn(v); }
  swap_kind kind() const {
    if (present() || (v & bit_swap) == 0) return swap_kind::none;
    return static_cast<swap_kind>(v >> swap_kind_shift & 7);
  }
  /// The payload of a marker; 0 where it is none.
  u64 marker() const { return kind() == swap_kind::marker ? (v & pfn_field) >> pfn_shift : 0; }
  bool migration() const { return kind() == swap_kind::migration; }
  bool operator==(const pte_t&) const = default;
};

enum class pmd_kind : u8 { none, table, huge, other, bad };

/// The value of a PMD (and of the levels above, which hold tables only).
struct pmd_t {
  u64 v = 0;
  bool none() const { return v == 0; }
  bool present() const { return (v & (bit_present | bit_protnone)) != 0; }
  bool huge() const { return present() && (v & bit_huge) != 0; }
  bool table() const { return (v & (bit_present | bit_huge | bit_user)) == (bit_present | bit_user); }
  bool write() const { return (v & bit_write) != 0; }
  bool dirty() const { return (v & bit_dirty) != 0; }
  bool exec() const { return (v & bit_nx) == 0; }
  pfn_t pfn() const { return entry_to_pfn(v); }  // of a huge page
  pgtable_t pgtable() const { return pgtable_t{entry_to_pfn(v)}; }
  pmd_kind kind() const {
    if (none()) return pmd_kind::none;
    if (table()) return pmd_kind::table;
    if (huge()) return pmd_kind::huge;
    if (!present()) return pmd_kind::other;
    return pmd_kind::bad;
  }
  bool operator==(const pmd_t&) const = default;
};

struct prot_bits {
  bool read, write, exec;
};

/// The permission bits of a leaf entry.  PROT_NONE is present to the kernel alone.
constexpr u64 prot_to_bits(prot_bits p) {
  if (!p.read && !p.write && !p.exec) return bit_protnone;
  return bit_present | bit_user | (p.write ? bit_write : 0) | (p.exec ? 0 : bit_nx);
}
inline constexpr u64 prot_mask = bit_present | bit_user | bit_write | bit_protnone | bit_nx;

constexpr pte_t mk_swap(swap_kind kind, u64 payload) {
  return {bit_swap | static_cast<u64>(kind) << swap_kind_shift | payload};
}
constexpr pte_t mk_marker(u64 what) { return mk_swap(swap_kind::marker, what << pfn_shift); }
/// Software bit of a migration entry: the page belonged to this mm alone.
inline constexpr u64 bit_migration_exclusive = 1ULL << 10;

constexpr pte_t mk_pte(pfn_t pfn, prot_bits p) {
  return {pfn_to_entry(pfn) | bit_accessed | prot_to_bits(p)};
}
/// The entry with other permissions; frame, accessed and dirty stay.
constexpr u64 modify_prot(u64 entry, prot_bits p) { return (entry & ~prot_mask) | prot_to_bits(p); }
constexpr pmd_t mk_huge_pmd(pfn_t pfn, prot_bits p) { return {mk_pte(pfn, p).v | bit_huge}; }
constexpr pmd_t mk_table(pgtable_t t) {
  return {pfn_to_entry(static_cast<u64>(t)) | bit_present | bit_user | bit_write};
}

}  // namespace pgtbl::inline PGTBL_WORLD
