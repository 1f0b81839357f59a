#include "mm/machine.hpp"

#include <algorithm>

#include "base/errors.hpp"
#include "mm/lru_batch.hpp"
#include "mm/secondary_mmu.hpp"
#include "mm/syscalls.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

rcu_config limits(const machine_config& c) {
  // Tables that wait for a grace period are the machine's own memory: at most an eighth of it.
  rcu_config r = c.rcu;
  r.hard_bytes = std::min(r.hard_bytes, c.memory_bytes / 8);
  r.soft_bytes = std::min(r.soft_bytes, c.memory_bytes / 32);
  return r;
}

template <class T>
void put_in(cpu& self, machine& m, T* (&slots)[machine::registry::capacity], T* x, const char* what) {
  const spin_guard g(self, m.reg.lock, lock_class::other);
  for (T*& s : slots) {
    if (s == nullptr) {
      s = x;
      return;
    }
  }
  throw value_error("a machine has at most " + std::to_string(machine::registry::capacity) + " " + what);
}

template <class T>
void take_out(cpu& self, machine& m, T* (&slots)[machine::registry::capacity], T* x) {
  const spin_guard g(self, m.reg.lock, lock_class::other);
  for (T*& s : slots)
    if (s == x) s = nullptr;
}

}  // namespace

machine_config on_this_architecture(machine_config c) {
  era& e = c.rules;
  if (geometry.frees_by_rcu) e.gather_by_rcu = 1;
#if defined(PGTBL_ARCH_TABLES)
  // PT_RECLAIM is x86-64's; what is hypothetical anyway may have it.
  if (c.form != table_form::split_locks) e.reclaim_tables = 0;
#endif
  if (!geometry.vma_locks)
    e.anon_faults_under_vma_lock = e.file_faults_under_vma_lock = e.uffd_under_vma_lock =
        e.dontneed_under_vma_lock = 0;
  return c;
}

machine::machine(const machine_config& c)
    : config(on_this_architecture(c)),
      ram(c.memory_bytes >> page_shift, c.alloc),
#if defined(PGTBL_ARCH_TABLES)
      arch(ram, c.form),
#endif
      rcu(*make<rcu_domain>(limits(c))) {
  worker_ = make_cpu(max_cpus);
  rcu.set_worker(worker_->rcu, *worker_);
}

machine::~machine() {
  const u32 n = cpus.n.load(acquire);
  for (u32 i = 0; i < n; ++i) {
    cpu* c = cpus.cpus[i];
    if (c->tid.load(relaxed) != 0) cpu_put(c);
    if (c->rcu.attached()) rcu.detach(c->rcu);
  }
  destroy(&rcu);  // joins its worker and runs what is left, while the worker's CPU is still there
  for (u32 i = 0; i < n; ++i) destroy(cpus.cpus[i]);
  destroy(worker_);
  for (vma* v = graveyard_.load(acquire); v != nullptr;) {
    vma* next = v->next_removed;
    destroy(v);
    v = next;
  }
}

void machine::bury(vma* v) {
  v->next_removed = graveyard_.load(relaxed);
  while (!graveyard_.compare_exchange_weak(v->next_removed, v, acq_rel)) {}
}

cpu* machine::make_cpu(u32 id) {
  cpu* c = make<cpu>();
  c->id = id;
  c->breaches = &breaches;
  c->marks_under_folio = config.rules.collapse_mmap_write != 0;
  c->rules = &config.rules;
  c->home = this;
  c->ram = &ram;
#if defined(PGTBL_ARCH_TABLES)
  c->arch = &arch;
#endif
  c->domain = &rcu;
  c->all = &cpus;
  c->broadcast_flush = config.broadcast_flush;
  return c;
}

cpu* machine::cpu_get() {
  context visitor;  // locks before the thread has a CPU to count in
  cpu* c = nullptr;
  {
    const spin_guard g(visitor, cpu_lock_, lock_class::other);
    const u32 n = cpus.n.load(relaxed);
    for (u32 i = 0; i < n && c == nullptr; ++i)
      if (cpus.cpus[i]->tid.load(relaxed) == 0) c = cpus.cpus[i];
    if (c == nullptr && n < config.cpus) {
      c = make_cpu(n);
      cpus.cpus[n] = c;
      cpus.n.store(n + 1, release);
    }
    if (c != nullptr) c->tid.store(thread_id(), relaxed);
  }
  if (c != nullptr) rcu.attach(c->rcu, *c);
  return c;
}

void machine::cpu_put(cpu* c) {
  switch_mm(*c, nullptr);
  lru_add_drain(*c);
  ram.drain(*c, c->frames);
  c->collapsing = false;
  rcu.detach(c->rcu);
  c->mapped_depth = 0;
  c->held_count = 0;
  context visitor;
  const spin_guard g(visitor, cpu_lock_, lock_class::other);
  c->tid.store(0, release);
}

// ---------------------------------------------------------------- programs and files

namespace {
void release_mm(cpu& self, mm_tables& t) {
  mm& m = static_cast<mm&>(t);
#if defined(PGTBL_ARCH_TABLES)
  self.arch->destroy_context(self, m);
#endif
  upper_free(self, m.root);
  take_out(self, m.home, m.home.reg.mms, &m);
  free_userfaultfds(m);
  free_secondary_mmus(m);
  destroy(&m);
}
}  // namespace

bool machine::has_pgste() const {
#if defined(PGTBL_ARCH_S390)
  return config.form == table_form::usual;
#else
  return false;
#endif
}

mm* machine::new_mm(cpu& self, [[maybe_unused]] bool pgste) {
  mm* m = make<mm>(*this, next_id_.fetch_add(1, relaxed), rcu);
  const auto root = upper_alloc_one(self, *m, root_level);
  if (!root) {
    destroy(m);
    throw out_of_memory("no frame is left for the root table of a new address space");
  }
  m->root = *root;
  m->pgd = ram.phys.entries(*root);
  m->release = release_mm;
#if defined(PGTBL_ARCH_TABLES)
  m->context.alloc_pgste = pgste ? 1 : 0;
#endif
#if defined(PGTBL_ARCH_TABLES)
  if (!geometry.split_pml) arch.share_lock(pfn_of(*root), m->page_table_lock);
#endif
  m->brk_start = brk_base;
  m->brk_end = m->brk_start.get();
  try {
    put_in(self, *this, reg.mms, m, "address spaces at once");
  } catch (...) {
    upper_free(self, *root);
    destroy(m);
    throw;
  }
  return m;
}

void machine::close_mm(cpu& self, mm* m) {
  stop_uffd_servers(*m);
  stop_secondary_mmus(*m);
  release_secondary_mmus(self, *m);
  exit_mmap(self, *m);
  if (self.loaded == m) switch_mm(self, nullptr);
  if (m->count.fetch_sub(1, acq_rel) == 1) release_mm(self, *m);
}

mapping* machine::new_mapping(cpu& self, u64 bytes, file_kind kind) {
  mapping* f = make<mapping>(*this, next_id_.fetch_add(1, relaxed), rcu, bytes, kind);
  try {
    put_in(self, *this, reg.files, f, "files at once");
  } catch (...) {
    destroy(f);
    throw;
  }
  return f;
}

void mapping_put(cpu& self, mapping& f) {
  if (f.count.fetch_sub(1, acq_rel) != 1) return;
  f.seals.store(0, relaxed);  // against truncate, too
  file_truncate(self, f, 0);
  take_out(self, f.home, f.home.reg.files, &f);
  destroy(&f);
}

u64 machine::total(event e) const {
  u64 n = 0;
  each_ledger([&](const ledger& l) { n += l.get(e); });
  return n;
}

u64 machine::acquired(lock_class k) const {
  u64 n = 0;
  each_ledger([&](const ledger& l) { n += l.locks[static_cast<unsigned>(k)].acquired.get(); });
  return n;
}

}  // namespace pgtbl::inline PGTBL_WORLD
