// Entries of the architectures: x86-pae's two halves against readers without a lock, and arm's adjust_pte.
#include "arch/arm.hpp"
#include "arch/x86_pae.hpp"
#include "explore/scenario.hpp"
#include "explore/scenarios/tell.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

// ---- x86-pae ----------------------------------------------------------------------------------------

/// Frames are 32 bits of a PMD's value apart: two tables that agree in the low word, and a huge page.
constexpr u64 pae_present = 1;
constexpr u64 pae_value(u64 frame, u64 low) { return frame << 32 | low | pae_present; }
constexpr u64 first_table = pae_value(1, 0x1000), second_table = pae_value(2, 0x1000),
              huge_page = pae_value(3, 0x2080);

/// One letter an actor:
///   r  a walker on a CPU that runs another program (a walk of the reverse map)     R  one on a CPU that runs this one
///   G  a walk with interrupts off all along (GUP-fast)
///   l  pte_offset_map_lock
///   x  takes the table out, and puts another in whose frame agrees in the low word      c  takes it out
///   b  an anonymous collapse that fails: takes the table out, and puts the same back
///   h  takes the table out, and puts a huge page in
///   i  puts a table into an empty PMD
struct pae_plan {
  const char* parts;
  bool empty = false;
};

struct pae_cpu : context {
  irq_state irq;
};

class pae_cast final : public program {
 public:
  pae_cast(stage& s, const pae_plan& plan) : stage_(s), parts_(plan.parts) {
    s.use_abstract_locks(true);
    s.abandon_spinning(true);
    for (; parts_[n_] != 0; ++n_) {
      cpus_[n_].id = n_;
      cpus_[n_].breaches = &breaches_;
      s.name_all(cpus_[n_].irq, "interrupts of " + s.actor_name(n_));
    }
    if (!plan.empty) pmd_.set(first_table);
    pmd_.watch = &edges_;
    s.name_all(pmd_, "PMD half", true);
    s.name_all(pml_, "pml");
    s.name_all(ptl_, "ptl", true);
  }
  u32 actors() const override { return n_; }
  std::string role(u32 i) const override {
    switch (parts_[i]) {
      case 'r': return "rmap walk";
      case 'R': return "fault";
      case 'G': return "GUP-fast";
      case 'l': return "pte_offset_map_lock";
      case 'x': return "retract and refill";
      case 'c': return "retract";
      case 'b': return "collapse that fails";
      case 'h': return "collapse";
      default: return "pmd_install";
    }
  }
  std::string held_by(u32 i) const override { return locks_of(cpus_[i]); }
  void act(u32 i) override {
    switch (parts_[i]) {
      case 'r':
      case 'R': use(pmdp_get_lockless(cpus_[i].irq, pmd_)); break;
      case 'G': {
        const irq_guard off(cpus_[i].irq);
        use(pmd_.get_lockless());
        break;
      }
      case 'l': map_and_lock(i); break;
      case 'x': replace(i, second_table); break;
      case 'c': replace(i, 0); break;
      case 'b': replace(i, first_table); break;
      case 'h': replace(i, huge_page); break;
      default: install(i); break;
    }
  }
  void judge() override {
    edges_.note(stage_);
    if (breaches_.any()) pgtbl::fail(breaches_.text().c_str());
  }

 private:
  static bool stored(u64 v) { return v == first_table || v == second_table || v == huge_page; }
  /// What says present is followed: to a frame that there is, or to any address at all.
  void use(u64 v) {
    if ((v & pae_present) != 0 && !stored(v))
      pgtbl::fail(
          "A-5: a PMD was read that was never stored whole: the low half is of one value, the high half of "
          "another; a wild pointer");
  }
  spinlock& ptl_of(u64 v) { return ptl_[v >> 32 & 3]; }

  /// The other CPUs, and of these those that run the program.
  u32 others_of(u32 me, bool running_only, irq_state** out) {
    u32 n = 0;
    for (u32 i = 0; i < n_; ++i)
      if (i != me && (!running_only || parts_[i] == 'R')) out[n++] = &cpus_[i].irq;
    return n;
  }
  void replace(u32 i, u64 by) {
    pae_cpu& me = cpus_[i];
    const spin_guard pml(me, pml_, lock_class::pml);
    const u64 seen = pmd_.get();
    if ((seen & pae_present) == 0) return;
    {
      const spin_guard ptl(me, ptl_of(seen), lock_class::ptl);
      pmd_.get_and_clear();
      irq_state *running[stage::max_actors], *all[stage::max_actors];
      const u32 r = others_of(i, true, running), a = others_of(i, false, all);
      ipi_wait(me, {running, r});  // the TLB flush
      pmdp_get_lockless_sync(me, pmd_, {all, a}, {running, r});
    }
    if (by != 0) pmd_.set(by);
  }
  void install(u32 i) {
    const spin_guard pml(cpus_[i], pml_, lock_class::pml);
    if ((pmd_.get() & pae_present) == 0) pmd_.set(first_table);
  }
  void map_and_lock(u32 i) {
    pae_cpu& me = cpus_[i];
    for (;;) {
      const u64 v = pmdp_get_lockless(me.irq, pmd_);
      use(v);
      if ((v & pae_present) == 0 || v == huge_page) return;
      const spin_guard ptl(me, ptl_of(v), lock_class::ptl);
      // Not protected: a torn pair differs from v, and the loop goes round.
      if (pmd_.get_lockless() == v) {
        if (pmd_.get() != v)
          pgtbl::fail("pte_offset_map_lock: the table left its PMD under the table's lock");
        return;
      }
      cpu_relax();
    }
  }

  stage& stage_;
  const char* parts_;
  edge_log edges_;
  u32 n_ = 0;
  pae_cpu cpus_[stage::max_actors];
  pae_slot pmd_;
  spinlock pml_, ptl_[4];
  breach_log breaches_;
};

constexpr pae_plan pae_rmap{"rx"}, pae_fault{"Rx"}, pae_gup{"Gx"}, pae_same{"rb"}, pae_huge{"rh"},
    pae_lock{"lx"}, pae_installed{"ri", true}, pae_two{"rRx"}, pae_twice{"rhx"}, pae_taken{"rci"},
    pae_ci{"ci"}, pae_xc{"xc"}, pae_bh{"bh"}, pae_ir{"ir", true};

template <const pae_plan& Plan>
program* pae_of(stage& s, const era&) {
  return pgtbl::make<pae_cast>(s, Plan);
}

// ---- arm --------------------------------------------------------------------------------------------

/// Two characters an actor: what it does, and to which mapping of the page.
///   s  a fault sets the PTE         m  a migration does         R  the table leaves, and another comes in its place
///   l  a load    w  a store    u  unmaps.  Only where locks are not split: one processor, which does one thing at a time
/// Mappings 0 and 1 lie in one table, mapping 2 in another.  At the start mapping 0 is there and has been stored to, or (flushed)
/// has been written back.
struct arm_plan {
  const char* parts;
  u32 aliases;
  bool split;
  bool flushed = false;
};

struct arm_cpu : context {};

class arm_cast final : public program {
 public:
  arm_cast(stage& s, const arm_plan& plan) : stage_(s), parts_(plan.parts) {
    s.use_abstract_locks(true);
    for (; parts_[2 * n_] != 0; ++n_) {
      cpus_[n_].id = n_;
      cpus_[n_].breaches = &breaches_;
    }
    mm_.split_locks = plan.split;
    mm_.aliases = plan.aliases;
    for (u32 t = 1; t < arm_mm::most + 1; ++t) {
      mm_.tables[t] = pgtbl::make<arm_table>();
      s.name_all(mm_.tables[t]->ptl, "ptl of table " + std::to_string(t));
      s.name_all(mm_.tables[t]->pte, "PTE of table " + std::to_string(t), true);
    }
    pmd_[0].store(1), pmd_[1].store(2);
    for (u32 i = 0; i < arm_mm::most; ++i) {
      mm_.alias[i].pmd_range = i / 2;
      mm_.alias[i].pmd = &pmd_[i / 2];
      mm_.alias[i].index = i % 2;
      s.name_all(mm_.alias[i].line, "cache line of mapping " + std::to_string(i));
    }
    mm_.tables[1]->pte[0].store(arm_present);
    mm_.alias[0].shadow = arm_cached;
    if (plan.flushed)
      mm_.memory.store(stored);
    else
      arm_store(mm_, 0, stored);
    mm_.watch = &edges_;
    s.name_all(pmd_, "PMD", true);
    s.name_all(mm_.memory, "the page");
    s.name_all(mm_.page_table_lock, "page_table_lock");
    s.name_all(mm_.i_mmap, "i_mmap");
    s.name_all(pml_, "pml");
  }
  u32 actors() const override { return n_; }
  std::string role(u32 i) const override {
    const std::string m = " mapping " + std::to_string(which(i));
    switch (parts_[2 * i]) {
      case 's': return "fault on" + m;
      case 'm': return "migration to" + m;
      case 'l': return "load from" + m;
      case 'w': return "store to" + m;
      case 'u': return "unmap" + m;
      default: return "retract the table of" + m;
    }
  }
  std::string held_by(u32 i) const override { return locks_of(cpus_[i]); }
  void act(u32 i) override {
    switch (parts_[2 * i]) {
      case 's': arm_set_pte(cpus_[i], mm_, which(i), true); break;
      case 'm': arm_set_pte(cpus_[i], mm_, which(i), false); break;
      case 'l':
      case 'w': access(i); break;
      case 'u': arm_unmap(cpus_[i], mm_, which(i)); break;
      default: replace_table(cpus_[i], which(i)); break;
    }
  }
  void judge() override {
    edges_.note(stage_);
    if (breaches_.any()) {
      pgtbl::fail(breaches_.text().c_str());
      return;
    }
    u32 present = 0, cached = 0;
    for (u32 i = 0; i < mm_.aliases; ++i) {
      const u64 pte = mm_.tables[mm_.alias[i].pmd->load()]->pte[mm_.alias[i].index].load();
      present += (pte & arm_present) != 0 ? 1 : 0;
      cached += (pte & arm_present) != 0 && (pte & arm_uncached) == 0 ? 1 : 0;
    }
    if (present > 1 && cached != 0)
      pgtbl::fail("A-9: a page is mapped more than once, and one of the mappings is cached");
    for (u32 i = 0; i < mm_.aliases; ++i)
      if (const auto v = arm_load(mm_, i); v && *v != stored)
        pgtbl::fail("A-9: a load by way of one mapping misses what was stored by way of another");
    for (u32 i = 0; i < mm_.aliases; ++i) {
      if (!arm_store(mm_, i, stored + 1 + i)) continue;
      for (u32 j = 0; j < mm_.aliases; ++j)
        if (const auto v = arm_load(mm_, j); v && *v != stored + 1 + i)
          pgtbl::fail("A-9: a store by way of one mapping is not seen by way of another");
    }
  }

 private:
  static constexpr u64 stored = 7;
  u32 which(u32 i) const { return static_cast<u32>(parts_[2 * i + 1] - '0'); }
  /// By a program on the one processor that there is: nobody is in the middle of update_mmu_cache.
  void access(u32 i) {
    const spin_guard g(cpus_[i], mm_.page_table_lock, lock_class::ptl);
    if (parts_[2 * i] == 'w')
      arm_store(mm_, which(i), stored);
    else if (const auto v = arm_load(mm_, which(i)); v && *v != stored)
      pgtbl::fail("A-9: a load misses what was stored by way of another mapping");
  }
  /// Retraction under the table's lock, and a fault that brings another: the page is not mapped there any more.
  void replace_table(context& me, u32 alias) {
    atomic<u64>& pmd = *mm_.alias[alias].pmd;
    const spin_guard pml(me, pml_, lock_class::pml);
    {
      arm_table& old = *mm_.tables[pmd.load(relaxed)];
      const spin_guard ptl(me, mm_.split_locks ? old.ptl : mm_.page_table_lock, lock_class::ptl);
      for (auto& pte : old.pte) pte.store(0, relaxed);
      pmd.store(0, release);
    }
    pmd.store(3, release);
  }

  stage& stage_;
  const char* parts_;
  edge_log edges_;
  u32 n_ = 0;
  arm_cpu cpus_[stage::max_actors];
  arm_mm mm_;
  atomic<u64> pmd_[2] = {};
  spinlock pml_;
  breach_log breaches_;
};

constexpr arm_plan arm_second{"s1", 2, false}, arm_two{"s1s2", 3, false}, arm_migration{"m1s2", 3, false},
    arm_split_same{"s1", 2, true}, arm_split_migration{"m1", 2, true}, arm_split_replace{"s0R2", 3, true},
    arm_split_two{"s0s2", 3, true};
constexpr arm_plan arm_sw{"s1w0", 2, false, true}, arm_sl{"s1l0", 2, false, true},
    arm_lw{"l0w0", 2, false, true}, arm_uw{"u0w0", 2, false, true}, arm_ul{"u0l0", 2, false, true},
    arm_us{"u0s1", 2, false}, arm_su{"s1u1", 2, false};

template <const arm_plan& Plan>
program* arm_of(stage& s, const era&) {
  return pgtbl::make<arm_cast>(s, Plan);
}

// ---- the table ----------------------------------------------------------------------------------------

constexpr const char* rcu_era = "v6.6";
constexpr scenario table[] = {
    {"pae-rmap-vs-refill",
     "a walk of the reverse map, on a CPU that runs another program, reads a PMD by halves while "
     "the table is exchanged for another that agrees in the low word",
     rcu_era, pae_of<pae_rmap>},
    {"pae-rmap-vs-retract-vs-install",
     "the same, where one takes the table out and another puts one in that agrees in the low word", rcu_era,
     pae_of<pae_taken>},
    {"pae-fault-vs-refill", "the same by a fault, on a CPU that runs the program", rcu_era,
     pae_of<pae_fault>},
    {"pae-gup-vs-refill", "the same by GUP-fast, with interrupts off all along", rcu_era, pae_of<pae_gup>},
    {"pae-rmap-vs-failed-collapse", "the same table is put back while a PMD is read by halves", rcu_era,
     pae_of<pae_same>},
    {"pae-rmap-vs-collapse", "a huge page comes in its place", rcu_era, pae_of<pae_huge>},
    {"pae-map-lock-vs-refill", "pte_offset_map_lock, whose second look is not protected", rcu_era,
     pae_of<pae_lock>},
    {"pae-rmap-vs-install", "a PMD is read by halves while a table is installed", rcu_era,
     pae_of<pae_installed>},
    {"pae-two-readers", "two readers, one on a CPU that the TLB flush interrupts", rcu_era, pae_of<pae_two>},
    {"pae-rmap-vs-two", "a huge page, and then a table", rcu_era, pae_of<pae_twice>},
    {"pae-states-retract-install", "state machine: a table leaves, another is put in", rcu_era,
     pae_of<pae_ci>},
    {"pae-states-refill-retract", "state machine: a table is exchanged, and taken out", rcu_era,
     pae_of<pae_xc>},
    {"pae-states-collapse-collapse", "state machine: a collapse fails, another succeeds", rcu_era,
     pae_of<pae_bh>},
    {"pae-states-install-walk", "state machine: a table is installed beside a walker", rcu_era,
     pae_of<pae_ir>},
    {"arm-second-mapping", "a fault maps a page a second time, in the same table", rcu_era,
     arm_of<arm_second>},
    {"arm-two-faults", "two faults map a page twice more", rcu_era, arm_of<arm_two>},
    {"arm-migration", "a migration sets the PTE of one mapping, a fault that of another", rcu_era,
     arm_of<arm_migration>},
    {"arm-states-fault-store", "state machine: a second mapping comes beside a store", rcu_era,
     arm_of<arm_sw>},
    {"arm-states-fault-load", "state machine: a second mapping comes beside a load", rcu_era, arm_of<arm_sl>},
    {"arm-states-load-store", "state machine: a load and a store", rcu_era, arm_of<arm_lw>},
    {"arm-states-unmap-store", "state machine: a mapping goes beside a store", rcu_era, arm_of<arm_uw>},
    {"arm-states-unmap-load", "state machine: a mapping goes beside a load", rcu_era, arm_of<arm_ul>},
    {"arm-states-unmap-fault", "state machine: a mapping goes as another comes", rcu_era, arm_of<arm_us>},
    {"arm-states-fault-unmap", "state machine: a second mapping comes, and goes", rcu_era, arm_of<arm_su>},
    {"arm-split-same-table", "hypothetical split locks: a second mapping in the same table", rcu_era,
     arm_of<arm_split_same>},
    {"arm-split-migration", "hypothetical split locks: the caller is no fault", rcu_era,
     arm_of<arm_split_migration>},
    {"arm-split-vs-retract", "hypothetical split locks: the other table leaves, and another comes", rcu_era,
     arm_of<arm_split_replace>},
};
// VIVT processors have no split locks, and this is why they could not.
constexpr scenario broken[] = {
    {"broken:arm-split-locks", "two faults on two tables wait for each other's lock", rcu_era,
     arm_of<arm_split_two>},
};

}  // namespace

std::span<const scenario> scenarios_of_arch_entries() { return table; }
std::span<const scenario> scenarios_of_arch_that_offend() { return broken; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
