#include "bindings/size.hpp"

#include <cmath>

#include "base/errors.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

std::string shown(py::handle value) { return py::cast<std::string>(py::repr(value)); }

constexpr struct {
  const char* name;
  unsigned shift;
} units[] = {{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};

u64 parse_size(py::handle value, const char* what) {
  const auto text = py::cast<std::string>(value);
  const auto refuse = [&](const char* why) {
    throw value_error(
        std::string(what) + " " + shown(value) + why +
        "; a size is an int (bytes) or a whole number with B, KiB, MiB, GiB or TiB, like '2MiB'");
  };
  std::size_t at = 0;
  u64 number = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    const u64 digit = static_cast<u64>(text[at] - '0');
    if (number > (~u64{0} - digit) / 10) refuse(" is too large");
    number = number * 10 + digit;
  }
  if (at == 0) refuse(" is no size");
  while (at < text.size() && text[at] == ' ') ++at;
  const std::string unit = text.substr(at);
  for (const auto& u : units) {
    if (unit != u.name) continue;
    if (number > ~u64{0} >> u.shift) refuse(" is too large");
    return number << u.shift;
  }
  refuse(" is no size");
  return 0;
}

}  // namespace

u64 to_u64(py::handle value, const char* what) {
  if (PyBool_Check(value.ptr()) || PyIndex_Check(value.ptr()) == 0)
    throw py::type_error(std::string(what) + " must be an int, not " + Py_TYPE(value.ptr())->tp_name);
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  const u64 v = PyLong_AsUnsignedLongLong(index.ptr());
  if (v == ~u64{0} && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw value_error(std::string(what) + " " + shown(index) + " is out of range: 0 to 2**64 - 1 is allowed");
  }
  return v;
}

u64 to_size(py::handle value, const char* what) {
  if (py::isinstance<py::str>(value)) return parse_size(value, what);
  if (PyBool_Check(value.ptr()) || PyIndex_Check(value.ptr()) == 0)
    throw py::type_error(std::string(what) + " must be an int (bytes) or text like '2MiB', not " +
                         Py_TYPE(value.ptr())->tp_name);
  return to_u64(value, what);
}

u64 to_ns(py::handle seconds, const char* what, u64 none) {
  if (seconds.is_none()) return none;
  const double s = PyFloat_AsDouble(seconds.ptr());
  if (s == -1.0 && PyErr_Occurred() != nullptr) {
    const bool no_number = PyErr_ExceptionMatches(PyExc_TypeError) != 0;
    if (!no_number && PyErr_ExceptionMatches(PyExc_OverflowError) == 0) throw py::error_already_set();
    PyErr_Clear();
    if (no_number)
      throw py::type_error(std::string(what) + " must be a number of seconds, not " +
                           Py_TYPE(seconds.ptr())->tp_name);
    throw value_error(std::string(what) + ' ' + shown(seconds) + " is out of range for a number of seconds");
  }
  if (std::isnan(s) || s < 0)
    throw value_error(std::string(what) + " " + shown(seconds) +
                      " must be a number of seconds, not negative");
  return s >= 4e9 ? u64{4'000'000'000} * 1'000'000'000 : static_cast<u64>(s * 1e9);
}

}  // namespace pgtbl::inline PGTBL_WORLD
