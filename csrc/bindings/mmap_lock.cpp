// mmap_lock.cpp -- an mm's mmap_lock in the hands of Python: sections for `with`, and who may not take it again.
#include <algorithm>
#include <optional>

#include "bindings/mm.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void unlock_now(cpu& self, held_mmap_lock& l) {
  if (l.released) return;
  l.released = true;
  mm& m = *l.mm->core;
  if (l.write) {
    vma_end_write_all(m);
    m.mmap_lock.write_unlock(self, l.token);
  } else {
    m.mmap_lock.read_unlock(self, l.token);
  }
  l.mm->python_locks.fetch_sub(1);
}

void forbid_own_lock(const call& c, const py_mm& m, const char* name) {
  for (const auto& l : c.slot().locks)
    if (l->mm.get() == &m)
      throw deadlock_error(std::string(name) + " may take mmap_lock of mm " + std::to_string(m.id) +
                           ", which this thread holds (with mm.mmap_lock." + (l->write ? "write" : "read") +
                           "()): leave that first");
}

namespace {

struct py_mmap_lock {
  std::shared_ptr<py_mm> mm;
};

/// A section of mmap_lock, for `with`.  Without state of its own: the thread's slot knows what it holds.
struct py_mmap_section {
  std::shared_ptr<py_mm> mm;
  bool write;
  bool trying;
};

/// __enter__: whether the lock was got.
bool enter_section(const py_mmap_section& s) {
  py_mm& m = *s.mm;
  const char* const name = s.write ? "mmap_lock.write" : "mmap_lock.read";
  const call c(*m.where, m.entrance, name, m.closed_text());
  forbid_own_lock(c, m, name);
  if (!s.trying) forbid_section(c.self(), name);
  auto entry = std::make_shared<held_mmap_lock>(held_mmap_lock{s.mm, s.write, {}});
  c.slot().locks.reserve(c.slot().locks.size() + 1);
  rwsem& lock = m.core->mmap_lock;
  std::optional<hold> got;
  if (s.trying) {
    got = s.write ? lock.try_write_lock(c.self()) : lock.try_read_lock(c.self());
    if (!got) return false;
  } else {
    wait_interruptibly(
        [&](wait_watch& w) { got = s.write ? lock.write_lock(c.self(), w) : lock.read_lock(c.self(), w); });
  }
  entry->token = *got;
  m.python_locks.fetch_add(1);
  c.slot().locks.push_back(std::move(entry));
  return true;
}

void exit_section(const py_mmap_section& s) {
  home& h = *s.mm->where;
  const call c(h, h.entrance, "mmap_lock");
  auto& locks = c.slot().locks;
  const auto it = std::find_if(locks.begin(), locks.end(),
                               [&](const auto& l) { return l->mm == s.mm && l->write == s.write; });
  if (it == locks.end()) {
    if (s.trying) return;
    throw usage_error("this thread does not hold mmap_lock of mm " + std::to_string(s.mm->id) +
                      (s.write ? " for writing" : " for reading"));
  }
  const auto entry = *it;
  locks.erase(it);
  unlock_now(c.self(), *entry);
}

}  // namespace

void define_mmap_lock(py::module_& m, object_classes& c) {
  py::class_<py_mmap_section>(m, "MmapSection", "A section of an mmap_lock, for the with statement.")
      .def(
          "__enter__",
          [](const py_mmap_section& s) {
            const bool got = enter_section(s);
            return s.trying ? py::object(py::bool_(got)) : py::object(py::none());
          },
          "Enters. None, or for a try whether it got the lock (bool).")
      .def(
          "__exit__", [](const py_mmap_section& s, const py::args&) { exit_section(s); },
          "Leaves, if it got in.");
  const auto section = [](bool write, bool trying) {
    return [=](const py_mmap_lock& l) { return py_mmap_section{l.mm, write, trying}; };
  };
  const auto state = [](auto get) {
    return [get](const py_mmap_lock& l) {
      return peek(*l.mm, "mm.mmap_lock", [&](mm& core) { return get(core.mmap_lock); });
    };
  };
  py::class_<py_mmap_lock>(m, "MmapLock",
                           R"(The mmap_lock of an mm: a fair reader-writer semaphore, as the kernel's.

A thread that is inside must not call what may take the lock again: that raises DeadlockError. A thread that ends
inside gives it back. Sections count in Machine.ledger() as mmap_lock.read and mmap_lock.write.)")
      .def("read", section(false, false),
           "A read section: with mm.mmap_lock.read(): ... Waits behind waiting writers.")
      .def("write", section(true, false), "A write section: with mm.mmap_lock.write(): ...")
      .def("try_read", section(false, true),
           "with mm.mmap_lock.try_read() as got: got is False where that would wait.")
      .def("try_write", section(true, true),
           "with mm.mmap_lock.try_write() as got: got is False where that would wait.")
      .def_property_readonly("locked", state([](const rwsem& s) { return s.is_locked(); }),
                             "Whether anybody is inside.")
      .def_property_readonly("write_locked", state([](const rwsem& s) { return s.is_write_locked(); }),
                             "Whether a writer is inside.")
      .def_property_readonly("contended", state([](const rwsem& s) { return s.is_contended(); }),
                             "Whether anybody waits.")
      .def_property_readonly("readers", state([](const rwsem& s) { return s.readers(); }),
                             "How many readers are inside.");
  c.mm.def_property_readonly(
      "mmap_lock", [](py_mm& x) { return py_mmap_lock{x.shared_from_this()}; },
      "The mm's mmap_lock, to be held by tests: an MmapLock.");
}

}  // namespace pgtbl::inline PGTBL_WORLD
