// list.hpp -- the architectures that there are: what differs, for whoever asks by name.
#pragma once
#include <iterator>
#include <string>
#include <string_view>

#include "world/geometry.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct arch_row {
  const char* name;
  const char* form;  // of its tables
  const char* eras;  // in which it has that form
  u32 page_bytes, entries, tables_per_page, levels;
  bool split_ptl, split_pml, vma_locks, thp;
};

inline constexpr const char* all_eras = "v6.4 v6.5 v6.6 v6.13 v6.14 v6.17 v6.18";

inline constexpr arch_row arch_table[] = {
    {"x86-64", "one table a page", all_eras, 4096, 512, 1, 4, true, true, true, true},
    {"x86-pae", "entries in two halves", all_eras, 4096, 512, 1, 3, true, true, false, true},
    {"arm", "virtually tagged caches", all_eras, 4096, 512, 1, 2, false, false, false, false},
    {"arm", "split locks (hypothetical)", all_eras, 4096, 512, 1, 2, true, false, false, false},
    {"powerpc", "fragments, 64K pages", all_eras, 65536, 256, 16, 4, true, true, true, true},
    {"sparc64", "handles are pointers to entries", all_eras, 8192, 1024, 1, 4, true, false, false, true},
    {"s390", "two halves a page", "v6.4 v6.5 v6.6", 4096, 256, 2, 4, true, true, true, true},
    {"s390", "one table a page", "v6.13 v6.14 v6.17 v6.18", 4096, 256, 1, 4, true, true, true, true},
};

/// The name, quoted.
inline std::string quoted(std::string_view name) {
  std::string q(1, '\'');
  q.append(name);
  q.push_back('\'');
  return q;
}

/// "'x86-64', 'x86-pae', ...".
inline std::string arch_names() {
  std::string names;
  for (const arch_row& r : arch_table) {
    const std::string name = quoted(r.name);
    if (names.find(name) != std::string::npos) continue;
    if (!names.empty()) names.append(", ");
    names.append(name);
  }
  return names;
}

/// Whether the list of names, parted by spaces, has this one.
inline bool lists(std::string_view names, std::string_view name) {
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end =
        names.find(' ', at) == std::string_view::npos ? names.size() : names.find(' ', at);
    if (names.substr(at, end - at) == name) return true;
    at = end + 1;
  }
  return false;
}

/// The form of this build's architecture in that era: the one that it had then, or that of this name (empty: none
/// asked for).  Null: there was none, and `why` says what there is.
inline const arch_row* form_in(std::string_view era, std::string_view form, std::string& why) {
  why = std::string(geometry.name) + " has";
  for (const arch_row& r : arch_table) {
    if (std::string_view(r.name) != geometry.name) continue;
    if (lists(r.eras, era) && (form.empty() || form == r.form)) return &r;
    why += (why.back() == 's' ? " " : ", ") + quoted(r.form) + " in " + r.eras;
  }
  why = "form " + quoted(form) + " in " + std::string(era) + ": " + why;
  return nullptr;
}

}  // namespace pgtbl::inline PGTBL_WORLD
