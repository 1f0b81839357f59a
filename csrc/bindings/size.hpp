// size.hpp -- numbers from Python: sizes ("2MiB"), addresses, counts.
//
// Each refusal is a ValueError or TypeError that names the argument, the value and what is allowed.
#pragma once
#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Bytes: an int, or text like "2MiB" (B, KiB, MiB, GiB, TiB).
u64 to_size(py::handle value, const char* what);
/// A non-negative int below 2^64 (anything with __index__).
u64 to_u64(py::handle value, const char* what);
/// Seconds as a number >= 0, in nanoseconds; capped at about 146 years.  None: `none`.
u64 to_ns(py::handle seconds, const char* what, u64 none);

}  // namespace pgtbl::inline PGTBL_WORLD
