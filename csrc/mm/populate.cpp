#include "mm/populate.hpp"

#include <algorithm>

#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/lru_batch.hpp"

namespace pgtbl::inline PGTBL_WORLD {

populated populate_vma(cpu& self, mm& m, const vma& v, va_t start, va_t end, access a) {
  if (!v.is(a == access::write ? vm_write : vm_access_flags)) return populated::no_permission;
  lru_add_drain(self);
  try {
    for (va_t va = start; va < end; va += page_size) {
      while (!mmu_access(self, va, a, [](pfn_t, u64) {})) {
        self.led.add(event::fault);
        fault_under_mmap_lock(self, m, va, a);
      }
    }
  } catch (const out_of_memory&) {
    return populated::no_memory;
  } catch (const bus_error&) {
    return populated::refused;
  } catch (const segmentation_fault&) {
    return populated::refused;
  }
  return populated::all;
}

populated populate_for_use(cpu& self, mm& m, const vma& v, va_t start, va_t end) {
  const bool own = (v.flags() & (vm_write | vm_shared)) == vm_write;
  return populate_vma(self, m, v, start, end, own ? access::write : access::read);
}

void populate_quietly(cpu& self, mm& m, va_t start, va_t end) {
  const mmap_read_guard lock(self, m);
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    if (!e.vma->is(vm_lockonfault))
      populate_for_use(self, m, *e.vma, std::max(start, e.start), std::min(end, e.end));
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
