// list.hpp -- the architectures that there are: what differs, for whoever asks by name.
#pragma once
#include <iterator>
#include <string>
#include <string_view>

#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct arch_row {
  const char* name;
  const char* form;  // of its tables
  const char* eras;  // in which it has that form
  u32 page_bytes, entries, tables_per_page, levels;
  bool split_ptl, split_pml, vma_locks, thp;
  bool machine;  // Machine(arch=name) makes one; the explorer plays all of them
};

inline constexpr const char* all_eras = "v6.4 v6.5 v6.6 v6.13 v6.14 v6.17 v6.18";

inline constexpr arch_row arch_table[] = {
    {"x86-64", "one table a page", all_eras, 4096, 512, 1, 4, true, true, true, true, true},
    {"x86-pae", "entries in two halves", all_eras, 4096, 512, 1, 3, true, true, false, true, false},
    {"arm", "virtually tagged caches", all_eras, 4096, 512, 1, 2, false, false, false, false, false},
    {"powerpc", "fragments, 64K pages", all_eras, 65536, 256, 16, 4, true, true, true, true, false},
    {"sparc64", "handles are pointers to entries", all_eras, 8192, 1024, 1, 4, true, false, false, true,
     false},
    {"s390", "two halves a page", "v6.4 v6.5 v6.6", 4096, 256, 2, 4, true, true, true, true, false},
    {"s390", "one table a page", "v6.13 v6.14 v6.17 v6.18", 4096, 256, 1, 4, true, true, true, true, false},
};

/// The name, quoted.
inline std::string quoted(std::string_view name) {
  std::string q(1, '\'');
  q.append(name);
  q.push_back('\'');
  return q;
}

/// "'x86-64', 'x86-pae', ...": all of them, or those of which there are machines.
inline std::string arch_names(bool machines = false) {
  std::string names;
  for (const arch_row& r : arch_table) {
    const std::string name = quoted(r.name);
    if ((machines && !r.machine) || names.find(name) != std::string::npos) continue;
    if (!names.empty()) names.append(", ");
    names.append(name);
  }
  return names;
}

/// Why there is no machine of that name, and what there is instead.
inline std::string no_machine(std::string_view name) {
  const std::string machines = "machines are of " + arch_names(true);
  for (const arch_row& r : arch_table)
    if (name == r.name)
      return "arch " + quoted(name) + ": the explorer plays it, and there is no machine of it yet; " +
             machines;
  return "unknown arch " + quoted(name) + "; there are " + arch_names() + "; " + machines;
}

}  // namespace pgtbl::inline PGTBL_WORLD
