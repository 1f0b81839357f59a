#include "arch/table_page.hpp"

namespace pgtbl::inline PGTBL_WORLD {

bool overlay::claim(context& self, use what, const char* invariant) {
  constexpr const char* uses[] = {"idle", "the node of a list", "queued as an rcu_head"};
  use is = use::idle;
  const bool mine = use_.compare_exchange_strong(is, what, acq_rel, relaxed);
  if (mine && node_.next == poisoned && node_.prev == poisoned) return true;
  breach(
      self, invariant,
      std::string("the two words of a table page are to be ") + uses[static_cast<u32>(what)] +
          (mine ? ", and have lost their poison" : std::string(", and are ") + uses[static_cast<u32>(is)]) +
          " already");
  return false;
}

void overlay::leave() {
  poison();
  use_.store(use::idle, release);
}

void page_list::link(
    context& self, table_page& p, list_node& before, list_node& after, const char* invariant) {
  if (!p.claim(self, overlay::use::listed, invariant)) return;
  *p.node() = {&after, &before};
  before.next = p.node();
  after.prev = p.node();
}

void page_list::del(table_page& p) {
  if (p.now() != overlay::use::listed) return;
  p.node()->prev->next = p.node()->next;
  p.node()->next->prev = p.node()->prev;
  p.leave();
}

}  // namespace pgtbl::inline PGTBL_WORLD
