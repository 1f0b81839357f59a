// errors.hpp -- what the core throws.  bindings/errors.cpp gives each its Python exception.
#pragma once
#include <stdexcept>
#include <string>

#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Root of the laboratory's own errors.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// An access that a program would die of with SIGSEGV.
struct segmentation_fault : error {
  using error::error;
};
/// An access that a program would die of with SIGBUS: beyond the end of the file.
struct bus_error : error {
  using error::error;
};
/// Simulated physical memory is exhausted.
struct out_of_memory : error {
  using error::error;
};
/// An object was used after it, or its machine, was closed; or by a forked child.
struct closed_error : error {
  using error::error;
};
/// A thread used what it may not: another machine's object, or a context after its thread ended.
struct usage_error : error {
  using error::error;
};
/// An invariant (G-n, A-n) does not hold.
struct invariant_error : error {
  using error::error;
};
/// A grace period waits for the caller's own read section.
struct deadlock_error : error {
  using error::error;
};
/// The architecture, or the era, has nothing of the kind.
struct unsupported : error {
  using error::error;
};
/// A wait was given up: its call is to end, for a reason that who set the cpu's still_wanted knows.
struct interrupted : error {
  using error::error;
};
/// A bad argument: out of range, misaligned, unknown name (ValueError).
struct value_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
/// A system call of the simulated kernel failed with this errno (OSError).
struct os_error : std::runtime_error {
  os_error(int e, const std::string& what) : std::runtime_error(what), code(e) {}
  int code;
};

}  // namespace pgtbl::inline PGTBL_WORLD
