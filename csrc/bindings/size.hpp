// size.hpp -- numbers from Python: sizes ("2MiB"), addresses, counts.
//
// Each refusal is a ValueError or TypeError that names the argument, the value and what is allowed.
#pragma once
#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// An argument that signatures and stubs show as a union.  It takes any object: the functions below refuse.
enum class shown_as : u8 { size, optional_size, integer, optional_integer, text, optional_seconds };
inline bool is_any(PyObject*) { return true; }
template <shown_as>
class any_object : public py::object {
  PYBIND11_OBJECT_DEFAULT(any_object, object, is_any)
};
using size_arg = any_object<shown_as::size>;
using optional_size_arg = any_object<shown_as::optional_size>;
using int_arg = any_object<shown_as::integer>;
using optional_int_arg = any_object<shown_as::optional_integer>;
using text_arg = any_object<shown_as::text>;
using optional_seconds_arg = any_object<shown_as::optional_seconds>;

/// Bytes: an int, or text like "2MiB" (B, KiB, MiB, GiB, TiB).
u64 to_size(py::handle value, const char* what);
/// A non-negative int below 2^64 (anything with __index__).
u64 to_u64(py::handle value, const char* what);
/// Seconds as a number >= 0, in nanoseconds; capped at about 146 years.  None: `none`.
u64 to_ns(py::handle seconds, const char* what, u64 none);

}  // namespace pgtbl::inline PGTBL_WORLD

namespace pybind11::detail {
#define PGTBL_SHOWN(kind, text)                                        \
  template <>                                                          \
  struct handle_type_name<pgtbl::any_object<pgtbl::shown_as::kind>> {  \
    static constexpr auto name = const_name(text);                     \
  };
PGTBL_SHOWN(size, "int | str")
PGTBL_SHOWN(optional_size, "int | str | None")
PGTBL_SHOWN(integer, "int")
PGTBL_SHOWN(optional_integer, "int | None")
PGTBL_SHOWN(text, "str")
PGTBL_SHOWN(optional_seconds, "float | None")
#undef PGTBL_SHOWN
}  // namespace pybind11::detail
