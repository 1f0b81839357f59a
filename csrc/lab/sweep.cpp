#include "lab/sweep.hpp"

#include "base/errors.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 fold_factor = 1099511628211ULL;

/// As mm_access(), but each fault counts as it is served: the next one may be fatal.
template <class Use>
void counted_access(cpu& self, mm& m, va_t va, access a, sweep_result& r, Use&& use) {
  load_mm(self, m);
  while (!mmu_access(self, va, a, use)) {
    handle_page_fault(self, m, va, a);
    ++r.faults;
  }
}

void access_page(cpu& self, mm& m, va_t va, const sweep_order& o, u64 value, sweep_result& r) {
  physical& phys = self.ram->phys;
  switch (o.kind) {
    case sweep_kind::load: {
      u64 word = 0;
      counted_access(self, m, va, access::read, r,
                     [&](pfn_t pfn, u64 at) { word = phys.load_word(pfn, at & ~7ULL); });
      r.sum = r.sum * fold_factor + word;
      return;
    }
    case sweep_kind::store:
      counted_access(self, m, va, access::write, r,
                     [&](pfn_t pfn, u64 at) { phys.store_word(pfn, at & ~7ULL, value); });
      return;
    case sweep_kind::fill:
      counted_access(self, m, va, access::write, r, [&](pfn_t pfn, u64) {
        for (u64 at = 0; at < page_size; at += sizeof(u64)) phys.store_word(pfn, at, value);
      });
  }
}

}  // namespace

sweep_result sweep(cpu& self, mm& m, const sweep_order& o) {
  sweep_result r;
  for (u64 i = 0; i < o.pages; ++i) {
    try {
      access_page(self, m, o.start + i * o.stride * page_size, o, o.value + i * o.step, r);
      ++r.done;
      continue;
    } catch (const segmentation_fault&) {
      ++r.segv;
    } catch (const bus_error&) {
      ++r.bus;
    }
    if (r.first_failed < 0) r.first_failed = static_cast<i64>(i);
  }
  return r;
}

}  // namespace pgtbl::inline PGTBL_WORLD
