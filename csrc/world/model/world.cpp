#include "world/world.hpp"

#if defined(PGTBL_WORLD_MODEL)

namespace pgtbl::inline PGTBL_WORLD {

namespace {
// Chosen for a scenario before it is set up; an engine that explores both runs it twice.
thread_local bool membarrier_on = true;
}  // namespace

bool membarrier_available() { return membarrier_on && engine::current().has_membarrier(); }
bool set_membarrier_enabled(bool on) { return std::exchange(membarrier_on, on); }

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
