// machine_cast.hpp -- casts on a whole machine: one file of one or two extents, one or two programs that map it, and
// actors that run the shipped page-table code on CPUs of their own.
//
// What is set up and not explored: the machine, the mappings, the page cache, and a few free frames in each CPU's
// stack, so that single frames never come from the common pool.  RCU is its definition and semaphores are one
// operation (explore/scenarios/rcu.cpp and locks.cpp prove the shipped ones).  Statistics are not explored.
// What must hold at the end: the invariants of check/, no breach on the way, and every store that was made is found.
#pragma once
#include <cstring>

#include "explore/scenario.hpp"
#include "explore/scenarios/steps.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

/// What the page cache and the first program's page tables hold when the actors start.
enum class layout : u8 {
  empty_table,           // a huge page in the cache; the PMD leads to a table without entries
  full_table,            // the same, with every entry mapping its page of the huge page
  small_pages,           // small pages, all mapped
  no_table,              // small pages, and no PTE table yet
  small_pages_and_hole,  // the same without the last page of the extent
};

/// One letter an actor:
///   m  pte_offset_map, and reads           l  pte_offset_map_lock            n  pte_offset_map_rw_nolock, lock, pmd_same
///   R  retract_page_tables, as collapse_file calls it, and RCU callbacks
///   C  collapse_pte_mapped_thp and map huge            K  the same as khugepaged, which does not map
///   c  collapse_file, decided before the others came
///   F  collapse_file                                   D  MADV_DONTNEED
///   f  a load, faults included      w  a store, faults included      h  a load by hardware alone
///   W  a write from outside to the extent's last page  T  truncate to nothing      X  the program exits
///   v  a store to the extent's last page              g  a walk without locks, interrupts off, on a CPU that does not run it
///   p  a private page into an empty entry, as UFFDIO_COPY does      P  a store by a device that has had the first page pinned
///   A  MADV_COLLAPSE                                   Z  C, then T
///   U  munmap                       u  rmap: try_to_unmap of the first page
///   d  MADV_DONTNEED, and then a look whether its own CPU still translates
///   y  C, and the same look         o  a write fault in the extent's last page, without the store
///   i  makes sure that there is a table, as every fault does
///   *  steps that are written down (steps.hpp)
///   x  reads what the VMA's lock protects      s  marks the VMA and writes that
/// A digit after a letter says which program it acts in; without one the first.
struct cast_plan {
  const char* parts;
  layout start;
  u32 programs = 1;
  bool is_private = false;  // mapped privately
  bool partial = false;     // the last page of the extent is another mapping's, anonymous
  u32 extents = 1;          // of the file
  const char* judged = "";  // what is judged at the end: accounts, stores, sections; all where empty
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

 private:
  struct part {
    char what = 0;
    u32 which = 0;  // program
    cpu* self = nullptr;
    step_actor* steps = nullptr;
  };
  static constexpr u64 stored = 500;  // what writers store, plus their number

  void play(u32 i);
  void read_parts(const char* parts);
  void lay_out(layout start);
  void make_huge(u32 extent);
  void deal_frames();
  void name_things(stage& s);
  void leave_out_statistics(stage& s);
  pmd_ref pmd_of(cpu& self, u32 which);
  static bool may_map(cpu& self, pmd_ref p);
  void map_and_read(cpu& self, u32 which);
  void map_and_lock(cpu& self, u32 which);
  void map_and_lock_later(cpu& self, u32 which);
  void check_still_there(pmd_ref p, const pte_locked& t);
  void retract(cpu& self);
  void collapse_mapped(cpu& self, u32 which, bool install);
  void unmap_first(cpu& self);
  void map_file(const cast_plan& plan, u32 which);
  void walk_lockless(cpu& self);
  void put_private_page(cpu& self);
  bool still_translates(cpu& self, u32 which);
  void zap_and_look(cpu& self, u32 which);
  void collapse_and_look(cpu& self, u32 which);
  void install_table(cpu& self, u32 which);
  void write_fault(cpu& self, u32 which, u64 page);
  void read_under_vma_lock(cpu& self, u32 which);
  void write_under_vma_lock(cpu& self, u32 which);
  bool has(char what) const;
  bool judges(const char* what) const { return *judged_ == 0 || std::strstr(judged_, what) != nullptr; }
  va_t page_va(u32 which, u64 page) const { return at_[which] + (page << page_shift); }

  u64 pages() const { return extents_ * pages_per_huge; }
  u64 bytes() const { return extents_ * pmd_size; }

  static constexpr u32 max_extents = 2;
  u32 n_ = 0, programs_, extents_;
  bool private_;
  const char* judged_;
  part parts_[stage::max_actors];
  bool done_[stage::max_actors] = {};  // the actor's store was made
  u64 value_of_page_[max_extents * pages_per_huge] = {};
  machine* m_;
  cpu* first_cpu_;
  mapping* file_;
  mm* mm_[2] = {};
  va_t at_[2] = {};
  pfn_t huge_ = 0, pinned_ = 0;
  hold huge_lock_;       // of the actor that retracts
  var<u64> guarded_{0};  // by the VMA's lock
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
