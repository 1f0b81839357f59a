// types.hpp -- the name of the world that is being compiled, its integers and memory orders.
//
// Apart from world.hpp so that geometry.hpp and the model's operations can be included in any order.
#pragma once

#if defined(PGTBL_WORLD_MODEL)
#define PGTBL_WORLD model
#elif defined(PGTBL_WORLD_TORTURE)
// One name for each architecture: their modules may be loaded into one process.
#if defined(PGTBL_ARCH_X86_PAE)
#define PGTBL_WORLD x86_pae
#elif defined(PGTBL_ARCH_ARM)
#define PGTBL_WORLD arm
#elif defined(PGTBL_ARCH_POWERPC)
#define PGTBL_WORLD powerpc
#elif defined(PGTBL_ARCH_SPARC64)
#define PGTBL_WORLD sparc64
#elif defined(PGTBL_ARCH_S390)
#define PGTBL_WORLD s390
#else
#define PGTBL_WORLD torture
#endif
#else
#if !defined(PGTBL_WORLD_REAL)
#define PGTBL_WORLD_REAL
#endif
#define PGTBL_WORLD real
#endif

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pgtbl::inline PGTBL_WORLD {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;

using std::memory_order;
inline constexpr memory_order relaxed = std::memory_order_relaxed;
inline constexpr memory_order acquire = std::memory_order_acquire;
inline constexpr memory_order release = std::memory_order_release;
inline constexpr memory_order acq_rel = std::memory_order_acq_rel;
inline constexpr memory_order seq_cst = std::memory_order_seq_cst;

#if defined(PGTBL_WORLD_TORTURE)
inline constexpr bool checked_build = true;  // hooks of base/hooks.hpp are compiled in
#else
inline constexpr bool checked_build = false;
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
