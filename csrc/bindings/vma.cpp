// vma.cpp -- pgtbl.Vma: what a mapping was when it was made, or listed.
#include "bindings/mm.hpp"
#include "bindings/size.hpp"
#include "check/smaps.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

std::string show_vma(const py_vma& v) {
  std::string s = "<pgtbl.Vma " + hex(v.start) + "-" + hex(v.end) + " " + prot_text(v.flags) +
                  ((v.flags & vm_shared) != 0 ? " shared" : " private");
  if (v.file != nullptr) s += ", file " + std::to_string(v.file->id) + " at " + std::to_string(v.offset);
  return s + ">";
}

}  // namespace

void define_vma(object_classes& c) {
  c.vma.def_readonly("start", &py_vma::start, "First byte (int).")
      .def_readonly("end", &py_vma::end, "First byte behind it (int).")
      .def_property_readonly(
          "length", [](const py_vma& v) { return v.end - v.start; }, "Bytes (int); also len().")
      .def_readonly("flags", &py_vma::flags, "VM_READ, VM_WRITE, VM_EXEC and VM_SHARED, or-ed (int).")
      .def_property_readonly(
          "prot", [](const py_vma& v) { return prot_text(v.flags); },
          "What is allowed: \"rw\", \"r\", ..., or \"none\" (str).")
      .def_property_readonly(
          "vm_flags", [](const py_vma& v) { return vm_flags_text(v.vm_flags); },
          "All flags, as VmFlags of /proc/PID/smaps has them, without those that every mapping has: \"rd wr "
          "sh\" (str).")
      .def_property_readonly(
          "shared", [](const py_vma& v) { return (v.flags & vm_shared) != 0; },
          "Whether stores reach the file (bool).")
      .def_property_readonly(
          "file",
          [](const py_vma& v) -> std::optional<std::shared_ptr<py_file>> {
            if (v.file == nullptr) return std::nullopt;
            return v.file;
          },
          "The File that is mapped; None for anonymous memory and where the File was closed.")
      .def_readonly("offset", &py_vma::offset, "Where in the file it starts, in bytes (int).")
      .def(
          "addresses",
          [](const py_vma& v, const size_arg& step) {
            const u64 by = to_size(step, "step");
            if (by == 0) throw value_error("step 0: 1 or more is allowed");
            py::array_t<u64> out(static_cast<py::ssize_t>((v.end - v.start + by - 1) / by));
            u64 at = v.start;
            for (py::ssize_t i = 0; i < out.size(); ++i, at += by) out.mutable_at(i) = at;
            return out;
          },
          "step"_a = page_size,
          "Every step-th address from start on: a NumPy array of uint64, as mm.touch() takes it.")
      .def("__len__", [](const py_vma& v) { return v.end - v.start; })
      .def("__contains__",
           [](const py_vma& v, const py::object& addr) {
             const u64 a = to_u64(addr, "addr");
             return a >= v.start && a < v.end;
           })
      .def("__eq__",
           [](const py_vma& a, const py::object& other) -> py::object {
             if (!py::isinstance<py_vma>(other)) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
             const auto& b = other.cast<const py_vma&>();
             return py::bool_(a.start == b.start && a.end == b.end && a.flags == b.flags &&
                              a.offset == b.offset && a.file == b.file);
           })
      .def("__hash__",
           [](const py_vma& v) { return py::hash(py::make_tuple(v.start, v.end, v.flags, v.offset)); })
      .def("__repr__", &show_vma);
}

}  // namespace pgtbl::inline PGTBL_WORLD
