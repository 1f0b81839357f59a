// What traces say of a cast on a machine: the names of everything that may be met, values of entries, locks held.
#include <string>

#include "explore/scenarios/machine_cast.hpp"
#include "explore/scenarios/tell.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
/// "none", "table 30", "huge 36", "page 36 rw dirty".
std::string tell_entry(u64 v, bool leaf) {
  const pmd_t e{v};
  if (e.none()) return "none";
  if (!leaf && e.huge() && (v & bit_present) == 0)
    return "huge page " + std::to_string(e.pfn()) + " being split";
  if (leaf && pte_t{v}.marker() == marker_guard) return "guard";
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

void machine_cast::name_extent(stage& s, u32 which, u32 extent, const std::string& mine) {
  const std::string of = (extent == 0 ? "" : " of extent " + std::to_string(extent)) + mine;
  const pmd_ref pmdp = pmd_offset(*first_cpu_, *mm_[which], at_[which] + extent * pmd_size);
  if (!pmdp) return;
  s.name_all(*pmdp.slot, "PMD" + of, false, tell_upper);
  s.name_all(pml_of(*first_cpu_, pmdp), "pml" + mine);
  const pmd_t v = pmdp.get();
  if (!v.table()) return;
  s.name_all(ptl_of(*first_cpu_, v), "ptl" + of);
  s.name_range(m_->ram.phys.entries(v.pgtable()), ptrs_per_table * sizeof(atomic<u64>), "PTE" + of, true,
               tell_pte);
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
    s.name_range(m_->ram.phys.entries(table_at(p)), ptrs_per_table * sizeof(atomic<u64>), frame_name, true,
                 tell_word);
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
    for (u32 e = 0; e < extents_; ++e) name_extent(s, p, e, mine);
  }
  s.name_all(file_->pages, "page cache");
  s.name_all(file_->i_mmap, "i_mmap tree");
  s.name_all(file_->i_mmap_rwsem, "i_mmap_rwsem");
  s.name_all(guarded_, "what the VMA's lock protects");
  s.name_all(told_, "what the program tells its threads");
  for (u32 i = 0; i < n_; ++i) {
    const std::string name = "CPU " + s.actor_name(i);
    s.name_all(*parts_[i].self, name);
    s.name_all(parts_[i].self->rcu, "RCU section of " + s.actor_name(i), false, tell_section);
    s.name_all(parts_[i].self->irq, "interrupts of " + s.actor_name(i));
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
