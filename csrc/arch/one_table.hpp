// one_table.hpp -- one table in a page: x86-64, x86-pae, arm, sparc64, and s390 from 6.9 on.
//
// The page's head is the table's own: pte_free_defer queues it, once.  The handle is the page's descriptor, except on
// sparc64, where it is a pointer to entries, and leads to the descriptor by the page that it lies in: any entry's
// pointer does.  Whoever takes it for the descriptor writes the rcu_head over the table's entries.
#pragma once
#include "arch/interface.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class table_handle : u8 { descriptor, entries };

class one_table final : public pte_tables {
 public:
  explicit one_table(table_host& host, table_handle handle = table_handle::descriptor)
      : host_(host), handle_(handle) {}

  std::optional<table_addr> pte_alloc_one(context& self, arch_context& mm) override;
  void pte_free(context& self, arch_context& mm, table_addr table) override;
  void pte_free_defer(context& self, arch_context& mm, table_addr table) override;
  void tlb_remove_table(context& self, table_addr table) override;
  void audit(const table_page& page, std::string& found) const override;

 private:
  void step(table_page& page, const char* what, u32 to);

  table_host& host_;
  const table_handle handle_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
