// SecondaryMmu for Python: a device that works on a program's memory by the program's addresses.
#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "bindings/waiting.hpp"
#include "mm/secondary_mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

struct py_secondary {
  std::shared_ptr<py_mm> mm;
  secondary_mmu* core;  // lives as long as the mm; inside of a call only
  std::shared_ptr<std::mutex> thread_lock =
      std::make_shared<std::mutex>();  // held by who starts or stops its thread
};

u64 to_address(const int_arg& addr) {
  const u64 va = to_u64(addr, "addr");
  if (va % 8 != 0) throw value_error("address " + std::to_string(va) + " is not a multiple of 8");
  if (va >= task_size)
    throw segmentation_fault("address " + std::to_string(va) + " is outside of a program's address space");
  return va;
}

u64 load(const py_secondary& d, const int_arg& addr) {
  const u64 va = to_address(addr);
  return run_mm(*d.mm, "device.load", [&](cpu& self) {
    u64 word = 0;
    d.core->access(self, va, access::read,
                   [&](physical& phys, pfn_t pfn, u64 at) { word = phys.load_word(pfn, at); });
    return word;
  });
}

void store(const py_secondary& d, const int_arg& addr, const int_arg& value) {
  const u64 va = to_address(addr), word = to_u64(value, "word");
  run_mm(*d.mm, "device.store", [&](cpu& self) {
    d.core->access(self, va, access::write,
                   [&](physical& phys, pfn_t pfn, u64 at) { phys.store_word(pfn, at, word); });
  });
}

void stop(const py_secondary& d) {
  if (!d.mm->where->is_open() || d.mm->entrance.state.load() == gate::closed) return;  // which ended it
  run_mm(*d.mm, "device.stop", [&](cpu&) {
    const std::lock_guard alone(*d.thread_lock);
    d.core->stop();
  });
}

void close(const py_secondary& d) {
  if (!d.mm->where->is_open() || d.mm->entrance.state.load() == gate::closed) return;
  stop(d);
  run_mm(*d.mm, "device.close", [&](cpu& self) { d.core->close(self); });
}

void start(const py_secondary& d,
           const py::object& addr,
           const optional_size_arg& length,
           bool write,
           const int_arg& seed) {
  const range r = to_range(*d.mm, addr, length);
  const u64 s = to_u64(seed, "seed");
  if (r.length < page_size || r.start % page_size != 0 || r.start >= task_size ||
      r.length > task_size - r.start)
    throw value_error("the range [" + std::to_string(r.start) + ", +" + std::to_string(r.length) +
                      "): whole pages of the program are allowed, one at least");
  run_mm(*d.mm, "device.start", [&](cpu&) {
    const std::lock_guard alone(*d.thread_lock);
    d.core->run_on(r.start, r.length >> page_shift, write, s);
  });
}

py_secondary make_device(py_mm& m, const text_arg& kind) {
  secondary_kind k = secondary_kind::shadow;
  if (kind.equal(py::str("walker")))
    k = secondary_kind::walker;
  else if (!kind.equal(py::str("shadow")))
    throw value_error("kind " + py::cast<std::string>(py::repr(kind)) +
                      ": 'shadow' and 'walker' are allowed");
  py_secondary d{m.shared_from_this(), nullptr};
  d.core =
      run_mm(*d.mm, "mm.secondary_mmu", [&](cpu& self) { return register_secondary_mmu(self, *m.core, k); });
  return d;
}

}  // namespace

void define_secondary(py::module_& m, object_classes& c) {
  py::class_<py_secondary>(
      m, "SecondaryMmu",
      R"(A device that works on the memory of an Mm by its addresses. Made by Mm.secondary_mmu().

It remembers translations, and mmu notifiers make it forget those that change. One that it uses after its frame was freed raises
InvariantError (G-16) with the histories of both; Machine.check() compares what it remembers with the page tables.)")
      .def("load", &load, "addr"_a,
           R"(The 64-bit word at addr, a multiple of 8, as the device sees it.

A walker raises what the program's access would raise; a shadow OSError(EFAULT) where the page can not be had.)")
      .def("store", &store, "addr"_a, "word"_a, "The device stores a 64-bit word at addr, a multiple of 8.")
      .def(
          "start", &start, "addr"_a, "length"_a = py::none(), "write"_a = false, "seed"_a = 0,
          R"(Starts a thread that accesses random pages of the range: loads, or with write=True stores that change nothing.

It needs a CPU of the machine (cpus=). What is not mapped is passed over. UsageError where it runs already.)")
      .def("stop", &stop, "Ends that thread. Harmless if repeated.")
      .def_property_readonly(
          "running",
          [](const py_secondary& d) {
            return d.mm->where->is_open() && d.mm->entrance.state.load() != gate::closed && d.core->running();
          },
          "Whether its thread runs (bool).")
      .def_property_readonly(
          "accesses",
          [](const py_secondary& d) {
            return run_mm(*d.mm, "device.accesses", [&](cpu& self) { return d.core->accesses(self); });
          },
          "How many accesses it has made (int).")
      .def_property_readonly(
          "translations",
          [](const py_secondary& d) {
            return run_mm(*d.mm, "device.translations",
                          [&](cpu& self) { return d.core->translations(self); });
          },
          "How many pages it has a translation of (int).")
      .def(
          "frame",
          [](const py_secondary& d, const int_arg& addr) -> std::optional<u64> {
            const u64 va = to_u64(addr, "addr");
            const pfn_t pfn =
                run_mm(*d.mm, "device.frame", [&](cpu& self) { return d.core->cached(self, va); });
            return pfn == 0 ? std::nullopt : std::optional<u64>(pfn);
          },
          "addr"_a,
          "Number of the frame that it has for addr; None where it would have to look (int or None).")
      .def_property_readonly(
          "kind",
          [](const py_secondary& d) { return d.core->kind == secondary_kind::walker ? "walker" : "shadow"; },
          "\"shadow\" or \"walker\" (str).")
      .def("close", &close, "It forgets everything and works no more: ClosedError. Harmless if repeated.")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](const py_secondary& d, const py::args&) { close(d); })
      .def("__repr__", [](const py_secondary& d) {
        return "<pgtbl.SecondaryMmu of mm " + std::to_string(d.mm->id) + ">";
      });
  c.mm.def("secondary_mmu", &make_device, "kind"_a = "shadow",
           R"(Registers a device with this address space: a SecondaryMmu.

kind: "shadow" has tables of its own, as a hypervisor has: it looks pages up as get_user_pages() does, and is told where a range begins to
change and where that is over. "walker" walks the program's page tables, as an IOMMU with shared addresses: it is told by every TLB
flush from v6.6 on, before that where a range's change is over.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
