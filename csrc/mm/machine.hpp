// machine.hpp -- the simulated machine: memory, CPUs, RCU, and everything that was made on it.
#pragma once
#include <string>

#include "base/breach.hpp"
#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// When a fault on anonymous memory may give a whole extent (/sys/kernel/mm/transparent_hugepage/enabled).
enum class thp_policy : u8 { never, madvise, always };

struct machine_config {
  era rules = eras[2];
  u64 memory_bytes = 256ULL << 20;
  u32 cpus = 64;  // how many threads may be on the machine at once
  alloc_mode alloc = alloc_mode::reuse;
  bool broadcast_flush = false;
  u32 put_off_extents =
      put_off_array::capacity;  // that khugepaged remembers of a program; not more than there is room
  thp_policy thp = thp_policy::madvise;
  rcu_config rcu;
  const char* form_name = "";  // of its page tables, as arch/list.hpp calls it
#if defined(PGTBL_ARCH_TABLES)
  table_form form = table_form::usual;
#endif
};

/// The configuration with what the architecture has not got taken away (docs/architectures.md).
machine_config on_this_architecture(machine_config c);

/// Thread safety: everything here may be called from any thread, with a CPU of its own.
class machine {
 public:
  explicit machine(const machine_config& c);
  /// Every mm and file must have been closed, and every thread must be out of it.
  ~machine();
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;

  const machine_config config;
  memory ram;
#if defined(PGTBL_ARCH_TABLES)
  arch_tables arch;
#endif
  breach_log breaches;
  rcu_domain& rcu;
  cpu_set cpus;

  /// A CPU for the calling thread; null when config.cpus of them are taken.
  cpu* cpu_get();
  /// Gives it back: its TLB is emptied, its frames return to the pool, its callbacks stay with RCU.
  void cpu_put(cpu* c);

  /// pgste: its tables have room for a guest's status; only where there are such (has_pgste).
  mm* new_mm(cpu& self, bool pgste = false);
  /// Whether there are PGSTE tables: on s390, where a page holds two tables without one.
  bool has_pgste() const;
  mapping* new_mapping(cpu& self, u64 bytes, file_kind kind = file_kind::shmem);
  /// Ends the program (exit_mmap) and drops the creator's reference to the structure.
  void close_mm(cpu& self, mm* m);

  u64 total(event e) const;
  u64 acquired(lock_class k) const;
  /// Calls f(name, value) for every row of the ledger: locks, events, gauges.
  template <class F>
  void each_count(F&& f) const {
    for (unsigned c = 0; c < lock_class_count; ++c) {
      u64 n[5] = {};
      each_ledger([&](const ledger& l) {
        const lock_counts& k = l.locks[c];
        n[0] += k.acquired.get(), n[1] += k.contended.get(), n[2] += k.failed.get();
        n[3] += k.wait_ns.get(), n[4] += k.held_ns.get();
      });
      const std::string name = lock_class_names[c];
      f(name, n[0]);
      f(name + ".contended", n[1]);
      f(name + ".failed", n[2]);
      f(name + ".wait_ns", n[3]);
      f(name + ".held_ns", n[4]);
    }
    for (unsigned e = 0; e < event_count; ++e)
      f(std::string(event_table[e].name), total(static_cast<event>(e)));
    f(std::string("table.pte.pending"), ram.pending());
    f(std::string("table.pte.pending_max"), ram.pending_max());
    if constexpr (checked_build) {
      f(std::string("table.frames"), ram.table_frames());
      f(std::string("table.frames_max"), ram.table_frames_max());
    }
    f(std::string("rcu.grace_periods"), rcu.stats().grace_periods);
  }

  /// Every living mm and file, for check(); protected by lock.
  struct registry {
    static constexpr u32 capacity = 4096;
    spinlock lock;
    mm* mms[capacity] = {};
    mapping* files[capacity] = {};
  };
  registry reg;

  /// Checked builds keep freed VMAs to the end.
  void bury(vma* v);

 private:
  template <class F>
  void each_ledger(F&& f) const {
    const u32 n = cpus.n.load(acquire);
    for (u32 i = 0; i < n; ++i) f(cpus.cpus[i]->led);
    f(worker_->led);
  }
  cpu* make_cpu(u32 id);

  spinlock cpu_lock_;  // who has which CPU
  atomic<u32> next_id_{1};
  atomic<vma*> graveyard_{nullptr};  // by next_removed
  cpu* worker_;                      // the RCU worker's context
};

}  // namespace pgtbl::inline PGTBL_WORLD
