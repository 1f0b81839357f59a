// What an experiment observes of a mm and a file beyond what a program could: for comparisons with a kernel.
#include <algorithm>

#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "bindings/waiting.hpp"
#include "check/snapshot.hpp"
#include "khugepaged/scan_trace.hpp"
#include "lab/sweep.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

// ---------------------------------------------------------------- touching

sweep_kind to_sweep_kind(py::handle how) {
  if (!py::isinstance<py::str>(how)) throw py::type_error("how must be text: 'read', 'write' or 'fill'");
  const auto text = how.cast<std::string>();
  if (text == "read") return sweep_kind::load;
  if (text == "write") return sweep_kind::store;
  if (text == "fill") return sweep_kind::fill;
  throw value_error("how '" + text + "': allowed are 'read', 'write' and 'fill'");
}

py::dict mm_sweep(py_mm& m,
                  const int_arg& addr,
                  const int_arg& pages,
                  const text_arg& how,
                  const int_arg& stride,
                  const int_arg& value,
                  const int_arg& step) {
  sweep_order o;
  o.start = to_u64(addr, "addr");
  o.pages = to_u64(pages, "pages");
  o.stride = to_u64(stride, "stride");
  o.kind = to_sweep_kind(how);
  o.value = to_u64(value, "value");
  o.step = to_u64(step, "step");
  constexpr u64 most = u64{1} << 32;
  if (o.pages > most || o.stride > most)
    throw value_error("pages and stride: at most " + std::to_string(most) + " are allowed");
  if (o.start % sizeof(u64) != 0)
    throw value_error("addr " + std::to_string(o.start) + " is not a multiple of 8");
  if (o.kind == sweep_kind::fill && o.start % page_size != 0)
    throw value_error("addr " + std::to_string(o.start) +
                      " is not the address of a page, which 'fill' needs");
  const sweep_result r = run_access(m, "mm.sweep", [&](cpu& self) { return sweep(self, *m.core, o); });
  py::dict d("ok"_a = r.done, "faults"_a = r.faults, "segv"_a = r.segv, "bus"_a = r.bus, "sum"_a = r.sum);
  d["first"] = r.first_failed < 0 ? py::object(py::none()) : py::object(py::int_(r.first_failed));
  return d;
}

// ---------------------------------------------------------------- looking

/// A row of either array: numbers only, so that NumPy has a type for it.
struct flat_page {
  u64 va, pfn, first, rest;
  u32 mapcount;
  u8 kind, order, huge, uffd_wp, mixed;
};
struct flat_cached {
  u64 index, first, rest;
  u8 order, uptodate, mixed;
};

template <class Flat, class Row, class F>
py::array_t<Flat> to_array(const std::vector<Row>& rows, F&& flatten) {
  py::array_t<Flat> out(static_cast<py::ssize_t>(rows.size()));
  std::transform(rows.begin(), rows.end(), out.mutable_data(), flatten);
  return out;
}

py::array mm_snapshot(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  const range r = to_range(m, addr, length);
  if (r.start > task_size || r.length > task_size - r.start)
    throw value_error("the range leaves the address space of " + std::to_string(task_size) + " bytes");
  std::vector<snapshot_row> rows;
  run_mm(m, "mm.snapshot", [&](cpu& self) {
    snapshot(self, *m.core, page_align_down(r.start), page_align_up(r.start + r.length), rows);
  });
  return to_array<flat_page>(rows, [](const snapshot_row& x) {
    return flat_page{x.va,   x.pfn,   x.words.first, x.words.rest, x.mapcount,
                     x.kind, x.order, x.huge,        x.uffd_wp,    x.words.mixed};
  });
}

py::array file_contents(py_file& file) {
  std::vector<cache_row> rows;
  run(*file.where, "file.contents", [&](cpu& self) {
    const py_file::pin pinned(self, file);
    cache_snapshot(self, *pinned, rows);
  });
  return to_array<flat_cached>(rows, [](const cache_row& x) {
    return flat_cached{x.index, x.words.first, x.words.rest, x.order, x.uptodate, x.words.mixed};
  });
}

// ---------------------------------------------------------------- tracepoints

py::list read_scans(home& h) {
  const call c(h, h.entrance, "machine.scans");
  const auto& trace = c.slot().scans;
  py::list events;
  if (trace == nullptr) return events;
  for (u32 i = 0; i < trace->n; ++i) {
    const scan_event& e = trace->events[i];
    py::list row;
    row.append(e.what);
    if (std::string_view(e.what) != "swapin") row.append(tracepoint_text(e.result));
    for (u32 k = 0; k < e.numbers; ++k) row.append(e.n[k]);
    events.append(row);
  }
  if (trace->lost != 0)
    throw usage_error("machine.scans() was not read for too long: " + std::to_string(trace->lost) +
                      " events are lost");
  trace->n = 0;
  return events;
}

void trace_scans(home& h, bool on) {
  const call c(h, h.entrance, "machine.trace_scans");
  auto& trace = c.slot().scans;
  if (on && trace == nullptr) trace = std::make_shared<scan_trace>();
  c.self().tracing = on ? trace.get() : nullptr;
  if (on) trace->n = trace->lost = 0;
}

u64 count_one(home& h, const std::string& name) {
  const call c(h, h.entrance, "machine.count");
  for (unsigned k = 0; k < lock_class_count; ++k)
    if (name == lock_class_names[k]) return h.core().acquired(static_cast<lock_class>(k));
  for (unsigned e = 0; e < event_count; ++e)
    if (name == event_table[e].name) return h.core().total(static_cast<event>(e));
  throw py::key_error("no count '" + name + "': the rows of machine.ledger() without a suffix are allowed");
}

}  // namespace

void define_observations(object_classes& c) {
  PYBIND11_NUMPY_DTYPE(flat_page, va, pfn, first, rest, mapcount, kind, order, huge, uffd_wp, mixed);
  PYBIND11_NUMPY_DTYPE(flat_cached, index, first, rest, order, uptodate, mixed);
  c.mm.def("sweep", &mm_sweep, "addr"_a, "pages"_a, "how"_a = "read", "stride"_a = 1, "value"_a = 0,
           "step"_a = 0,
           R"(Touches pages, `stride` pages apart, upwards, and goes on where a program would be killed.

how: "read" loads the first word of each page, "write" stores `value` to it, "fill" to all of its words; each next page's
value is `step` more. Returns a dict: "ok" (accesses that succeeded), "faults" (page faults served), "segv" and "bus"
(accesses refused), "first" (number of the first refused one, or None), "sum" (of what was loaded, in order:
sum * 1099511628211 + word, modulo 2**64). Raises OutOfMemory.)")
      .def("snapshot", &mm_snapshot, "addr"_a, "length"_a = py::none(),
           R"(Every entry of [addr, addr + length) (or of a Vma) that is not none: a NumPy structured array.

Fields: va, pfn (its frame, 0 where none is present), first (the page's first word), rest (the value of all others, where
mixed is 0), mapcount (entries that map this page, of either size), kind (the code of a letter: A anonymous, F file, Z
the zero page, s not present, g a guard marker), order (of the folio), huge (mapped by a PMD), uffd_wp, mixed. Takes
mmap_lock for read; exact while nothing runs.)");
  c.file.def("contents", &file_contents,
             R"(Every cached page of the file: a NumPy structured array, one row for each page of 4 KiB.

Fields: index (page of the file), first (its first word), rest (the value of all others, where mixed is 0), order (of
its folio), uptodate (0: allocated, and never written), mixed.)");
  c.machine
      .def("count", &count_one, "name"_a,
           "One row of the ledger, such as \"mmap_lock.write\": cheaper than the whole. KeyError for unknown "
           "names.")
      .def("trace_scans", &trace_scans, "on"_a = true,
           "Begins to note what this thread's collapses find, for scans(); on=False ends it.")
      .def(
          "scans", &read_scans,
          R"(What this thread's collapses found since the last call, in order: a list of lists, as Linux's tracepoints.

["scan_file", result, present, swap], ["collapse_file", result], ["scan_pmd", result, none_or_zero, unmapped],
["isolate", result, none_or_zero], ["collapse_anon", result, isolated], ["swapin"]. Needs trace_scans().)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
