// check.hpp -- the invariants that must hold when nothing runs: G-4, G-5, G-10, G-11, G-14, G-20,
// G-23 to G-26, G-39 and G-40 of the specification.
#pragma once
#include <string>
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Every breach found, one text each, beginning with the invariant's name; empty: clean.  Waits for pending
/// RCU callbacks.  No other thread may be inside the machine.
std::vector<std::string> check_machine(cpu& self, machine& m);

}  // namespace pgtbl::inline PGTBL_WORLD
