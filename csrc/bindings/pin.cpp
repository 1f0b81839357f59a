// Pins for Python: references to pages of a program, for somebody who works on them behind its back.
#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "bindings/waiting.hpp"
#include "mm/gup.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// References to pages; given back on the machine that they are of, if it is still there.
class py_pin {
 public:
  py_pin(std::shared_ptr<home> h, pinned_pages p)
      : where_(std::move(h)), held_(std::move(p)), pages(held_.frames.size()) {}
  ~py_pin() {
    try {
      close();
    } catch (const std::exception&) {
      // No CPU for this thread, or the machine is being closed.
    }
  }
  py_pin(const py_pin&) = delete;
  py_pin& operator=(const py_pin&) = delete;
  void close() {
    if (held_.frames.empty() || !where_->is_ours() || !where_->is_open()) return;
    run(*where_, "pin.close", [&](cpu& self) { unpin_pages(self, held_); });
  }
  const std::vector<pfn_t>& frames() const { return held_.frames; }
  bool closed() const { return held_.frames.empty(); }

 private:
  const std::shared_ptr<home> where_;
  pinned_pages held_;

 public:
  const u64 pages;
};

std::shared_ptr<py_pin> make_pin(
    py_mm& m, const int_arg& addr, const int_arg& pages, bool write, const text_arg& kind) {
  const u64 va = to_u64(addr, "addr"), n = to_u64(pages, "pages");
  constexpr u64 most = 1 << 16;
  if (n == 0 || n > most)
    throw value_error("pages " + std::to_string(n) + ": 1 to " + std::to_string(most) + " are allowed");
  u32 flags = write ? u32{gup_write} : 0;
  if (kind.equal(py::str("pin")))
    flags |= gup_pin;
  else if (kind.equal(py::str("longterm")))
    flags |= gup_pin | gup_longterm;
  else if (!kind.equal(py::str("get")))
    throw value_error("kind " + py::cast<std::string>(py::repr(kind)) +
                      ": 'get', 'pin' and 'longterm' are allowed");
  pinned_pages p = run_access(m, "mm.pin", [&](cpu& self) { return pin_pages(self, *m.core, va, n, flags); });
  return std::make_shared<py_pin>(m.where, std::move(p));
}

}  // namespace

void define_pin(py::module_& m, object_classes& c) {
  py::class_<py_pin, std::shared_ptr<py_pin>>(m, "Pin",
                                              "References to pages of a program, as somebody has them who "
                                              "works on its memory behind its back. Made by Mm.pin().")
      .def_readonly("pages", &py_pin::pages, "How many pages it got (int).")
      .def_property_readonly("frames", &py_pin::frames,
                             "Numbers of the frames, in order; [] once closed (list of int).")
      .def("close", &py_pin::close, "Gives the references back. Harmless if repeated.")
      .def_property_readonly("closed", &py_pin::closed, "Whether they were given back.")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_pin& p, const py::args&) { p.close(); })
      .def("__repr__", [](const py_pin& p) {
        return "<pgtbl.Pin of " + std::to_string(p.pages) + " pages" + (p.closed() ? ", closed>" : ">");
      });
  c.mm.def("pin", &make_pin, "addr"_a, "pages"_a = 1, "write"_a = false, "kind"_a = "get",
           R"(Takes a reference to each of `pages` pages from addr on, as vmsplice() does: a Pin.

kind: "get" (FOLL_GET) is a reference like any other; of "pin" (FOLL_PIN), as for direct I/O, the kernel knows: fork() copies such
a page for the child at once (of a huge page that is pinned, every page), so that the parent's stores still reach it, and UFFDIO_MOVE
refuses it. So a page that is pinned is the program's alone: one that is shared since a fork is copied first, also where it is only read.
"longterm" (FOLL_LONGTERM), as for io_uring's buffers or RDMA, may last for ever: the zero page, and a file's page in a private mapping,
are copied first, too; a shared mapping of a regular file is refused to write=True (6.5). write: the page is made writable first.

Pages are faulted in where they must. A page with such a reference is not collapsed and not split. Stops before the
first page that cannot be read; OSError(EFAULT) where that is the first.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
