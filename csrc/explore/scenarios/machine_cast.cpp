#include "explore/scenarios/machine_cast.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "check/check.hpp"
#include "explore/scenarios/reach.hpp"
#include "explore/scenarios/tell.hpp"
#include "khugepaged/collapse.hpp"
#include "mm/access.hpp"
#include "mm/anon_vma.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
constexpr verb verbs[] = {
    {'m', "map", true},
    {'l', "map_lock", true},
    {'n', "map_rw_nolock", true},
    {'R', "retract", true},
    {'C', "collapse_pte_mapped", true},
    {'K', "khugepaged_collapse", true},
    {'F', "collapse_file", true},
    {'c', "collapse_file_decided", true},
    {'f', "load", true},
    {'w', "store", true},
    {'v', "store_last", true},
    {'o', "write_fault_last", true},
    {'h', "hardware_load", true},
    {'g', "lockless_walk", true},
    {'p', "private_page", true},
    {'P', "pinned_store", true},
    {'W', "file_write", true},
    {'A', "madvise_collapse", true},
    {'D', "dontneed", true},
    {'d', "dontneed_and_look", true},
    {'U', "munmap", true},
    {'T', "truncate", true},
    {'X', "exit", true},
    {'u', "rmap", true},
    {'i', "install_table", true},
    {'x', "vma_read", true},
    {'s', "vma_write", true},
    {'y', "collapse_pte_mapped_and_look", false},
    {'Z', "collapse_pte_mapped_and_truncate", false},
};
}  // namespace

std::span<const verb> machine_verbs() { return verbs; }

std::string machine_cast::role(u32 i) const {
  const std::string in = programs_ == 1 ? "" : "@" + std::to_string(parts_[i].which);
  if (parts_[i].steps != nullptr) return parts_[i].steps->name() + in;
  for (const verb& v : verbs)
    if (v.letter == parts_[i].what) return v.name + in;
  return {};
}

program* make_written_cast(const std::string& name, stage& s, const era& rules) {
  // Kept by the stage for as long as there are executions.
  struct kept {
    std::vector<std::string> words;
    std::vector<step_list> steps;
  };
  kept& k = s.keep(kept{});
  for (std::size_t from = 0; from <= name.size();) {
    const std::size_t to = std::min(name.find(':', from), name.size());
    k.words.push_back(name.substr(from, to - from));
    from = to + 1;
  }
  constexpr const char* layouts[] = {"empty_table", "full_table", "small_pages", "no_table",
                                     "small_pages_and_hole"};
  if (k.words.size() < 3) throw program_error("a written cast is cast:PARTS:LAYOUT");
  cast_plan plan{k.words[1].c_str(), layout::empty_table};
  unsigned which = 0;
  while (which < std::size(layouts) && k.words[2] != layouts[which]) ++which;
  if (which == std::size(layouts)) throw program_error("unknown layout '" + k.words[2] + "'");
  plan.start = static_cast<layout>(which);
  for (std::size_t i = 3; i < k.words.size(); ++i) {
    const std::string& word = k.words[i];
    if (word == "2") {
      plan.programs = 2;
    } else if (word == "private") {
      plan.is_private = true;
    } else if (word == "partial") {
      plan.partial = true;
    } else if (word == "extents") {
      plan.extents = 2;
    } else if (word.rfind("do=", 0) == 0) {
      k.steps.emplace_back(word.substr(3));
    } else if (word.rfind("judge=", 0) == 0) {
      plan.judged = word.c_str();
    } else {
      throw program_error("a written cast has no '" + word + "'");
    }
  }
  return pgtbl::make<machine_cast>(s, rules, plan, k.steps);
}

// ---- set-up -----------------------------------------------------------------------------------------

machine_cast::machine_cast(stage& s,
                           const era& rules,
                           const cast_plan& plan,
                           std::span<const step_list> steps)
    : programs_(plan.programs), extents_(plan.extents), private_(plan.is_private), judged_(plan.judged) {
  s.use_abstract_locks(true);
  s.use_abstract_rcu(true);
  s.abandon_spinning(true);
  read_parts(plan.parts);
  machine_config config;
  config.rules = rules;
  config.memory_bytes = 96 * page_size;
  config.cpus = n_ + 1;
  m_ = pgtbl::make<machine>(config);
  first_cpu_ = m_->cpu_get();
  for (u32 i = 0; i < n_; ++i) parts_[i].self = m_->cpu_get();
  file_ = m_->new_mapping(*first_cpu_, bytes());
  for (u32 p = 0; p < programs_; ++p) {
    mm_[p] = m_->new_mm(*first_cpu_);
    map_file(plan, p);
  }
  lay_out(plan.start);
  if (plan.partial) mm_store(*first_cpu_, *mm_[0], page_va(0, pages_per_huge - 1), 7);
  for (u32 i = 0; i < n_; ++i) {
    part& p = parts_[i];
    if (p.what != 'R' && p.what != 'W' && p.what != 'T' && p.what != 'F' && p.what != 'c' && p.what != 'u' &&
        p.what != 'g' && p.what != 'P')
      load_mm(*p.self, *mm_[p.which]);
    // The hardware of those who will use it knows the way already.
    const bool mapped = plan.start != layout::empty_table && plan.start != layout::no_table;
    if (mapped && (p.what == 'h' || p.what == 'd' || p.what == 'y' || (p.what == 'w' && !plan.is_private)))
      mm_touch(*p.self, *mm_[p.which], page_va(p.which, 0), p.what == 'w' ? access::write : access::read);
  }
  if (has('P')) {
    pinned_ = filemap_get(*first_cpu_, *file_, 0).head;  // the reference is the device's
    value_of_page_[0] = 100;
  }
  switch_mm(*first_cpu_, nullptr);
  for (u32 i = 0; i < n_; ++i)
    if (parts_[i].what == 'R') huge_lock_ = folio_lock(*parts_[i].self, huge_);
  std::size_t written = 0;
  for (u32 i = 0; i < n_; ++i) {
    if (parts_[i].what != '*') continue;
    if (written == steps.size())
      throw program_error("there are fewer steps written than actors that do them");
    const u32 which = parts_[i].which;
    parts_[i].steps = pgtbl::make<step_actor>(steps[written++], *mm_[which], *file_, at_[which], huge_);
  }
  deal_frames();
  name_things(s);
  leave_out_statistics(s);
}

void machine_cast::read_parts(const char* parts) {
  for (const char* c = parts; *c != 0; ++c) {
    const bool digit = *c == '0' || *c == '1';
    if (digit ? n_ == 0 : n_ == stage::max_actors)
      throw program_error("a cast is 1 to " + std::to_string(stage::max_actors) +
                          " letters, each with the number of a program or none, not '" + parts + "'");
    if (digit) {
      parts_[n_ - 1].which = static_cast<u32>(*c - '0');
      continue;
    }
    const bool known = *c == '*' || std::any_of(std::begin(verbs), std::end(verbs),
                                                [c](const verb& v) { return v.letter == *c; });
    if (!known) throw program_error(std::string("nobody in a cast is called '") + *c + "'");
    parts_[n_++].what = *c;
  }
}

void machine_cast::lay_out(layout start) {
  cpu& self = *first_cpu_;
  const u64 filled = pages() - (start == layout::small_pages_and_hole ? 1 : 0);
  for (u64 page = 0; page < filled; ++page) {
    value_of_page_[page] = 100 + page;
    file_write(self, *file_, page * page_size, &value_of_page_[page], sizeof value_of_page_[page]);
  }
  if (start == layout::no_table) {
    pmd_alloc(self, *mm_[0], at_[0]);
    return;
  }
  const bool huge = start == layout::empty_table || start == layout::full_table;
  for (u32 e = 0; huge && e < extents_; ++e) make_huge(e);
  for (u32 p = 0; p < programs_; ++p) {
    load_mm(self, *mm_[p]);
    for (u32 e = 0; huge && e < extents_; ++e)
      pte_alloc(self, *mm_[p], pmd_alloc(self, *mm_[p], at_[p] + e * pmd_size));
    if (start == layout::empty_table) continue;
    for (u64 page = 0; page < filled; ++page) mm_touch(self, *mm_[p], page_va(p, page), access::read);
    if (private_ && has('D')) mm_store(self, *mm_[p], page_va(p, 0), stored);  // a private copy, to be freed
  }
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

void machine_cast::map_file(const cast_plan& plan, u32 which) {
  mmap_args args;
  args.file = file_;
  args.length = bytes();
  args.shared = !plan.is_private;
  at_[which] = sys_mmap(*first_cpu_, *mm_[which], args);
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

namespace {
/// "none", "table 30", "huge 36", "page 36 rw dirty".
std::string tell_entry(u64 v, bool leaf) {
  const pmd_t e{v};
  if (e.none()) return "none";
  if ((v & bit_present) == 0) return std::to_string(v);  // a word of data
  std::string s = leaf ? "page " : e.huge() ? "huge page " : "table ";
  s += std::to_string(e.pfn());
  if (!leaf && !e.huge()) return s;
  s += (v & bit_write) != 0 ? " rw" : " ro";
  if ((v & bit_dirty) != 0) s += " dirty";
  return s;
}
std::string tell_upper(u64 v) { return tell_entry(v, false); }
std::string tell_pte(u64 v) { return tell_entry(v, true); }
/// A frame that is a table in one life may be a page in the next.
std::string tell_word(u64 v) {
  return v < 4096 ? std::to_string(v) : "entry of frame " + std::to_string(pmd_t{v}.pfn());
}
std::string tell_state(u64 v) { return to_string(static_cast<frame_state>(v)); }
std::string tell_count(u64 v) { return std::to_string(static_cast<int>(v)); }
std::string tell_section(u64 v) { return (v & 1) != 0 ? "inside" : "outside"; }
}  // namespace

std::string machine_cast::held_by(u32 i) const {
  const cpu& c = *parts_[i].self;
  std::string s = locks_of(c);
  if (c.rcu.in_section()) add_held(s, "rcu");
  return s;
}

program::place machine_cast::doing(u32 i) const {
  const step_actor* steps = parts_[i].steps;
  if (steps == nullptr || steps->now() == nullptr) return {};
  return {steps->name(), steps->now()->text, steps->now()->number};
}

void machine_cast::name_things(stage& s) {
  s.name_all(*m_, "machine");
  s.name_all(*file_, "file");
  for (pfn_t p = 1; p < m_->ram.frames(); ++p) {
    const std::string frame_name = "frame " + std::to_string(p);
    frame& f = m_->ram.of(p);
    s.name_all(f, frame_name);
    s.name_all(f.flags, "folio " + std::to_string(p) + " (lock and flags)");
    s.name_all(f.state, frame_name + ".state", false, tell_state);
    s.name_all(f.generation, frame_name + ".generation");
    s.name_all(f.refcount, frame_name + ".refcount");
    s.name_all(f.mapcount, frame_name + ".mapcount", false, tell_count);
    s.name_all(f.ptl, "ptl of " + frame_name);
    s.name_range(m_->ram.phys.entries(p), ptrs_per_table * sizeof(atomic<u64>), frame_name, true, tell_word);
  }
  for (u32 p = 0; p < programs_; ++p) {
    const std::string mine = programs_ == 1 ? "" : " of program " + std::to_string(p);
    s.name_all(*mm_[p], "mm" + mine);
    s.name_all(mm_[p]->mmap_lock, "mmap_lock" + mine);
    s.name_all(mm_[p]->users, "mm_users" + mine);
    mm_[p]->vmas.for_each(0, task_size, [&](const vma_entry& e) {
      s.name_all(*e.vma, "VMA" + mine);
      s.name_all(e.vma->lock, "VMA lock" + mine);
      s.name_all(e.vma->node, "i_mmap node" + mine);
    });
    const pmd_ref pmdp = pmd_of(*first_cpu_, p);
    if (!pmdp) continue;
    s.name_all(*pmdp.slot, "PMD" + mine, false, tell_upper);
    s.name_all(pml_of(*first_cpu_, pmdp), "pml" + mine);
    const pmd_t v = pmdp.get();
    if (!v.table()) continue;
    s.name_all(ptl_of(*first_cpu_, v), "ptl" + mine);
    s.name_range(m_->ram.phys.entries(v.pfn()), ptrs_per_table * sizeof(atomic<u64>), "PTE" + mine, true,
                 tell_pte);
  }
  s.name_all(file_->pages, "page cache");
  s.name_all(file_->i_mmap, "i_mmap tree");
  s.name_all(file_->i_mmap_rwsem, "i_mmap_rwsem");
  s.name_all(guarded_, "what the VMA's lock protects");
  for (u32 i = 0; i < n_; ++i) {
    const std::string name = "CPU " + s.actor_name(i);
    s.name_all(*parts_[i].self, name);
    s.name_all(parts_[i].self->rcu, "RCU section of " + s.actor_name(i), false, tell_section);
    s.name_all(parts_[i].self->irq, "interrupts of " + s.actor_name(i));
  }
}

void machine_cast::leave_out_statistics(stage& s) {
  leave_unexplored_memory_pending(s, m_->ram);
  leave_unexplored_memory_pending_max(s, m_->ram);
  // The pool and its lock too, where one actor alone comes to it: huge pages are all that is not dealt out.
  u32 takers = 0;
  for (u32 i = 0; i < n_; ++i)
    takers += parts_[i].what == 'F' || parts_[i].what == 'c' || parts_[i].what == 'A';
  if (takers < 2) s.leave_unexplored(m_->ram);
  for (u32 p = 0; p < programs_; ++p) {
    s.leave_unexplored(mm_[p]->rss);
    s.leave_unexplored(mm_[p]->pgtables_bytes);
    s.leave_unexplored(mm_[p]->notifiers_open);
    s.leave_unexplored(mm_[p]->notifier_starts);
  }
  for (pfn_t p = 1; p < m_->ram.frames(); ++p) {
    s.leave_unexplored(m_->ram.of(p).alloc_cpu);
    s.leave_unexplored(m_->ram.of(p).free_cpu);
  }
}

// ---- actors -----------------------------------------------------------------------------------------

pmd_ref machine_cast::pmd_of(cpu& self, u32 which) { return pmd_offset(self, *mm_[which], at_[which]); }

void machine_cast::act(u32 i) {
  try {
    play(i);
  } catch (const segmentation_fault&) {
    if (!has('U') && !has('X')) throw;  // else what it touches may be gone: the program dies, rightly
  } catch (const bus_error&) {
    if (!has('T') && !has('Z')) throw;
  }
  cpu& self = *parts_[i].self;
  self.domain->barrier(self.rcu);  // the callbacks that it queued
}

void machine_cast::play(u32 i) {
  const part& p = parts_[i];
  cpu& self = *p.self;
  mm& user = *mm_[p.which];
  const va_t first = page_va(p.which, 0);
  switch (p.what) {
    case 'm': map_and_read(self, p.which); break;
    case 'l': map_and_lock(self, p.which); break;
    case 'n': map_and_lock_later(self, p.which); break;
    case 'R': retract(self); break;
    case 'C': collapse_mapped(self, p.which, true); break;
    case 'Z':
      collapse_mapped(self, p.which, true);
      file_truncate(self, *file_, 0);
      break;
    case 'K': collapse_mapped(self, p.which, false); break;
    case 'f': mm_load(self, user, first); break;
    case 'w':
      mm_store(self, user, first, stored + i);
      done_[i] = true;
      break;
    case 'h':
      mmu_access(self, first, access::read, [&](pfn_t pfn, u64) { self.ram->phys.load_word(pfn, 0); });
      break;
    case 'W': {
      const u64 word = stored + i;
      file_write(self, *file_, pmd_size - page_size, &word, sizeof word);
      done_[i] = true;
      break;
    }
    case 'F':
    case 'c': {
      collapse_control cc;
      cc.is_khugepaged = true;
      cc.max_ptes_none = pages_per_huge;
      p.what == 'F' ? scan_file(self, *file_, 0, cc) : collapse_file(self, *file_, 0, cc);
      break;
    }
    case 'v':
      mm_store(self, user, page_va(p.which, pages_per_huge - 1), stored + i);
      done_[i] = true;
      break;
    case 'g': walk_lockless(self); break;
    case 'p': put_private_page(self); break;
    case 'P':
      self.ram->phys.store_word(pinned_, 0, stored + i);
      done_[i] = true;
      folio_put(self, pinned_);
      break;
    case 'A': try { sys_madvise(self, user, first, bytes(), madv_collapse);
      } catch (const os_error&) {
        // An advice may be refused.
      }
      break;
    case 'T': file_truncate(self, *file_, 0); break;
    case 'D': sys_madvise(self, user, first, pmd_size, madv_dontneed); break;
    case 'U': sys_munmap(self, user, first, bytes()); break;
    case 'X': exit_mmap(self, user); break;
    case 'u': unmap_first(self); break;
    case 'd': zap_and_look(self, p.which); break;
    case '*': p.steps->run(self); break;
    case 'i': install_table(self, p.which); break;
    case 'o': write_fault(self, p.which, pages_per_huge - 1); break;
    case 'y': collapse_and_look(self, p.which); break;
    case 'x': read_under_vma_lock(self, p.which); break;
    case 's': write_under_vma_lock(self, p.which); break;
    default: break;
  }
}

/// Not where the program has ended.  Before 6.5 mapping could not fail: its callers looked first, and mmap_lock kept
/// what they saw.
bool machine_cast::may_map(cpu& self, pmd_ref p) {
  return p && (self.rules->map_may_fail != 0 || p.get().table());
}

/// Under mmap_lock for read, as walkers of a mapping are.
void machine_cast::map_and_read(cpu& self, u32 which) {
  const mmap_read_guard lock(self, *mm_[which]);
  const pmd_ref p = pmd_of(self, which);
  if (!may_map(self, p)) return;
  const auto t = pte_offset_map(self, p, at_[which]);
  if (t) static_cast<void>(t->get());
}

void machine_cast::check_still_there(pmd_ref p, const pte_locked& t) {
  if (p.get() != t.pmdval())
    pgtbl::fail("G-33: a locked table has left its PMD: what is written into it is lost");
}

void machine_cast::map_and_lock(cpu& self, u32 which) {
  const mmap_read_guard lock(self, *mm_[which]);
  const pmd_ref p = pmd_of(self, which);
  if (!may_map(self, p)) return;
  const auto t = pte_offset_map_lock(self, p, at_[which]);
  if (!t) return;
  static_cast<void>(t->get());
  check_still_there(p, *t);
}

void machine_cast::map_and_lock_later(cpu& self, u32 which) {
  const mmap_read_guard lock(self, *mm_[which]);
  const pmd_ref p = pmd_of(self, which);
  if (!may_map(self, p)) return;
  auto m = pte_offset_map_rw_nolock(self, p, at_[which]);
  if (!m) return;
  static_cast<void>(m->get());
  const pmd_t seen = m->pmdval();
  const pte_locked t = std::move(*m).lock();
  if (p.get() != seen) return;  // pmd_same
  static_cast<void>(t.get());
  check_still_there(p, t);
}

/// The end of collapse_file: the huge page is published, and locked since before that.
void machine_cast::retract(cpu& self) {
  collapse_control cc;
  cc.is_khugepaged = true;
  retract_page_tables(self, *file_, 0, huge_, cc);
  folio_unlock(self, huge_, huge_lock_);
}

void machine_cast::collapse_mapped(cpu& self, u32 which, bool install) {
  mm& m = *mm_[which];
  if (self.rules->collapse_mmap_write) {
    const mmap_write_guard lock(self, m);
    if (!m.exiting()) collapse_pte_mapped_thp(self, m, at_[which], install);
    return;
  }
  const mmap_read_guard lock(self, m);
  if (!m.exiting()) collapse_pte_mapped_thp(self, m, at_[which], install);
}

void machine_cast::unmap_first(cpu& self) {
  const cached_page page = filemap_get(self, *file_, 0);
  if (!page) return;
  {
    const folio_guard folio(self, page.head);
    if (still_cached(self, *file_, 0, page)) try_to_unmap(self, page.head);
    flush_unmap_batch(self);
  }
  folio_put(self, page.head);
}

/// What GUP-fast does: nothing but interrupts off.  This CPU is not in the program's mask, so that no flush
/// waits for it: the interrupt to all CPUs does.
void machine_cast::walk_lockless(cpu& self) {
  const irq_guard off(self.irq);
  // Where tables are freed by RCU, interrupts off keep a grace period waiting, as a section does.
  std::optional<rcu_section> section;
  if (self.rules->free_by_rcu) section.emplace(self.rcu);
  const pmd_ref p = pmd_of(self, 0);
  if (!p) return;
  const pmd_t v = p.get();
  if (v.table()) static_cast<void>(self.ram->phys.entry(v.pfn(), 0).load(acquire));
}

/// Without touching the page cache, so that its folio lock is no obstacle.
void machine_cast::put_private_page(cpu& self) {
  mm& m = *mm_[0];
  const mmap_read_guard lock(self, m);
  vma* v = m.vmas.find(at_[0]);
  if (v == nullptr) return;
  const auto pfn = self.ram->alloc_page(self, self.frames);
  if (!pfn) return;
  self.ram->phys.clear_page(*pfn);
  anon_vma_prepare(self, *v);  // before the table's lock is taken
  folio_set_new_anon(self, *pfn, *v, at_[0]);
  const pmd_ref p = pmd_of(self, 0);
  if (may_map(self, p)) {
    auto t = pte_offset_map_lock(self, p, at_[0]);
    if (t && t->get().none()) {
      self.ram->of(*pfn).mapcount.fetch_add(1, relaxed);
      m.rss.add(self, rss_kind::anon, 1);
      t->set(at_[0], mk_pte(*pfn, v->prot()));
      return;
    }
  }
  folio_put(self, *pfn);
}

/// Whether this CPU's TLB has the first page; nothing but an access of this CPU puts it there.
bool machine_cast::still_translates(cpu& self, u32 which) {
  const mmu_section s(self);
  return self.tlb.find_small(page_va(which, 0)) != nullptr;
}

/// What a program may rely on once the call has returned, whoever cleared the entry.
void machine_cast::zap_and_look(cpu& self, u32 which) {
  sys_madvise(self, *mm_[which], page_va(which, 0), page_size, madv_dontneed);
  if (still_translates(self, which))
    pgtbl::fail("G-14: MADV_DONTNEED has returned, and the first page is still translated");
}

void machine_cast::install_table(cpu& self, u32 which) {
  const mmap_read_guard lock(self, *mm_[which]);
  const pmd_ref p = pmd_of(self, which);
  if (p && !pte_alloc(self, *mm_[which], p)) throw program_error("no frame is left for a table");
}

/// A write fault alone: the processor has found the entry read-only, and does not repeat the store.
void machine_cast::write_fault(cpu& self, u32 which, u64 page) {
  const mmap_read_guard lock(self, *mm_[which]);
  fault_under_mmap_lock(self, *mm_[which], page_va(which, page), access::write);
}

/// A collapse that aborts half-way has cleared the first entry, and nobody else does.
void machine_cast::collapse_and_look(cpu& self, u32 which) {
  collapse_mapped(self, which, true);
  const pmd_ref p = pmd_of(self, which);
  if (!p || !p.get().table()) return;
  bool cleared = false;
  if (const auto t = pte_offset_map(self, p, at_[which])) cleared = t->get().none();
  if (cleared && still_translates(self, which))
    pgtbl::fail("G-14: a collapse that gave up cleared the first entry, and the page is still translated");
}

void machine_cast::read_under_vma_lock(cpu& self, u32 which) {
  if (const auto v = lock_vma_under_rcu(self, *mm_[which], at_[which])) static_cast<void>(guarded_.get());
}

/// What mprotect does: mmap_lock for write, and the mark.
void machine_cast::write_under_vma_lock(cpu& self, u32 which) {
  mmap_write_guard lock(self, *mm_[which]);
  vma* v = mm_[which]->vmas.find(at_[which]);
  if (v == nullptr) return;
  vma_start_write(self, *v);
  guarded_ += 1;
}

// ---- judgement --------------------------------------------------------------------------------------

bool machine_cast::has(char what) const {
  for (u32 i = 0; i < n_; ++i)
    if (parts_[i].what == what) return true;
  return false;
}

void machine_cast::judge() {
  for (u32 i = 0; i < n_ && judges("sections"); ++i)
    if (parts_[i].self->rcu.in_section())
      pgtbl::fail("G-10: an RCU read section was left open: its table is never freed");
  if (m_->breaches.any()) {
    pgtbl::fail(m_->breaches.text().c_str());
    return;
  }
  if (judges("accounts"))
    for (const std::string& text : check_machine(*first_cpu_, *m_)) pgtbl::fail(text.c_str());
  if (!judges("stores")) return;
  if (has('T') || has('Z') || has('p') || private_) return;
  for (u64 page = 0; page < pages(); ++page) {
    u64 word = 0;
    file_read(*first_cpu_, *file_, page * page_size, &word, sizeof word);
    bool expected = word == value_of_page_[page], somebody = false;
    for (u32 i = 0; i < n_; ++i) {
      const bool here = ((parts_[i].what == 'w' || parts_[i].what == 'P') && page == 0) ||
                        ((parts_[i].what == 'W' || parts_[i].what == 'v') && page == pages_per_huge - 1);
      if (!here || !done_[i]) continue;
      if (!somebody) expected = false;  // the old value was overwritten
      somebody = true;
      expected |= word == stored + i;
    }
    if (!expected)
      pgtbl::fail(
          ("a store was lost: page " + std::to_string(page) + " of the file holds " + std::to_string(word))
              .c_str());
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
