// arch.hpp -- what bindings/arch.cpp adds to a module.
#pragma once
#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {
void bind_arch(py::module_& m);
}
