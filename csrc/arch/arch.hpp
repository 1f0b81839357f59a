// arch.hpp -- the architecture that this build walks.  Chosen when it is compiled, so that a walk pays nothing.
#pragma once
#include "arch/x86_64.hpp"
#if defined(PGTBL_ARCH_X86_PAE)
#include "arch/x86_pae_entry.hpp"
#endif

namespace pgtbl::inline PGTBL_WORLD {
inline constexpr const char* arch_name = geometry.name;
}
