#include "lab/collapser.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "khugepaged/khugepaged.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 lead_in_ns =
    20'000'000;  // turns before the loaded window begins, so that it finds them at work

constexpr u64 longest_nap_ns = 100'000'000;

class collapser {
 public:
  collapser(machine& m, cpu& self, const collapse_config& c, start_gate& gate, collapser_result& out)
      : machine_(m),
        self_(self),
        c_(c),
        gate_(gate),
        out_(out),
        quiet_(*self.rules),
        period_ns_(c.rate > 0 ? static_cast<u64>(1e9 / c.rate) : 0) {
    quiet_.map_may_fail = 1;
    quiet_.maplock_rechecks = 1;
    quiet_.file_faults_under_vma_lock = 2;
  }

  // Everything that a turn needs, once: tables, frames of the page cache.
  void warm_up() {
    if (c_.mode == collapse_mode::copy) return;
    for (u32 e : c_.extents) prepare(e, 0);
  }

  void run() {
    running_ = true;
    sleep_until_lead_in();
    if (c_.mode == collapse_mode::copy) return copy_for_ever();
    u64 due = now_ns();
    for (u64 n = 0; !over(); ++n) {
      turn(c_.extents[n % c_.extents.size()], n / c_.extents.size());
      if (c_.khugepaged_every != 0 && n % c_.khugepaged_every == c_.khugepaged_every - 1) visit_all();
      rest(due);
    }
  }

 private:
  // Sleeps until the next turn is due.  Time that was lost stays lost: turns in a row to make up for it would
  // be another load.
  void rest(u64& due) {
    const u64 now = now_ns();
    due = std::max(now, due + period_ns_);
    if (due == now) return;
    for (u64 t = now; t < due && !over(); t = now_ns()) sleep_ns(std::min(due - t, longest_nap_ns));
  }

  // As a thread that sleeps: its CPU gets no interrupts for the sake of a program's TLB entries.  Else the
  // walkers would pay for what this thread did last, which no kernel makes them.
  void leave_programs() { switch_mm(self_, nullptr); }

  va_t va(u32 extent) const { return c_.base + u64{extent} * pmd_size; }
  bool over() const {
    return gate_.stop.load(relaxed) != 0 || (running_ && ticks() >= gate_.when.end[windows::loaded]);
  }

  void sleep_until_lead_in() {
    const u64 start = gate_.when.begin[windows::loaded];
    for (;;) {
      const u64 now = ticks();
      const u64 left = now < start ? ticks_to_ns(start - now) : 0;
      if (left <= lead_in_ns || gate_.stop.load(relaxed) != 0) return;
      sleep_ns(std::min(left - lead_in_ns, longest_nap_ns));
    }
  }

  // What is not counted should not be felt either.  So this thread faults by the rules of a later kernel, under
  // the VMA's lock alone: under the older ones its thousands of faults a second would take mmap_lock, and the
  // walkers would wait for the preparation of a collapse, not for the collapse.  Safe in every era: whoever takes
  // a table away under mmap_lock write marks the VMA, and so waits for faults under the VMA's lock.
  void touch_all(mm& m, u32 extent, access a) {
    const era* const rules = std::exchange(self_.rules, &quiet_);
    touch_each(m, extent, a);
    self_.rules = rules;
    leave_programs();
  }
  void touch_each(mm& m, u32 extent, access a) {
    for (u64 i = 0; i < pages_per_huge && !(i % 64 == 0 && over()); ++i)
      mm_touch(self_, m, va(extent) + i * page_size, a);
  }

  // The walkers' program is the first of the list.  It does not write where another can: that takes 512 faults,
  // reading 32, by fault-around.
  void prepare(u32 extent, u64 lap) {
    file_punch(self_, *c_.file, u64{extent} * pmd_size, pmd_size);
    const std::size_t n = c_.mms.size(), writer = n > 1 ? 1 + lap % (n - 1) : 0;
    touch_all(*c_.mms[writer], extent, access::write);
    for (std::size_t i = 1; i < n; ++i) touch_all(*other(writer, i), extent, access::read);
  }

  mm* other(std::size_t first, std::size_t i) const { return c_.mms[(first + i) % c_.mms.size()]; }

  void turn(u32 extent, u64 lap) {
    const std::size_t first = lap % c_.mms.size();
    prepare(extent, lap);
    if (over()) return;
    if (lap % 4 == 3 && c_.khugepaged_every != 0) {
      timed(collapse_call::by_khugepaged, [&] { return collapse_as_khugepaged(*c_.mms[first], extent); });
    } else {
      madvise(collapse_call::first, *c_.mms[first], extent);
    }
    for (std::size_t i = 1; i < c_.mms.size() && !over(); ++i) {
      touch_all(*other(first, i), extent, access::read);
      if (lap % 2 == 0) madvise(collapse_call::install, *other(first, i), extent);
    }
    if (gate_.when.of(ticks()) == windows::loaded) ++out_.turns;
  }

  void madvise(collapse_call call, mm& m, u32 extent) {
    timed(call, [&] {
      sys_madvise(self_, m, va(extent), pmd_size, madv_collapse);
      return scan_result::succeed;
    });
  }

  // What khugepaged does as it comes to this extent of that program: nothing, if mmap_lock is not to be had.
  scan_result collapse_as_khugepaged(mm& m, u32 extent) {
    if (const auto h = m.mmap_lock.try_read_lock(self_)) {
      self_.led.add(event::collapse_mmap_read);
      m.mmap_lock.read_unlock(self_, *h);
    } else {
      return scan_result::fail;
    }
    collapse_control cc;
    cc.is_khugepaged = true;
    const auto v = collapse_file_extent(self_, m, *c_.file, u64{extent} * pages_per_huge, va(extent),
                                        scan_result::succeed, cc);
    if (v.changed) self_.led.add(event::collapse_succeeded);
    // Before 6.6 a huge page that is mapped in small pieces is put off: that is all there is to do now.
    const bool put_off = self_.rules->collapse_mmap_write && v.result == scan_result::pte_mapped_hugepage;
    return put_off ? scan_result::succeed : v.result;
  }

  void visit_all() {
    for (mm* m : c_.mms) {
      if (over()) return;
      timed(collapse_call::visit, [&] {
        collapse_put_off(self_, *m);
        return scan_result::succeed;
      });
    }
  }

  template <class F>
  void timed(collapse_call call, F&& f) {
    ledger_sum before, after;
    before.add(self_);
    self_.collapsing = true;
    const u64 begin = ticks();
    int error = 0;
    try {
      if (f() != scan_result::succeed) error = EAGAIN;
    } catch (const os_error& e) {
      error = e.code;
    }
    const u64 end = ticks();
    self_.collapsing = false;
    after.add(self_);
    leave_programs();
    // A call that began in the window and ended in it: so the ledger has whole calls only.
    if (gate_.when.of(begin) != windows::loaded || gate_.when.of(end) != windows::loaded) return;
    out_.ledger.add_difference(after, before);
    note({begin, end - begin, error, call, windows::loaded});
  }

  void note(const collapse_record& r) {
    if (out_.taken == out_.records.size()) {
      ++out_.dropped;
    } else {
      out_.records[out_.taken++] = r;
    }
  }

  // As much memory as the collapses go through, at their pace: out of fewer pages, or oftener, it would be another
  // load on the caches that the walkers share.
  void copy_for_ever() {
    std::vector<pfn_t> frames;
    for (std::size_t i = 0; i <= c_.extents.size(); ++i) {
      const auto huge = machine_.ram.alloc_huge(self_, self_.frames);
      if (!huge) throw out_of_memory("no huge page is left for the thread that copies");
      frames.push_back(*huge);
    }
    u64 due = now_ns();
    for (u64 n = 0; !over(); ++n) {
      copy(frames[n % frames.size()], frames[(n + 1) % frames.size()]);
      rest(due);
    }
    for (const pfn_t huge : frames) machine_.ram.free_folio(self_, self_.frames, huge);
  }
  void copy(pfn_t from, pfn_t to) {
    const u64 begin = ticks();
    for (u64 i = 0; i < pages_per_huge; ++i) {
      machine_.ram.phys.clear_page(from + i);
      machine_.ram.phys.copy_page(to + i, from + i);
    }
    if (gate_.when.of(begin) != windows::loaded) return;
    ++out_.turns;
    note({begin, ticks() - begin, 0, collapse_call::copy, windows::loaded});
  }

  machine& machine_;
  cpu& self_;
  const collapse_config& c_;
  start_gate& gate_;
  collapser_result& out_;
  era quiet_;             // the rules of what is not counted
  const u64 period_ns_;   // from turn to turn
  bool running_ = false;  // the windows are decided
};

}  // namespace

void run_collapser(machine& m, const collapse_config& c, start_gate& gate, collapser_result& out) {
  take_part(m, gate, "pgtbl-collapser", out.cpu, out.error, [&](cpu& self) {
    out.records.resize(c.max_records);
    auto work = std::make_unique<collapser>(m, self, c, gate, out);
    work->warm_up();
    return work;
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
