#include "mm/access.hpp"

namespace pgtbl::inline PGTBL_WORLD {

u64 mm_load(cpu& self, mm& m, va_t va) {
  u64 w = 0;
  mm_access(self, m, va, access::read,
            [&](pfn_t pfn, u64 offset) { w = self.ram->phys.load_word(pfn, offset & ~7ULL); });
  return w;
}

void mm_store(cpu& self, mm& m, va_t va, u64 word) {
  mm_access(self, m, va, access::write,
            [&](pfn_t pfn, u64 offset) { self.ram->phys.store_word(pfn, offset & ~7ULL, word); });
}

namespace {
/// Calls part(va, offset in the buffer, length) for each page of [va, va + n).
template <class Part>
void each_page(va_t va, u64 n, Part&& part) {
  for (u64 done = 0; done < n;) {
    const u64 room = page_size - ((va + done) & (page_size - 1));
    const u64 len = n - done < room ? n - done : room;
    part(va + done, done, len);
    done += len;
  }
}
}  // namespace

void mm_read(cpu& self, mm& m, va_t va, void* out, u64 n) {
  each_page(va, n, [&](va_t at, u64 done, u64 len) {
    mm_access(self, m, at, access::read, [&](pfn_t pfn, u64 offset) {
      self.ram->phys.load_bytes(pfn, offset, static_cast<u8*>(out) + done, len);
    });
  });
}

void mm_write(cpu& self, mm& m, va_t va, const void* in, u64 n) {
  each_page(va, n, [&](va_t at, u64 done, u64 len) {
    mm_access(self, m, at, access::write, [&](pfn_t pfn, u64 offset) {
      self.ram->phys.store_bytes(pfn, offset, static_cast<const u8*>(in) + done, len);
    });
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
