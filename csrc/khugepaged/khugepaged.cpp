#include "khugepaged/khugepaged.hpp"

#include <algorithm>

#include "base/errors.hpp"
#include "khugepaged/scan_trace.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/lru_batch.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// The mm in a slot of the registry, with a reference to the structure; null if there is none, or it ends.
mm* grab_mm(cpu& self, machine& m, u32 slot) {
  const spin_guard g(self, m.reg.lock, lock_class::other);
  mm* x = m.reg.mms[slot];
  if (x == nullptr || x->exiting()) return nullptr;
  pause_at(self, point::kh_mm_found);
  // Whoever gave the last reference back is on the way to take it out of the registry: it is not to be had again.
  u32 n = x->count.load(relaxed);
  while (n != 0)
    if (x->count.compare_exchange_weak(n, n + 1, relaxed, relaxed)) return x;
  return nullptr;
}

void drop_mm(cpu& self, mm& m) {
  if (m.count.fetch_sub(1, acq_rel) == 1) m.release(self, m);
}

}  // namespace

extent_verdict collapse_file_extent(
    cpu& self, mm& m, mapping& f, pgoff_t start, va_t extent, scan_result pmd, const collapse_control& cc) {
  const scan_result r = scan_file(self, f, start, cc);
  if (r != scan_result::pte_mapped_hugepage) return {r, r == scan_result::succeed};
  if (self.rules->collapse_mmap_write) {
    // For the visit that can have mmap_lock for write.  Only where a table is in the way: what is mapped huge
    // would fill the array of eight at every pass, and those that need it would never get in.
    if (pmd == scan_result::succeed) put_off(self, m, extent);
    return {pmd == scan_result::succeed ? r : pmd, false};
  }
  const mmap_read_guard lock(self, m);
  if (m.exiting()) return {scan_result::any_process, false};
  const scan_result now = collapse_pte_mapped_thp(self, m, extent, false);
  // Linux counts what is huge already as collapsed, at every pass; what the pass did is less.
  if (now == scan_result::pmd_mapped) return {scan_result::succeed, false};
  return {now, now == scan_result::succeed && pmd == scan_result::succeed};
}

/// Whether khugepaged may collapse anonymous memory here: the machine's policy, and the VMA's advice.
bool khugepaged::takes_anon(const vma& v) const {
  if (!v.has_anon_vma() || vma_thp_disabled(v, false)) return false;
  if (everywhere.load(relaxed) != 0) return true;
  if (!geometry.thp) return false;
  const thp_policy p = machine_.config.thp;
  return p == thp_policy::always || (p == thp_policy::madvise && v.is(vm_hugepage));
}

/// Shared memory anywhere but where it was advised against; regular files by policy and advice, as anonymous memory.
bool khugepaged::takes_file(cpu& self, const vma& v) const {
  if (v.is_anon() || vma_thp_disabled(v, false)) return false;
  if (!v.file->regular()) return true;
  return file_thp_enabled(self, v) && (everywhere.load(relaxed) != 0 || thp_wanted(self, v));
}

/// Goes on at `at` until the mm is through or `pages` are used up.  Returns the extents changed.
u64 khugepaged::scan_mm(cpu& self, mm& m, va_t& at, u64& pages) {
  u64 changed = collapse_put_off(self, m);
  while (pages != 0) {
    auto h = m.mmap_lock.try_read_lock(self);
    if (!h) break;  // busy: not now
    if (self.collapsing) self.led.add(event::collapse_mmap_read);
    mapping* f = nullptr;
    pgoff_t start = 0;
    va_t extent = 0;
    scan_result pmd = scan_result::pmd_null;
    anon_scan anon;
    bool found = false;
    collapse_control cc;
    cc.is_khugepaged = true;
    cc.max_ptes_none = max_ptes_none.load(relaxed);
    cc.max_ptes_swap = max_ptes_swap.load(relaxed);
    cc.max_ptes_shared = max_ptes_shared.load(relaxed);
    for (vma_entry e = m.vmas.first_at_or_after(at); e && !m.exiting(); e = m.vmas.first_at_or_after(at)) {
      extent = pmd_align_up(std::max(at, e.start));
      if (e.vma->is_anon() && extent + pmd_size <= e.end && takes_anon(*e.vma)) {
        anon = scan_pmd(self, *e.vma, extent, cc);
        found = true;
        break;
      }
      if (!takes_file(self, *e.vma) || extent + pmd_size > e.end ||
          (e.vma->pgoff_of(extent) & (pages_per_huge - 1)) != 0) {
        at = e.end;
        continue;
      }
      f = e.vma->file;
      start = e.vma->pgoff_of(extent);
      pmd = find_pmd_or_thp_or_none(self, m, extent).what;
      mapping_get(*f);
      found = true;
      break;
    }
    m.mmap_lock.read_unlock(self, *h);
    if (!found) {
      at = task_size;
      break;
    }
    extent_verdict v{anon.result, false};
    if (f != nullptr) {
      v = collapse_file_extent(self, m, *f, start, extent, pmd, cc);
      mapping_put(self, *f);
    } else {
      if (v.result == scan_result::succeed) v.result = collapse_huge_page(self, m, extent, anon, cc);
      v.changed = v.result == scan_result::succeed;
      trace_scan_pmd(self, v.result, anon.none_or_zero, anon.unmapped);
    }
    if (v.result == scan_result::succeed) self.led.add(event::collapse_succeeded);
    changed += v.changed ? 1 : 0;
    at = extent + pmd_size;
    pages -= std::min(pages, pages_per_huge);
  }
  return changed;
}

u64 khugepaged::scan(cpu& self, cursor& c, u64 pages) {
  lru_add_drain_all(self);
  u64 changed = 0;
  for (; c.slot < machine::registry::capacity && pages != 0; c = {c.slot + 1, 0}) {
    mm* m = grab_mm(self, machine_, c.slot);
    if (m == nullptr) continue;
    self.led.add(event::khugepaged_scans);
    changed += scan_mm(self, *m, c.at, pages);
    const bool through = c.at >= task_size || pages != 0;
    drop_mm(self, *m);
    if (!through) return changed;  // the next round goes on here
  }
  return changed;
}

u64 khugepaged::scan_once(cpu& self) {
  if constexpr (!geometry.thp) return 0;
  const bool before = self.collapsing;
  self.collapsing = true;
  cursor all;
  const u64 n = scan(self, all, ~0ULL);
  self.collapsing = before;
  return n;
}

void khugepaged::start(u64 interval_ns) {
  if (running_.exchange(1, acq_rel) != 0) return;
  stop_.store(0, release);
  state_.store(starting, release);
  thread_ = thread([this, interval_ns] { run(interval_ns); });
  if (await(state_, [](u32 s) { return s != starting; }, acquire) == started) return;
  stop();
  throw usage_error(
      "all " + std::to_string(machine_.config.cpus) +
      " CPUs of the machine are taken, and khugepaged needs one: make the machine with a larger "
      "cpus=, or end a thread that uses it");
}

void khugepaged::stop() {
  if (running_.load(acquire) == 0) return;
  stop_.store(1, release);
  unpark_all(stop_);
  thread_.join();
  running_.store(0, release);
}

void khugepaged::run(u64 interval_ns) {
  cpu* self = machine_.cpu_get();
  state_.store(self != nullptr ? started : no_cpu, release);
  if (self == nullptr) return;
  self->collapsing = true;
  cursor c;
  while (stop_.load(acquire) == 0) {
    scan(*self, c, pages_to_scan.load(relaxed));
    if (c.slot >= machine::registry::capacity) c = {};
    park(stop_, 0, interval_ns);
  }
  machine_.cpu_put(self);
}

}  // namespace pgtbl::inline PGTBL_WORLD
