// table_page.hpp -- the descriptor of a page of page tables, as far as architectures differ in it.
//
// Problem.  In Linux the two words of a table page's rcu_head are the two words of its list node.  Where a page holds
// several tables, one of them may be handed to RCU while another puts the page on a list: each would write over the
// other.
// Method.  They are one field here too, and really share their memory.  A word beside it, which Linux does not have, says
// what they are used for;
// whoever claims them for one use while they are in another, or finds them without their poison, is reported with
// the invariant of its architecture, and goes without.
#pragma once
#include <optional>

#include "base/breach.hpp"
#include "base/guards.hpp"
#include "sync/rcu.hpp"
#include "sync/spinlock.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// A table's handle where one page holds several: the address of its entries, or of any of them.
using table_addr = u64;

struct list_node {
  list_node* next;
  list_node* prev;
};

/// Whether changes of state are told (table_host::changed): in the model, where one thing happens at a time.
#if defined(PGTBL_WORLD_MODEL)
inline constexpr bool tells_states = true;
#else
inline constexpr bool tells_states = false;
#endif

/// Two words: the rcu_head of the page, or its node in a list.
class overlay {
 public:
  enum class use : u32 { idle, listed, queued };

  overlay() { poison(); }
  overlay(const overlay&) = delete;
  overlay& operator=(const overlay&) = delete;

  use now() const { return use_.load(relaxed); }
  rcu_head* head() { return &head_; }
  list_node* node() { return &node_; }
  /// The page whose overlay has this head, or this node.
  template <class Page>
  static Page& page_of(void* words) {
    return *static_cast<Page*>(static_cast<overlay*>(words));
  }
  /// From idle to another use.  False: it was reported under that invariant, and the words are not the caller's.
  bool claim(context& self, use what, const char* invariant);
  /// Back to idle.
  void leave();

 private:
  void poison() { node_ = {poisoned, poisoned}; }
  static inline list_node* const poisoned = reinterpret_cast<list_node*>(0x6b6b6b6b6b6b6b00);

  union {  // first in the object, so that either word's address is the object's
    rcu_head head_;
    list_node node_;
  };
  atomic<use> use_{use::idle};
};

/// What architectures keep for a page of tables.
struct table_page : overlay {
  class table_host* host =
      nullptr;            // stable while the page holds tables: an RCU callback gets nothing but the head
  atomic<u32> refs{0};    // powerpc: pt_frag_refcount.  s390: PP--AA, of the top byte of _refcount
  atomic<u32> active{0};  // PG_active: a table in it was freed by deferral
  struct arch_context* pt_mm =
      nullptr;                // whose list it may be on; nothing looks at it once the mm may be gone
  bool guest_status = false;  // s390: a guest's status (PGSTE) lies in its second half, and no table
  // Active and listed as the last change left them: told to the host (changed()), never asked by a protocol.
  u32 shadow = 0;
};

/// Pages in the order in which they were put there.  Protected by a lock of its owner.
class page_list {
 public:
  page_list() { root_.next = root_.prev = &root_; }
  page_list(const page_list&) = delete;
  page_list& operator=(const page_list&) = delete;

  table_page* first() const {
    return root_.next == &root_ ? nullptr : &overlay::page_of<table_page>(root_.next);
  }
  /// Calls f(page) for each.
  template <class F>
  void for_each(F&& f) const {
    for (list_node* n = root_.next; n != &root_; n = n->next) f(overlay::page_of<table_page>(n));
  }
  void add_head(context& self, table_page& p, const char* invariant) {
    link(self, p, root_, *root_.next, invariant);
  }
  void add_tail(context& self, table_page& p, const char* invariant) {
    link(self, p, *root_.prev, root_, invariant);
  }
  /// list_del_init: nothing where the page is on no list.
  void del(table_page& p);

 private:
  static void link(context& self, table_page& p, list_node& before, list_node& after, const char* invariant);
  list_node root_;
};

/// Where an architecture's tables get their pages.
class table_host {
 public:
  /// A page for tables, its lock made ready; null: memory is exhausted.
  virtual table_page* page_alloc(context& self) = 0;
  /// Destructor and free, at once.
  virtual void page_free(context& self, table_page& page) = 0;
  /// call_rcu on the page's head, which was claimed.
  virtual void page_call_rcu(context& self, table_page& page, rcu_callback f) = 0;
  /// The page that an address lies in, and the address at which it begins.
  virtual table_page& page_of(table_addr a) = 0;
  virtual table_addr base_of(const table_page& page) = 0;
  /// Whose tables these are.
  virtual class pte_tables& tables() = 0;
  /// The entry at that address.
  virtual atomic<u64>& entry(table_addr a) = 0;
  /// Bytes of such a page.
  virtual u64 page_bytes() const = 0;
  /// A page of tables went from one state to another: for whoever draws the state machine.
  virtual void changed(const char* /*operation*/, u32 /*from*/, u32 /*to*/) {}

 protected:
  ~table_host() = default;
};

}  // namespace pgtbl::inline PGTBL_WORLD
