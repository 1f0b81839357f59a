// A whole machine, one thread, in every world.  The geometry differs (a huge page is 512 pages or 4), so what
// is printed does not depend on it: what was locked, retracted, collapsed and freed.
#include <cinttypes>
#include <cstdio>

#include "base/errors.hpp"
#include "check/check.hpp"
#include "khugepaged/madvise.hpp"
#include "mm/access.hpp"
#include "mm/machine.hpp"
#if defined(PGTBL_WORLD_MODEL)
#include "world/model/direct_engine.hpp"
#endif

using namespace pgtbl;

namespace {

constexpr u64 extents = 3;

void show(const char* what, u64 value) { std::printf("%s %" PRIu64 "\n", what, value); }

u64 locked(const cpu& self, lock_class c) { return self.led.locks[static_cast<unsigned>(c)].acquired.get(); }

void run(const era& rules) {
  std::printf("era %s\n", rules.name);
  machine_config config;
  config.rules = rules;
  config.memory_bytes = 32 * extents * pmd_size;
  config.cpus = 2;
  auto* const m = make<machine>(config);
  cpu& self = *m->cpu_get();
  mapping* const file = m->new_mapping(self, extents * pmd_size);
  mm* const program = m->new_mm(self);
  mmap_args args;
  args.file = file;
  args.length = extents * pmd_size;
  const va_t first = sys_mmap(self, *program, args);
  const va_t second = sys_mmap(self, *program, args);
  for (u64 page = 0; page < extents * pages_per_huge; ++page) {
    mm_store(self, *program, first + page * page_size, page + 1);
    mm_touch(self, *program, second + page * page_size, access::read);
  }
  show("tables", self.led.get(event::pte_allocated));

  const u64 reads = locked(self, lock_class::mmap_read), writes = locked(self, lock_class::mmap_write);
  sys_madvise(self, *program, first, extents * pmd_size, madv_collapse);
  show("collapse: mmap_lock read", locked(self, lock_class::mmap_read) - reads);
  show("collapse: mmap_lock write", locked(self, lock_class::mmap_write) - writes);
  show("collapse: succeeded", self.led.get(event::collapse_succeeded));
  show("collapse: tables detached", self.led.get(event::pte_detached));

  u64 wrong = 0;
  for (u64 page = 0; page < extents * pages_per_huge; ++page) {
    wrong += mm_load(self, *program, first + page * page_size) != page + 1;
    wrong += mm_load(self, *program, second + page * page_size) != page + 1;
  }
  show("words lost", wrong);
  show("faults that mapped an extent", self.led.get(event::fault_huge));
  sys_munmap(self, *program, first, pmd_size);
  try {
    mm_load(self, *program, first);
    show("no fault", 1);
  } catch (const segmentation_fault&) {
    show("a segmentation fault", 1);
  }
  for (const std::string& breach : check_machine(self, *m)) std::printf("breach: %s\n", breach.c_str());
  m->close_mm(self, program);
  show("tables freed", self.led.get(event::pte_freed));
  mapping_put(self, *file);
  m->cpu_put(&self);
  destroy(m);
}

}  // namespace

int main() {
#if defined(PGTBL_WORLD_MODEL)
  direct_engine engine;
  const engine_scope scope(engine);
#endif
  for (const era& rules : eras) run(rules);
#if defined(PGTBL_WORLD_MODEL)
  for (const std::string& failure : engine.failures()) std::printf("failure: %s\n", failure.c_str());
  std::fprintf(stderr, "%" PRIu64 " operations\n", engine.operations());
#endif
  return 0;
}
