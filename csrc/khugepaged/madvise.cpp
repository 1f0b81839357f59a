// madvise: which lock an advice needs, and its walk over the VMAs of the range.
//
// Errors as the kernel's: an advice does what it can up to the VMA that refuses it; holes are passed over, and told of
// at the end (ENOMEM).
#include "khugepaged/madvise.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/madvise_parts.hpp"
#include "mm/populate.hpp"
#include "mm/userfaultfd.hpp"
#include "mm/vma_ops.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

class advise {
 public:
  advise(cpu& self, mm& m, va_t start, va_t end, int advice)
      : self_(self), m_(m), start_(start), end_(end), advice_(advice) {}

  void run() {
    switch (advice_) {
      case madv_collapse: return madvise_collapse(self_, m_, start_, end_);
      case madv_populate_read:
      case madv_populate_write: return populate();
      case madv_remove: return remove();
      case madv_dontneed:
      case madv_dontneed_locked:
      case madv_free:
        if (under_vma_lock()) return;
        [[fallthrough]];
      case madv_willneed:
      case madv_cold:
      case madv_pageout:
      case madv_guard_install:
      case madv_guard_remove: return under_mmap_read();
      default: return change_flags();
    }
  }

  static bool known(const cpu& self, int advice) {
    switch (advice) {
      case madv_guard_install:
      case madv_guard_remove: return self.rules->guard_regions != 0;
      case madv_normal:
      case madv_random:
      case madv_sequential:
      case madv_willneed:
      case madv_dontneed:
      case madv_free:
      case madv_remove:
      case madv_dontfork:
      case madv_dofork:
      case madv_hugepage:
      case madv_nohugepage:
      case madv_dontdump:
      case madv_dodump:
      case madv_wipeonfork:
      case madv_keeponfork:
      case madv_cold:
      case madv_pageout:
      case madv_populate_read:
      case madv_populate_write:
      case madv_dontneed_locked:
      case madv_collapse: return true;
      default: return false;
    }
  }

 private:
  [[noreturn]] void fail(int code, const std::string& why) const {
    throw os_error(code, "madvise of [" + std::to_string(start_) + ", " + std::to_string(end_) + "): " + why);
  }
  [[noreturn]] void hole() const { fail(ENOMEM, "not all of it is mapped"); }

  // ---------------------------------------------------------------- one VMA's part

  /// Why the VMA does not take the advice; 0: it may.
  int refused(const vma& v) const {
    // What it discards of sealed memory it may only where it could as well store (can_madvise_modify).
    if (v.is(vm_sealed) && v.is_anon() && !v.is(vm_write) && discards()) return EPERM;
    switch (advice_) {
      case madv_free: return !v.is_anon() || v.is(vm_locked) ? EINVAL : 0;
      case madv_dontneed:
      case madv_cold:
      case madv_pageout: return v.is(vm_locked) ? EINVAL : 0;
      default: return 0;
    }
  }

  bool discards() const {
    return advice_ == madv_free || advice_ == madv_dontneed || advice_ == madv_dontneed_locked ||
           advice_ == madv_dontfork || advice_ == madv_wipeonfork || advice_ == madv_guard_install;
  }

  int visit(vma& v, va_t from, va_t to) {
    if (const int code = refused(v); code != 0) return code;
    switch (advice_) {
      case madv_dontneed:
      case madv_dontneed_locked: return dontneed(v, from, to);
      case madv_free: madvise_free(self_, v, from, to); return 0;
      case madv_cold:
      case madv_pageout: madvise_cold(self_, v, from, to, advice_ == madv_pageout); return 0;
      case madv_guard_install: return madvise_guard_install(self_, v, from, to);
      case madv_guard_remove: return madvise_guard_remove(self_, v, from, to);
      default: return 0;  // MADV_WILLNEED: there is nothing to read ahead
    }
  }

  int dontneed(vma& v, va_t from, va_t to) {
    const notifier_range notifier(self_, m_, from, to);
    gather g(self_, m_);
    zap_range(self_, v, from, to, g, {.reclaim = true});
    return 0;
  }

  // ---------------------------------------------------------------- locks

  /// Where one VMA has the whole range, its own lock is enough (6.17).
  bool under_vma_lock() {
    if (!self_.rules->dontneed_under_vma_lock) return false;
    const auto v = lock_vma_under_rcu(self_, m_, start_);
    if (!v || end_ > (*v)->end || (*v)->is(vm_uffd_flags)) return false;
    if (const int e = visit(**v, start_, end_); e != 0) refuse(e);
    return true;
  }

  void under_mmap_read() {
    std::optional<mmap_read_guard> lock;
    lock.emplace(self_, m_, where::current());
    bool whole = true;
    va_t at = start_;
    while (at < end_) {
      const vma_entry e = m_.vmas.first_at_or_after(at);
      if (!e || e.start >= end_) break;
      whole = whole && e.start <= at;
      const va_t from = std::max(at, e.start);
      at = std::min(e.end, end_);
      if (const int code = refused(*e.vma); code != 0) refuse(code);
      if (zaps() && uffd_has(*e.vma, uffd_feature_event_remove)) {
        if (!tell_removal(lock, e, from, at)) break;
        continue;
      }
      if (const int code = visit(*e.vma, from, at); code != 0) refuse(code);
    }
    if (!whole || at < end_) hole();
  }

  bool zaps() const {
    return advice_ == madv_dontneed || advice_ == madv_dontneed_locked || advice_ == madv_free;
  }

  /// The userfaultfd hears of it before anything goes, and without mmap_lock: the VMA is looked up again (as
  /// madvise_dontneed_free does).  False: nothing is mapped there any more.  `at`: how far it came.
  bool tell_removal(std::optional<mmap_read_guard>& lock, const vma_entry& e, va_t from, va_t& at) {
    uffd_events told;
    told.remove(self_, *e.vma->uffd, from, at);
    lock.reset();
    told.tell(self_);
    lock.emplace(self_, m_, where::current());
    vma* v = m_.vmas.find(from);
    if (v == nullptr) {
      at = from;
      return false;
    }
    at = std::min(at, v->end.get());
    if (const int code = visit(*v, from, at); code != 0) refuse(code);
    return true;
  }

  [[noreturn]] void refuse(int code) const { fail(code, "a mapping in it does not take this advice"); }

  // ---------------------------------------------------------------- populate, remove

  void populate() {
    const access a = advice_ == madv_populate_write ? access::write : access::read;
    const auto part = [&](const vma& v, va_t from, va_t to) {
      const populate_result got = populate_vma(self_, m_, v, from, to, a);
      switch (got.what) {
        case populated::waits:
        case populated::all: break;
        case populated::no_permission: fail(EINVAL, "a mapping in it does not allow the access");
        case populated::refused: fail(EFAULT, "an access would get a signal");
        case populated::no_memory: fail(ENOMEM, "no frame is left");
      }
      return got;
    };
    populate_range(self_, m_, start_, end_, part, [this] { hole(); });
  }

  /// A hole is punched into the file, without mmap_lock: the VMA is looked up again for each part.
  void remove() {
    bool whole = true;
    for (va_t at = start_; at < end_;) {
      mmap_read_guard lock(self_, m_);
      const vma_entry e = m_.vmas.first_at_or_after(at);
      if (!e || e.start >= end_) hole();
      whole = whole && e.start <= at;
      const va_t from = std::max(at, e.start), to = std::min(end_, e.end);
      vma& v = *e.vma;
      if (v.is(vm_locked) || v.file == nullptr) refuse(EINVAL);
      if (!v.may_write_to_file()) refuse(EACCES);
      mapping& f = *v.file;
      const u64 offset = v.pgoff_of(from) << page_shift;
      const mapping_ref file(self_, f);
      // The mapping has the file open for writing, and may go as soon as mmap_lock is given up.
      const write_access open(f, write_access::already_open{});
      uffd_events told;
      if (uffd_has(v, uffd_feature_event_remove)) told.remove(self_, *v.uffd, from, to);
      lock.unlock();
      pause_at(self_, point::md_unlocked);
      told.tell(self_);
      file_punch(self_, f, offset, to - from);
      at = to;
    }
    if (!whole) hole();
  }

  // ---------------------------------------------------------------- flags

  /// The VMA's flags after the advice, or an errno.
  int advised(const vma& v, u64& f) const {
    if (const int code = refused(v); code != 0) return code;
    switch (advice_) {
      case madv_normal: f &= ~(vm_rand_read | vm_seq_read); break;
      case madv_random: f = (f & ~vm_seq_read) | vm_rand_read; break;
      case madv_sequential: f = (f & ~vm_rand_read) | vm_seq_read; break;
      case madv_dontfork: f |= vm_dontcopy; break;
      case madv_dofork: f &= ~vm_dontcopy; break;
      case madv_dontdump: f |= vm_dontdump; break;
      case madv_dodump: f &= ~vm_dontdump; break;
      case madv_hugepage: f = (f & ~vm_nohugepage) | vm_hugepage; break;
      case madv_nohugepage: f = (f & ~vm_hugepage) | vm_nohugepage; break;
      case madv_wipeonfork:
        if (!v.is_anon() || v.shared()) return EINVAL;
        f |= vm_wipeonfork;
        break;
      default: f &= ~vm_wipeonfork;  // MADV_KEEPONFORK
    }
    return 0;
  }

  void change_flags() {
    const mmap_write_guard lock(self_, m_);
    bool whole = true;
    for (va_t at = start_; at < end_;) {
      const vma_entry e = m_.vmas.first_at_or_after(at);
      if (!e || e.start >= end_) {
        whole = false;
        break;
      }
      whole = whole && e.start <= at;
      const va_t from = std::max(at, e.start), to = std::min(end_, e.end);
      u64 f = e.vma->flags();
      if (const int code = advised(*e.vma, f); code != 0) refuse(code);
      if (f != e.vma->flags())
        change_vmas(self_, m_, from, to, [](const vma&) { return true; }, [f](vma& v) { v.set_flags(f); });
      at = to;
    }
    if (!whole) hole();
  }

  cpu& self_;
  mm& m_;
  const va_t start_, end_;
  const int advice_;
};

}  // namespace

void sys_madvise(cpu& self, mm& m, va_t start, u64 length, int advice) {
  load_mm(self, m);
  if (!advise::known(self, advice))
    throw os_error(EINVAL,
                   "advice " + std::to_string(advice) + " is unknown, or later than the machine's era");
  check_range(start, length);
  const va_t end = start + page_align_up(length);
  if (end != start) advise(self, m, start, end, advice).run();
}

}  // namespace pgtbl::inline PGTBL_WORLD
