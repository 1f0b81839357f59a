#include "explore/scenarios/machine_cast.hpp"

#include <array>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "explore/scenarios/reach.hpp"
#include "khugepaged/collapse.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr verb_row written = {{"*", false},
                              [](machine_cast&, const cast_actor& a) { a.steps->run(*a.self); }};

auto families() {
  return std::array{verbs_of_tables(),   verbs_of_programs(), verbs_of_forks(),
                    verbs_of_collapse(), verbs_of_vmas(),     verbs_of_anon(),
                    verbs_of_uffd(),     verbs_of_devices(),  verbs_of_files()};
}

/// Null: nobody is called that.
const verb_row* verb_called(std::string_view name) {
  if (name == written.named.name) return &written;
  for (const auto family : families())
    for (const verb_row& v : family)
      if (name == v.named.name) return &v;
  return nullptr;
}

}  // namespace

std::vector<verb> machine_verbs() {
  std::vector<verb> all;
  for (const auto family : families())
    for (const verb_row& v : family) all.push_back(v.named);
  return all;
}

std::string machine_cast::role(u32 i) const {
  const std::string in = programs_ == 1 ? "" : "@" + std::to_string(parts_[i].which);
  if (parts_[i].steps != nullptr) return parts_[i].steps->name() + in;
  return parts_[i].verb->named.name + in;
}

// ---- set-up -----------------------------------------------------------------------------------------

machine_cast::machine_cast(stage& s,
                           const era& rules,
                           const cast_plan& plan,
                           std::span<const step_list> steps)
    : programs_(plan.programs),
      extents_(plan.extents),
      private_(plan.is_private),
      anon_(is_anon(plan.start)),
      start_(plan.start),
      judged_(plan.judged) {
  s.use_abstract_locks(true);
  s.use_abstract_rcu(true);
  s.abandon_spinning(true);
  read_parts(plan.parts);
  machine_config config;
  config.rules = rules;
  config.memory_bytes = 96 * page_size;
  config.cpus = n_ + 1;
  config.broadcast_flush = plan.broadcast;
  config.put_off_extents = plan.put_off;
  m_ = pgtbl::make<machine>(config);
  first_cpu_ = m_->cpu_get();
  for (u32 i = 0; i < n_; ++i) parts_[i].self = m_->cpu_get();
  file_ = m_->new_mapping(*first_cpu_, bytes(), plan.regular ? file_kind::regular : file_kind::shmem);
  for (u32 p = 0; p < programs_; ++p) {
    mm_[p] = m_->new_mm(*first_cpu_);
    map(plan, p);
  }
  lay_out(plan.start);
  if (plan.partial) mm_store(*first_cpu_, *mm_[0], page_va(0, pages_per_huge - 1), 7);
  if (has(begins_huge)) mm_touch(*first_cpu_, *mm_[0], page_va(0, 0), access::read);
  const bool mapped = has_entries(plan.start);
  for (u32 i = 0; i < n_; ++i) {
    const cast_actor& a = parts_[i];
    if (!a.verb->is(outside)) load_mm(*a.self, *mm_[a.which]);
    // The hardware of those who will use it knows the way already.
    if (!mapped) continue;
    if (a.verb->is(knows_the_way)) mm_touch(*a.self, *mm_[a.which], page_va(a.which, 0), access::read);
    if (a.verb->is(has_stored) && (!private_ || has(leaves_copies)))
      mm_touch(*a.self, *mm_[a.which], page_va(a.which, 0), access::write);
  }
  if (has(pins)) pin_first();
  for (u32 p = 0; p < programs_; ++p) let_others_in(p);
  switch_mm(*first_cpu_, nullptr);
  if (has(retracts) && huge_ == 0) throw program_error("retraction needs a huge page in the cache");
  for (u32 i = 0; i < n_; ++i)
    if (parts_[i].verb->is(retracts)) huge_lock_ = folio_lock(*parts_[i].self, huge_);
  std::size_t taken = 0;
  for (u32 i = 0; i < n_; ++i) {
    if (parts_[i].verb != &written) continue;
    if (taken == steps.size()) throw program_error("there are fewer steps written than actors that do them");
    const u32 which = parts_[i].which;
    parts_[i].steps = pgtbl::make<step_actor>(steps[taken++], *mm_[which], *file_, at_[which], huge_);
  }
  deal_frames();
  name_things(s);
  leave_out_statistics(s);
}

void machine_cast::read_parts(std::string_view parts) {
  constexpr const char* between = " ,";
  for (std::size_t from = 0; (from = parts.find_first_not_of(between, from)) != parts.npos;) {
    const std::size_t to = std::min(parts.find_first_of(between, from), parts.size());
    read_part(parts.substr(from, to - from));
    from = to;
  }
  if (n_ == 0)
    throw program_error("a cast has 1 to " + std::to_string(stage::max_actors) +
                        " actors, and this has none");
}

void machine_cast::read_part(std::string_view word) {
  if (n_ == stage::max_actors)
    throw program_error("a cast has 1 to " + std::to_string(stage::max_actors) + " actors, and '" +
                        std::string(word) + "' is one more");
  const std::size_t at = word.find('@');
  const verb_row* v = verb_called(word.substr(0, at));
  if (v == nullptr)
    throw program_error("nobody in a cast is called '" + std::string(word.substr(0, at)) + "'");
  const std::string_view which = at == word.npos ? "0" : word.substr(at + 1);
  if (which != "0" && (which != "1" || programs_ == 1))
    throw program_error("'" + std::string(word) + "': the cast has " +
                        (programs_ == 1 ? "program 0" : "programs 0 and 1"));
  cast_actor& a = parts_[n_];
  a.verb = v;
  a.which = which == "1" ? 1 : 0;
  a.number = n_;
  ++n_;
}

void machine_cast::lay_out(layout start) {
  if (anon_) return lay_out_anon(start);
  cpu& self = *first_cpu_;
  const u64 filled = start == layout::first_page             ? 1
                     : start == layout::small_pages_and_hole ? pages() - 1
                                                             : pages();
  for (u64 page = 0; page < filled; ++page) {
    value_of_page_[page] = 100 + page;
    file_write(self, *file_, page * page_size, &value_of_page_[page], sizeof value_of_page_[page]);
  }
  filemap_write_back(self, *file_, true);
  if (has(is_dirty)) {
    constexpr u64 last = pages_per_huge - 1;
    file_write(self, *file_, last * page_size, &(value_of_page_[last] += 100), sizeof(u64));
  }
  const bool huge =
      start == layout::empty_table || start == layout::full_table || start == layout::no_table_huge_page;
  for (u32 e = 0; huge && e < extents_; ++e) make_huge(e);
  if (start == layout::no_table || start == layout::no_table_huge_page) {
    pmd_alloc(self, *mm_[0], at_[0]);
    return;
  }
  for (u32 p = 0; p < programs_; ++p) {
    load_mm(self, *mm_[p]);
    for (u32 e = 0; huge && e < extents_; ++e)
      pte_alloc(self, *mm_[p], pmd_alloc(self, *mm_[p], at_[p] + e * pmd_size));
    if (start == layout::empty_table) continue;
    for (u64 page = 0; page < filled; ++page) mm_touch(self, *mm_[p], page_va(p, page), access::read);
    if (private_ && has(leaves_copies))
      mm_store(self, *mm_[p], page_va(p, 0), stored);  // a private copy, to be freed
  }
}

void machine_cast::lay_out_anon(layout start) {
  const u64 filled = start == layout::anon_none ? 0 : start == layout::anon_first_page ? 1 : pages();
  for (u64 page = 0; page < filled; ++page) {
    value_of_page_[page] = 100 + page;
    for (u32 p = 0; p < programs_; ++p)
      mm_store(*first_cpu_, *mm_[p], page_va(p, page), value_of_page_[page]);
  }
  if (start == layout::anon_none) pmd_alloc(*first_cpu_, *mm_[0], at_[0]);
  for (u32 e = 0; e < extents_ && start == layout::anon_first_page; ++e)
    for (u32 p = 0; p < programs_; ++p)
      pte_alloc(*first_cpu_, *mm_[p], pmd_alloc(*first_cpu_, *mm_[p], at_[p] + e * pmd_size));
}

/// Those who handle a program's faults, and devices that work on its memory.
void machine_cast::let_others_in(u32 which) {
  cpu& self = *first_cpu_;
  mm& m = *mm_[which];
  if (has_in(which, uses_uffd)) {
    u64 features = 0;
    if (has_in(which, dies_of_reports)) features |= uffd_feature_sigbus;
    if (has_in(which, hears_of_forks)) features |= uffd_feature_event_fork;
    uffd_[which] = new_userfaultfd(self, m, features);
    if (has_in(which, hears_of_missing))
      uffd_register(self, m, *uffd_[which], at_[which], bytes(), vm_uffd_missing);
  }
  if (has_in(which, uses_shadow)) shadow_[which] = register_secondary_mmu(self, m, secondary_kind::shadow);
  if (has_in(which, uses_walker)) walker_[which] = register_secondary_mmu(self, m, secondary_kind::walker);
}

/// A reference to the first page, as a device has it.
void machine_cast::pin_first() {
  cpu& self = *first_cpu_;
  if (!anon_) {
    pinned_ = filemap_get(self, *file_, 0).head;
    return;
  }
  const mmap_read_guard lock(self, *mm_[0]);
  const pmd_t pmd = pmd_of(self, 0).get();
  pinned_ = pmd.huge() ? pmd.pfn() : pte_t{m_->ram.phys.entry(pmd.pgtable(), 0).load(relaxed)}.pfn();
  folio_get(self, pinned_);
}

void machine_cast::make_huge(u32 extent) {
  cpu& self = *first_cpu_;
  collapse_control cc;
  cc.is_khugepaged = true;
  cc.max_ptes_none = pages_per_huge;
  const scan_result r = scan_file(self, *file_, extent * pages_per_huge, cc);
  if (r != scan_result::succeed)
    throw program_error(std::string("the set-up could not make a huge page: ") + to_string(r));
  m_->rcu.barrier(self.rcu);
  if (extent != 0) return;
  const cached_page p = filemap_get(self, *file_, 0);
  huge_ = p.head;
  folio_put(self, p.head);
}

void machine_cast::map(const cast_plan& plan, u32 which) {
  mmap_args args;
  args.file = anon_ ? nullptr : file_;
  args.length = bytes();
  args.shared = !plan.is_private && !anon_;
  args.prot.write = !plan.regular;
  if (plan.askew) {
    args.addr = pmd_align_down(task_size / 2) + pmd_size / 2;
    args.fixed = true;
  }
  at_[which] = sys_mmap(*first_cpu_, *mm_[which], args);
  if (plan.start == layout::anon_huge || plan.start == layout::anon_none)
    sys_madvise(*first_cpu_, *mm_[which], at_[which], bytes(), madv_hugepage);
  if (plan.nohuge) sys_madvise(*first_cpu_, *mm_[which], at_[which], bytes(), madv_nohugepage);
  if (!plan.partial) return;
  mmap_args other;
  other.addr = page_va(which, pages_per_huge - 1);
  other.length = page_size;
  other.fixed = true;
  other.shared = false;
  sys_mmap(*first_cpu_, *mm_[which], other);
}

/// Frames that an actor may need must not come from the common pool, where the order of takers would matter.
void machine_cast::deal_frames() {
  constexpr u32 each = 4;
  for (u32 i = 0; i < n_; ++i) {
    for (u32 k = 0; k < each; ++k) {
      const auto pfn = m_->ram.alloc_page(*first_cpu_, first_cpu_->frames);
      if (!pfn) throw program_error("the set-up ran out of frames");
      m_->ram.free_folio(*parts_[i].self, parts_[i].self->frames, *pfn);
      // Not constructed: who reads it before its new owner has cleared it, reads what it must not.
      m_->ram.phys.fill_page(*pfn, memory::poison);
    }
  }
}

void machine_cast::leave_out_statistics(stage& s) {
  leave_unexplored_memory_pending(s, m_->ram);
  leave_unexplored_memory_pending_max(s, m_->ram);
  // The pool and its lock too, where one actor alone comes to it: huge pages are all that is not dealt out.
  // Faults take them too where they are allowed, and whoever takes pages away gives them back.
  u32 takers =
      start_ == layout::anon_none || start_ == layout::anon_huge || (anon_ && has(takes_huge)) ? n_ : 0;
  for (u32 i = 0; i < n_; ++i) takers += parts_[i].verb->is(takes_huge);
  if (takers < 2) s.leave_unexplored(m_->ram);
  for (u32 p = 0; p < programs_; ++p) {
    s.leave_unexplored(mm_[p]->rss);
    s.leave_unexplored(mm_[p]->pgtables_bytes);
    s.leave_unexplored(mm_[p]->notifiers_open);
    s.leave_unexplored(mm_[p]->notifier_starts);
    s.leave_unexplored(mm_[p]->secondaries);  // none comes or goes
    s.leave_unexplored(mm_[p]->flush_secondary);
  }
  for (pfn_t p = 1; p < m_->ram.frames(); ++p) {
    s.leave_unexplored(m_->ram.of(p).alloc_cpu);
    s.leave_unexplored(m_->ram.of(p).free_cpu);
  }
}

// ---- actors -----------------------------------------------------------------------------------------

void machine_cast::act(u32 i) {
  const cast_actor& a = parts_[i];
  try {
    a.verb->play(*this, a);
  } catch (const segmentation_fault&) {
    if (!has(unmaps)) throw;  // else what it touches may be gone: the program dies, rightly
  } catch (const bus_error&) {
    if (!has(cuts_file) && !has(dies_of_reports)) throw;
  }
  a.self->domain->barrier(a.self->rcu);  // the callbacks that it queued
}

bool may_map(cpu& self, pmd_ref p) { return p && (self.rules->map_may_fail != 0 || p.get().table()); }

bool machine_cast::still_translates(const cast_actor& a) const {
  const mmu_section s(*a.self);
  return a.self->tlb.find_small(page_va(a.which, 0)) != nullptr;
}

bool machine_cast::has(trait t) const { return has_in(0, t) || has_in(1, t); }

bool machine_cast::has_in(u32 which, trait t) const {
  for (u32 i = 0; i < n_; ++i)
    if (parts_[i].which == which && parts_[i].verb->is(t)) return true;
  return false;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
