// buffer.hpp -- bytes that go between Python and a simulated program.
#pragma once
#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// What an object with the buffer protocol holds, for a scope; the GIL is not needed to read it.
class buffer_view {
 public:
  explicit buffer_view(const py::object& data) {
    if (PyObject_GetBuffer(data.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  buffer_view(const buffer_view&) = delete;
  buffer_view& operator=(const buffer_view&) = delete;
  ~buffer_view() { PyBuffer_Release(&view_); }

  const void* data() const { return view_.buf; }
  u64 size() const { return static_cast<u64>(view_.len); }

 private:
  Py_buffer view_;
};

/// Bytes that fill(to) has written, which may leave the interpreter meanwhile: nobody else has the object yet.
template <class F>
py::bytes filled_bytes(u64 n, F&& fill) {
  auto out =
      py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(n)));
  if (!out) throw py::error_already_set();
  fill(PyBytes_AS_STRING(out.ptr()));
  return out;
}

}  // namespace pgtbl::inline PGTBL_WORLD
