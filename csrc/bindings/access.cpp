// access.cpp -- a simulated program's loads and stores.
//
// One word at a known address is what tests call a million times: touch(), load() and store() are plain method
// descriptors (fast.hpp), and keep the GIL where the hardware finds the translation alone, which never waits.
#include "mm/access.hpp"

#include <algorithm>

#include "bindings/buffer.hpp"
#include "bindings/fast.hpp"
#include "bindings/mm.hpp"
#include "bindings/size.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

py::bytes mm_read_bytes(py_mm& m, const int_arg& addr, const size_arg& n) {
  const u64 va = to_u64(addr, "addr"), length = to_size(n, "n");
  check_user(va, length);
  return filled_bytes(length, [&](char* to) {
    run_access(m, "mm.read", [&](cpu& self) { mm_read(self, *m.core, va, to, length); });
  });
}

void mm_write_bytes(py_mm& m, const int_arg& addr, const py::object& data) {
  const u64 va = to_u64(addr, "addr");
  const buffer_view view(data);
  check_user(va, view.size());
  run_access(m, "mm.write", [&](cpu& self) { mm_write(self, *m.core, va, view.data(), view.size()); });
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

/// As NumPy sees it; but ints of which some need all 64 bits do not become floating-point numbers.
py::array array_of(py::handle given) {
  auto array = py::array::ensure(given);
  if (!array || array.dtype().kind() != 'f' || !py::isinstance<py::sequence>(given)) return array;
  for (const py::handle item : given)
    if (PyLong_Check(item.ptr()) == 0) return array;
  auto whole = py::array_t<u64>::ensure(given);  // clears the error of an int that does not fit
  return whole ? py::array(whole) : array;
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
      const auto array = array_of(v[0]);
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

}  // namespace

void define_access(object_classes& c) {
  c.mm.def("read", &mm_read_bytes, "addr"_a, "n"_a,
           R"(The n bytes from addr on (bytes), through the simulated MMU, faulting as a program would.

Raises SegmentationFault, BusError (beyond the end of the file), OutOfMemory.)")
      .def("write", &mm_write_bytes, "addr"_a, "data"_a,
           R"(Stores data (any contiguous buffer) at addr, through the simulated MMU.

Raises SegmentationFault, BusError, OutOfMemory; what was stored before a fault that can not be served stays stored.)");

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
