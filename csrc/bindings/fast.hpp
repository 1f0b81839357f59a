// fast.hpp -- methods that skip pybind11's dispatcher, for the few calls that scripts make in a loop.
//
// Problem.  Each call that pybind11 dispatches takes one process-wide lock: on a free-threaded Python
// two threads get less done than one.
// Method.  A method descriptor of CPython (PyDescr_NewMethod) is attached to the pybind11 class.  It
// checks the type of self; the arguments come as a plain array.
// Cost.  10 to 20 ns instead of 50 to 90, and no shared line.
#pragma once
#include <pybind11/detail/exception_translation.h>

#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD::fast {

/// The C++ object in a pybind11 instance; null, with TypeError set, where __init__ never ran.
template <class T>
T* self(PyObject* o) noexcept {
  auto* inst = reinterpret_cast<py::detail::instance*>(o);
  void* p = inst->simple_layout ? inst->simple_value_holder[0] : inst->nonsimple.values_and_holders[0];
  if (p == nullptr) PyErr_SetString(PyExc_TypeError, "__init__() was not called");
  return static_cast<T*>(p);
}

/// What a call was given: positional arguments first, then the values of `names`, a tuple or null.
struct arguments {
  PyObject* const* values;
  Py_ssize_t positional;
  PyObject* names;

  /// Puts the arguments into out[], by the parameters' names; the first `required` must be there, the
  /// others stay null.  False, with TypeError set, where the call does not fit.
  template <std::size_t N>
  bool match(const char* function,
             const char* const (&parameters)[N],
             Py_ssize_t required,
             PyObject* (&out)[N]) const {
    if (positional > static_cast<Py_ssize_t>(N)) {
      PyErr_Format(PyExc_TypeError, "%s() takes at most %zu arguments (%zd given)", function, N, positional);
      return false;
    }
    for (Py_ssize_t i = 0; i < positional; ++i) out[i] = values[i];
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t k = 0; k < named; ++k) {
      PyObject* name = PyTuple_GET_ITEM(names, k);
      std::size_t i = 0;
      while (i < N && PyUnicode_CompareWithASCIIString(name, parameters[i]) != 0) ++i;
      if (i == N || out[i] != nullptr) {
        PyErr_Format(PyExc_TypeError,
                     i == N ? "%s() got an unexpected keyword argument '%U'" : "%s() got two values for '%U'",
                     function, name);
        return false;
      }
      out[i] = values[positional + k];
    }
    for (Py_ssize_t i = 0; i < required; ++i)
      if (out[i] == nullptr) {
        PyErr_Format(PyExc_TypeError, "%s() needs the argument '%s'", function, parameters[i]);
        return false;
      }
    return true;
  }
};

/// Fn: (T&, arguments) -> PyObject*, a new reference or null with an error set; may throw.
template <class T, auto Fn>
PyObject* call(PyObject* o, PyObject* const* values, Py_ssize_t n, PyObject* names) noexcept {
  T* t = self<T>(o);
  if (t == nullptr) return nullptr;
  try {
    return Fn(*t, arguments{values, n, names});
  } catch (...) {
    py::detail::try_translate_exceptions();
    return nullptr;
  }
}

/// doc starts with a signature line for pybind11-stubgen: "name(self, ...) -> ...".
template <class T, auto Fn>
void def(py::handle cls, const char* name, const char* doc) {
  static PyMethodDef d{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call<T, Fn>)),
                       METH_FASTCALL | METH_KEYWORDS, doc};
  cls.attr(name) =
      py::reinterpret_steal<py::object>(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(cls.ptr()), &d));
}

}  // namespace pgtbl::inline PGTBL_WORLD::fast
