// The same program in every world: its output must not tell them apart.
//
// One thread works through what the core uses of a world: atomics and their orders, protected data, locks,
// sequence counts, interrupts-off sections, waits that are over, objects, and four levels of tables.
#include <cinttypes>
#include <cstdio>

#include "base/breach.hpp"
#include "base/hooks.hpp"
#include "sync/irq.hpp"
#include "sync/rwsem.hpp"
#include "sync/seqcount.hpp"
#include "sync/spinlock.hpp"
#include "world/geometry.hpp"

using namespace pgtbl;

namespace {

void show(const char* what, u64 value) { std::printf("%s %" PRIu64 "\n", what, value); }

struct object {
  atomic<u64> word{5};
  var<u32> plain{7};
  u8 bytes[3] = {1, 2, 3};
};

void atomics() {
  atomic<u32> a{10};
  atomic<u8> small{250};
  atomic<bool> flag{false};
  show("exchange", a.exchange(11, acq_rel));
  show("fetch_add", a.fetch_add(5));
  show("fetch_sub", a.fetch_sub(1, release));
  show("fetch_or", a.fetch_or(0xf0, relaxed));
  show("fetch_and", a.fetch_and(0xf8, relaxed));
  show("wraps", (small.fetch_add(10, relaxed), small.load(relaxed)));
  u32 expected = 1;
  show("cas fails", a.compare_exchange_strong(expected, 2, acq_rel, relaxed));
  show("cas saw", expected);
  show("cas succeeds", a.compare_exchange_weak(expected, 2, acquire));
  show("now", a.load(acquire));
  flag.store(true, release);
  show("await", await(flag, [](bool b) { return b; }, acquire));
  fence(seq_cst);
  compiler_barrier();
  membarrier();
  park(a, 1, 1000);
  unpark_all(a);
}

void objects() {
  object* const o = make<object>();
  o->plain += 3;
  o->plain -= 1;
  o->plain = o->plain + 100;
  o->word.store(o->word.load(relaxed) * 2, relaxed);
  show("plain", o->plain);
  show("word", o->word.load(relaxed));
  show("byte", o->bytes[2]);
  destroy(o);
  var<u16>* const row = make_array<var<u16>>(4);
  row[2] = static_cast<u16>(9);
  show("row", static_cast<u64>(row[1].get() + row[2].get()));
  destroy_array(row, 4);
}

void locks(context& self) {
  spinlock l;
  {
    spin_guard g(self, l, lock_class::ptl);
    show("locked", l.is_locked());
    show("try on a held lock", l.try_lock(self, lock_class::ptl).has_value());
  }
  show("unlocked", !l.is_locked());
  if (const auto h = l.try_lock(self, lock_class::ptl)) l.unlock(self, lock_class::ptl, *h);

  rwsem s{lock_class::mmap_read, lock_class::mmap_write};
  const hold r = s.read_lock(self);
  show("try write beside a reader", s.try_write_lock(self).has_value());
  show("readers", s.readers());
  s.read_unlock(self, r);
  hold w = s.write_lock(self);
  show("write locked", s.is_write_locked());
  show("try read beside a writer", s.try_read_lock(self).has_value());
  w = s.downgrade(self, w);
  const auto second = s.try_read_lock(self);
  show("readers after a downgrade", s.readers());
  if (second) s.read_unlock(self, *second);
  s.read_unlock(self, w);
  show("free", !s.is_locked() && !s.is_contended());
  for (const lock_class c : {lock_class::ptl, lock_class::mmap_read, lock_class::mmap_write}) {
    show(lock_class_names[static_cast<unsigned>(c)], self.led.of(c).acquired.get());
    show(" failed", self.led.of(c).failed.get());
    show(" contended", self.led.of(c).contended.get());
  }
}

void sequences(context& self) {
  seqcount s;
  const u32 before = s.read_begin();
  show("retry", s.read_retry(before));
  s.write_begin();
  show("retry in a write", s.read_retry(s.raw_begin()));
  s.write_end();
  show("retry after a write", s.read_retry(before));
  irq_state irq;
  {
    irq_guard outer(irq);
    irq_guard inner(irq);
    show("interrupts off", irq.off());
  }
  show("interrupts on", !irq.off());
  irq_state* const targets[] = {&irq};
  ipi_wait(self, targets);
  show("ipis", self.led.get(event::ipi));
}

// Four levels, written and walked with what every world offers.
void tables() {
  physical phys(8);
  for (pfn_t f = 0; f < 8; ++f) phys.clear_page(f);
  for (pfn_t level = 1; level <= 3; ++level) phys.entries(table_at(level))[level].store(level + 1, release);
  phys.entries(table_at(4))[3].store(6, release);
  phys.store_word(6, 0, 0x0102030405060708ULL);
  pfn_t at = 1;
  for (pfn_t level = 1; level <= 4; ++level)
    at = phys.entries(table_at(at))[level < 4 ? level : 3].load(acquire);
  show("walked to", at);
  phys.copy_page(7, at);
  const u8 patch[2] = {0xaa, 0xbb};
  phys.store_bytes(7, 3, patch, 2);
  show("patched", phys.load_word(7, 0));
  u8 out[4];
  phys.load_bytes(7, 2, out, 4);
  show("read", static_cast<u64>(out[0]) << 24 | static_cast<u64>(out[1]) << 16 |
                   static_cast<u64>(out[2]) << 8 | out[3]);
}

void threads() {
  atomic<u32> n{0};
  thread t([&n] { n.fetch_add(4, release); });
  t.join();
  show("the thread ran", n.load(acquire));
}

}  // namespace

int main() {
  context self;
  atomics();
  objects();
  locks(self);
  sequences(self);
  tables();
  threads();
  return 0;
}
