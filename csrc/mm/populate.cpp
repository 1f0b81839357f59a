#include "mm/populate.hpp"

#include <algorithm>

#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/lru_batch.hpp"

namespace pgtbl::inline PGTBL_WORLD {

populate_result populate_vma(cpu& self, mm& m, const vma& v, va_t start, va_t end, access a) {
  if (!v.is(a == access::write ? vm_write : vm_access_flags)) return {populated::no_permission, end};
  lru_add_drain(self);
  va_t va = start;
  try {
    for (; va < end; va += page_size) {
      while (!mmu_access(self, va, a, [](pfn_t, u64) {})) {
        self.led.add(event::fault);
        if (uffd_waiter* const w = fault_under_mmap_lock(self, m, va, a)) return {populated::waits, va, w};
      }
    }
  } catch (const out_of_memory&) {
    return {populated::no_memory, end};
  } catch (const bus_error&) {
    return {populated::refused, end};
  } catch (const segmentation_fault&) {
    return {populated::refused, end};
  }
  return {populated::all, end};
}

populate_result populate_for_use(cpu& self, mm& m, const vma& v, va_t start, va_t end) {
  const bool own = (v.flags() & (vm_write | vm_shared)) == vm_write;
  return populate_vma(self, m, v, start, end, own ? access::write : access::read);
}

void populate_quietly(cpu& self, mm& m, va_t start, va_t end) {
  const auto part = [&](const vma& v, va_t from, va_t to) {
    return v.is(vm_lockonfault) ? populate_result{populated::all, to}
                                : populate_for_use(self, m, v, from, to);
  };
  populate_range(self, m, start, end, part, [] {});
}

}  // namespace pgtbl::inline PGTBL_WORLD
