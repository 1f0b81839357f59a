// File for Python: shared memory, and its pages.
#include <algorithm>

#include "bindings/buffer.hpp"
#include "bindings/objects.hpp"
#include "bindings/size.hpp"

namespace pgtbl::inline PGTBL_WORLD {

py_file::py_file(std::shared_ptr<home> h, mapping* f) : where(std::move(h)), id(f->id), core_(f) {}

py_file::~py_file() {
  try {
    close();
  } catch (const std::exception&) {
    // No CPU for this thread, or the machine is being closed: it closes the file.
  }
}

void py_file::close() {
  if (!where->is_ours() || !where->is_open() || !is_open()) return;
  const call c(*where, where->entrance, "file.close");
  const maybe_released away;
  mapping* f = nullptr;
  u32 opened = 0;
  {
    const std::lock_guard held(lock_);
    f = std::exchange(core_, nullptr);
    opened = std::exchange(opened_, 0U);
  }
  for (; opened != 0; --opened) put_write_access(*f);
  if (f != nullptr && where->remove(f)) mapping_put(c.self(), *f);
}

bool py_file::is_open() const {
  const std::lock_guard held(lock_);
  return core_ != nullptr;
}

void py_file::open_to_write(cpu& self) {
  const pin pinned(self, *this);
  get_write_access(self, *pinned);
  const std::lock_guard held(lock_);
  if (core_ == nullptr) {
    put_write_access(*pinned);
    throw closed_error("file " + std::to_string(id) + " is closed");
  }
  ++opened_;
}

void py_file::end_writing() {
  const std::lock_guard held(lock_);
  if (core_ == nullptr || opened_ == 0) return;
  --opened_;
  put_write_access(*core_);
}

py_file::pin::pin(cpu& self, py_file& f) : self_(self) {
  const std::lock_guard held(f.lock_);
  if (f.core_ == nullptr) throw closed_error("file " + std::to_string(f.id) + " is closed");
  core_ = f.core_;
  mapping_get(*core_);
}

u64 to_file_size(py::handle size) {
  const u64 n = to_size(size, "size");
  if (n > largest_file)
    throw value_error("size " + std::to_string(n) + " is too large: a file has at most " +
                      std::to_string(largest_file) + " bytes");
  return n;
}

namespace {

/// A file that is open for writing, until this is closed or gone.
class py_open_file {
 public:
  explicit py_open_file(std::shared_ptr<py_file> f) : file_(std::move(f)) {}
  ~py_open_file() {
    try {
      close();
    } catch (const std::exception&) {
      // No CPU for this thread, or the machine is being closed.
    }
  }
  py_open_file(const py_open_file&) = delete;
  py_open_file& operator=(const py_open_file&) = delete;
  void close() {
    if (closed() || !file_->where->is_ours()) return;
    run(*file_->where, "open_file.close", [&](cpu&) {
      if (open_.exchange(false)) file_->end_writing();
    });
  }
  bool closed() const { return !open_.load() || !file_->where->is_open() || !file_->is_open(); }
  const py_file& file() const { return *file_; }

 private:
  const std::shared_ptr<py_file> file_;
  std::atomic<bool> open_{true};
};

template <class F>
auto run_file(py_file& file, const char* name, F&& f) {
  return run(*file.where, name, [&](cpu& self) {
    forbid_section(self, name);
    const py_file::pin pinned(self, file);
    return f(self, *pinned);
  });
}

void check_inside(const mapping& f, u64 offset, u64 n) {
  const u64 size = f.size.load(acquire);
  if (offset > size || n > size - offset)
    throw value_error("bytes " + std::to_string(offset) + " to " + std::to_string(offset) + " + " +
                      std::to_string(n) + " reach beyond the end of the file, which has " +
                      std::to_string(size));
}

py::bytes read(py_file& file, const size_arg& offset, const size_arg& n) {
  const u64 at = to_size(offset, "offset"), length = to_size(n, "n");
  run_file(file, "file.read", [&](cpu&, mapping& f) { check_inside(f, at, length); });
  return filled_bytes(length, [&](char* to) {
    constexpr u64 at_once = 16 << 20;  // then Ctrl-C is looked for
    for (u64 done = 0; done < length; done += at_once) {
      const u64 part = std::min(at_once, length - done);
      run_file(file, "file.read",
               [&](cpu& self, mapping& f) { file_read(self, f, at + done, to + done, part); });
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
  });
}

void write(py_file& file, const size_arg& offset, const py::object& data) {
  const u64 at = to_size(offset, "offset");
  const buffer_view view(data);
  run_file(file, "file.write", [&](cpu& self, mapping& f) {
    const write_access opened(self, f);
    file_write(self, f, at, view.data(), view.size());
  });
}

void truncate(py_file& file, const size_arg& size) {
  const u64 n = to_file_size(size);
  run_file(file, "file.truncate", [&](cpu& self, mapping& f) {
    const write_access opened(self, f);
    file_truncate(self, f, n);
  });
}

void punch(py_file& file, const size_arg& offset, const size_arg& length) {
  const u64 at = to_size(offset, "offset"), n = to_size(length, "length");
  if (n == 0) throw os_error(EINVAL, "punch: length 0");
  if (at > largest_file || n > largest_file - at)
    throw value_error("bytes " + std::to_string(at) + " to " + std::to_string(at) + " + " +
                      std::to_string(n) + " are beyond what a file can hold");
  run_file(file, "file.punch", [&](cpu& self, mapping& f) {
    const write_access opened(self, f);
    file_punch(self, f, at, n);
  });
}

void allocate(py_file& file, const size_arg& offset, const size_arg& length) {
  const u64 at = to_size(offset, "offset"), n = to_size(length, "length");
  if (n == 0) throw os_error(EINVAL, "fallocate: length 0");
  if (at > largest_file || n > largest_file - at)
    throw value_error("bytes " + std::to_string(at) + " to " + std::to_string(at) + " + " +
                      std::to_string(n) + " are beyond what a file can hold");
  run_file(file, "file.allocate", [&](cpu& self, mapping& f) {
    const write_access opened(self, f);
    file_allocate(self, f, at, n);
  });
}

std::shared_ptr<py_open_file> open_to_write(const std::shared_ptr<py_file>& file) {
  run(*file->where, "file.open", [&](cpu& self) {
    forbid_section(self, "file.open");
    file->open_to_write(self);
  });
  return std::make_shared<py_open_file>(file);
}

void seal(py_file& file, const std::vector<std::string>& names) {
  static constexpr std::pair<const char*, u32> known[] = {
      {"SEAL", seal_seal},   {"SHRINK", seal_shrink}, {"GROW", seal_grow},
      {"WRITE", seal_write}, {"EXEC", seal_exec},     {"FUTURE_WRITE", seal_future_write}};
  u32 seals = 0;
  for (const std::string& name : names) {
    u32 one = 0;
    for (const auto& [text, bit] : known)
      if (name == text) one = bit;
    if (one == 0)
      throw value_error("seal '" + name + "': SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE and EXEC are allowed");
    seals |= one;
  }
  run_file(file, "file.seal", [&](cpu& self, mapping& f) { file_seal(self, f, seals); });
}

void sync(py_file& file) {
  run_file(file, "file.sync", [](cpu& self, mapping& f) { filemap_write_back(self, f, true); });
}

u64 drop_cache(py_file& file) {
  return run_file(file, "file.drop_cache", [](cpu& self, mapping& f) { return filemap_invalidate(self, f); });
}

u64 size(py_file& file) {
  return run_file(file, "file.size", [](cpu&, mapping& f) { return f.size.load(acquire); });
}

struct page_row {
  u64 index, pfn;
  u32 mapcount, refcount;
  u8 order, huge, dirty, uptodate;
};

page_row describe(cpu& self, cache_item item) {
  const frame& page = self.ram->of(item.entry.pfn());
  const frame& head = self.ram->of(self.ram->head_of(item.entry.pfn()));
  const u32 flags = head.flags.load(relaxed);
  const bool huge = item.entry.is_huge();
  return {item.index,
          item.entry.pfn(),
          (huge ? head.entire_mapcount : page.mapcount).load(relaxed),
          head.refcount.load(relaxed),
          static_cast<u8>(head.order),
          static_cast<u8>(huge),
          static_cast<u8>((flags & pg_dirty) != 0),
          static_cast<u8>((flags & pg_uptodate) != 0)};
}

py::array pages(py_file& file) {
  const auto rows = run_file(file, "file.pages", [](cpu& self, mapping& f) {
    std::vector<page_row> found;
    // A section for each item: the vector may allocate.
    for (pgoff_t at = 0;;) {
      self.rcu.read_lock();
      const cache_item item = f.pages.find(at, page_cache::max_index);
      page_row row{};
      if (item.entry.is_page()) row = describe(self, item);
      self.rcu.read_unlock();
      if (!item) return found;
      if (item.entry.is_page()) found.push_back(row);
      at = item.next();
    }
  });
  return py::array_t<page_row>(static_cast<py::ssize_t>(rows.size()), rows.data());
}

std::string show_file(const py_file& f) {
  return "<pgtbl.File " + std::to_string(f.id) + (f.where->is_open() && f.is_open() ? ">" : ", closed>");
}

}  // namespace

void define_file(py::module_& m, object_classes& c) {
  PYBIND11_NUMPY_DTYPE(page_row, index, pfn, mapcount, refcount, order, huge, dirty, uptodate);

  py::class_<py_open_file, std::shared_ptr<py_open_file>>(
      m, "OpenFile", "A file that somebody has open for writing. Made by File.open().")
      .def("close", &py_open_file::close, "Nobody writes to it by this any more. Harmless if repeated.")
      .def_property_readonly("closed", &py_open_file::closed,
                             "Whether this, the file or its machine was closed (bool).")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_open_file& f, const py::args&) { f.close(); })
      .def("__repr__", [](const py_open_file& f) {
        return "<pgtbl.OpenFile of file " + std::to_string(f.file().id) + (f.closed() ? ", closed>" : ">");
      });
  c.file.def_property_readonly("size", &size, "Size in bytes (int).")
      .def_property_readonly(
          "kind",
          [](py_file& file) {
            return run_file(file, "file.kind",
                            [](cpu&, mapping& f) { return std::string(f.regular() ? "regular" : "shmem"); });
          },
          "\"shmem\" (Machine.shmem) or \"regular\" (Machine.file).")
      .def("open", &open_to_write,
           R"(Opens the file for writing, until the OpenFile that this returns is closed, or forgotten.

As long as somebody has a regular file open for writing it gets no huge pages; those that it has go from its cache as it is opened,
and from every mapping. write(), truncate(), punch() and allocate() open the file by themselves for as long as they take. For
shared memory nothing depends on it. OutOfMemory when no frame is left for what has to be written back.)")
      .def("seal", &seal, "seals"_a,
           R"(Adds seals to shared memory, as fcntl(F_ADD_SEALS) does.

seals: a list of "SEAL", "SHRINK", "GROW", "WRITE", "FUTURE_WRITE", "EXEC" (without effect here). What a seal forbids is OSError(EPERM)
from then on. OSError(EBUSY) for "WRITE" while somebody maps the file to store to it, or has pages of it pinned.)")
      .def("sync", &sync,
           R"(Writes what is dirty back to the file's disk, as fsync() does. Nothing for shared memory.

Each page then has a second frame, on the disk. OutOfMemory when no frame is left.)")
      .def("drop_cache", &drop_cache,
           R"(Clean pages that nobody maps leave the cache (POSIX_FADV_DONTNEED); returns how many (int).

They are read in again when they are used. Nothing for shared memory, which is nowhere else.)")
      .def_property_readonly(
          "nr_thps",
          [](py_file& file) {
            return run_file(file, "file.nr_thps", [](cpu&, mapping& f) { return f.nr_thps.load(relaxed); });
          },
          "Huge pages that a regular file counts in its cache (int); of shared memory nobody counts them.")
      .def(
          "read", &read, "offset"_a, "n"_a,
          R"(n bytes from offset on, as pread() reads them; holes are zeros. Of a regular file they come into its cache.

Raises ValueError where the range reaches beyond the end of the file.)")
      .def("write", &write, "offset"_a, "data"_a,
           R"(Writes data (any contiguous buffer) at offset, as pwrite() does.

The file does not grow: ValueError where the range reaches beyond its end. OutOfMemory when no frame is left.)")
      .def("truncate", &truncate, "size"_a, R"(Sets the size, as ftruncate() does.

Pages beyond the new end go, mapped or not: an access to them raises BusError afterwards.)")
      .def("punch", &punch, "offset"_a, "length"_a,
           R"(Punches a hole (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE).

Whole pages in the range leave the file and every mapping, parts of pages are zeroed; a huge page that is
only partly inside is split first. OSError(EINVAL) where length is 0.)")
      .def(
          "allocate", &allocate, "offset"_a, "length"_a,
          R"(fallocate(): every page of the range is there afterwards, as zeros; the file grows where it must.

OSError(EINVAL) where length is 0; OutOfMemory when no frame is left. What was set aside and not read or written yet is
not uptodate (pages()), as SEEK_DATA sees it. Of a regular file it is the size alone that may change: room on the disk is not
modelled.)")
      .def("pages", &pages,
           R"(The cached pages, in order: a NumPy structured array with one row for each small or huge page.

Fields: index (page of the file), pfn (its frame; a huge page's first), mapcount (page table entries that map
it; for a huge page PMDs), refcount (references of the folio), order (of the folio: a huge page has 9), huge, dirty,
uptodate (0 or 1). Other threads may change the file meanwhile.)")
      .def("close", &py_file::close,
           "Gives the file up; mappings of it stay as they are. Harmless if repeated.")
      .def_property_readonly(
          "closed", [](const py_file& f) { return !f.where->is_open() || !f.is_open(); },
          "Whether the file, or its machine, was closed.")
      .def_readonly("id", &py_file::id, "Number of the file on its machine (int).")
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](py_file& f, const py::args&) { f.close(); })
      .def("__repr__", &show_file);
}

}  // namespace pgtbl::inline PGTBL_WORLD
