// Page tables of the architectures: who takes one away, frees it, hands it out again and reads it, on the shipped sources
// of csrc/arch/.
//
// A cast is a few tables of one program, and who does what to which.  Pages of tables are objects: whoever touches one
// after it was freed is found.  What stands at the end is counted: every page that is left holds a living table, each
// table is somebody's alone, and the bits and references of its page say so.
#include "arch/one_table.hpp"
#include "arch/powerpc.hpp"
#include "arch/s390.hpp"
#include "explore/scenario.hpp"
#include "explore/scenarios/reach.hpp"
#include "explore/scenarios/tell.hpp"
#include "sync/irq.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

enum class backend : u8 { powerpc, powerpc_pmd, sparc64, s390, s390_pgste, s390_one_table, generic };

/// Two characters an actor: what it does, and to which table.
///   d  takes the table out of its PMD, and frees it by deferral (a retraction)
///   f  the same with an ordinary free: nobody else can come to this table
///   g  the same through mmu_gather: unlinked under the living mm, freed after the grace period
///   D  F  G  as d, f and g, of a table that nobody else looks at: nothing but the free itself
///   r  a walker: an RCU section, the PMD, an entry
///   a  a new table
///   X  the program ends: what is left is freed, and the context dies
///   K  the program is given guests (KVM)
///   C  a retraction, and then a huge PMD with a deposited table behind it
///   Z  zaps the huge PMD, and frees what was deposited
///   h  a hash fault on the huge PMD, which is one from the start: notes its slot in what was deposited
///   A  anonymous collapse: empties the PMD, and then the entries of the table that it took
///   l  pte_offset_map_lock, and a store to the entry
struct table_plan {
  backend kind;
  u32 tables;  // handed out at the start
  const char* parts;
  u32 fragments = 2;  // of a page, on powerpc
};

constexpr u64 bytes_of_page = 1024, huge_pmd = 1, first_value = 100, new_value = 200;
constexpr u32 most_parts = 4, most_tables = 4;

struct alignas(bytes_of_page) model_page : table_page {
  spinlock ptl;
  atomic<u64> pte[most_parts] = {};
  u32 number = 0;
};
static_assert(sizeof(model_page) == bytes_of_page);

struct player : context {
  rcu_reader reader;
  irq_state irq;
  table_addr got = 0;  // by alloc
};

class table_cast final : public program, public table_host {
 public:
  table_cast(stage& s, const table_plan& plan) : stage_(s), plan_(plan) {
    s.use_abstract_locks(true);
    s.use_abstract_rcu(true);
    s.abandon_spinning(true);
    domain_ = pgtbl::make<rcu_domain>();
    mm_ = pgtbl::make<arch_context>();
    if (plan.kind == backend::s390_pgste) mm_->alloc_pgste = 1;
    make_tables();
    for (n_ = 0; plan.parts[2 * n_] != 0; ++n_) {
      who_[n_].id = n_;
      who_[n_].breaches = &breaches_;
      domain_->attach(who_[n_].reader, who_[n_]);
    }
    keeper_.id = n_;
    keeper_.breaches = &breaches_;
    for (u32 i = 0; i < plan.tables; ++i) {
      const table_addr t = *tables_->pte_alloc_one(keeper_, *mm_);
      entry(t).store(first_value + i);
      pmd_[i].store(t);
      first_[i] = t;
    }
    if (what(0) == 'h') {
      deposited().put(keeper_, first_[0]);
      pmd_[0].store(huge_pmd);
    }
    for (u32 i = 0; i < n_; ++i) in_mm_ += what(i) != 'X' ? 1 : 0;
    left_.store(in_mm_);
    name_things(s);
    leave_statistics_unexplored(s, *domain_);
  }

  // program
  u32 actors() const override { return n_; }
  std::string role(u32 i) const override {
    const std::string t = " table " + std::to_string(which(i));
    switch (what(i)) {
      case 'D':
      case 'd': return "defer" + t;
      case 'F':
      case 'f': return "free" + t;
      case 'G':
      case 'g': return "gather" + t;
      case 'r': return "walk" + t;
      case 'a': return "allocate";
      case 'X': return "exit";
      case 'K': return "enable KVM";
      case 'C': return "map huge" + t;
      case 'Z': return "zap huge" + t;
      case 'A': return "collapse" + t;
      case 'h': return "hash fault in" + t;
      default: return "set_pte in" + t;
    }
  }
  std::string held_by(u32 i) const override {
    std::string s = locks_of(who_[i]);
    if (inside_[i]) add_held(s, "a read section");
    return s;
  }
  void act(u32 i) override {
    player& me = who_[i];
    const u32 t = which(i);
    switch (what(i)) {
      case 'D': gone_[t] = true, tables_->pte_free_defer(me, *mm_, first_[t]); return;
      case 'F': gone_[t] = true, tables_->pte_free(me, *mm_, first_[t]); return;
      case 'G':
        gone_[t] = true;
        tables_->pte_free_tlb(me, *mm_, first_[t]);
        tables_->tlb_remove_table(me, first_[t]);
        return;
      case 'd': retract(me, t); break;
      case 'f': tables_->pte_free(me, *mm_, take(me, t)), leave_mm(); break;
      case 'g': gather(me, t); break;
      case 'r': walk(i, t); break;
      case 'a': allocate(i); break;
      case 'X': exit(me); break;
      case 'K': mm_->has_pgste.store(1, relaxed), leave_mm(); break;
      case 'C': map_huge(me, t); break;
      case 'Z': zap_huge(me, t); break;
      case 'A': collapse(me, t); break;
      case 'h': hash_fault(me, t); break;
      default: set_pte(i, t); break;
    }
    domain_->barrier(me.reader);  // the callbacks that it queued
  }
  void judge() override {
    for (u32 i = 0; i < n_; ++i) domain_->barrier(who_[i].reader);
    edges_.note(stage_);
    if (breaches_.any()) {
      pgtbl::fail(breaches_.text().c_str());
      return;
    }
    // B45: only the head of the list is looked at.
    const table_page* const head = ended_ ? nullptr : mm_->pages.first();
    if (head != nullptr && head->active.load() != 0) {
      pgtbl::fail(
          "B45: the head of the list can never hand out a half again, and what batches put behind it is "
          "never "
          "looked at");
      return;
    }
    const std::string found = count();
    if (!found.empty()) pgtbl::fail(found.c_str());
  }

  // table_host
  table_page* page_alloc(context& self) override {
    model_page* p = pgtbl::make<model_page>();
    p->host = this;
    const u32 maker = self.id;
    p->number = maker * most_made + made_[maker];
    page_[maker][made_[maker]++] = p;
    return p;
  }
  void page_free(context& self, table_page& page) override {
    if (page.now() != overlay::use::idle)
      breach(self, "G-8", "a page of tables is freed while its two words are in use");
    model_page& p = static_cast<model_page&>(page);
    page_[p.number / most_made][p.number % most_made] = nullptr;
    pgtbl::destroy(&p);
  }
  void page_call_rcu(context& self, table_page& page, rcu_callback f) override {
    domain_->call(static_cast<player&>(self).reader, page.head(), f, bytes_of_page);
  }
  table_page& page_of(table_addr a) override { return model_page_of(a); }
  table_addr base_of(const table_page& page) override {
    return reinterpret_cast<table_addr>(static_cast<const model_page*>(&page));
  }
  pte_tables& tables() override { return *tables_; }
  atomic<u64>& entry(table_addr a) override { return model_page_of(a).pte[a % bytes_of_page / part_bytes()]; }
  u64 page_bytes() const override { return bytes_of_page; }
  void changed(const char* operation, u32 from, u32 to) override { edges_.changed(operation, from, to); }

 private:
  static constexpr u32 most_made = 4;

  char what(u32 i) const { return plan_.parts[2 * i]; }
  u32 which(u32 i) const { return static_cast<u32>(plan_.parts[2 * i + 1] - '0'); }
  u32 parts() const {
    switch (plan_.kind) {
      case backend::powerpc:
      case backend::powerpc_pmd: return plan_.fragments;
      case backend::s390: return 2;
      default: return 1;
    }
  }
  u64 part_bytes() const { return bytes_of_page / parts(); }
  static model_page& model_page_of(table_addr a) {
    return *reinterpret_cast<model_page*>(a & ~(bytes_of_page - 1));
  }

  void make_tables() {
    table_host& host = *this;
    switch (plan_.kind) {
      case backend::powerpc:
      case backend::powerpc_pmd: tables_ = pgtbl::make<powerpc_tables>(host, plan_.fragments); break;
      case backend::s390:
      case backend::s390_pgste: tables_ = pgtbl::make<s390_tables>(host); break;
      case backend::s390_one_table: tables_ = pgtbl::make<s390_tables>(host, s390_form::one_table); break;
      case backend::sparc64: tables_ = pgtbl::make<one_table>(host, table_handle::entries); break;
      default: tables_ = pgtbl::make<one_table>(host); break;
    }
  }
  void name_things(stage& s) {
    s.name_all(*mm_, "mm->context");
    s.name_all(pml_, "pml");
    for (u32 i = 0; i < plan_.tables; ++i) {
      s.name_all(pmd_[i], "PMD " + std::to_string(i));
      model_page& p = model_page_of(first_[i]);
      const std::string page = "page " + std::to_string(p.number);
      s.name_all(p, page);
      s.name_all(p.refs, page + (plan_.kind == backend::s390 ? ".PP--AA" : ".refs"));
      s.name_all(p.active, page + ".Active");
      s.name_all(p.ptl, "ptl of " + page);
      s.name_all(p.pte, page + ".pte", true);
    }
    for (u32 i = 0; i < n_; ++i) s.name_all(who_[i].reader, "reader " + s.actor_name(i));
  }
  static spinlock& ptl_of(table_page& p) { return static_cast<model_page&>(p).ptl; }

  void leave_mm() { left_.fetch_sub(1, acq_rel); }

  /// Out of its PMD: from now on nobody finds it.
  table_addr take(player& me, u32 t) {
    const spin_guard g(me, pml_, lock_class::pml);
    const table_addr table = pmd_[t].load(relaxed);
    pmd_[t].store(0, release);
    return table;
  }
  void retract(player& me, u32 t) {
    const table_addr table = take(me, t);
    tables_->pte_free_defer(me, *mm_, table);
    leave_mm();
  }
  void gather(player& me, u32 t) {
    const table_addr table = take(me, t);
    tables_->pte_free_tlb(me, *mm_, table);
    leave_mm();
    domain_->synchronize(me.reader);
    tables_->tlb_remove_table(me, table);
  }
  void walk(u32 i, u32 t) {
    who_[i].reader.read_lock();
    inside_[i] = true;
    const table_addr table = pmd_[t].load(acquire);
    if (table > huge_pmd && entry(table).load(relaxed) != first_value + t)
      pgtbl::fail(
          "a walker that mapped a table reads entries that were never its: it is somebody else's now");
    inside_[i] = false;
    who_[i].reader.read_unlock();
    leave_mm();
  }
  void allocate(u32 i) {
    player& me = who_[i];
    const auto table = tables_->pte_alloc_one(me, *mm_);
    entry(*table).store(new_value + i, relaxed);
    me.got = *table;
    leave_mm();
  }
  /// mm_count is zero: nobody holds its locks, and its VMAs have left i_mmap.
  void exit(player& me) {
    await(left_, [](u32 n) { return n == 0; }, acquire);
    for (u32 i = 0; i < most_tables; ++i)
      if (const table_addr t = pmd_[i].load(relaxed); t > huge_pmd) tables_->pte_free(me, *mm_, t);
    for (u32 i = 0; i < n_; ++i)
      if (who_[i].got != 0) tables_->pte_free(me, *mm_, who_[i].got);
    tables_->destroy_context(me, *mm_);
    ended_ = true;
    pgtbl::destroy(mm_);
  }
  void map_huge(player& me, u32 t) {
    const table_addr old = take(me, t);
    tables_->pte_free_defer(me, *mm_, old);
    table_addr ready = guard(Guard::deposit_fresh) ? *tables_->pte_alloc_one(me, *mm_) : old;
    {
      const spin_guard g(me, pml_, lock_class::pml);
      if (pmd_[t].load(relaxed) == 0) {
        if (guard(Guard::deposit_table)) deposited().put(me, std::exchange(ready, 0));
        pmd_[t].store(huge_pmd, release);
      }
    }
    if (ready != 0) tables_->pte_free(me, *mm_, ready);
    leave_mm();
  }
  void zap_huge(player& me, u32 t) {
    table_addr table = 0;
    {
      const spin_guard g(me, pml_, lock_class::pml);
      if (pmd_[t].load(relaxed) == huge_pmd) {
        pmd_[t].store(0, release);
        if (guard(Guard::ppc_serialize)) wait_for_hash_faults(me);
        table = deposited().withdraw(me, *this);
      }
    }
    if (table != 0) tables_->pte_free(me, *mm_, table);
    leave_mm();
  }
  void hash_fault(player& me, u32 t) {
    {
      const irq_guard off(me.irq);
      if (pmd_[t].load(acquire) == huge_pmd) deposited().note_slot(me, *this, 0, 1);
    }
    leave_mm();
  }
  void wait_for_hash_faults(player& me) {
    irq_state* targets[stage::max_actors];
    u32 n = 0;
    for (u32 i = 0; i < n_; ++i)
      if (what(i) == 'h') targets[n++] = &who_[i].irq;
    if (n != 0) ipi_wait(me, {targets, n});
  }
  deposit deposited() { return {deposited_, 1}; }
  void collapse(player& me, u32 t) {
    const table_addr table = take(me, t);
    table_page& page = page_of(table);
    {
      const spin_guard g(me, ptl_of(page), lock_class::ptl);
      check_pte_locked(me, t);
      entry(table).store(0, relaxed);
    }
    const spin_guard g(me, pml_, lock_class::pml);
    deposited().put(me, table);
    pmd_[t].store(huge_pmd, release);
    leave_mm();
  }
  void check_pte_locked(player& me, u32 t) {
    const table_addr now = pmd_[t].load(acquire);
    assert_pte_locked(me, now == 0 ? nullptr : &ptl_of(page_of(now)));
  }
  void set_pte(u32 i, u32 t) {
    player& me = who_[i];
    me.reader.read_lock();
    inside_[i] = true;
    for (;;) {
      const table_addr table = pmd_[t].load(acquire);
      if (table <= huge_pmd) break;
      spinlock& ptl = ptl_of(page_of(table));
      const spin_guard g(me, ptl, lock_class::ptl);
      if (pmd_[t].load(acquire) == table) {
        check_pte_locked(me, t);
        entry(table).store(first_value + t, relaxed);
        break;
      }
      cpu_relax();
    }
    inside_[i] = false;
    me.reader.read_unlock();
    leave_mm();
  }

  // ---- at the end -----------------------------------------------------------------------------------

  /// Every table that somebody has.
  template <class F>
  void each_table(F&& f) const {
    if (ended_) return;
    for (u32 i = 0; i < most_tables; ++i)
      if (!gone_[i] && pmd_[i].load() > huge_pmd) f(pmd_[i].load());
    for (const player& w : who_)
      if (w.got != 0) f(w.got);
    if (deposited_.load() != 0) f(deposited_.load());
  }
  std::string count() const {
    std::string found;
    u32 living = 0;
    for (const auto& of_maker : page_)
      for (const model_page* p : of_maker) {
        if (p == nullptr) continue;
        ++living;
        tables_->audit(*p, found);
        u32 mask = 0, tables = 0;
        each_table([&](table_addr t) {
          if (&model_page_of(t) != p) return;
          const u32 part = static_cast<u32>(t % bytes_of_page / part_bytes());
          if ((mask >> part & 1) != 0) found += "A-12: one table was handed out twice\n";
          mask |= 1U << part, ++tables;
        });
        count_page(*p, mask, tables, found);
      }
    if (ended_ && living != 0) found += "G-11: the program has ended, and a page of its tables is left\n";
    return found;
  }
  void count_page(const model_page& p, u32 mask, u32 tables, std::string& found) const {
    const u32 refs = p.refs.load();
    if (plan_.kind == backend::powerpc || plan_.kind == backend::powerpc_pmd) {
      const table_addr next = ended_ ? 0 : mm_->next.get();
      const bool cached = next != 0 && &model_page_of(next) == &p;
      const u32 waiting =
          cached ? plan_.fragments - static_cast<u32>(next % bytes_of_page / part_bytes()) : 0;
      if (refs != tables + waiting)
        found += "A-11: a page has " + std::to_string(refs) + " references, " + std::to_string(tables) +
                 " living fragments and " + std::to_string(waiting) + " that were not handed out\n";
    } else if (plan_.kind == backend::s390 && refs != mask) {
      found += "A-16: a page's bits are not those of its living halves\n";
    }
    if (tables == 0 && plan_.kind != backend::powerpc) found += "G-11: a page is left that holds no table\n";
  }
  stage& stage_;
  const table_plan& plan_;
  u32 n_ = 0, in_mm_ = 0;
  player who_[stage::max_actors];
  player keeper_;
  bool inside_[stage::max_actors] = {}, ended_ = false;
  rcu_domain* domain_ = nullptr;
  arch_context* mm_ = nullptr;
  pte_tables* tables_ = nullptr;
  spinlock pml_;
  atomic<table_addr> pmd_[most_tables] = {};
  table_addr first_[most_tables] = {};  // what they held at the start
  bool gone_[most_tables] = {};         // freed, without a look at its PMD
  atomic<u32> left_{0};                 // actors that are still at the mm
  atomic<u64> deposited_{0};
  breach_log breaches_;
  u32 made_[stage::max_actors + 1] = {};
  model_page* page_[stage::max_actors + 1][most_made] = {};
  edge_log edges_;
};

constexpr table_plan ppc_two_defers{backend::powerpc, 2, "d0d1"},
    ppc_defer_and_walk{backend::powerpc, 1, "d0r0X0"}, ppc_defer_and_free{backend::powerpc, 2, "d0f1r0"},
    ppc_last_two{backend::powerpc, 4, "d0d1f2f3", 4}, ppc_allocs{backend::powerpc, 0, "a0a0"},
    ppc_defer_and_alloc{backend::powerpc, 1, "d0a0r0"}, ppc_exit{backend::powerpc, 2, "d0r0X0"},
    ppc_pmd{backend::powerpc_pmd, 2, "f0f1a0"}, ppc_huge{backend::powerpc, 1, "C0Z0r0"},
    ppc_collapse{backend::powerpc, 1, "A0l0"}, ppc_hash{backend::powerpc, 1, "h0Z0"};
constexpr table_plan s390_two_defers{backend::s390, 2, "d0d1"},
    s390_defer_and_free{backend::s390, 2, "d0f1r0"}, s390_two_frees{backend::s390, 2, "f0f1"},
    s390_gathers{backend::s390, 2, "g0g1"}, s390_gather_and_alloc{backend::s390, 2, "g0a0"},
    s390_defer_and_alloc{backend::s390, 2, "d0a0r0"}, s390_free_and_alloc{backend::s390, 2, "f0a0"},
    s390_defer_and_gather{backend::s390, 4, "d0g2"}, s390_exit{backend::s390, 1, "d0X0"},
    s390_guests{backend::s390_pgste, 1, "d0K0r0"}, s390_pgste_gather{backend::s390_pgste, 1, "g0r0"},
    s390_newer{backend::s390_one_table, 1, "d0r0"}, s390_three{backend::s390, 2, "d0g1a0"},
    s390_one_and_alloc{backend::s390, 1, "f0a0"}, s390_one_defer_alloc{backend::s390, 1, "d0a0"},
    s390_one_gather_alloc{backend::s390, 1, "g0a0"};
constexpr table_plan s390_DD{backend::s390, 2, "D0D1"}, s390_DF{backend::s390, 2, "D0F1"},
    s390_DG{backend::s390, 2, "D0G1"}, s390_FD{backend::s390, 2, "F0D1"}, s390_FF{backend::s390, 2, "F0F1"},
    s390_FG{backend::s390, 2, "F0G1"}, s390_GD{backend::s390, 2, "G0D1"}, s390_GF{backend::s390, 2, "G0F1"},
    s390_GG{backend::s390, 2, "G0G1"}, s390_Da{backend::s390, 1, "D0a0"}, s390_Fa{backend::s390, 1, "F0a0"},
    s390_Ga{backend::s390, 1, "G0a0"}, s390_D2a{backend::s390, 2, "D0a0"}, s390_F2a{backend::s390, 2, "F0a0"},
    s390_G2a{backend::s390, 2, "G0a0"}, s390_D1a{backend::s390, 2, "D1a0"},
    s390_F1a{backend::s390, 2, "F1a0"}, s390_G1a{backend::s390, 2, "G1a0"},
    s390_PD{backend::s390_pgste, 1, "D0"}, s390_PG{backend::s390_pgste, 1, "G0"};
constexpr table_plan ppc_DD{backend::powerpc, 2, "D0D1"}, ppc_DF{backend::powerpc, 2, "D0F1"},
    ppc_FF{backend::powerpc, 2, "F0F1"}, ppc_DX{backend::powerpc, 1, "d0X0"},
    ppc_FX{backend::powerpc, 1, "f0X0"}, ppc_Da{backend::powerpc, 1, "D0a0"},
    generic_D{backend::generic, 1, "D0"}, generic_F{backend::generic, 1, "F0"},
    sparc_D{backend::sparc64, 1, "D0"}, sparc_F{backend::sparc64, 1, "F0"};
constexpr table_plan sparc_defer{backend::sparc64, 1, "d0r0"}, generic_defer{backend::generic, 1, "d0r0"},
    sparc_gather{backend::sparc64, 1, "g0r0"}, generic_gather{backend::generic, 1, "g0r0"};

template <const table_plan& Plan>
program* cast_of(stage& s, const era&) {
  return pgtbl::make<table_cast>(s, Plan);
}

constexpr const char* rcu_era = "v6.6";
constexpr scenario table[] = {
    {"x86-64-defer-vs-walk", "one table a page: deferred under a walker", rcu_era, cast_of<generic_defer>},
    {"x86-64-gather-vs-walk", "one table a page: freed in a batch under a walker", rcu_era,
     cast_of<generic_gather>},
    {"sparc64-defer-vs-walk", "a table whose handle points to entries, deferred under a walker", rcu_era,
     cast_of<sparc_defer>},
    {"sparc64-gather-vs-walk", "the same through mmu_gather", rcu_era, cast_of<sparc_gather>},
    {"powerpc-two-defers", "two fragments of a page are deferred at once", rcu_era, cast_of<ppc_two_defers>},
    {"powerpc-defer-vs-walk-vs-exit", "a fragment is deferred under a walker, and the program ends", rcu_era,
     cast_of<ppc_defer_and_walk>},
    {"powerpc-defer-vs-free",
     "the last fragment of a page is freed in the ordinary way, with walkers in another", rcu_era,
     cast_of<ppc_defer_and_free>},
    {"powerpc-whole-page", "the four fragments of a page go at once, two of them by deferral", rcu_era,
     cast_of<ppc_last_two>},
    {"powerpc-two-allocs", "two threads find the cache empty, and each brings a page", rcu_era,
     cast_of<ppc_allocs>},
    {"powerpc-defer-vs-alloc", "a fragment is deferred under a walker while another is handed out", rcu_era,
     cast_of<ppc_defer_and_alloc>},
    {"powerpc-defer-vs-exit", "the context dies after a deferral, with fragments never handed out", rcu_era,
     cast_of<ppc_exit>},
    {"powerpc-pmd-fragments", "PMD fragments: never deferred", rcu_era, cast_of<ppc_pmd>},
    {"powerpc-huge-vs-zap", "a huge PMD and the table deposited behind it, against a zap and a walker",
     rcu_era, cast_of<ppc_huge>},
    {"powerpc-hash-vs-zap", "a hash fault notes its slot in the table behind a huge PMD, which is zapped",
     rcu_era, cast_of<ppc_hash>},
    {"powerpc-collapse-vs-lock", "assert_pte_locked in anonymous collapse and in a fault", rcu_era,
     cast_of<ppc_collapse>},
    {"s390-two-defers", "both halves of a page are deferred at once", rcu_era, cast_of<s390_two_defers>},
    {"s390-defer-vs-free", "one half is deferred under a walker, the other freed", rcu_era,
     cast_of<s390_defer_and_free>},
    {"s390-two-frees", "both halves of a page are freed at once", rcu_era, cast_of<s390_two_frees>},
    {"s390-two-gathers", "both halves are freed by batches", rcu_era, cast_of<s390_gathers>},
    {"s390-gather-vs-alloc", "a half is in a batch when another table is wanted", rcu_era,
     cast_of<s390_gather_and_alloc>},
    {"s390-defer-vs-alloc", "a half is deferred under a walker when another table is wanted", rcu_era,
     cast_of<s390_defer_and_alloc>},
    {"s390-free-vs-alloc", "a half is freed when another table is wanted", rcu_era,
     cast_of<s390_free_and_alloc>},
    {"s390-one-half-free-vs-alloc", "the only half is freed when another table is wanted", rcu_era,
     cast_of<s390_one_and_alloc>},
    {"s390-one-half-defer-vs-alloc", "the only half is deferred when another table is wanted", rcu_era,
     cast_of<s390_one_defer_alloc>},
    {"s390-one-half-gather-vs-alloc", "the only half is in a batch when another table is wanted", rcu_era,
     cast_of<s390_one_gather_alloc>},
    {"s390-defer-gather-alloc", "one half is deferred, the other in a batch, and another table is wanted",
     rcu_era, cast_of<s390_three>},
    {"s390-two-pages", "a half of one page is deferred, a half of another in a batch", rcu_era,
     cast_of<s390_defer_and_gather>},
    {"s390-defer-vs-exit", "the mm is gone when the callback runs", rcu_era, cast_of<s390_exit>},
    {"s390-guests", "a program gets guests while its table is deferred under a walker", rcu_era,
     cast_of<s390_guests>},
    {"s390-pgste-gather", "a table with room for a guest's state is freed by a batch", rcu_era,
     cast_of<s390_pgste_gather>},
    {"s390-states-defer-defer", "state machine: defer one half, defer the other", rcu_era, cast_of<s390_DD>},
    {"s390-states-defer-free", "state machine: defer one half, free the other", rcu_era, cast_of<s390_DF>},
    {"s390-states-defer-gather", "state machine: defer one half, gather the other", rcu_era,
     cast_of<s390_DG>},
    {"s390-states-free-defer", "state machine: free one half, defer the other", rcu_era, cast_of<s390_FD>},
    {"s390-states-free-free", "state machine: free one half, free the other", rcu_era, cast_of<s390_FF>},
    {"s390-states-free-gather", "state machine: free one half, gather the other", rcu_era, cast_of<s390_FG>},
    {"s390-states-gather-defer", "state machine: gather one half, defer the other", rcu_era,
     cast_of<s390_GD>},
    {"s390-states-gather-free", "state machine: gather one half, free the other", rcu_era, cast_of<s390_GF>},
    {"s390-states-gather-gather", "state machine: gather one half, gather the other", rcu_era,
     cast_of<s390_GG>},
    {"s390-states-defer-alloc-only", "state machine: defer the only half, allocate", rcu_era,
     cast_of<s390_Da>},
    {"s390-states-defer-alloc-lower", "state machine: defer the lower half of two, allocate", rcu_era,
     cast_of<s390_D2a>},
    {"s390-states-defer-alloc-upper", "state machine: defer the upper half of two, allocate", rcu_era,
     cast_of<s390_D1a>},
    {"s390-states-free-alloc-only", "state machine: free the only half, allocate", rcu_era, cast_of<s390_Fa>},
    {"s390-states-free-alloc-lower", "state machine: free the lower half of two, allocate", rcu_era,
     cast_of<s390_F2a>},
    {"s390-states-free-alloc-upper", "state machine: free the upper half of two, allocate", rcu_era,
     cast_of<s390_F1a>},
    {"s390-states-gather-alloc-only", "state machine: gather the only half, allocate", rcu_era,
     cast_of<s390_Ga>},
    {"s390-states-gather-alloc-lower", "state machine: gather the lower half of two, allocate", rcu_era,
     cast_of<s390_G2a>},
    {"s390-states-gather-alloc-upper", "state machine: gather the upper half of two, allocate", rcu_era,
     cast_of<s390_G1a>},
    {"s390-states-pgste-defer", "state machine: defer a whole page", rcu_era, cast_of<s390_PD>},
    {"s390-states-pgste-gather", "state machine: gather a whole page", rcu_era, cast_of<s390_PG>},
    {"powerpc-states-defer-defer", "state machine: defer both fragments", rcu_era, cast_of<ppc_DD>},
    {"powerpc-states-defer-free", "state machine: defer one fragment, free the other", rcu_era,
     cast_of<ppc_DF>},
    {"powerpc-states-free-free", "state machine: free both fragments", rcu_era, cast_of<ppc_FF>},
    {"powerpc-states-defer-exit", "state machine: defer a fragment, and the context dies", rcu_era,
     cast_of<ppc_DX>},
    {"powerpc-states-free-exit", "state machine: free a fragment, and the context dies", rcu_era,
     cast_of<ppc_FX>},
    {"powerpc-states-defer-alloc", "state machine: defer a fragment, and hand out the other", rcu_era,
     cast_of<ppc_Da>},
    {"x86-64-states-defer", "state machine: defer", rcu_era, cast_of<generic_D>},
    {"x86-64-states-free", "state machine: free", rcu_era, cast_of<generic_F>},
    {"sparc64-states-defer", "state machine: defer", rcu_era, cast_of<sparc_D>},
    {"sparc64-states-free", "state machine: free", rcu_era, cast_of<sparc_F>},
    {"s390-one-table", "one table a page, as from 6.9 on", rcu_era, cast_of<s390_newer>},
};

}  // namespace

std::span<const scenario> scenarios_of_arch_tables() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
