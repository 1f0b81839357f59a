// objects.hpp -- what Python holds of a machine's things: Mm, File, Vma.
#pragma once
#include <string>
#include <vector>

#include "bindings/threads.hpp"
#include "mm/mapping.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// pgtbl.Mm.  The core's mm lives until close(), or until this object goes.
class py_mm : public std::enable_shared_from_this<py_mm> {
 public:
  /// parent: whose copy it is, as fork made it.
  py_mm(std::shared_ptr<home> h, mm* m, const py_mm* parent = nullptr);
  ~py_mm();
  py_mm(const py_mm&) = delete;
  py_mm& operator=(const py_mm&) = delete;

  const std::shared_ptr<home> where;
  mm* const core;  // inside of a call only
  const u32 id;
  gate entrance;
  std::atomic<u32> python_locks{0};  // mmap_lock sections that Python code is in

  const char* closed_text() const { return closed_text_.c_str(); }

  /// What a Vma keeps of the mm that it is of: the mm, and when.
  struct origin {
    u64 mm = 0, time = 0;
  };
  origin now() const;
  /// Whether what had that origin is this mm's: its own, or an ancestor's of before the fork.
  bool has(const origin& o) const;

 private:
  std::vector<origin>
      lineage_;  // of each ancestor, and the time until which this mm was a part of it; itself last
  std::string closed_text_;
};

/// pgtbl.File.  Each use takes a reference of its own, so that close() need not wait for it.
class py_file : public std::enable_shared_from_this<py_file> {
 public:
  py_file(std::shared_ptr<home> h, mapping* f);
  ~py_file();
  py_file(const py_file&) = delete;
  py_file& operator=(const py_file&) = delete;

  const std::shared_ptr<home> where;
  const u32 id;
  void close();
  bool is_open() const;
  /// Opens it for writing, and ends that; both inside of a call.  What is still open when the file is closed ends with it.
  void open_to_write(cpu& self);
  void end_writing();

  /// Inside of a call: the file, kept for a scope.
  class pin {
   public:
    pin(cpu& self, py_file& f);
    pin(const pin&) = delete;
    pin& operator=(const pin&) = delete;
    ~pin() { mapping_put(self_, *core_); }
    mapping& operator*() const { return *core_; }
    mapping* get() const { return core_; }

   private:
    cpu& self_;
    mapping* core_;
  };

 private:
  mutable std::mutex lock_;
  mapping* core_;   // null once closed; protected by lock_
  u32 opened_ = 0;  // for writing, by open_to_write(); protected by lock_
};

/// pgtbl.Vma: what a mapping was when it was made, or listed.
struct py_vma {
  u64 start = 0, end = 0;
  u32 flags = 0;
  u64 offset = 0;  // bytes, into the file
  std::shared_ptr<py_file> file;
  py_mm::origin of;
  u64 vm_flags = 0;  // all of them
};

/// Bytes that a file can have, as in Linux.
inline constexpr u64 largest_file = (1ULL << 63) - 1;
u64 to_file_size(py::handle size);

/// A range of addresses: a Vma alone, or a start and a length ("2MiB").
struct range {
  u64 start, length;
};
/// UsageError for the Vma of another mm; that of a parent is good if it was made before the fork.
range to_range(const py_mm& m, py::handle start, py::handle length);
/// "rw", "r", "rwx", "none".
prot_bits to_prot(py::handle text);
std::string prot_text(u32 flags);

/// The classes, declared before any of their methods: a signature names only what exists already.
struct object_classes {
  explicit object_classes(py::module_& m);
  py::class_<py_vma> vma;
  py::class_<py_file, std::shared_ptr<py_file>> file;
  py::class_<py_mm, std::shared_ptr<py_mm>> mm;
  py::class_<home, std::shared_ptr<home>> machine;
};
void define_file(py::module_& m, object_classes& c);        // file.cpp
void define_mm(py::module_& m, object_classes& c);          // mm.cpp, and the files that mm.hpp names
void define_khugepaged(py::module_& m, object_classes& c);  // khugepaged.cpp: Khugepaged
void define_uffd(py::module_& m, object_classes& c);        // uffd.cpp: Userfaultfd and its messages
void define_secondary(py::module_& m, object_classes& c);   // secondary.cpp: SecondaryMmu
void define_pin(py::module_& m, object_classes& c);         // pin.cpp: Pin
void define_observations(object_classes& c);                // observe.cpp

/// Gives a lock that Python code holds back, on the CPU that has it.
void unlock_now(cpu& self, held_mmap_lock& l);

}  // namespace pgtbl::inline PGTBL_WORLD
