// mm.hpp -- what the files share that bind Mm: addresses, and looks that need no CPU.
#pragma once
#include <string>

#include "bindings/objects.hpp"
#include "bindings/waiting.hpp"

namespace pgtbl::inline PGTBL_WORLD {

std::string hex(u64 v);

/// The lower half of the address space is the program's; the hardware knows no other addresses.
[[noreturn]] void refuse_address(u64 va);
inline void check_user(u64 va, u64 n) {
  if (va < task_size && n <= task_size - va) [[likely]]
    return;
  refuse_address(va);
}

/// What needs the mm open, and reads its counters only.
template <class F>
auto peek(py_mm& m, const char* name, F&& f) {
  const call c(*m.where, m.entrance, name, m.closed_text());
  return f(*m.core);
}

void define_access(object_classes& c);                     // access.cpp: loads and stores
void define_mapped(py::module_& m, object_classes& c);     // mapped.cpp: what is mapped where
void define_mmap_lock(py::module_& m, object_classes& c);  // mmap_lock.cpp
void define_vma(object_classes& c);                        // vma.cpp

}  // namespace pgtbl::inline PGTBL_WORLD
