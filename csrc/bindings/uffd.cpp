// What else a program can do with its memory: userfaultfds, and pins.
#include "base/errors.hpp"
#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "mm/gup.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

template <class F>
auto run_mm(py_mm& m, const char* name, F&& f) {
  return run(*m.where, m.entrance, name, m.closed_text(), std::forward<F>(f));
}

// ---------------------------------------------------------------- userfaultfd

struct py_uffd {
  std::shared_ptr<py_mm> mm;
  userfaultfd* core;  // lives as long as the mm
  bool closed = false;

  userfaultfd& open() const {
    if (closed) throw closed_error("this userfaultfd is closed");
    return *core;
  }
};

constexpr const char* feature_names[] = {"PAGEFAULT_FLAG_WP",
                                         "EVENT_FORK",
                                         "EVENT_REMAP",
                                         "EVENT_REMOVE",
                                         "MISSING_HUGETLBFS",
                                         "MISSING_SHMEM",
                                         "EVENT_UNMAP",
                                         "SIGBUS",
                                         "THREAD_ID",
                                         "MINOR_HUGETLBFS",
                                         "MINOR_SHMEM",
                                         "EXACT_ADDRESS",
                                         "WP_HUGETLBFS_SHMEM",
                                         "WP_UNPOPULATED",
                                         "POISON",
                                         "WP_ASYNC",
                                         "MOVE"};

u64 to_features(const py::iterable& names) {
  u64 bits = 0;
  for (const py::handle item : names) {
    const auto name = py::cast<std::string>(item);
    u64 bit = 0;
    for (unsigned i = 0; i < std::size(feature_names); ++i)
      if (name == feature_names[i]) bit = u64{1} << i;
    if (bit == 0) {
      std::string known;
      for (const char* n : feature_names) known += (known.empty() ? "" : ", ") + std::string(n);
      throw value_error("unknown feature '" + name + "'; the features are " + known);
    }
    bits |= bit;
  }
  if ((bits & 1U << 7) == 0)
    throw value_error(
        "features without SIGBUS: a fault that is reported raises BusError here, and waits for nobody");
  return bits;
}

u64 to_modes(const py::iterable& names) {
  u64 bits = 0;
  for (const py::handle item : names) {
    const auto name = py::cast<std::string>(item);
    if (name == "missing")
      bits |= vm_uffd_missing;
    else if (name == "wp")
      bits |= vm_uffd_wp;
    else if (name == "minor")
      bits |= vm_uffd_minor;
    else
      throw value_error("unknown mode '" + name + "'; allowed are 'missing', 'wp' and 'minor'");
  }
  return bits;
}

py_uffd make_uffd(py_mm& m, const py::iterable& features) {
  const u64 bits = to_features(features);
  userfaultfd* u =
      run_mm(m, "mm.userfaultfd", [&](cpu& self) { return new_userfaultfd(self, *m.core, bits); });
  return {m.shared_from_this(), u};
}

template <class F>
void run_uffd(py_uffd& u, const char* name, const py::object& addr, const optional_size_arg& length, F&& f) {
  const range r = to_range(*u.mm, addr, length);
  userfaultfd& core = u.open();
  run_mm(*u.mm, name, [&](cpu& self) { f(self, *u.mm->core, core, r); });
}

void copy(py_uffd& u, const int_arg& addr, const py::object& data, bool wp) {
  const u64 va = to_u64(addr, "addr");
  userfaultfd& core = u.open();
  Py_buffer view;
  if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  struct release_view {
    Py_buffer& v;
    ~release_view() { PyBuffer_Release(&v); }
  } const releasing{view};
  run_mm(*u.mm, "uffd.copy", [&](cpu& self) {
    uffd_copy(self, *u.mm->core, core, va, view.buf, static_cast<u64>(view.len), wp);
  });
}

void close(py_uffd& u) {
  if (u.closed) return;
  u.closed = true;
  py_mm& m = *u.mm;
  if (!m.where->is_open() || m.entrance.state.load() == gate::closed) return;
  run_mm(m, "uffd.close", [&](cpu& self) { uffd_release(self, *m.core, *u.core); });
}

void define_uffd(py::module_& m) {
  py::class_<py_uffd>(
      m, "Userfaultfd",
      R"(Ranges of an Mm whose faults are reported: an access raises BusError instead of being served.

Made by Mm.userfaultfd(). Addresses are bytes, lengths bytes or text like "2MiB"; whole pages are needed. Calls raise
OSError with the ioctl's errno.)")
      .def(
          "register",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length, const py::iterable& modes) {
            const u64 bits = to_modes(modes);
            run_uffd(u, "uffd.register", addr, length, [&](cpu& self, mm& x, userfaultfd& c, range r) {
              uffd_register(self, x, c, r.start, r.length, bits);
            });
          },
          "addr"_a, "length"_a, "modes"_a,
          R"(UFFDIO_REGISTER. modes: of "missing" (nothing is there), "minor" (the file has the page, the table does
not) and "wp" (a store to what writeprotect() protected).

OSError: EINVAL (alignment, nothing mapped, minor for anonymous memory), EBUSY (another userfaultfd has it).)")
      .def(
          "unregister",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length) {
            run_uffd(u, "uffd.unregister", addr, length, [](cpu& self, mm& x, userfaultfd& c, range r) {
              uffd_unregister(self, x, c, r.start, r.length);
            });
          },
          "addr"_a, "length"_a = py::none(),
          "UFFDIO_UNREGISTER: faults are served again, and protection ends.")
      .def(
          "writeprotect",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length, bool on) {
            run_uffd(u, "uffd.writeprotect", addr, length, [on](cpu& self, mm& x, userfaultfd& c, range r) {
              uffd_writeprotect(self, x, c, r.start, r.length, on);
            });
          },
          "addr"_a, "length"_a = py::none(), "on"_a = true,
          R"(UFFDIO_WRITEPROTECT: protects what is mapped (of a file also what is not), or ends that with on=False.

OSError(ENOENT) where the range is not registered for "wp".)")
      .def(
          "copy", &copy, "addr"_a, "data"_a, "wp"_a = false,
          R"(UFFDIO_COPY: whole pages of data (any contiguous buffer) where nothing is mapped; wp: protected at once.

OSError: ENOENT (not registered), EEXIST (a page is there), EAGAIN (some pages were put in).)")
      .def(
          "zeropage",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length) {
            run_uffd(u, "uffd.zeropage", addr, length, [](cpu& self, mm& x, userfaultfd& c, range r) {
              uffd_zeropage(self, x, c, r.start, r.length);
            });
          },
          "addr"_a, "length"_a = py::none(),
          "UFFDIO_ZEROPAGE: pages of zeros where nothing is mapped. Errors as copy().")
      .def(
          "continue_",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length) {
            run_uffd(u, "uffd.continue_", addr, length, [](cpu& self, mm& x, userfaultfd& c, range r) {
              uffd_continue(self, x, c, r.start, r.length);
            });
          },
          "addr"_a, "length"_a = py::none(),
          "UFFDIO_CONTINUE: maps the pages that the file has. OSError(EFAULT) where it has none; else as "
          "copy().")
      .def("close", &close, "Every range is given up. Harmless if repeated.")
      .def_readonly("closed", &py_uffd::closed, "Whether close() was called.")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_uffd& u, const py::args&) { close(u); })
      .def("__repr__", [](const py_uffd& u) {
        return "<pgtbl.Userfaultfd of mm " + std::to_string(u.mm->id) + (u.closed ? ", closed>" : ">");
      });
}

// ---------------------------------------------------------------- pins

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
  bool closed() const { return held_.frames.empty(); }

 private:
  const std::shared_ptr<home> where_;
  pinned_pages held_;

 public:
  const u64 pages;
};

std::shared_ptr<py_pin> make_pin(py_mm& m, const int_arg& addr, const int_arg& pages) {
  const u64 va = to_u64(addr, "addr"), n = to_u64(pages, "pages");
  constexpr u64 most = 1 << 16;
  if (n == 0 || n > most)
    throw value_error("pages " + std::to_string(n) + ": 1 to " + std::to_string(most) + " are allowed");
  pinned_pages p = run_mm(m, "mm.pin", [&](cpu& self) { return pin_pages(self, *m.core, va, n); });
  return std::make_shared<py_pin>(m.where, std::move(p));
}

void define_pin(py::module_& m) {
  py::class_<py_pin, std::shared_ptr<py_pin>>(m, "Pin",
                                              "References to pages of a program, as somebody has them who "
                                              "works on its memory behind its back. Made by Mm.pin().")
      .def_readonly("pages", &py_pin::pages, "How many pages it got (int).")
      .def("close", &py_pin::close, "Gives the references back. Harmless if repeated.")
      .def_property_readonly("closed", &py_pin::closed, "Whether they were given back.")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_pin& p, const py::args&) { p.close(); })
      .def("__repr__", [](const py_pin& p) {
        return "<pgtbl.Pin of " + std::to_string(p.pages) + " pages" + (p.closed() ? ", closed>" : ">");
      });
}

}  // namespace

void define_memory_tools(py::module_& m, object_classes& c) {
  define_uffd(m);
  define_pin(m);
  c.mm.def("userfaultfd", &make_uffd, "features"_a = py::make_tuple("SIGBUS"),
           R"(A new userfaultfd of this address space: a Userfaultfd.

features: names without UFFD_FEATURE_. "SIGBUS" must be among them: what would be reported raises BusError.)")
      .def("pin", &make_pin, "addr"_a, "pages"_a = 1,
           R"(Takes a reference to each of `pages` pages from addr on, as vmsplice() does: a Pin.

Pages are faulted in where they must. A page with such a reference is not collapsed and not split. Stops before the
first page that cannot be read; OSError(EFAULT) where that is the first.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
