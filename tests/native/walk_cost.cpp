// The walk to a PTE, and the same with its lock: tools/walk_cost.py counts their instructions.
#include "pgtable/walk.hpp"

using namespace pgtbl;

extern "C" u64 core_walk(cpu& self, const mm_tables& t, va_t va) {
  const pmd_ref p = pmd_offset(self, t, va);
  if (!p) return 0;
  const auto m = pte_offset_map(self, p, va);
  return m ? m->get().v : 0;
}

extern "C" u64 core_lock(cpu& self, const mm_tables& t, va_t va) {
  const pmd_ref p = pmd_offset(self, t, va);
  if (!p) return 0;
  const auto m = pte_offset_map_lock(self, p, va);
  return m ? m->get().v : 0;
}
