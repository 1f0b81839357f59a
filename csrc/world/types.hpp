// types.hpp -- the name of the world that is being compiled, and its integers.
//
// Apart from world.hpp so that geometry.hpp and the model's operations can be included in any order.
#pragma once

#if defined(PGTBL_WORLD_MODEL)
#define PGTBL_WORLD model
#elif defined(PGTBL_WORLD_TORTURE)
#define PGTBL_WORLD torture
#else
#if !defined(PGTBL_WORLD_REAL)
#define PGTBL_WORLD_REAL
#endif
#define PGTBL_WORLD real
#endif

#include <cstddef>
#include <cstdint>

namespace pgtbl::inline PGTBL_WORLD {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;

#if defined(PGTBL_WORLD_TORTURE)
inline constexpr bool checked_build = true;  // hooks of base/hooks.hpp are compiled in
#else
inline constexpr bool checked_build = false;
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
