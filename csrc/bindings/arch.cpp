// The architectures: what they are, and real threads on their page tables.
#include "bindings/arch.hpp"

#include "arch/list.hpp"
#include "bindings/size.hpp"
#include "bindings/watch.hpp"
#include "lab/arch_load.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

py::list arch_rows() {
  py::list rows;
  for (const arch_row& r : arch_table)
    rows.append(py::dict("name"_a = r.name, "form"_a = r.form, "eras"_a = py::str(r.eras).attr("split")(),
                         "page_size"_a = r.page_bytes, "entries"_a = r.entries,
                         "tables_per_page"_a = r.tables_per_page, "levels"_a = r.levels,
                         "split_ptl"_a = r.split_ptl, "split_pml"_a = r.split_pml,
                         "vma_locks"_a = r.vma_locks, "thp"_a = r.thp));
  return rows;
}

py::dict arch_load(const std::string& arch,
                   bool one_table,
                   const py::object& seconds,
                   u32 churners,
                   u32 walkers,
                   u32 programs,
                   u32 slots,
                   u32 batch_percent,
                   u64 seed) {
  arch_load_config c;
  c.arch = arch;
  c.one_table = one_table;
  c.ns = to_ns(seconds, "seconds", c.ns);
  c.churners = churners, c.walkers = walkers, c.programs = programs, c.slots = slots;
  c.batch_percent = batch_percent;
  c.seed = seed;
  const arch_load_result r = run_watched(c, run_arch_load, false);
  return py::dict(
      "seconds"_a = r.seconds, "allocated"_a = r.allocated, "deferred"_a = r.deferred,
      "gathered"_a = r.gathered, "walks"_a = r.walks, "stale"_a = r.stale,
      "pages_allocated"_a = r.pages_allocated, "pages_freed"_a = r.pages_freed, "pages_left"_a = r.pages_left,
      "pages_max"_a = r.pages_max, "pages_mean"_a = r.pages_mean, "tables_max"_a = r.tables_max,
      "tables_mean"_a = r.tables_mean, "page_size"_a = r.page_bytes, "tables_per_page"_a = r.tables_per_page,
      "pending_max"_a = r.queued_max, "grace_periods"_a = r.grace_periods, "breaches"_a = r.breaches);
}

}  // namespace

void bind_arch(py::module_& m) {
  m.def("architectures", &arch_rows,
        "The architectures, one dict for each form of their tables: name, form, eras (that have this form), "
        "page_size (bytes), entries (of a PTE table), tables_per_page, levels, split_ptl, split_pml, "
        "vma_locks and "
        "thp (whether it has them).");
  m.def("arch_load", &arch_load, py::kw_only(), "arch"_a = "x86-64", "one_table"_a = false, "seconds"_a = 1.0,
        "churners"_a = 2, "walkers"_a = 1, "programs"_a = 2, "slots"_a = 512, "batch_percent"_a = 50,
        "seed"_a = 1,
        R"(Real threads that make, walk and free page tables of one architecture; pgtbl.arch.load() says more.

Returns a dict of counts. ValueError for an unknown architecture or numbers that make no run.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
