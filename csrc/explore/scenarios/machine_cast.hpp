// machine_cast.hpp -- casts on a whole machine: one file of one or two extents, one or two programs that map it (or have
// as much anonymous memory), and actors that run the shipped page-table code on CPUs of their own.
//
// What is set up and not explored: the machine, the mappings, the page cache, and a few free frames in each CPU's
// stack, so that single frames never come from the common pool.  RCU is its definition and semaphores are one
// operation (explore/scenarios/rcu.cpp and locks.cpp prove the shipped ones).  Statistics are not explored.
// What must hold at the end: the invariants of check/, no breach on the way, and every store that was made is found.
#pragma once
#include <cstring>
#include <string_view>

#include "explore/scenarios/cast_verbs.hpp"
#include "explore/scenarios/steps.hpp"
#include "mm/machine.hpp"
#include "mm/secondary_mmu.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

/// What the page cache and the first program's page tables hold when the actors start.
enum class layout : u8 {
  empty_table,           // a huge page in the cache; the PMD leads to a table without entries
  full_table,            // the same, with every entry mapping its page of the huge page
  small_pages,           // small pages, all mapped
  no_table,              // small pages, and no PTE table yet
  small_pages_and_hole,  // small pages, all mapped, without the last page of the extent
  first_page,            // the first page alone, mapped
  no_table_huge_page,    // a huge page in the cache, and no PTE table yet
  anon_pages,            // anonymous memory instead of the file, each page of it stored to: small pages
  anon_huge,             // the same, in huge pages
  anon_none,             // the same, and nothing stored yet: no table, and huge pages allowed
  anon_first_page,       // the same, its first page alone stored to; every extent has its table
};
inline constexpr const char* layout_names[] = {
    "empty_table",        "full_table", "small_pages", "no_table",  "small_pages_and_hole", "first_page",
    "no_table_huge_page", "anon_pages", "anon_huge",   "anon_none", "anon_first_page"};
constexpr bool is_anon(layout l) { return l >= layout::anon_pages; }
constexpr bool has_entries(layout l) {
  return l != layout::empty_table && l != layout::no_table && l != layout::no_table_huge_page &&
         l != layout::anon_none;
}

/// One verb an actor, as the rows of verbs_*.cpp name them; "verb@1" acts in the second program.  "*" does steps that are
/// written down (steps.hpp).
struct cast_plan {
  const char* parts;  // with blanks or commas between them
  layout start;
  u32 programs = 1;
  bool is_private = false;  // mapped privately
  bool partial = false;     // the last page of the extent is another mapping's, anonymous
  u32 extents = 1;          // of the file
  const char* judged = "";  // what is judged at the end: accounts, stores, sections; all where empty
  bool broadcast = false;   // TLBs are flushed by broadcast: no flush waits for a walk without locks
  bool regular = false;     // the file is one on a disk, written back, and open to be read
  bool nohuge = false;      // with the advice to map it by small pages
  bool askew = false;       // mapped so that a huge page of the file would lie in two tables
  u32 put_off = put_off_array::capacity;  // how many extents khugepaged remembers
};

class machine_cast final : public program {
 public:
  /// written: the steps of the actors *, in their order; kept by the caller.
  machine_cast(stage& s, const era& rules, const cast_plan& plan, std::span<const step_list> written = {});
  u32 actors() const override { return n_; }
  void act(u32 i) override;
  void judge() override;
  std::string role(u32 i) const override;
  std::string held_by(u32 i) const override;
  place doing(u32 i) const override;

  // For verbs.
  mm& program_of(const cast_actor& a) { return program(a.which); }
  mm& program(u32 which) { return *mm_[which]; }
  mapping& file() { return *file_; }
  va_t page_va(u32 which, u64 page) const { return at_[which] + (page << page_shift); }
  pmd_ref pmd_of(cpu& self, u32 which) { return pmd_offset(self, *mm_[which], at_[which]); }
  u64 bytes() const { return extents_ * pmd_size; }
  pfn_t huge_page() const { return huge_; }
  hold huge_lock() const { return huge_lock_; }  // of the actor that retracts
  pfn_t pinned_page() const { return pinned_; }
  var<u64>& guarded_by_vma() { return guarded_; }
  userfaultfd& uffd_of(const cast_actor& a) { return *uffd_[a.which]; }
  secondary_mmu& shadow_of(const cast_actor& a) { return *shadow_[a.which]; }
  secondary_mmu& walker_of(const cast_actor& a) { return *walker_[a.which]; }
  atomic<u64>& told() { return told_; }  // what one thread of the program lets another know
  /// What an actor that stores, stores; nothing that was there before.
  static u64 mark_of(const cast_actor& a) { return stored + 1 + a.number; }
  void has_stored_to(const cast_actor& a, u64 page) { stored_to_[a.number] = page + 1; }
  void has_guarded(const cast_actor& a, u64 page) { guarded_page_[a.number] = page + 1; }
  /// Whether the actor's TLB has the first page; nothing but an access of its own puts it there.
  bool still_translates(const cast_actor& a) const;

 private:
  static constexpr u64 stored = 500;

  void read_parts(std::string_view parts);
  void read_part(std::string_view word);
  void map(const cast_plan& plan, u32 which);
  void let_others_in(u32 which);
  void lay_out(layout start);
  void lay_out_anon(layout start);
  void pin_first();
  void make_huge(u32 extent);
  void deal_frames();
  void name_things(stage& s);
  void name_extent(stage& s, u32 which, u32 extent, const std::string& mine);
  void leave_out_statistics(stage& s);
  void judge_stores();
  void judge_guards();
  u64 word_of(u64 page);
  bool has(trait t) const;
  bool has_in(u32 which, trait t) const;
  bool judges(const char* what) const { return *judged_ == 0 || std::strstr(judged_, what) != nullptr; }

  u64 pages() const { return extents_ * pages_per_huge; }

  static constexpr u32 max_extents = 2;
  u32 n_ = 0, programs_, extents_;
  bool private_, anon_;
  layout start_;
  const char* judged_;
  cast_actor parts_[stage::max_actors];
  u64 stored_to_[stage::max_actors] = {};     // 1 + the page to which the actor's store was made
  u64 guarded_page_[stage::max_actors] = {};  // 1 + the page into whose entry the actor put a guard
  u64 value_of_page_[max_extents * pages_per_huge] = {};
  machine* m_;
  cpu* first_cpu_;
  mapping* file_;
  mm* mm_[2] = {};
  va_t at_[2] = {};
  userfaultfd* uffd_[2] = {};
  secondary_mmu *shadow_[2] = {}, *walker_[2] = {};
  pfn_t huge_ = 0, pinned_ = 0;
  hold huge_lock_;
  var<u64> guarded_{0};  // by the VMA's lock
  atomic<u64> told_{0};
};

/// What a row of a table of scenarios makes.
template <const cast_plan& Plan>
program* cast_of(stage& s, const era& rules) {
  return pgtbl::make<machine_cast>(s, rules, Plan);
}

/// Not where the program has ended.  Before 6.5 mapping could not fail: its callers looked first, and mmap_lock kept
/// what they saw.
bool may_map(cpu& self, pmd_ref p);

}  // namespace pgtbl::inline PGTBL_WORLD::explore
