#include "mm/mm.hpp"

#include <utility>

#include "base/errors.hpp"
#include "base/hooks.hpp"
#include "base/wait_watch.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

mm::mm(machine& m, u32 number, rcu_domain& rcu) : home(m), vmas(rcu) { id = number; }

// ---------------------------------------------------------------- mmap_lock

namespace {
/// The first wait of a call may end with it, as mmap_read_lock_killable's: by Ctrl-C, say.  Later ones are in the midst of
/// something, and go on to their end.
hold mmap_lock_killable(cpu& self, mm& m, bool write, where at) {
  rwsem& lock = m.mmap_lock;
  if (!std::exchange(self.killable, false) || self.still_wanted == nullptr)
    return write ? lock.write_lock(self, at) : lock.read_lock(self, at);
  wait_watch watch{self.still_wanted, self.wanted_by};
  const auto h = write ? lock.write_lock(self, watch, at) : lock.read_lock(self, watch, at);
  if (!h) throw interrupted("the wait for mmap_lock of mm " + std::to_string(m.id) + " goes on no longer");
  return *h;
}
}  // namespace

mmap_read_guard::mmap_read_guard(cpu& self, mm& m, where at)
    : self_(self), mm_(&m), hold_(mmap_lock_killable(self, m, false, at)) {
  if (self.collapsing) self.led.add(event::collapse_mmap_read);
}

void mmap_read_guard::unlock() {
  if (mm_ == nullptr) return;
  mm_->mmap_lock.read_unlock(self_, hold_);
  mm_ = nullptr;
}

mmap_write_guard::mmap_write_guard(cpu& self, mm& m, where at)
    : self_(self), mm_(&m), hold_(mmap_lock_killable(self, m, true, at)) {
  if (self.collapsing) self.led.add(event::collapse_mmap_write);
}

mmap_write_guard::mmap_write_guard(cpu& self, mm& m, try_it) : self_(self), mm_(nullptr) {
  const auto h = m.mmap_lock.try_write_lock(self);
  if (h) {
    mm_ = &m;
    hold_ = *h;
  }
  if (self.collapsing) self.led.add(h ? event::collapse_mmap_write : event::collapse_mmap_write_failed);
}

void mmap_write_guard::unlock() {
  if (mm_ == nullptr) return;
  if (read_) {
    mm_->mmap_lock.read_unlock(self_, hold_);
  } else {
    vma_end_write_all(*mm_);
    mm_->mmap_lock.write_unlock(self_, hold_);
  }
  mm_ = nullptr;
}

void mmap_write_guard::downgrade() {
  vma_end_write_all(*mm_);
  hold_ = mm_->mmap_lock.downgrade(self_, hold_);
  read_ = true;
}

// ---------------------------------------------------------------- per-VMA locks

namespace {

/// vma_start_read: a reader gets in only while the VMA is not write-marked.
std::optional<hold> vma_start_read(cpu& self, mm& m, vma& v) {
  // A hint only: a writer may mark the VMA between this and the lock.
  if (v.lock_seq.load(relaxed) == m.lock_seq.load(acquire)) return std::nullopt;
  pause_at(self, point::vl_before_lock);
  const auto h = v.lock.try_read_lock(self);
  if (!h) return std::nullopt;
  // The writer stored lock_seq while it held the lock that we hold now: if it marked the VMA before, we see
  // it here (G-38).  The mm's sequence may have moved on since: then we give up without need, no more.
  if (guard(Guard::vma_seq_recheck) && v.lock_seq.load(acquire) == m.lock_seq.load(acquire)) {
    v.lock.read_unlock(self, *h);
    return std::nullopt;
  }
  if constexpr (checked_build) {
    if (v.lock_seq.load(acquire) == m.lock_seq.load(acquire))
      breach(self, "G-38",
             "CPU " + std::to_string(self.id) + " has the read lock of the VMA [" + std::to_string(v.start) +
                 ", " + std::to_string(v.end) + "), which is being written");
  }
  return h;
}

void mark_written(mm& m, vma& v) { v.lock_seq.store(m.lock_seq.load(relaxed), release); }

}  // namespace

std::optional<vma_read_guard> lock_vma_under_rcu(cpu& self, mm& m, va_t va, u32 kinds) {
  self.rcu.read_lock();
  vma* v = m.vmas.find(va);
  std::optional<hold> h;
  pause_at(self, point::vl_found);
  if (v != nullptr) {
    assert_vma_alive(self, *v);
    if ((kinds & (v->is_anon() ? vmas_anon : vmas_file)) != 0) h = vma_start_read(self, m, *v);
  }
  // It may have left the tree, or changed its range, before we had the lock.
  if (h && (v->detached.load(acquire) != 0 || !v->contains(va))) {
    v->lock.read_unlock(self, *h);
    h.reset();
  }
  self.rcu.read_unlock();
  if (!h) return std::nullopt;
  return vma_read_guard(self, v, *h);
}

vma_read_guard vma_start_read_locked(cpu& self, vma& v) { return {self, &v, v.lock.read_lock(self)}; }

void vma_start_write(cpu& self, vma& v) {
  mm& m = v.owner;
  if (!guard(Guard::vma_start_write) || v.lock_seq.load(relaxed) == m.lock_seq.load(relaxed)) return;
  const hold h = v.lock.write_lock(self);
  mark_written(m, v);
  v.lock.write_unlock(self, h);
}

bool vma_try_start_write(cpu& self, vma& v) {
  mm& m = v.owner;
  if (v.lock_seq.load(relaxed) == m.lock_seq.load(relaxed)) return true;
  const auto h = v.lock.try_write_lock(self);
  if (!h) return false;
  mark_written(m, v);
  v.lock.write_unlock(self, *h);
  return true;
}

void mark_new_vma(mm& m, vma& v) { mark_written(m, v); }

void vma_end_write_all(mm& m) {
  // Release pairs with vma_start_read()'s acquire: what the writer did to the VMA before a reader gets in.
  m.lock_seq.store(m.lock_seq.load(relaxed) + 1, release);
}

namespace {
void vma_free_now(context& ctx, rcu_head* head) {
  vma* v = static_cast<vma*>(head);
  v->alive.store(0, release);
  if constexpr (checked_build)
    static_cast<cpu&>(ctx).home->bury(
        v);  // kept, so that a use of the stale pointer is a report and not a crash (G-7)
  else
    destroy(v);
}
}  // namespace

void vma_free(cpu& self, vma* v) {
  if (guard(Guard::vma_rcu)) {
    self.domain->call(self.rcu, v, vma_free_now, sizeof(vma));
  } else {
    vma_free_now(self, v);
  }
}

void assert_vma_alive([[maybe_unused]] cpu& self, [[maybe_unused]] const vma& v) {
  if constexpr (checked_build) {
    if (v.alive.load(acquire) == 0)
      breach(self, "G-7",
             "CPU " + std::to_string(self.id) + " uses the VMA [" + std::to_string(v.start) + ", " +
                 std::to_string(v.end) + "), which was freed");
  }
}

void assert_vma_attached([[maybe_unused]] cpu& self, [[maybe_unused]] const vma& v) {
  if constexpr (checked_build) {
    assert_vma_alive(self, v);
    if (v.detached.load(acquire) != 0)
      breach(self, "G-7",
             "CPU " + std::to_string(self.id) + " uses the VMA [" + std::to_string(v.start) + ", " +
                 std::to_string(v.end) + "), which has left the tree");
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
