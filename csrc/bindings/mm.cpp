// Mm and Vma for Python: the system calls of a simulated program, and its loads and stores.
#include <algorithm>
#include <optional>

#include "bindings/fast.hpp"
#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "bindings/waiting.hpp"
#include "check/pagemap.hpp"
#include "check/smaps.hpp"
#include "mm/access.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

// ---------------------------------------------------------------- objects

py_mm::py_mm(std::shared_ptr<home> h, mm* m)
    : where(std::move(h)),
      core(m),
      id(m->id),
      closed_text_("mm " + std::to_string(m->id) + " is closed: its program has ended") {}

py_mm::~py_mm() {
  if (!where->is_ours() || !where->is_open() || entrance.state.load() == gate::closed) return;
  try {
    const call c(*where, where->entrance, "mm.close");
    const maybe_released away;
    if (where->remove(core)) where->core().close_mm(c.self(), core);
  } catch (const std::exception&) {
    // No CPU for this thread, or the machine is being closed: it closes the mm.
  }
}

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

std::string hex(u64 v) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

/// The lower half of the address space is the program's; the hardware knows no other addresses.
void check_user(u64 va, u64 n) {
  if (va < task_size && n <= task_size - va) [[likely]]
    return;
  throw segmentation_fault("address " + hex(va < task_size ? task_size : va) +
                           " is outside of a program's address space (0 to " + hex(task_size - 1) + ")");
}

/// What needs the mm open, and reads its counters only.
template <class F>
auto peek(py_mm& m, const char* name, F&& f) {
  const call c(*m.where, m.entrance, name, m.closed_text());
  return f(*m.core);
}

}  // namespace

// ---------------------------------------------------------------- arguments

range to_range(const py_mm& m, py::handle start, py::handle length) {
  if (py::isinstance<py_vma>(start)) {
    const auto& v = start.cast<const py_vma&>();
    if (v.machine != m.where->serial) throw usage_error("the Vma is on another machine than the mm");
    if (length.is_none()) return {v.start, v.end - v.start};
    return {v.start, to_size(length, "length")};
  }
  if (length.is_none()) throw py::type_error("a length is needed beside an address; a Vma alone has its own");
  return {to_u64(start, "address"), to_size(length, "length")};
}

prot_bits to_prot(py::handle text) {
  const auto refuse = [&] {
    return value_error("prot " + py::cast<std::string>(py::repr(text)) +
                       " is unknown; allowed are 'r', 'w', 'x' in any combination, or 'none'");
  };
  if (!py::isinstance<py::str>(text)) throw py::type_error("prot must be text like 'rw'");
  const auto s = text.cast<std::string>();
  prot_bits p{false, false, false};
  if (s == "none") return p;
  if (s.empty()) throw refuse();
  for (const char c : s) {
    bool* const bit = c == 'r' ? &p.read : c == 'w' ? &p.write : c == 'x' ? &p.exec : nullptr;
    if (c == '-') continue;
    if (bit == nullptr || *bit) throw refuse();
    *bit = true;
  }
  return p;
}

std::string prot_text(u32 flags) {
  std::string s;
  if ((flags & vm_read) != 0) s += 'r';
  if ((flags & vm_write) != 0) s += 'w';
  if ((flags & vm_exec) != 0) s += 'x';
  return s.empty() ? "none" : s;
}

namespace {

u32 to_flags(prot_bits p, bool shared) {
  const u64 f = (p.read ? u64{vm_read} : 0) | (p.write ? u64{vm_write} : 0) | (p.exec ? u64{vm_exec} : 0) |
                (shared ? u64{vm_shared} : 0);
  return static_cast<u32>(f);
}

// ---------------------------------------------------------------- system calls

u64 length_of_rest(py_file& file, cpu& self, u64 offset) {
  const py_file::pin f(self, file);
  const u64 size = (*f).size.load(acquire);
  if (offset >= size)
    throw value_error("offset " + std::to_string(offset) + " lies at or behind the end of the file (" +
                      std::to_string(size) + " bytes): give a length");
  return size - offset;
}

/// The rest of what the VMA at v.start says now.
py_vma made_vma(cpu& self, mm& m, py_vma v) {
  const mmap_read_guard held(self, m);
  if (const vma* now = m.vmas.find(v.start)) v.vm_flags = now->flags();
  return v;
}

py_vma mm_mmap(py_mm& m,
               const std::optional<std::shared_ptr<py_file>>& given,
               const optional_size_arg& length,
               const size_arg& offset,
               const optional_int_arg& addr,
               const text_arg& prot,
               bool shared,
               bool fixed,
               bool populate,
               bool locked,
               bool noreserve) {
  const std::shared_ptr<py_file> file = given.value_or(nullptr);
  if (file != nullptr && file->where != m.where)
    throw usage_error("the file is on another machine than the mm");
  if (file == nullptr && length.is_none()) throw value_error("anonymous memory needs a length");
  if (fixed && addr.is_none()) throw value_error("fixed=True needs an addr");
  mmap_args a;
  a.offset = to_size(offset, "offset");
  if (file == nullptr && a.offset != 0)
    throw value_error("offset " + std::to_string(a.offset) + ": anonymous memory has no offset");
  if (!length.is_none()) a.length = to_size(length, "length");
  if (!addr.is_none()) a.addr = to_u64(addr, "addr");
  a.prot = to_prot(prot);
  a.shared = shared;
  a.fixed = fixed;
  a.populate = populate;
  a.locked = locked;
  a.noreserve = noreserve;
  const bool rest = length.is_none();
  return run_mm(m, "mm.mmap", [&](cpu& self) {
    if (rest) a.length = length_of_rest(*file, self, a.offset);
    u64 start = 0;
    if (file != nullptr) {
      const py_file::pin f(self, *file);
      a.file = f.get();
      start = sys_mmap(self, *m.core, a);
    } else if (shared) {
      // Shared anonymous memory is a file without a name, as in Linux.
      if (a.length > task_size)
        throw os_error(ENOMEM,
                       "mmap: " + std::to_string(a.length) + " bytes do not fit into an address space");
      a.file = m.where->core().new_mapping(self, page_align_up(a.length));
      struct put {
        cpu& self;
        mapping& f;
        ~put() { mapping_put(self, f); }
      } const putting{self, *a.file};
      start = sys_mmap(self, *m.core, a);
    } else {
      start = sys_mmap(self, *m.core, a);
    }
    return made_vma(
        self, *m.core,
        {start, start + page_align_up(a.length), to_flags(a.prot, shared), a.offset, file, m.where->serial});
  });
}

void mm_munmap(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.munmap", [&](cpu& self) { sys_munmap(self, *m.core, r.start, r.length); });
}

void mm_mprotect(py_mm& m, const py::object& addr, const optional_size_arg& length, const text_arg& prot) {
  const range r = to_range(m, addr, length);
  const prot_bits p = to_prot(prot);
  run_mm(m, "mm.mprotect", [&](cpu& self) { sys_mprotect(self, *m.core, r.start, r.length, p); });
}

u64 mm_brk(py_mm& m, const optional_int_arg& addr) {
  const u64 to = addr.is_none() ? 0 : to_u64(addr, "addr");
  return run_mm(m, "mm.brk", [&](cpu& self) { return sys_brk(self, *m.core, to); });
}

void mm_madvise(py_mm& m, const py::object& addr, const optional_size_arg& length, int advice) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.madvise", [&](cpu& self) { sys_madvise(self, *m.core, r.start, r.length, advice); });
}

py::array_t<bool> mm_mincore(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  constexpr u64 pages_at_once = 1 << 20;  // a wrong length must not allocate the memory of its answer
  const range r = to_range(m, addr, length);
  std::vector<u8> rows;
  run_mm(m, "mm.mincore", [&](cpu& self) {
    u64 at = 0;
    do {
      const u64 part = std::min<u64>(r.length - at, pages_at_once << page_shift);
      const std::size_t before = rows.size();
      rows.resize(before + (page_align_up(part) >> page_shift));
      sys_mincore(self, *m.core, r.start + at, part, rows.data() + before);
      at += part;
    } while (at < r.length);
  });
  py::array_t<bool> out(static_cast<py::ssize_t>(rows.size()));
  if (!rows.empty())
    std::transform(rows.begin(), rows.end(), out.mutable_data(), [](u8 b) { return (b & 1) != 0; });
  return out;
}

py_vma describe(py_mm& m, const vma_entry& e) {
  const vma& v = *e.vma;
  return {e.start,
          e.end,
          static_cast<u32>(v.flags() & (vm_access_flags | vm_shared)),
          v.file == nullptr ? 0 : v.pgoff << page_shift,
          v.file == nullptr ? nullptr : m.where->handle_of(v.file),
          m.where->serial,
          v.flags()};
}

// ---------------------------------------------------------------- fork, mremap, mlock

std::shared_ptr<py_mm> mm_fork(py_mm& m) {
  return run_mm(m, "mm.fork", [&](cpu& self) {
    uffd_events told;
    mm* child = copy_mm(self, *m.core, told);
    auto handle = std::make_shared<py_mm>(m.where, child);
    m.where->add(child, handle);
    // Not before: who reads of the child's userfaultfd gets the child's handle with it.
    told.tell(self);
    return handle;
  });
}

u64 mm_mremap(py_mm& m,
              const int_arg& addr,
              const size_arg& old_length,
              const size_arg& new_length,
              bool maymove,
              bool fixed,
              bool dontunmap,
              const optional_int_arg& to) {
  mremap_args a;
  a.addr = to_u64(addr, "addr");
  a.old_length = to_size(old_length, "old_length");
  a.new_length = to_size(new_length, "new_length");
  a.flags =
      (maymove ? mremap_maymove : 0U) | (fixed ? mremap_fixed : 0U) | (dontunmap ? mremap_dontunmap : 0U);
  if (fixed && to.is_none()) throw value_error("fixed=True needs a `to`");
  if (!to.is_none()) a.new_addr = to_u64(to, "to");
  return run_mm(m, "mm.mremap", [&](cpu& self) { return sys_mremap(self, *m.core, a); });
}

void mm_mlock(py_mm& m, const py::object& addr, const optional_size_arg& length, bool onfault) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.mlock", [&](cpu& self) { sys_mlock(self, *m.core, r.start, r.length, onfault); });
}

void mm_munlock(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.munlock", [&](cpu& self) { sys_munlock(self, *m.core, r.start, r.length); });
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
                                                  {"Locked", r.locked >> 22},
                                                  {"THPeligible", r.thp_eligible ? 1U : 0U}};
    for (const auto& [name, value] : fields)
      if (value != 0) kib[name] = value;
    out.append(
        py::dict("start"_a = r.start, "end"_a = r.end, "flags"_a = vm_flags_text(r.flags), "kib"_a = kib));
  }
  return out;
}

std::vector<py_vma> mm_vmas(py_mm& m) {
  return run_mm(m, "mm.vmas", [&](cpu& self) {
    std::vector<py_vma> all;
    const mmap_read_guard held(self, *m.core);
    m.core->vmas.for_each(0, ~va_t{0}, [&](vma_entry e) { all.push_back(describe(m, e)); });
    return all;
  });
}

py::dict mm_rss(py_mm& m) {
  i64 pages[rss_kinds];
  peek(m, "mm.rss", [&](mm& core) {
    for (unsigned k = 0; k < rss_kinds; ++k) pages[k] = core.rss.get(static_cast<rss_kind>(k));
  });
  return py::dict("file"_a = pages[0], "anon"_a = pages[1], "shmem"_a = pages[2]);
}

// ---------------------------------------------------------------- loads and stores

py::bytes mm_read_bytes(py_mm& m, const int_arg& addr, const size_arg& n) {
  const u64 va = to_u64(addr, "addr"), length = to_size(n, "n");
  check_user(va, length);
  auto out =
      py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(length)));
  if (!out) throw py::error_already_set();
  char* const to = PyBytes_AS_STRING(out.ptr());
  run_access(m, "mm.read", [&](cpu& self) { mm_read(self, *m.core, va, to, length); });
  return out;
}

void mm_write_bytes(py_mm& m, const int_arg& addr, const py::object& data) {
  const u64 va = to_u64(addr, "addr");
  Py_buffer view;
  if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  struct release_view {
    Py_buffer& v;
    ~release_view() { PyBuffer_Release(&v); }
  } const releasing{view};
  check_user(va, static_cast<u64>(view.len));
  run_access(m, "mm.write",
             [&](cpu& self) { mm_write(self, *m.core, va, view.buf, static_cast<u64>(view.len)); });
}

u64 touch_many(py_mm& m, const py::array& given, access a) {
  if (given.size() == 0) return 0;
  const char kind = given.dtype().kind();
  if (kind != 'i' && kind != 'u')
    throw py::type_error(std::string("addresses must be integers, not an array of dtype ") +
                         py::cast<std::string>(py::str(given.dtype())));
  const auto addresses = py::array_t<u64, py::array::c_style | py::array::forcecast>::ensure(given);
  if (!addresses) throw py::error_already_set();
  const u64* const first = addresses.data();
  const u64* const end = first + addresses.size();
  constexpr u64 at_once = 4096;
  constexpr u64 patience_ns = 100'000'000;  // then Ctrl-C is looked for
  return run_access(m, "mm.touch", [&](cpu& self) {
    const bool main_thread = is_main_thread();  // who gets Ctrl-C
    u64 faults = 0, looked = now_ns();
    for (const u64* at = first; at != end;) {
      const u64* const stop = at + std::min<u64>(at_once, static_cast<u64>(end - at));
      for (; at != stop; ++at) {
        if (kind == 'i' && static_cast<i64>(*at) < 0) [[unlikely]]
          throw value_error("address " + std::to_string(static_cast<i64>(*at)) + " is negative");
        check_user(*at, 1);
        faults += mm_touch(self, *m.core, *at, a);
      }
      if (!main_thread || at == end || now_ns() - looked < patience_ns) continue;
      looked = now_ns();
      const py::gil_scoped_acquire gil;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    return faults;
  });
}

// ---------------------------------------------------------------- the fast ones

/// An address; false with an error set.
bool fast_address(PyObject* o, u64& va) {
  va = PyLong_AsUnsignedLongLong(o);
  if (va != ~u64{0} || PyErr_Occurred() == nullptr) return true;
  PyErr_Clear();
  va = to_u64(o, "address");
  return true;
}

/// One access: without leaving the interpreter where the hardware can do it alone, which never waits.
/// word(physical, pfn, offset of the word).
template <class Word>
u32 access_now(py_mm& m, const char* name, u64 va, access a, Word&& word) {
  check_user(va, 1);
  const call c(*m.where, m.entrance, name, m.closed_text());
  cpu& self = c.self();
  const auto use = [&](pfn_t pfn, u64 offset) { word(self.ram->phys, pfn, offset & ~7ULL); };
  if constexpr (!checked_build) {  // there, a pause may stop us anywhere
    load_mm(self, *m.core);
    if (mmu_access(self, va, a, use)) [[likely]] {
      m.where->raise_breaches();
      return 0;
    }
  }
  forbid_own_lock(c, m, name);
  return run_interruptibly(self, m, [&] {
    const u32 faults = mm_access(self, *m.core, va, a, use);
    m.where->raise_breaches();
    return faults;
  });
}

PyObject* fast_touch(py_mm& m, const fast::arguments& given) {
  static constexpr const char* names[] = {"addresses", "write"};
  PyObject* v[2] = {};
  if (!given.match("touch", names, 1, v)) return nullptr;
  int write = 0;
  if (v[1] != nullptr && (write = PyObject_IsTrue(v[1])) < 0) return nullptr;
  const access a = write != 0 ? access::write : access::read;
  if (!PyLong_CheckExact(v[0])) {
    if (py::isinstance<py::array>(v[0]) || PyIndex_Check(v[0]) == 0) {
      const auto array = py::array::ensure(py::handle(v[0]));
      if (!array) throw py::type_error("addresses must be an int or an array of integers");
      return PyLong_FromUnsignedLongLong(touch_many(m, array, a));
    }
  }
  u64 va;
  if (!fast_address(v[0], va)) return nullptr;
  const u32 faults = access_now(m, "mm.touch", va, a, [a](physical& phys, pfn_t pfn, u64 at) {
    if (a == access::write) {
      phys.touch_word(pfn, at);  // in one step: another thread's store that came between would be lost
    } else {
      phys.load_word(pfn, at);
    }
  });
  return PyLong_FromUnsignedLong(faults);
}

void check_aligned(u64 va) {
  if (va % 8 != 0) throw value_error("address " + hex(va) + " is not a multiple of 8");
}

PyObject* fast_load(py_mm& m, const fast::arguments& given) {
  static constexpr const char* names[] = {"addr"};
  PyObject* v[1] = {};
  u64 va;
  if (!given.match("load", names, 1, v) || !fast_address(v[0], va)) return nullptr;
  check_aligned(va);
  u64 word = 0;
  access_now(m, "mm.load", va, access::read,
             [&word](physical& phys, pfn_t pfn, u64 at) { word = phys.load_word(pfn, at); });
  return PyLong_FromUnsignedLongLong(word);
}

PyObject* fast_store(py_mm& m, const fast::arguments& given) {
  static constexpr const char* names[] = {"addr", "word"};
  PyObject* v[2] = {};
  u64 va;
  if (!given.match("store", names, 2, v) || !fast_address(v[0], va)) return nullptr;
  check_aligned(va);
  const u64 word = to_u64(v[1], "word");
  access_now(m, "mm.store", va, access::write,
             [word](physical& phys, pfn_t pfn, u64 at) { phys.store_word(pfn, at, word); });
  Py_RETURN_NONE;
}

// ---------------------------------------------------------------- mmap_lock

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

void define_mmap_lock(py::module_& m) {
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
}

// ---------------------------------------------------------------- what is mapped

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

std::string show_vma(const py_vma& v) {
  std::string s = "<pgtbl.Vma " + hex(v.start) + "-" + hex(v.end) + " " + prot_text(v.flags) +
                  ((v.flags & vm_shared) != 0 ? " shared" : " private");
  if (v.file != nullptr) s += ", file " + std::to_string(v.file->id) + " at " + std::to_string(v.offset);
  return s + ">";
}

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
      .def_readonly("file", &py_vma::file,
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

void define_mm(py::module_& m, object_classes& c) {
  PYBIND11_NUMPY_DTYPE(pagemap_row, va, pfn, index, mapcount, refcount, anon, order, huge, write, dirty,
                       young, zero, guard, swap);
  define_vma(c);
  define_level(m);
  define_mmap_lock(m);
  for (const auto& [name, value] :
       std::initializer_list<std::pair<const char*, u64>>{{"MADV_NORMAL", madv_normal},
                                                          {"MADV_RANDOM", madv_random},
                                                          {"MADV_SEQUENTIAL", madv_sequential},
                                                          {"MADV_WILLNEED", madv_willneed},
                                                          {"MADV_DONTNEED", madv_dontneed},
                                                          {"MADV_FREE", madv_free},
                                                          {"MADV_REMOVE", madv_remove},
                                                          {"MADV_DONTFORK", madv_dontfork},
                                                          {"MADV_DOFORK", madv_dofork},
                                                          {"MADV_HUGEPAGE", madv_hugepage},
                                                          {"MADV_NOHUGEPAGE", madv_nohugepage},
                                                          {"MADV_DONTDUMP", madv_dontdump},
                                                          {"MADV_DODUMP", madv_dodump},
                                                          {"MADV_WIPEONFORK", madv_wipeonfork},
                                                          {"MADV_KEEPONFORK", madv_keeponfork},
                                                          {"MADV_COLD", madv_cold},
                                                          {"MADV_PAGEOUT", madv_pageout},
                                                          {"MADV_POPULATE_READ", madv_populate_read},
                                                          {"MADV_POPULATE_WRITE", madv_populate_write},
                                                          {"MADV_DONTNEED_LOCKED", madv_dontneed_locked},
                                                          {"MADV_COLLAPSE", madv_collapse},
                                                          {"MADV_GUARD_INSTALL", madv_guard_install},
                                                          {"MADV_GUARD_REMOVE", madv_guard_remove},
                                                          {"VM_READ", vm_read},
                                                          {"VM_WRITE", vm_write},
                                                          {"VM_EXEC", vm_exec},
                                                          {"VM_SHARED", vm_shared}})
    m.attr(name) = value;

  c.mm.def("mmap", &mm_mmap, "file"_a = py::none(), "length"_a = py::none(), "offset"_a = 0,
           "addr"_a = py::none(), "prot"_a = "rw", "shared"_a = true, "fixed"_a = false, "populate"_a = false,
           "locked"_a = false, "noreserve"_a = false,
           R"(Maps a file, or anonymous memory, and returns the Vma.

file: a File of the same machine; None is anonymous memory: shared, a shmem file without a name, or private.
length: bytes, rounded up to pages; by default the rest of the file from offset on.
offset: into the file, a multiple of 4096.
addr: where it should go; with fixed=True where it must go, over whatever is there. Where it may choose, it
goes top-down, at a multiple of 2 MiB if it is that long.
prot: of "r", "w" and "x", or "none".
populate, locked, noreserve: MAP_POPULATE, MAP_LOCKED and MAP_NORESERVE: the first two bring every page in.

Raises OSError with mmap's errno (EINVAL, ENOMEM, EPERM, EOVERFLOW), ValueError, UsageError for another machine's file.
Shared files are mapped small until they are collapsed.)")
      .def("munmap", &mm_munmap, "addr"_a, "length"_a = py::none(),
           R"(Unmaps [addr, addr + length), or a whole Vma. Holes in it are no error.

OSError(EINVAL) where addr is not a multiple of 4096, length is 0, or the range leaves the address space.)")
      .def("mprotect", &mm_mprotect, "addr"_a, "length"_a, "prot"_a,
           R"(Changes what is allowed in [addr, addr + length).

OSError: EINVAL as for munmap, ENOMEM where something in the range is not mapped.)")
      .def("brk", &mm_brk, "addr"_a = py::none(),
           R"(Moves the end of the heap to addr, and returns where it is then (int).

As the system call: the old end where the request can not be met. Without addr: only says where it is.)")
      .def("madvise", &mm_madvise, "addr"_a, "length"_a, "advice"_a, R"(madvise(2) for [addr, addr + length).

advice: one of the MADV_ constants. As on Linux: an advice does what it can up to the mapping that refuses it, and
passes over holes, which it tells of at the end. What there is no counterpart of in the laboratory (read-ahead, swap)
does nothing. Raises OSError with Linux's errno: EINVAL (alignment, unknown advice, a mapping that does not take it),
ENOMEM (nothing mapped somewhere, or no huge page to be had), EAGAIN (a page is in use), EBUSY, EFAULT, EACCES.

MADV_COLLAPSE: which locks it takes depends on the machine's era; counted at Linux 6.18, one call over n mapped
extents of shared memory takes no mmap_lock for write and 2n + 1 for read (v6.6); each extent of anonymous memory takes
it for write once, in every era. MADV_GUARD_INSTALL and MADV_GUARD_REMOVE exist from v6.13 on.)")
      .def(
          "mincore", &mm_mincore, "addr"_a, "length"_a = py::none(),
          R"(Which pages of [addr, addr + length) (or of a Vma) are in memory: a NumPy array of bool, one a page.

OSError: EINVAL where addr is not a multiple of 4096, ENOMEM where something is not mapped.)")
      .def("read", &mm_read_bytes, "addr"_a, "n"_a,
           R"(The n bytes from addr on (bytes), through the simulated MMU, faulting as a program would.

Raises SegmentationFault, BusError (beyond the end of the file), OutOfMemory.)")
      .def("write", &mm_write_bytes, "addr"_a, "data"_a,
           R"(Stores data (any contiguous buffer) at addr, through the simulated MMU.

Raises SegmentationFault, BusError, OutOfMemory; what was stored before a fault that can not be served stays stored.)")
      .def(
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
      .def("fork", &mm_fork, R"(Copies the address space, as fork() does; returns the child's Mm.

Private pages are shared by both until one of them stores (copy on write). Mappings advised MADV_DONTFORK are left
out, those advised MADV_WIPEONFORK are empty. The calling thread stays the parent's. OutOfMemory when no frame is left
for the child's page tables.)")
      .def("mremap", &mm_mremap, "addr"_a, "old_length"_a, "new_length"_a, "maymove"_a = false,
           "fixed"_a = false, "dontunmap"_a = false, "to"_a = py::none(),
           R"(Resizes or moves a mapping, as mremap(2); returns its address then (int).

maymove: it may go elsewhere where there is no room behind it. fixed: it must go to `to`, over whatever is there.
dontunmap: the old mapping stays, empty; `to` is a hint then. Both need maymove. Tables and huge pages move whole where
source and destination are aligned alike.

OSError: EINVAL (flags, alignment, overlap), EFAULT (not mapped, or more than one mapping), ENOMEM (no room).)")
      .def("mlock", &mm_mlock, "addr"_a, "length"_a = py::none(), "onfault"_a = false,
           R"(Locks [addr, addr + length) (or a Vma) into memory: all of it is brought in, as mlock(2) does.

onfault: pages are locked as they come (MLOCK_ONFAULT). OSError(ENOMEM) where something is not mapped, or can not be
brought in.)")
      .def("munlock", &mm_munlock, "addr"_a, "length"_a = py::none(),
           "Undoes mlock() for a range or a Vma. OSError(ENOMEM) where something is not mapped.")
      .def("smaps", &mm_smaps, R"(What /proc/PID/smaps tells of each mapping: a list of dicts, upwards.

Keys: start, end (bytes); flags (VmFlags, as Vma.vm_flags); kib, a dict of those of Rss, Pss, Shared_Clean, Shared_Dirty,
Private_Clean, Private_Dirty, Anonymous, LazyFree, AnonHugePages, ShmemPmdMapped and Locked that are not 0, in KiB, and
THPeligible where it is 1. Takes mmap_lock for read; exact while nothing runs.)")
      .def("vmas", &mm_vmas, "Every Vma of the mm, upwards (list). Takes mmap_lock for read.")
      .def_property_readonly("rss", &mm_rss,
                             "Mapped pages (of 4 KiB) by kind: a dict of \"file\", \"anon\" and \"shmem\".")
      .def_property_readonly(
          "pgtables_bytes",
          [](py_mm& x) {
            return peek(x, "mm.pgtables_bytes", [](mm& core) { return core.pgtables_bytes.load(relaxed); });
          },
          "Bytes of page tables that the mm has (int); a table leaves the count when it is detached, before "
          "RCU frees it.")
      .def_property_readonly(
          "mmap_lock", [](py_mm& x) { return py_mmap_lock{x.shared_from_this()}; },
          "The mm's mmap_lock, to be held by tests: an MmapLock.")
      .def_property_readonly(
          "machine", [](py_mm& x) { return x.where; }, "The Machine that it is on.")
      .def_readonly("id", &py_mm::id, "Number of the mm on its machine (int).")
      .def(
          "close",
          [](py_mm& x, const optional_seconds_arg& timeout) {
            x.where->close_mm(x, to_ns(timeout, "timeout", default_patience_ns));
          },
          "timeout"_a = py::none(), R"(The program ends: everything is unmapped, and every page table freed.

Waits for its calls under way in other threads, `timeout` seconds (default 5), then raises UsageError naming them; also
where Python code holds its mmap_lock. Harmless if repeated.)")
      .def_property_readonly(
          "closed",
          [](const py_mm& x) { return !x.where->is_open() || x.entrance.state.load() == gate::closed; },
          "Whether the mm, or its machine, was closed.")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_mm& x, const py::args&) { x.where->close_mm(x, default_patience_ns); })
      .def("__repr__", [](const py_mm& x) {
        const bool closed = !x.where->is_open() || x.entrance.state.load() == gate::closed;
        return "<pgtbl.Mm " + std::to_string(x.id) + (closed ? ", closed>" : ">");
      });

  fast::def<py_mm, fast_touch>(
      c.mm, "touch", R"(touch(self, addresses: int | numpy.typing.ArrayLike, write: bool = False) -> int

Loads the word at each address, or with write=True adds 0 to it in one step; returns how many faults that took.

addresses: one int, or an array of integers (any shape), touched in order without the GIL; Ctrl-C stops it.
Raises SegmentationFault, BusError, OutOfMemory at the first address that can not be served.)");
  fast::def<py_mm, fast_load>(c.mm, "load", R"(load(self, addr: int) -> int

The 64-bit word at addr, a multiple of 8, by one access. Raises SegmentationFault, BusError, OutOfMemory.)");
  fast::def<py_mm, fast_store>(c.mm, "store", R"(store(self, addr: int, word: int) -> None

Stores a 64-bit word (0 to 2**64 - 1) at addr, a multiple of 8, by one access. Raises SegmentationFault, BusError, OutOfMemory.)");
}

}  // namespace pgtbl::inline PGTBL_WORLD
