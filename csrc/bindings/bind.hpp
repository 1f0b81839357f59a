// bind.hpp -- what every file of bindings/ includes, and the functions that fill the module.
//
// All of bindings/ is compiled twice, into pgtbl._core and pgtbl._torture, which may be loaded into
// one process: everything stands in the world's namespace, so that the types of the two differ.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "world/world.hpp"

namespace py = pybind11;

namespace pgtbl::inline PGTBL_WORLD {
using namespace py::literals;

void bind_errors(py::module_& m);       // errors.cpp: first, the others' calls throw
void bind_gil(py::module_& m);          // gil.cpp
void bind_tables(py::module_& m);       // module.cpp: what the build is and knows
void bind_last(py::module_& m);         // module.cpp: when every class is there
void bind_rcu(py::module_& m);          // rcu.cpp
void bind_locks(py::module_& m);        // locks.cpp
void bind_lock_stress(py::module_& m);  // lock_stress.cpp
void bind_machine(py::module_& m);      // machine.cpp, mm.cpp, file.cpp: after bind_rcu
void bind_race(py::module_& m);         // race.cpp
void bind_replay(py::module_& m);       // replay.cpp
void bind_stress(py::module_& m);       // stress.cpp
#if defined(PGTBL_WORLD_TORTURE)
void bind_torture(py::module_& m);  // torture.cpp
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
