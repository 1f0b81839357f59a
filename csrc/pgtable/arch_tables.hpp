// arch_tables.hpp -- PTE tables of the architectures whose tables come and go through a pte_tables (arch/interface.hpp).
//
// Problem.  Where a page holds several tables, a page's descriptor says too little: of two tables in it one may live, and
// the other wait for a grace period.
// Method.  Two arrays beside the frames' descriptors.  One has what the architecture keeps of a page (table_page); the other
// the life of each table: its state, its generation, its place among the deposited ones.  The page's own frame is a live table
// for as long as the page holds tables, and its lock is the lock of all of them.
// Not in x86-64's builds: there a frame is the descriptor of its table, in one.
#pragma once
#include <span>

#include "arch/interface.hpp"
#include "memory/memory.hpp"
#include "pgtable/pmd_halves.hpp"
#include "pgtable/vivt.hpp"

#if defined(PGTBL_ARCH_TABLES)
namespace pgtbl::inline PGTBL_WORLD {

struct cpu;
struct mm_tables;

struct table_life {
  atomic<u32> generation{0};
  atomic<frame_state> state{frame_state::free};
  u8 level = 0;
  var<u64> index{0};           // as frame::index
  mm_tables* owner = nullptr;  // of a PTE table: whose it is; stable while it is live
  u64 cookie =
      0;  // of a table freed by deferral: passes with the grace period that it has to wait for; 0: none
};

/// Whether tables of that level may share a page: the page's life is not the table's.
constexpr bool in_parts(u32 level) {
  return level == 1 || (level == 2 && geometry.pmd_tables_per_page_shift != 0);
}

/// Which of its forms the architecture's tables have: the era says so (arch/list.hpp), or the user.
enum class table_form : u8 { usual, one_table, split_locks };

class arch_tables final : public table_host {
 public:
  arch_tables(memory& ram, table_form form);
  ~arch_tables();
  arch_tables(const arch_tables&) = delete;
  arch_tables& operator=(const arch_tables&) = delete;

  table_life& life(pgtable_t t) { return lives_[static_cast<u64>(t)]; }
  /// The lock of a page of tables, where they are not split: that of the mm they belong to.
  spinlock& shared_lock(pfn_t page) { return *locks_[page]; }
  void share_lock(pfn_t page, spinlock& lock) { locks_[page] = &lock; }

  std::optional<pgtable_t> pte_alloc_one(cpu& self, mm_tables& t);
  void pte_free(cpu& self, mm_tables& t, pgtable_t table);
  void pte_free_defer(cpu& self, mm_tables& t, pgtable_t table);
  void pte_free_tlb(cpu& self, mm_tables& t, pgtable_t table);
  void tlb_remove_table(cpu& self, pgtable_t table);
  /// The mm's structure goes: nobody has it any more.
  void destroy_context(cpu& self, mm_tables& t);

#if defined(PGTBL_ARCH_POWERPC)
  /// PMD tables: fragments, too, that are never deferred.
  std::optional<pgtable_t> pmd_alloc_one(cpu& self, mm_tables& t);
  void pmd_free(cpu& self, pgtable_t table);
#endif

  /// At quiescence: what cannot be, a line each (A-n).  contexts: of every mm.
  void audit(std::span<const arch_context* const> contexts, std::string& found);

  // table_host
  table_page* page_alloc(context& self) override;
  void page_free(context& self, table_page& page) override;
  void page_call_rcu(context& self, table_page& page, rcu_callback f) override;
  table_page& page_of(table_addr a) override { return pages_[a >> page_shift]; }
  table_addr base_of(const table_page& page) override { return number(page) << page_shift; }
  pte_tables& tables() override { return *tables_; }
  atomic<u64>& entry(table_addr a) override;
  u64 page_bytes() const override { return page_size; }

#if defined(PGTBL_ARCH_X86_PAE)
  pmd_histories pmds;
#elif defined(PGTBL_ARCH_ARM)
  vivt_cache lines;
  /// Who holds one table's lock and waits for another's (mm/coherent.cpp).  By CPU.
  struct nested_wait {
    atomic<const spinlock*> holds{nullptr}, wants{nullptr};
  };
  nested_wait nested[max_contexts];
  /// Each table's own lock: hypothetical here.
  const bool split_ptl;
#endif

 private:
#if defined(PGTBL_ARCH_POWERPC)
  /// Where PMD fragments get their pages.
  class pmd_host final : public table_host {
   public:
    explicit pmd_host(arch_tables& all) : all_(all) {}
    table_page* page_alloc(context& self) override { return all_.page_of_level(self, *this, 2); }
    void page_free(context& self, table_page& page) override { all_.page_gone(self, page); }
    void page_call_rcu(context& self, table_page& page, rcu_callback f) override {
      all_.page_call_rcu(self, page, f);
    }
    table_page& page_of(table_addr a) override { return all_.page_of(a); }
    table_addr base_of(const table_page& page) override { return all_.base_of(page); }
    pte_tables& tables() override { return *all_.pmd_tables_; }
    atomic<u64>& entry(table_addr a) override { return all_.entry(a); }
    u64 page_bytes() const override { return page_size; }

   private:
    arch_tables& all_;
  };
  pmd_host pmd_host_{*this};
  pte_tables* pmd_tables_ = nullptr;
#endif
  table_page* page_of_level(context& self, table_host& host, u8 level);
  void page_gone(context& self, table_page& page);
  pfn_t number(const table_page& page) const { return static_cast<pfn_t>(&page - pages_); }
  static table_addr addr_of(pgtable_t t) { return static_cast<u64>(t) << pgtable_shift; }
  /// Its memory may be somebody else's in a moment.
  void end_life(cpu& self, pgtable_t table);

  memory& ram_;
  table_page* pages_;  // by frame
  table_life* lives_;  // by table
  spinlock** locks_;   // by frame; null where locks are split
  pte_tables* tables_ = nullptr;
};

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
