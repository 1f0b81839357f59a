// What must hold when all actors of a cast on a machine have ended.
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "check/check.hpp"
#include "explore/scenarios/machine_cast.hpp"
#include "mm/access.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

void machine_cast::judge() {
  for (u32 i = 0; i < n_ && judges("sections"); ++i)
    if (parts_[i].self->rcu.in_section())
      pgtbl::fail("G-10: an RCU read section was left open: its table is never freed");
  if (m_->breaches.any()) {
    pgtbl::fail(m_->breaches.text().c_str());
    return;
  }
  if (judges("accounts")) {
    const std::vector<std::string> wrong = check_machine(*first_cpu_, *m_);
    for (const std::string& text : wrong) pgtbl::fail(text.c_str());
    if (!wrong.empty()) return;  // what is found in such a machine means nothing
  }
  // What is looked at from here on is looked at by faults.
  for (u32 p = 0; p < programs_; ++p)
    if (uffd_[p] != nullptr) uffd_release(*first_cpu_, *mm_[p], *uffd_[p]);
  if (!judges("stores")) return;
  const bool of_file = !anon_ && !private_ && !has(cuts_file) && !has(own_pages);
  if (of_file || (anon_ && !has(unmaps))) judge_stores();
  judge_guards();
}

/// What is found there in the end: by the program, or where that maps the file, by everybody.
u64 machine_cast::word_of(u64 page) {
  u64 word = 0;
  if (anon_) return mm_load(*first_cpu_, *mm_[0], page_va(0, page));
  file_read(*first_cpu_, *file_, page * page_size, &word, sizeof word);
  return word;
}

void machine_cast::judge_stores() {
  for (u64 page = 0; page < pages(); ++page) {
    const u64 word = word_of(page);
    bool expected = word == value_of_page_[page] || (word == 0 && has(drops)), somebody = false;
    for (u32 i = 0; i < n_; ++i) {
      if (stored_to_[i] != page + 1) continue;
      if (!somebody) expected = word == 0 && has(drops);  // the old value was overwritten
      somebody = true;
      expected |= word == mark_of(parts_[i]);
    }
    if (!expected)
      pgtbl::fail(("a store was lost: page " + std::to_string(page) +
                   (anon_ ? " holds " : " of the file holds ") + std::to_string(word))
                      .c_str());
  }
}

void machine_cast::judge_guards() {
  for (u32 i = 0; i < n_; ++i) {
    if (guarded_page_[i] == 0) continue;
    const u64 page = guarded_page_[i] - 1;
    try {
      mm_load(*first_cpu_, program_of(parts_[i]), page_va(parts_[i].which, page));
      pgtbl::fail(("G-17: the guard in page " + std::to_string(page) + " is gone").c_str());
    } catch (const segmentation_fault&) {
      // As it should be.
    }
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
