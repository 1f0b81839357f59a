// mm.cpp -- Mm for Python: the system calls of a simulated program.
#include "bindings/mm.hpp"

#include <sys/sysinfo.h>

#include <algorithm>
#include <atomic>
#include <optional>

#include "bindings/size.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

// ---------------------------------------------------------------- objects

namespace {
/// Counts mms and Vmas of every machine, in one row.
u64 next_time() {
  static std::atomic<u64> times{0};
  return times.fetch_add(1) + 1;
}
}  // namespace

py_mm::py_mm(std::shared_ptr<home> h, mm* m, const py_mm* parent)
    : where(std::move(h)),
      core(m),
      id(m->id),
      closed_text_("mm " + std::to_string(m->id) + " is closed: its program has ended") {
  const u64 birth = next_time();
  if (parent != nullptr) {
    lineage_ = parent->lineage_;
    lineage_.back().time = birth;
  }
  lineage_.push_back({birth, ~u64{0}});
}

py_mm::origin py_mm::now() const { return {lineage_.back().mm, next_time()}; }

bool py_mm::has(const origin& o) const {
  return std::any_of(lineage_.begin(), lineage_.end(),
                     [&](const origin& part) { return part.mm == o.mm && o.time < part.time; });
}

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

std::string hex(u64 v) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

void refuse_address(u64 va) {
  throw segmentation_fault("address " + hex(va < task_size ? task_size : va) +
                           " is outside of a program's address space (0 to " + hex(task_size - 1) + ")");
}

// ---------------------------------------------------------------- arguments

range to_range(const py_mm& m, py::handle start, py::handle length) {
  if (py::isinstance<py_vma>(start)) {
    const auto& v = start.cast<const py_vma&>();
    if (!m.has(v.of))
      throw usage_error("the Vma [" + hex(v.start) + ", " + hex(v.end) + ") is not of mm " +
                        std::to_string(m.id) + ", nor of a parent of before its fork");
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
        {start, start + page_align_up(a.length), to_flags(a.prot, shared), a.offset, file, m.now()});
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

/// A byte for each page of an answer: more than a quarter of this computer's memory is refused, or the kernel would kill us.
u64 largest_answer() {
  struct sysinfo s = {};
  return sysinfo(&s) != 0 ? u64{1} << 30 : static_cast<u64>(s.totalram) * s.mem_unit / 4;
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
      if (before > largest_answer())
        throw value_error(
            "length " + std::to_string(r.length) + ": the answer, a byte for each page, is larger than " +
            std::to_string(largest_answer() >> 20) + "MiB, a quarter of this computer's memory");
      rows.resize(before + (page_align_up(part) >> page_shift));
      sys_mincore(self, *m.core, r.start + at, part, rows.data() + before);
      at += part;
      if (at < r.length && !self.still_wanted(self.wanted_by)) throw interrupted("mincore goes on no longer");
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
          m.now(),
          v.flags()};
}

// ---------------------------------------------------------------- fork, mremap, mlock

std::shared_ptr<py_mm> mm_fork(py_mm& m) {
  return run_mm(m, "mm.fork", [&](cpu& self) {
    uffd_events told;
    mm* child = copy_mm(self, *m.core, told);
    auto handle = std::make_shared<py_mm>(m.where, child, &m);
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

void mm_mseal(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.mseal", [&](cpu& self) { sys_mseal(self, *m.core, r.start, r.length); });
}

void mm_msync(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.msync", [&](cpu& self) { sys_msync(self, *m.core, r.start, r.length); });
}

void mm_thp_disable(py_mm& m, bool on, const int_arg& flags) {
  const u64 f = to_u64(flags, "flags");
  run_mm(m, "mm.thp_disable", [&](cpu& self) { sys_thp_disable(self, *m.core, on, f); });
}

void mm_munlock(py_mm& m, const py::object& addr, const optional_size_arg& length) {
  const range r = to_range(m, addr, length);
  run_mm(m, "mm.munlock", [&](cpu& self) { sys_munlock(self, *m.core, r.start, r.length); });
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

}  // namespace

void define_mm(py::module_& m, object_classes& c) {
  define_vma(c);
  define_access(c);
  define_mapped(m, c);
  define_mmap_lock(m, c);
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
      .def("mseal", &mm_mseal, "addr"_a, "length"_a = py::none(),
           R"(Seals [addr, addr + length) (or a Vma), as mseal(2) does (6.10).

To the end of the program it is not unmapped, moved, mapped over, nor given other rights, and anonymous memory that cannot be stored
to is not discarded: OSError(EPERM). OSError(ENOMEM), and nothing is sealed, where not all of it is mapped; OSError(ENOSYS)
in earlier eras.)")
      .def(
          "msync", &mm_msync, "addr"_a, "length"_a = py::none(),
          R"(Writes back the regular files that are mapped shared there, as msync(MS_SYNC) does. OSError(ENOMEM) for a hole.)")
      .def(
          "thp_disable", &mm_thp_disable, "on"_a = true, "flags"_a = 0,
          R"(The program gets no huge pages from now on, or again, as prctl(PR_SET_THP_DISABLE) says; those that it has stay.

flags: 2 (PR_THP_DISABLE_EXCEPT_ADVISED, 6.18): but where it advises them, by MADV_HUGEPAGE or MADV_COLLAPSE. Children inherit it.
OSError(EINVAL) for other flags.)")
      .def("mlock", &mm_mlock, "addr"_a, "length"_a = py::none(), "onfault"_a = false,
           R"(Locks [addr, addr + length) (or a Vma) into memory: all of it is brought in, as mlock(2) does.

onfault: pages are locked as they come (MLOCK_ONFAULT). OSError(ENOMEM) where something is not mapped, or can not be
brought in.)")
      .def("munlock", &mm_munlock, "addr"_a, "length"_a = py::none(),
           "Undoes mlock() for a range or a Vma. OSError(ENOMEM) where something is not mapped.")
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
          "pgste", [](py_mm& x) { return peek(x, "mm.pgste", [](mm& core) { return core.pgste(); }); },
          "Whether its page tables have room for a guest's status (Machine.mm(pgste=True), on s390).")
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
}

}  // namespace pgtbl::inline PGTBL_WORLD
