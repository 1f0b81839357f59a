#include "mm/secondary_mmu.hpp"

#include <algorithm>

#include "base/dice.hpp"
#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/gup.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void secondary_mmu::refuse_closed() const {
  if (closed_) throw closed_error("this secondary MMU is closed, or its program has ended");
}

// ---------------------------------------------------------------- what it remembers; under its lock

void secondary_mmu::drop(va_t from, va_t to) {
  if (to - from > line_count << page_shift) {
    for (line& x : lines_)
      if (x.key != 0 && (x.key - 1) << page_shift >= from && (x.key - 1) << page_shift < to) x.key = 0;
  } else {
    for (va_t va = page_align_down(from); va < to; va += page_size)
      if (line& x = line_of(va); x.key == (va >> page_shift) + 1) x.key = 0;
  }
  for (table& t : tables_)
    if (t.key != 0 && t.key << pmd_shift > from && (t.key - 1) << pmd_shift < to) t.key = 0;
}

void secondary_mmu::report(cpu& self, va_t va, pfn_t pfn, u32 filled, const char* what) {
  const frame& f = self.ram->of(pfn);
  breach(self, "G-16",
         std::string(what) + " of secondary MMU " + std::to_string(number) + " of mm " +
             std::to_string(owner.id) + " translated address " + std::to_string(va) + " to frame " +
             std::to_string(pfn) + " in its life " + std::to_string(filled) + "; CPU " +
             std::to_string(f.free_cpu.load(relaxed)) + " freed it since, CPU " +
             std::to_string(f.alloc_cpu.load(relaxed)) + " had it last, and it is now a " +
             to_string(f.state.load(relaxed)) + " in its life " + std::to_string(f.generation.load(relaxed)));
}

pfn_t secondary_mmu::translate(cpu& self, va_t va, pgtbl::access a) {
  line& x = line_of(va);
  if (x.key == (va >> page_shift) + 1 && (x.writable || a != pgtbl::access::write)) {
    if (self.ram->of(x.pfn).generation.load(acquire) == x.generation) return x.pfn;
    report(self, va, x.pfn, x.generation, "a translation");
    x.key = 0;
  }
  return kind == secondary_kind::walker ? walk(self, va, a) : 0;
}

void secondary_mmu::fill(cpu& self, va_t va, pfn_t pfn, bool writable) {
  line_of(va) = {(va >> page_shift) + 1, pfn, self.ram->of(pfn).generation.load(relaxed), writable};
}

// ---------------------------------------------------------------- walking the program's tables

/// From its cache of tables, or from the top.  Nothing keeps the tables but that whoever frees one tells us first, and we
/// have the lock that this waits for.
pmd_t secondary_mmu::walk_to_pmd(cpu& self, va_t va, entry_word*& slot) {
  slot = nullptr;
  const table& t = tables_[va >> pmd_shift & (table_count - 1)];
  if (t.key == (va >> pmd_shift) + 1) {
    const pmd_t cached{t.pmd};
    if (life_of(self, cached.pgtable()).generation.load(acquire) == t.generation) return cached;
    report(self, va, pfn_of(cached.pgtable()), t.generation, "a cached table");
  }
  physical& phys = self.ram->phys;
  pmd_t above = mk_table(owner.root);
  if constexpr (geometry.pgd_bits != 0) above = {owner.pgd[index_at(va, pgd_shift)].load(acquire)};
  if (!above.table()) return {};
  if constexpr (geometry.pud_bits != 0)
    above = {phys.entry(above.pgtable(), index_at(va, pud_shift)).load(acquire)};
  if (!above.table()) return {};
  slot = &phys.entry(above.pgtable(), index_at(va, pmd_shift));
  return {slot->load(acquire)};
}

pfn_t secondary_mmu::walk(cpu& self, va_t va, pgtbl::access a) {
  memory& ram = *self.ram;
  const bool write = a == pgtbl::access::write;
  for (;;) {
    entry_word* at;
    const pmd_t pmd = walk_to_pmd(self, va, at);
    const bool huge = pmd.huge();
    if (!huge && !pmd.table()) return 0;
    if (!huge) {
      if (at != nullptr)
        tables_[va >> pmd_shift & (table_count - 1)] = {
            (va >> pmd_shift) + 1, pmd.v, life_of(self, pmd.pgtable()).generation.load(relaxed)};
      at = &ram.phys.entry(pmd.pgtable(), index_at(va, page_shift));
    }
    u64 entry = huge ? pmd.v : at->load(acquire);
    if ((entry & (bit_present | bit_user)) != (bit_present | bit_user)) return 0;
    if (write && (entry & bit_write) == 0) return 0;
    const u64 want = entry | bit_accessed | (write ? bit_dirty : 0);
    if (want != entry && !at->compare_exchange_strong(entry, want, acq_rel)) continue;
    const pfn_t pfn = pte_t{want}.pfn() + (huge ? index_at(va, page_shift) : 0);
    fill(self, va, pfn, (want & (bit_write | bit_dirty)) == (bit_write | bit_dirty));
    return pfn;
  }
}

// ---------------------------------------------------------------- faults

void secondary_mmu::fault(cpu& self, va_t va, pgtbl::access a) {
  if (kind == secondary_kind::walker)
    handle_page_fault(self, owner, va, a);
  else
    fault_shadow(self, va, a);
}

void secondary_mmu::fault_shadow(cpu& self, va_t va, pgtbl::access a) {
  u64 seen = 0;
  for (;;) {
    {
      const spin_guard g(self, lock_, lock_class::other);
      refuse_closed();
      seen = sequence_;
      if (!invalid(va) || !guard(Guard::secondary_retry)) break;
    }
    yield();
  }
  const bool write = a == pgtbl::access::write;
  pinned_pages page = pin_pages(self, owner, page_align_down(va), 1, write ? u32{gup_write} : 0U);
  pause_at(self, point::sm_looked_up);
  {
    const spin_guard g(self, lock_, lock_class::other);
    // What we looked up may have been taken away meanwhile: a range that covers it is open, or was closed since.
    const bool stale = invalid(va) || sequence_ != seen;
    if (!closed_ && (!stale || !guard(Guard::secondary_retry))) fill(self, va, page.frames[0], write);
  }
  // The notifier keeps it from here on.
  unpin_pages(self, page);
}

// ---------------------------------------------------------------- what it is told

void secondary_mmu::start(cpu& self, va_t from, va_t to) {
  if (kind != secondary_kind::shadow) return;
  const spin_guard g(self, lock_, lock_class::other);
  open_from_ = open_ == 0 ? from : std::min(open_from_, from);
  open_to_ = open_ == 0 ? to : std::max(open_to_, to);
  open_ += 1;
  if (guard(Guard::notifier_start)) drop(from, to);
}

void secondary_mmu::end(cpu& self, va_t, va_t) {
  if (kind != secondary_kind::shadow) return;
  const spin_guard g(self, lock_, lock_class::other);
  sequence_ += 1;
  open_ -= 1;
}

void secondary_mmu::invalidate(cpu& self, va_t from, va_t to) {
  if (kind != secondary_kind::walker || !guard(Guard::secondary_flush)) return;
  const spin_guard g(self, lock_, lock_class::other);
  drop(from, to);
}

void secondary_mmu::close(cpu& self) {
  const spin_guard g(self, lock_, lock_class::other);
  closed_ = true;
  drop(0, task_size);
}

u64 secondary_mmu::accesses(cpu& self) {
  const spin_guard g(self, lock_, lock_class::other);
  return accesses_;
}

u64 secondary_mmu::translations(cpu& self) {
  const spin_guard g(self, lock_, lock_class::other);
  return static_cast<u64>(
      std::count_if(std::begin(lines_), std::end(lines_), [](const line& x) { return x.key != 0; }));
}

pfn_t secondary_mmu::cached(cpu& self, va_t va) {
  const spin_guard g(self, lock_, lock_class::other);
  const line& x = line_of(va);
  return x.key == (va >> page_shift) + 1 ? x.pfn : 0;
}

// ---------------------------------------------------------------- its own thread

void secondary_mmu::run_on(va_t from, u64 pages, bool write, u64 seed) {
  if (running_.exchange(1, acq_rel) != 0)
    throw usage_error("this secondary MMU is at work already: stop it first");
  stop_.store(0, release);
  state_.store(starting, release);
  thread_ = thread([=, this] { work(from, pages, write, seed); });
  if (await(state_, [](u32 s) { return s != starting; }, acquire) == started) return;
  stop();
  throw usage_error(
      "all " + std::to_string(owner.home.config.cpus) +
      " CPUs of the machine are taken, and the device needs one: make the machine with a larger cpus=");
}

void secondary_mmu::stop() {
  if (running_.load(acquire) == 0) return;
  stop_.store(1, release);
  thread_.join();
  running_.store(0, release);
}

void secondary_mmu::work(va_t from, u64 pages, bool write, u64 seed) {
  cpu* self = owner.home.cpu_get();
  state_.store(self != nullptr ? started : no_cpu, release);
  if (self == nullptr) return;
  self->still_wanted = [](void* d) { return static_cast<secondary_mmu*>(d)->stop_.load(acquire) == 0; };
  self->wanted_by = this;
  dice random(seed);
  const auto a = write ? pgtbl::access::write : pgtbl::access::read;
  while (stop_.load(acquire) == 0) {
    try {
      access(*self, from + (random.below(pages) << page_shift), a,
             [write](physical& phys, pfn_t pfn, u64 at) {
               if (write)
                 phys.touch_word(pfn, at);
               else
                 phys.load_word(pfn, at);
             });
    } catch (const error&) {
      yield();  // nothing is mapped there now
    } catch (const os_error&) {
      yield();
    }
  }
  self->still_wanted = nullptr;
  self->wanted_by = nullptr;
  owner.home.cpu_put(self);
}

}  // namespace pgtbl::inline PGTBL_WORLD
