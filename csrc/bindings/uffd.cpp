// Userfaultfd for Python: the ioctls, what it reads, and a thread that serves it.
#include <limits>

#include "base/errors.hpp"
#include "bindings/buffer.hpp"
#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "bindings/waiting.hpp"
#include "mm/uffd_server.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// pgtbl.Userfaultfd.  Closed when it goes, as a file descriptor would be.
class py_uffd : public std::enable_shared_from_this<py_uffd> {
 public:
  py_uffd(std::shared_ptr<py_mm> m, userfaultfd* u) : mm(std::move(m)), core(u), features(u->features) {}
  ~py_uffd() {
    try {
      if (!worth_closing()) return;
      const call c(*mm->where, mm->entrance, "uffd.close", mm->closed_text());
      // Inside of what it would wait for: it stays open until the mm ends.
      for (const auto& l : c.slot().locks)
        if (l->mm == mm) return;
      if (c.self().rcu.in_section()) return;
      const maybe_released away;
      release(c.self());
    } catch (const std::exception&) {
      // No CPU for this thread, or the machine is being closed: nobody can wait any more.
    }
  }
  py_uffd(const py_uffd&) = delete;
  py_uffd& operator=(const py_uffd&) = delete;

  const std::shared_ptr<py_mm> mm;
  userfaultfd* const core;  // lives as long as the mm; inside of a call only
  const u64 features;
  std::mutex server_lock;  // held by who starts or stops the server

  userfaultfd& open() const {
    if (closed_.load()) throw closed_error("this userfaultfd is closed");
    return *core;
  }
  bool is_closed() const {
    return closed_.load() || !mm->where->is_open() || mm->entrance.state.load() == gate::closed;
  }
  void close() {
    if (!worth_closing() || closed_.exchange(true)) return;
    run(*mm->where, mm->entrance, "uffd.close", mm->closed_text(), [&](cpu& self) { release(self); });
  }

 private:
  bool worth_closing() const { return mm->where->is_ours() && !is_closed(); }
  void release(cpu& self) {
    closed_.store(true);
    {
      const std::lock_guard alone(server_lock);
      if (core->server != nullptr) core->server->stop();
    }
    uffd_release(self, *mm->core, *core);
  }
  std::atomic<bool> closed_{false};
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

std::shared_ptr<py_uffd> make_uffd(py_mm& m, const py::iterable& features) {
  const u64 bits = to_features(features);
  userfaultfd* u =
      run_mm(m, "mm.userfaultfd", [&](cpu& self) { return new_userfaultfd(self, *m.core, bits); });
  return std::make_shared<py_uffd>(m.shared_from_this(), u);
}

// ---------------------------------------------------------------- the ioctls

template <class F>
void run_uffd(py_uffd& u, const char* name, F&& f) {
  userfaultfd& core = u.open();
  run_mm(*u.mm, name, [&](cpu& self) { f(self, *u.mm->core, core); });
}
template <class F>
void run_range(py_uffd& u, const char* name, const py::object& addr, const optional_size_arg& length, F&& f) {
  const range r = to_range(*u.mm, addr, length);
  run_uffd(u, name, [&](cpu& self, mm& m, userfaultfd& core) { f(self, m, core, r.start, r.length); });
}

void copy(py_uffd& u, const int_arg& addr, const py::object& data, bool wp, bool wake) {
  const u64 va = to_u64(addr, "addr");
  const buffer_view view(data);
  run_uffd(u, "uffd.copy", [&](cpu& self, mm& m, userfaultfd& core) {
    uffd_copy(self, m, core, va, view.data(), view.size(), wp, wake);
  });
}

// ---------------------------------------------------------------- messages

struct py_message {
  explicit py_message(const uffd_message& m) : core(m) {}
  virtual ~py_message() = default;
  py_message(const py_message&) = delete;
  py_message& operator=(const py_message&) = delete;
  const uffd_message core;
};
struct py_pagefault final : py_message {
  using py_message::py_message;
  const char* kind() const {
    switch (core.reason) {
      case uffd_reason::missing: return "missing";
      case uffd_reason::minor: return "minor";
      case uffd_reason::wp: return "wp";
    }
    return "";
  }
};
struct py_fork final : py_message {
  py_fork(const uffd_message& m, std::shared_ptr<py_uffd> u) : py_message(m), uffd(std::move(u)) {}
  const std::shared_ptr<py_uffd> uffd;
};
struct py_remap final : py_message {
  using py_message::py_message;
};
struct py_remove final : py_message {
  using py_message::py_message;
};
struct py_unmap final : py_message {
  using py_message::py_message;
};
using message_handle = std::shared_ptr<py_message>;

/// Null: of a child that is gone already.
message_handle to_python(const py_uffd& u, const uffd_message& m) {
  switch (m.event) {
    case uffd_event::pagefault: return std::make_shared<py_pagefault>(m);
    case uffd_event::remap: return std::make_shared<py_remap>(m);
    case uffd_event::remove: return std::make_shared<py_remove>(m);
    case uffd_event::unmap: return std::make_shared<py_unmap>(m);
    case uffd_event::fork: break;
  }
  const auto child = u.mm->where->handle_of(&m.child->owner);
  if (child == nullptr) return nullptr;
  return std::make_shared<py_fork>(m, std::make_shared<py_uffd>(child, m.child));
}

/// In slices, each a call of its own: between two of them check() and close() find nobody inside.
std::optional<message_handle> read_message(py_uffd& u, const optional_seconds_arg& timeout) {
  constexpr u64 slice_ns = 20'000'000;
  constexpr u64 for_ever = std::numeric_limits<u64>::max();
  const u64 patience = to_ns(timeout, "timeout", for_ever), begin = now_ns();
  const u64 end = patience > for_ever - begin ? for_ever : begin + patience;
  for (;;) {
    userfaultfd& core = u.open();
    bool gone = false;
    {
      const call c(*u.mm->where, u.mm->entrance, "uffd.read", u.mm->closed_text());
      std::optional<uffd_message> m;
      {
        const gil_released nogil;
        const u32 seen = core.arrivals.load(acquire);
        m = uffd_read(c.self(), core);
        const u64 now = now_ns();
        gone = core.released.load(acquire) != 0;
        if (!m && !gone && now < end) uffd_await(core, seen, std::min(slice_ns, end - now));
      }
      if (m)
        if (const auto message = to_python(u, *m)) return message;
    }
    if (gone) throw closed_error("this userfaultfd is closed");
    if (now_ns() >= end) return std::nullopt;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

message_handle next_message(py_uffd& u) {
  try {
    return *read_message(u, py::none());
  } catch (const closed_error&) {
    throw py::stop_iteration();
  }
}

void define_messages(py::module_& m) {
  py::class_<py_message, message_handle>(m, "UffdMessage",
                                         "What a Userfaultfd tells: one of the classes below.");
  py::class_<py_pagefault, py_message, std::shared_ptr<py_pagefault>> fault(
      m, "UffdPagefault", "A fault that waits until somebody resolves it, or wakes it.");
  fault
      .def_property_readonly(
          "address", [](const py_pagefault& x) { return x.core.start; },
          "Of the page; with EXACT_ADDRESS of the access (int).")
      .def_property_readonly("kind", &py_pagefault::kind, "\"missing\", \"minor\" or \"wp\" (str).")
      .def_property_readonly(
          "write", [](const py_pagefault& x) { return x.core.write; },
          "Whether the access is a store (bool).")
      .def_property_readonly(
          "thread_id", [](const py_pagefault& x) { return x.core.tid; },
          "The thread's number for the kernel, with THREAD_ID; else 0 (int).")
      .def("__repr__", [](const py_pagefault& x) {
        return "<pgtbl.UffdPagefault " + std::string(x.kind()) + (x.core.write ? " write" : " read") +
               " at " + std::to_string(x.core.start) + ">";
      });
  fault.attr("__match_args__") = py::make_tuple("address", "kind", "write");
  py::class_<py_fork, py_message, std::shared_ptr<py_fork>> fork(
      m, "UffdFork", "The program forked (EVENT_FORK); fork() goes on now that this was read.");
  fork.def_readonly("uffd", &py_fork::uffd,
                    "The child's Userfaultfd: its faults are reported there, and nowhere else.")
      .def("__repr__",
           [](const py_fork& x) { return "<pgtbl.UffdFork to mm " + std::to_string(x.uffd->mm->id) + ">"; });
  fork.attr("__match_args__") = py::make_tuple("uffd");
  py::class_<py_remap, py_message, std::shared_ptr<py_remap>> remap(
      m, "UffdRemap", "A registered mapping moved, and its registration with it (EVENT_REMAP).");
  remap.def_property_readonly(
           "old", [](const py_remap& x) { return x.core.start; }, "Where it was (int).")
      .def_property_readonly(
          "new", [](const py_remap& x) { return x.core.to; }, "Where it is (int).")
      .def_property_readonly(
          "length", [](const py_remap& x) { return x.core.end - x.core.start; }, "Bytes that moved (int).")
      .def("__repr__", [](const py_remap& x) {
        return "<pgtbl.UffdRemap of " + std::to_string(x.core.end - x.core.start) + " bytes from " +
               std::to_string(x.core.start) + " to " + std::to_string(x.core.to) + ">";
      });
  remap.attr("__match_args__") = py::make_tuple("old", "new", "length");
  const auto of_range = [](auto& cls, const char* name) {
    cls.def_property_readonly(
           "start", [](const py_message& x) { return x.core.start; }, "First byte (int).")
        .def_property_readonly(
            "end", [](const py_message& x) { return x.core.end; }, "First byte behind it (int).")
        .def("__repr__", [name](const py_message& x) {
          return "<pgtbl." + std::string(name) + " " + std::to_string(x.core.start) + "-" +
                 std::to_string(x.core.end) + ">";
        });
    cls.attr("__match_args__") = py::make_tuple("start", "end");
  };
  py::class_<py_remove, py_message, std::shared_ptr<py_remove>> remove(
      m, "UffdRemove",
      "MADV_DONTNEED, MADV_FREE or MADV_REMOVE of a registered range (EVENT_REMOVE): what is there goes as "
      "soon as "
      "this was read.");
  of_range(remove, "UffdRemove");
  py::class_<py_unmap, py_message, std::shared_ptr<py_unmap>> unmap(
      m, "UffdUnmap", "A range with registered mappings was unmapped (EVENT_UNMAP).");
  of_range(unmap, "UffdUnmap");
}

// ---------------------------------------------------------------- the server

struct py_server {
  std::shared_ptr<py_uffd> of;
  /// f(server) on the server, inside of a call.
  template <class F>
  auto with(const char* name, F&& f) const {
    return run(*of->mm->where, of->mm->entrance, name, of->mm->closed_text(), [&](cpu&) {
      const std::lock_guard alone(of->server_lock);
      return f(*of->core->server);
    });
  }
  void stop() const {
    if (of->is_closed()) return;  // which ended it
    with("server.stop", [](uffd_server& s) { s.stop(); });
  }
};

py_server serve(const std::shared_ptr<py_uffd>& u, const int_arg& word) {
  const u64 fill = to_u64(word, "word");
  run_uffd(*u, "uffd.serve", [&](cpu&, mm& m, userfaultfd& core) {
    const std::lock_guard alone(u->server_lock);
    if (core.server != nullptr && core.server->running())
      throw usage_error("this userfaultfd has a server already: stop that first");
    if (core.server != nullptr) destroy(core.server);
    core.server = nullptr;
    auto* const s = make<uffd_server>(m.home, core, fill);
    try {
      s->start();
    } catch (...) {
      destroy(s);
      throw;
    }
    core.server = s;
  });
  return {u};
}

void define_server(py::module_& m) {
  py::class_<py_server>(
      m, "UffdServer",
      R"(A thread of the laboratory's own that resolves the faults of a Userfaultfd. Made by Userfaultfd.serve().

It ends with stop(), at the end of its with block, and with the userfaultfd.)")
      .def("stop", &py_server::stop, "The thread ends; faults wait from now on. Harmless if repeated.")
      .def_property_readonly(
          "running",
          [](const py_server& s) {
            return !s.of->is_closed() && s.with("server.running", [](uffd_server& x) { return x.running(); });
          },
          "Whether its thread runs (bool).")
      .def_property_readonly(
          "served",
          [](const py_server& s) {
            return s.with("server.served", [](uffd_server& x) { return x.served(); });
          },
          "How many faults it resolved (int).")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](const py_server& s, const py::args&) { s.stop(); })
      .def("__repr__", [](const py_server& s) {
        return "<pgtbl.UffdServer of mm " + std::to_string(s.of->mm->id) + ">";
      });
}

}  // namespace

void define_uffd(py::module_& m, object_classes& c) {
  py::class_<py_uffd, std::shared_ptr<py_uffd>> cls(
      m, "Userfaultfd",
      R"(Ranges of an Mm whose faults wait until somebody has resolved them. Made by Mm.userfaultfd().

A thread reads what happened, and answers with copy(), zeropage(), continue_(), poison(), move() or
writeprotect(on=False); each wakes the faults of its range, and they try again::

    def pager(uffd):
        for message in uffd:                         # ends when the userfaultfd is closed
            if isinstance(message, pgtbl.UffdPagefault):
                uffd.zeropage(message.address, 4096)

A thread that waits ends with Ctrl-C, if it is the main thread, or with ClosedError when its mm or machine is closed; when
the userfaultfd is closed its fault is served as any other. Addresses are bytes, lengths bytes or text like "2MiB"; whole
pages are needed. Calls raise OSError with the ioctl's errno; those that fill raise OSError(EAGAIN) while a change of the
mapping waits to be read, or where only some pages were put in. wake=False leaves the faults asleep until wake().)");
  define_messages(m);
  define_server(m);
  cls.def(
         "register",
         [](py_uffd& u, const py::object& addr, const optional_size_arg& length, const py::iterable& modes) {
           const u64 bits = to_modes(modes);
           run_range(u, "uffd.register", addr, length, [&](cpu& self, mm& x, userfaultfd& f, va_t at, u64 n) {
             uffd_register(self, x, f, at, n, bits);
           });
         },
         "addr"_a, "length"_a, "modes"_a,
         R"(UFFDIO_REGISTER. modes: of "missing" (nothing is there), "minor" (the file has the page, the table does
not) and "wp" (a store to what writeprotect() protected).

OSError: EINVAL (alignment, nothing mapped, minor for anonymous memory), EBUSY (another userfaultfd has it).)")
      .def(
          "unregister",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length) {
            run_range(
                u, "uffd.unregister", addr, length,
                [](cpu& self, mm& x, userfaultfd& f, va_t at, u64 n) { uffd_unregister(self, x, f, at, n); });
          },
          "addr"_a, "length"_a = py::none(),
          "UFFDIO_UNREGISTER: faults are served again, those that wait too, and protection ends.")
      .def(
          "writeprotect",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length, bool on, bool wake) {
            run_range(u, "uffd.writeprotect", addr, length,
                      [=](cpu& self, mm& x, userfaultfd& f, va_t at, u64 n) {
                        uffd_writeprotect(self, x, f, at, n, on, wake);
                      });
          },
          "addr"_a, "length"_a = py::none(), "on"_a = true, "wake"_a = true,
          R"(UFFDIO_WRITEPROTECT: protects what is mapped (of a file also what is not), or ends that with on=False.

OSError(ENOENT) where the range is not registered for "wp".)")
      .def(
          "copy", &copy, "addr"_a, "data"_a, "wp"_a = false, "wake"_a = true,
          R"(UFFDIO_COPY: whole pages of data (any contiguous buffer) where nothing is mapped; wp: protected at once.

OSError: ENOENT (not registered), EEXIST (a page is there), EAGAIN (see above; or the table has just gone).)")
      .def(
          "zeropage",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length, bool wake) {
            run_range(u, "uffd.zeropage", addr, length,
                      [=](cpu& self, mm& x, userfaultfd& f, va_t at, u64 n) {
                        uffd_zeropage(self, x, f, at, n, wake);
                      });
          },
          "addr"_a, "length"_a = py::none(), "wake"_a = true,
          "UFFDIO_ZEROPAGE: pages of zeros where nothing is mapped. Errors as copy().")
      .def(
          "continue_",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length, bool wp, bool wake) {
            run_range(u, "uffd.continue_", addr, length,
                      [=](cpu& self, mm& x, userfaultfd& f, va_t at, u64 n) {
                        uffd_continue(self, x, f, at, n, wp, wake);
                      });
          },
          "addr"_a, "length"_a = py::none(), "wp"_a = false, "wake"_a = true,
          "UFFDIO_CONTINUE: maps the pages that the file has. OSError(EFAULT) where it has none; else as "
          "copy().")
      .def(
          "poison",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length, bool wake) {
            run_range(u, "uffd.poison", addr, length, [=](cpu& self, mm& x, userfaultfd& f, va_t at, u64 n) {
              uffd_poison(self, x, f, at, n, wake);
            });
          },
          "addr"_a, "length"_a = py::none(), "wake"_a = true,
          R"(UFFDIO_POISON (v6.6): an access to these pages raises BusError from now on; MADV_DONTNEED ends that.

Errors as copy(); OSError(EINVAL) before v6.6.)")
      .def(
          "move",
          [](py_uffd& u, const int_arg& to, const int_arg& from, const size_arg& length, bool allow_holes,
             bool wake) {
            const u64 target = to_u64(to, "to"), source = to_u64(from, "source"),
                      n = to_size(length, "length");
            run_uffd(u, "uffd.move", [&](cpu& self, mm& x, userfaultfd& f) {
              uffd_move(self, x, f, target, source, n, allow_holes, wake);
            });
          },
          "to"_a, "source"_a, "length"_a, "allow_holes"_a = false, "wake"_a = true,
          R"(UFFDIO_MOVE (Linux 6.8; here from v6.13 on): private pages go from source to the registered `to`, uncopied.

OSError: ENOENT (nothing at the source, unless allow_holes), EEXIST (a page is at the destination), EBUSY (somebody else
has the page: after a fork, or by a pin), EINVAL (not private anonymous memory, or another protection), EAGAIN.)")
      .def(
          "wake",
          [](py_uffd& u, const py::object& addr, const optional_size_arg& length) {
            run_range(u, "uffd.wake", addr, length,
                      [](cpu& self, mm&, userfaultfd& f, va_t at, u64 n) { uffd_wake(self, f, at, n); });
          },
          "addr"_a, "length"_a = py::none(), "UFFDIO_WAKE: the faults that wait in the range try again.")
      .def(
          "read", &read_message, "timeout"_a = py::none(),
          R"(The next message, waited for without the GIL; None when `timeout` seconds have gone by. Ctrl-C ends it.

Faults come before events. A call that changed a mapping (fork, mremap, munmap, madvise) goes on when its event was read.
ClosedError where the userfaultfd is closed, also meanwhile by another thread.)")
      .def("__iter__", [](const py::object& self) { return self; })
      .def("__next__", &next_message, "As read(), until the userfaultfd is closed.")
      .def("serve", &serve, "word"_a = 0,
           R"(Starts a thread that resolves every fault: a UffdServer. It needs a CPU of the machine (cpus=).

A missing page gets `word` all over, a minor fault the file's page, a store to a protected page the right to write. Events
are read, so that nobody waits for them. UsageError with EVENT_FORK, or where there is one already.)")
      .def_property_readonly(
          "waiting",
          [](py_uffd& u) {
            userfaultfd& core = u.open();
            return run(*u.mm->where, u.mm->entrance, "uffd.waiting", u.mm->closed_text(),
                       [&](cpu& self) { return uffd_sleepers(self, core); });
          },
          "How many faults wait, read or not (int).")
      .def_property_readonly(
          "features",
          [](const py_uffd& u) {
            std::vector<std::string> names;
            for (unsigned i = 0; i < std::size(feature_names); ++i)
              if ((u.features >> i & 1) != 0) names.emplace_back(feature_names[i]);
            return names;
          },
          "Names of its features (list of str).")
      .def_property_readonly(
          "mm", [](const py_uffd& u) { return u.mm; }, "The Mm that it is of.")
      .def(
          "close", &py_uffd::close,
          "Every range is given up, and what waits goes on. Harmless if repeated; done when the object goes.")
      .def_property_readonly("closed", &py_uffd::is_closed, "Whether it, its mm or its machine was closed.")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_uffd& u, const py::args&) { u.close(); })
      .def("__repr__", [](const py_uffd& u) {
        return "<pgtbl.Userfaultfd of mm " + std::to_string(u.mm->id) + (u.is_closed() ? ", closed>" : ">");
      });
  c.mm.def("userfaultfd", &make_uffd, "features"_a = py::tuple(),
           R"(A new userfaultfd of this address space: a Userfaultfd.

features: names without UFFD_FEATURE_. With "SIGBUS" a fault that would wait raises BusError instead. "EVENT_FORK",
"EVENT_REMAP", "EVENT_REMOVE" and "EVENT_UNMAP": such changes of registered ranges are told, and wait until that was read.
OSError(EINVAL) for one that is later than the machine's era ("POISON" v6.6, "MOVE" v6.13).)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
