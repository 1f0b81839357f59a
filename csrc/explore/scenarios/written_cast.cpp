// Casts that are written down instead of shipped: "cast:VERB,VERB@1:LAYOUT[:2][:private]...", read into a plan.
#include <algorithm>
#include <string>
#include <vector>

#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

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
  if (k.words.size() < 3) throw program_error("a written cast is cast:VERBS:LAYOUT");
  cast_plan plan{k.words[1].c_str(), layout::empty_table};
  unsigned which = 0;
  while (which < std::size(layout_names) && k.words[2] != layout_names[which]) ++which;
  if (which == std::size(layout_names)) throw program_error("unknown layout '" + k.words[2] + "'");
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
    } else if (word == "broadcast") {
      plan.broadcast = true;
    } else if (word == "regular") {
      plan.regular = true;
    } else if (word == "nohuge") {
      plan.nohuge = true;
    } else if (word == "askew") {
      plan.askew = true;
    } else if (word.rfind("put_off=", 0) == 0) {
      const char digit = word.size() == 9 ? word[8] : '0';
      if (digit < '1' || digit > '0' + char{put_off_array::capacity})
        throw program_error("'" + word + "': 1 to " + std::to_string(put_off_array::capacity) +
                            " extents can be put off");
      plan.put_off = static_cast<u32>(digit - '0');
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

}  // namespace pgtbl::inline PGTBL_WORLD::explore
