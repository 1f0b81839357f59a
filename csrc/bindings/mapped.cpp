// mapped.cpp -- looks at what an mm has mapped: the walkers of /proc, and the levels of the tables.
#include "bindings/mm.hpp"
#include "bindings/size.hpp"
#include "check/pagemap.hpp"
#include "check/smaps.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

py::array mm_pagemap(py_mm& m, py::object area, optional_size_arg length) {
  if (py::isinstance<py::tuple>(area) && py::len(area) == 2 && length.is_none()) {
    const auto pair = py::cast<py::tuple>(area);
    area = pair[0];
    length = pair[1];
  }
  const range r = to_range(m, area, length);
  if (r.length != 0) check_user(r.start, r.length);
  std::vector<pagemap_row> rows;
  run_mm(m, "mm.pagemap", [&](cpu& self) {
    pagemap(self, *m.core, page_align_down(r.start), page_align_up(r.start + r.length), rows);
  });
  return py::array_t<pagemap_row>(static_cast<py::ssize_t>(rows.size()), rows.data());
}

/// What one level of the tables holds for an address.
struct py_level {
  u32 level;  // 4 = PGD ... 1 = PTE
  u64 entry;
  u64 table;

  const char* name() const {
    constexpr const char* names[] = {"", "pte", "pmd", "pud", "pgd"};
    return names[level];
  }
  u64 pfn() const { return (entry & bit_present) != 0 ? pte_t{entry}.pfn() : 0; }
  const char* kind() const {
    const pmd_t e{entry};
    if (e.none()) return "none";
    if (!e.present()) return "other";
    if (level == 1) return "page";
    return e.huge() ? "huge" : e.table() ? "table" : "bad";
  }
  std::string flags() const {
    if ((entry & bit_present) == 0) return "";
    std::string s = "r";
    if ((entry & bit_write) != 0) s += 'w';
    if ((entry & bit_nx) == 0) s += 'x';
    if ((entry & bit_accessed) != 0) s += 'a';
    if ((entry & bit_dirty) != 0) s += 'd';
    return s;
  }
};

std::vector<py_level> mm_walk(py_mm& m, const int_arg& addr) {
  const u64 va = to_u64(addr, "addr");
  check_user(va, 1);
  return run_mm(m, "mm.walk", [&](cpu& self) {
    std::vector<py_level> levels;
    for (const walk_step& s : walk(self, *m.core, va)) levels.push_back({s.level, s.entry, s.table});
    return levels;
  });
}

py::list mm_smaps(py_mm& m) {
  const auto rows = run_mm(m, "mm.smaps", [&](cpu& self) { return smaps(self, *m.core); });
  py::list out;
  for (const smaps_row& r : rows) {
    py::dict kib;
    const std::pair<const char*, u64> fields[] = {{"Rss", r.rss >> 10},
                                                  {"Pss", r.pss >> 22},
                                                  {"Shared_Clean", r.shared_clean >> 10},
                                                  {"Shared_Dirty", r.shared_dirty >> 10},
                                                  {"Private_Clean", r.private_clean >> 10},
                                                  {"Private_Dirty", r.private_dirty >> 10},
                                                  {"Anonymous", r.anonymous >> 10},
                                                  {"LazyFree", r.lazy_free >> 10},
                                                  {"AnonHugePages", r.anon_huge >> 10},
                                                  {"ShmemPmdMapped", r.shmem_pmd_mapped >> 10},
                                                  {"FilePmdMapped", r.file_pmd_mapped >> 10},
                                                  {"Locked", r.locked >> 22},
                                                  {"THPeligible", r.thp_eligible ? 1U : 0U}};
    for (const auto& [name, value] : fields)
      if (value != 0) kib[name] = value;
    out.append(
        py::dict("start"_a = r.start, "end"_a = r.end, "flags"_a = vm_flags_text(r.flags), "kib"_a = kib));
  }
  return out;
}

void define_level(py::module_& m) {
  py::class_<py_level>(m, "WalkLevel",
                       "What one level of the page tables holds for an address: an item of mm.walk().")
      .def_property_readonly("name", &py_level::name, "\"pgd\", \"pud\", \"pmd\" or \"pte\".")
      .def_readonly("entry", &py_level::entry,
                    "The entry as it stands in the table (int, 64 bits as on x86-64).")
      .def_readonly("table", &py_level::table, "Number of the frame of the table that the entry is in (int).")
      .def_property_readonly("pfn", &py_level::pfn,
                             "Number of the frame that the entry points to; 0 where there is none (int).")
      .def_property_readonly("kind", &py_level::kind,
                             "\"none\", \"table\", \"page\", \"huge\", \"other\" or \"bad\" (str).")
      .def_property_readonly(
          "flags", &py_level::flags,
          "Of r, w, x, a (accessed), d (dirty) those that are set; \"\" where not present (str).")
      .def("__repr__", [](const py_level& l) {
        return std::string("<") + l.name() + " " + l.kind() +
               (l.pfn() != 0 ? " pfn " + std::to_string(l.pfn()) : "") +
               (l.flags().empty() ? "" : " " + l.flags()) + ">";
      });
}

}  // namespace

void define_mapped(py::module_& m, object_classes& c) {
  PYBIND11_NUMPY_DTYPE(pagemap_row, va, pfn, index, mapcount, refcount, anon, order, huge, write, dirty,
                       young, zero, guard, swap);
  define_level(m);
  c.mm.def(
          "pagemap", &mm_pagemap, "area"_a, "length"_a = py::none(),
          R"(How the pages of a range are mapped: a NumPy structured array with one row for each populated page.

area: a Vma, a pair (start, length), or a start with `length` beside it.

Fields: va (address of the page), pfn (its frame), index (page of the file, 0 for anonymous memory), mapcount (entries
that map the page, of either size), refcount (of its folio), anon, order (of the folio: 0, or 9 for a huge page), huge
(mapped by a PMD), write, dirty, young (bits of the entry), zero (the zero page: no page of the program's), guard (a guard
marker), swap (another entry that is not present). Takes mmap_lock for read; exact while nothing runs.)")
      .def("walk", &mm_walk, "addr"_a,
           R"(The levels of the page tables that a walk to addr meets, top down: a list of WalkLevel.

It ends with the first entry that is not a table: at "pte", or above where a level is missing or huge. Takes mmap_lock for read.)")
      .def("smaps", &mm_smaps, R"(What /proc/PID/smaps tells of each mapping: a list of dicts, upwards.

Keys: start, end (bytes); flags (VmFlags, as Vma.vm_flags); kib, a dict of those of Rss, Pss, Shared_Clean, Shared_Dirty,
Private_Clean, Private_Dirty, Anonymous, LazyFree, AnonHugePages, ShmemPmdMapped, FilePmdMapped and Locked that are not 0, in KiB, and
THPeligible where it is 1. Takes mmap_lock for read; exact while nothing runs.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
