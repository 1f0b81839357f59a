#include "explore/scenarios/steps.hpp"

#include <sstream>

#include "explore/program.hpp"
#include "mm/zap.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

// ---- reading ------------------------------------------------------------------------------------------

namespace {

u32 to_number(const std::string& word, u32 below, const std::string& step) {
  u32 n = 0;
  for (const char c : word) {
    if (c < '0' || c > '9' || n > below)
      throw program_error("'" + word + "' is no number, in step '" + step + "'");
    n = n * 10 + static_cast<u32>(c - '0');
  }
  if (word.empty() || n >= below)
    throw program_error("'" + word + "' is not below " + std::to_string(below) + ", in step '" + step + "'");
  return n;
}

step_kind kind_named(const std::string& name) {
  for (unsigned i = 0; i < std::size(step_table); ++i)
    if (name == step_table[i].name) return static_cast<step_kind>(i);
  throw program_error("unknown step '" + name + "'");
}

}  // namespace

step_list::step_list(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos) throw program_error("steps are written as NAME=STEP;STEP;...");
  name_ = text.substr(0, equals);
  std::istringstream all(text.substr(equals + 1));
  for (std::string one; std::getline(all, one, ';');) {
    std::istringstream words(one);
    std::vector<std::string> word;
    for (std::string w; words >> w;) word.push_back(w);
    if (word.size() < 2)
      throw program_error("a step is a number, a verb and its operands, not '" + one + "'");
    step s;
    s.number = to_number(word[0], 10000, one);
    s.kind = kind_named(word[1]);
    s.text = one.substr(one.find(word[1]));
    const std::string operands = step_table[static_cast<unsigned>(s.kind)].operands;
    if (word.size() != 2 + operands.size())
      throw program_error("step '" + s.text + "' needs " + std::to_string(operands.size()) + " operands");
    u32 read = 0;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const std::string& w = word[2 + i];
      switch (operands[i]) {
        case 'v': s.from[read++] = variable(w); break;
        case '=': s.to = variable(w); break;
        case 'i': s.index = to_number(w, static_cast<u32>(pages_per_huge), one); break;
        default: s.target = to_number(w, most_steps + 1, one); break;
      }
    }
    steps_.push_back(s);
  }
  if (steps_.empty() || steps_.size() > most_steps)
    throw program_error("an actor has 1 to " + std::to_string(most_steps) + " steps, not " +
                        std::to_string(steps_.size()));
}

u32 step_list::variable(const std::string& word) {
  for (u32 i = 0; i < variables_.size(); ++i)
    if (variables_[i] == word) return i;
  if (variables_.size() == most_variables)
    throw program_error("an actor has at most " + std::to_string(most_variables) + " variables");
  variables_.push_back(word);
  return static_cast<u32>(variables_.size() - 1);
}

// ---- acting -------------------------------------------------------------------------------------------

void step_actor::run(cpu& self) {
  const auto& steps = list_.steps();
  for (u32 at = 0; at < steps.size() && !stopped_;) {
    const step_list::step& s = steps[at];
    now_ = &s;
    if (s.kind == step_kind::stop) break;
    if (s.kind == step_kind::again) {
      cpu_relax();
      at = 0;
    } else {
      const bool goes_on = one(self, s);
      at = goes_on ? at + 1 : s.target;
    }
  }
  end(self);
  now_ = nullptr;
}

/// What the program says is wrong with itself ends it.
void step_actor::wrong(const std::string& what) {
  pgtbl::fail(
      (list_.name() + ", step " + std::to_string(now_->number) + " (" + now_->text + "): " + what).c_str());
  stopped_ = true;
}

bool step_actor::table_or_fail(pmd_t value) {
  if (value.table()) return true;
  wrong(value.none() ? "the PMD is none, and this needs its table" : "the PMD leads to no table");
  return false;
}

void step_actor::end(cpu& self) {
  if (stopped_) return;
  static constexpr const char* names[] = {"the pml",      "mmap_lock",    "mmap_lock",
                                          "i_mmap_rwsem", "i_mmap_rwsem", "the folio lock"};
  for (u32 i = 0; i < slots; ++i)
    if (held_[i]) return wrong(std::string("the actor ends, and holds ") + names[i]);
  if (tables_held_ != 0) return wrong("the actor ends, and holds a ptl");
  if (self.rcu.in_section()) wrong("the actor ends inside of an RCU read section");
}

void step_actor::take(cpu& self, lock_slot which) {
  if (held_[which]) return wrong("the actor holds that lock already");
  rwsem& i_mmap = file_.i_mmap_rwsem;
  switch (which) {
    case pml: {
      holds_[which] = pml_of(self, pmdp_).lock(self, lock_class::pml);
      break;
    }
    case mmap_read: holds_[which] = mm_.mmap_lock.read_lock(self); break;
    case mmap_write: holds_[which] = mm_.mmap_lock.write_lock(self); break;
    case i_mmap_read: holds_[which] = i_mmap.read_lock(self); break;
    case i_mmap_write: holds_[which] = i_mmap.write_lock(self); break;
    default: holds_[which] = folio_lock(self, huge_); break;
  }
  held_[which] = true;
}

void step_actor::give(cpu& self, lock_slot which) {
  if (!held_[which]) return wrong("the actor does not hold that lock");
  held_[which] = false;
  rwsem& i_mmap = file_.i_mmap_rwsem;
  const hold h = holds_[which];
  switch (which) {
    case pml: pml_of(self, pmdp_).unlock(self, lock_class::pml, h); break;
    case mmap_read: mm_.mmap_lock.read_unlock(self, h); break;
    case mmap_write:
      vma_end_write_all(mm_);
      mm_.mmap_lock.write_unlock(self, h);
      break;
    case i_mmap_read: i_mmap.read_unlock(self, h); break;
    case i_mmap_write: i_mmap.write_unlock(self, h); break;
    default: folio_unlock(self, huge_, h); break;
  }
}

void step_actor::take_table(cpu& self, pmd_t table) {
  if (!table_or_fail(table)) return;
  if (tables_held_ == std::size(tables_)) return wrong("the actor holds too many ptls");
  const hold h = ptl_of(self, table).lock(self, lock_class::ptl);
  tables_[tables_held_++] = {table.pgtable(), h};
}

void step_actor::give_table(cpu& self, pmd_t table) {
  for (u32 i = 0; i < tables_held_; ++i) {
    if (tables_[i].table != table.pgtable()) continue;
    const hold h = tables_[i].h;
    tables_[i] = tables_[--tables_held_];
    ptl_of(self, table).unlock(self, lock_class::ptl, h);
    return;
  }
  wrong("the actor does not hold that table's lock");
}

/// As a fault does: the mapping's reference, map count and rss come with the entry.
void step_actor::map_page(cpu& self, pmd_t table, u64 page) {
  if (!table_or_fail(table)) return;
  vma* v = mm_.vmas.find(at_);
  const cached_page p = filemap_get(self, file_, page);
  if (v == nullptr || !p) return wrong("there is no such page, or no mapping of it");
  atomic<u64>& slot = entry(self, table, page);
  if (slot.load(acquire) != 0) return folio_put(self, p.head);
  self.ram->of(p.pfn).mapcount.fetch_add(1, relaxed);
  mm_.rss.add(self, rss_kind::shmem, 1);
  slot.store(mk_pte(p.pfn, v->prot()).v, release);
}

void step_actor::unmap_page(cpu& self, pmd_t table, u64 page) {
  if (!table_or_fail(table)) return;
  const pte_t old{entry(self, table, page).exchange(0, acq_rel)};
  if (!old.present()) return;
  page_remove_pte(self, mm_, old.pfn(), old);
  folio_put(self, self.ram->head_of(old.pfn()));
}

bool step_actor::is_empty(cpu& self, pmd_t table) {
  if (!table_or_fail(table)) return false;
  for (u64 i = 0; i < ptrs_per_table; ++i)
    if (entry(self, table, i).load(acquire) != 0) return false;
  return true;
}

bool step_actor::one(cpu& self, const step_list::step& s) {
  // Found once, as a walker does: the levels above are not this cast's concern.
  if (!pmdp_) pmdp_ = pmd_offset(self, mm_, at_);
  if (!pmdp_) return wrong("the program has no PMD here any more"), false;
  atomic<u64>& slot = *pmdp_.slot;
  const pmd_t value{values_[s.from[0]]};
  u64& result = values_[s.to];
  switch (s.kind) {
    case step_kind::read_pmd: result = slot.load(acquire); break;
    case step_kind::read_pte:
      if (table_or_fail(value)) result = entry(self, value, s.index).load(acquire);
      break;
    case step_kind::clear_pmd: result = slot.exchange(0, acq_rel); break;
    case step_kind::set_pmd: slot.store(value.v, release); break;
    case step_kind::map_page: map_page(self, value, s.index); break;
    case step_kind::unmap_page: unmap_page(self, value, s.index); break;
    case step_kind::lock_pml: take(self, pml); break;
    case step_kind::unlock_pml: give(self, pml); break;
    case step_kind::lock_ptl: take_table(self, value); break;
    case step_kind::unlock_ptl: give_table(self, value); break;
    case step_kind::rcu_read_lock: self.rcu.read_lock(); break;
    case step_kind::rcu_read_unlock:
      if (!self.rcu.in_section()) {
        wrong("the actor is in no section");
      } else {
        self.rcu.read_unlock();
      }
      break;
    case step_kind::lock_mmap_read: take(self, mmap_read); break;
    case step_kind::unlock_mmap_read: give(self, mmap_read); break;
    case step_kind::lock_mmap_write: take(self, mmap_write); break;
    case step_kind::unlock_mmap_write: give(self, mmap_write); break;
    case step_kind::lock_i_mmap_read: take(self, i_mmap_read); break;
    case step_kind::unlock_i_mmap_read: give(self, i_mmap_read); break;
    case step_kind::lock_i_mmap_write: take(self, i_mmap_write); break;
    case step_kind::unlock_i_mmap_write: give(self, i_mmap_write); break;
    case step_kind::lock_folio: huge_ != 0 ? take(self, folio) : wrong("no huge page is cached"); break;
    case step_kind::unlock_folio: give(self, folio); break;
    case step_kind::flush: flush_tlb_range(self, mm_, at_, at_ + pmd_size, true); break;
    case step_kind::flush_leaf: flush_tlb_range(self, mm_, at_, at_ + pmd_size, false); break;
    case step_kind::ipi: tlb_remove_table_sync_one(self); break;
    case step_kind::free:
    case step_kind::defer:
      if (!table_or_fail(value)) break;
      pte_detached(self, mm_, value.pgtable());
      s.kind == step_kind::defer ? pte_free_defer(self, mm_, value.pgtable())
                                 : pte_free(self, mm_, value.pgtable());
      break;
    case step_kind::synchronize:
      if (self.rcu.in_section()) {
        wrong("to wait for readers inside of a section is to wait for oneself");
      } else {
        self.domain->synchronize(self.rcu);
      }
      break;
    case step_kind::must_be_same:
      if (value.v != values_[s.from[1]]) wrong("they differ");
      break;
    case step_kind::unless_table: return value.table();
    case step_kind::unless_none: return value.none();
    case step_kind::unless_same: return value.v == values_[s.from[1]];
    case step_kind::unless_empty: return is_empty(self, value);
    case step_kind::go: return false;
    case step_kind::stop:
    case step_kind::again: break;  // run()'s own
  }
  return !stopped_;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
