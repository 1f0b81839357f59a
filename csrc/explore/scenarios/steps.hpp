// steps.hpp -- actors that are written down as steps: an idea for a protocol, tried without compiling.
//
// The steps act on one extent of one program: its PMD, the table that the PMD leads to, and their locks.  They come
// as text, one after the other, separated by ";": a number by which traces name the step, a verb and its operands.
// pgtbl/_steps.py makes that text from lists with branches, and is where users are told what is wrong with theirs.
//
// Variables hold values of entries.  What may go wrong on the way is the machine's to say (a table that is used after
// its free, a lock that has died); what no machine could do is said here: the lock of what is no table, a lock
// given back that is not held or never given back.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

/// Operands: v a variable that is read, = one that is written, i the number of an entry, > the step to go on with.
#define PGTBL_STEPS(X)                 \
  X(read_pmd, "=")                     \
  X(read_pte, "v=i")                   \
  X(clear_pmd, "=")                    \
  X(set_pmd, "v")                      \
  X(map_page, "vi")                    \
  X(unmap_page, "vi")                  \
  X(lock_pml, "")                      \
  X(unlock_pml, "")                    \
  X(lock_ptl, "v")                     \
  X(unlock_ptl, "v")                   \
  X(rcu_read_lock, "")                 \
  X(rcu_read_unlock, "")               \
  X(lock_mmap_read, "")                \
  X(unlock_mmap_read, "")              \
  X(lock_mmap_write, "")               \
  X(unlock_mmap_write, "")             \
  X(lock_i_mmap_read, "")              \
  X(unlock_i_mmap_read, "")            \
  X(lock_i_mmap_write, "")             \
  X(unlock_i_mmap_write, "")           \
  X(lock_folio, "")                    \
  X(unlock_folio, "")                  \
  X(flush, "")                         \
  X(flush_leaf, "")                    \
  X(ipi, "")                           \
  X(free, "v")                         \
  X(defer, "v")                        \
  X(synchronize, "")                   \
  X(must_be_same, "vv")                \
  X(unless_table, "v>")                \
  X(unless_none, "v>")                 \
  X(unless_same, "vv>")                \
  X(unless_empty, "v>")                \
  X(go, ">")                           \
  X(again, "")                         \
  X(stop, "")

enum class step_kind : u8 {
#define X(name, operands) name,
  PGTBL_STEPS(X)
#undef X
};
struct step_row {
  const char* name;
  const char* operands;
};
inline constexpr step_row step_table[] = {
#define X(name, operands) {#name, operands},
    PGTBL_STEPS(X)
#undef X
};

/// One actor's steps.
class step_list {
 public:
  static constexpr u32 most_steps = 200, most_variables = 8;

  /// "NAME=1 read_pmd t;2 unless_table t 4;...".  Throws program_error.
  explicit step_list(const std::string& text);
  const std::string& name() const { return name_; }

  struct step {
    step_kind kind{};
    u32 number = 0;    // as traces tell it
    u32 from[2] = {};  // variables that are read
    u32 to = 0;        // the one that is written
    u32 index = 0;     // of an entry
    u32 target = 0;    // where to go on
    std::string text;
  };
  const std::vector<step>& steps() const { return steps_; }

 private:
  u32 variable(const std::string& word);

  std::string name_;
  std::vector<step> steps_;
  std::vector<std::string> variables_;
};

/// An actor that does such steps.
class step_actor {
 public:
  step_actor(const step_list& list, mm& m, mapping& file, va_t at, pfn_t huge)
      : list_(list), mm_(m), file_(file), at_(at), huge_(huge) {}
  const std::string& name() const { return list_.name(); }
  void run(cpu& self);
  /// For traces: the step that it is at, as {"name", number, "text"}; none before the first.
  const step_list::step* now() const { return now_; }

 private:
  enum lock_slot : u8 { pml, mmap_read, mmap_write, i_mmap_read, i_mmap_write, folio, slots };
  struct table_lock {
    pgtable_t table{};
    hold h;
  };

  bool one(cpu& self, const step_list::step& s);  // false: the condition holds not
  void take(cpu& self, lock_slot which);
  void give(cpu& self, lock_slot which);
  void take_table(cpu& self, pmd_t table);
  void give_table(cpu& self, pmd_t table);
  void map_page(cpu& self, pmd_t table, u64 page);
  void unmap_page(cpu& self, pmd_t table, u64 page);
  bool is_empty(cpu& self, pmd_t table);
  bool table_or_fail(pmd_t value);
  void wrong(const std::string& what);
  void end(cpu& self);
  atomic<u64>& entry(cpu& self, pmd_t table, u64 index) {
    return self.ram->phys.entry(table.pgtable(), index);
  }

  const step_list& list_;
  mm& mm_;
  mapping& file_;
  const va_t at_;
  const pfn_t huge_;
  const step_list::step* now_ = nullptr;
  u64 values_[step_list::most_variables] = {};
  hold holds_[slots];
  bool held_[slots] = {};
  table_lock tables_[4];
  u32 tables_held_ = 0, sections_ = 0;
  pmd_ref pmdp_;
  bool stopped_ = false;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
