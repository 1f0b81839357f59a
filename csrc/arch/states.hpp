// states.hpp -- the state machines of the architectures: every change that there may be.
//
// Of a page of tables everywhere; on x86-pae of a PMD's two halves, on arm of a mapping and its cache line.
// One thing at a time, so the windows inside of context.lock are states, too: a page whose second half was taken and that
// is still listed, for one.  tests/test_arch.py holds what exploration reaches against these tables, both ways; and the
// diagrams of docs/architectures.md are made of them (tools/arch_docs.py).
#pragma once
#include <span>

#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct state_change {
  const char* operation;
  u32 from, to;
};

// s390: PP--AA, 0x100 Active, 0x200 listed.
inline constexpr state_change s390_changes[] = {
    {"alloc: fresh page listed", 0x001, 0x201},
    {"alloc: half taken", 0x201, 0x203},
    {"alloc: half taken", 0x202, 0x203},
    {"alloc: half taken", 0x301, 0x303},
    {"alloc: off the list", 0x203, 0x003},
    {"alloc: off the list", 0x303, 0x103},
    {"defer: mark", 0x003, 0x103},
    {"defer: mark", 0x012, 0x112},
    {"defer: mark", 0x021, 0x121},
    {"defer: mark", 0x201, 0x301},
    {"defer: mark", 0x202, 0x302},
    {"defer: mark", 0x203, 0x303},
    {"defer: mark", 0x212, 0x312},
    {"defer: mark", 0x221, 0x321},
    {"free: half pending", 0x003, 0x012},
    {"free: half pending", 0x003, 0x021},
    {"free: half pending", 0x101, 0x110},
    {"free: half pending", 0x102, 0x120},
    {"free: half pending", 0x103, 0x112},
    {"free: half pending", 0x103, 0x121},
    {"free: half pending", 0x112, 0x130},
    {"free: half pending", 0x121, 0x130},
    {"free: half pending", 0x201, 0x210},
    {"free: half pending", 0x202, 0x220},
    {"free: half pending", 0x212, 0x230},
    {"free: half pending", 0x221, 0x230},
    {"free: half pending", 0x301, 0x310},
    {"free: half pending", 0x302, 0x320},
    {"free: half pending", 0x312, 0x330},
    {"free: half pending", 0x321, 0x330},
    {"free: list", 0x012, 0x212},
    {"free: list", 0x021, 0x221},
    {"free: list", 0x112, 0x312},
    {"free: list", 0x121, 0x321},
    {"free: list", 0x210, 0x010},
    {"free: list", 0x220, 0x020},
    {"free: list", 0x230, 0x030},
    {"free: list", 0x310, 0x110},
    {"free: list", 0x320, 0x120},
    {"free: list", 0x330, 0x130},
    {"free: pending over", 0x010, 0x000},
    {"free: pending over", 0x020, 0x000},
    {"free: pending over", 0x030, 0x010},
    {"free: pending over", 0x030, 0x020},
    {"free: pending over", 0x110, 0x100},
    {"free: pending over", 0x112, 0x102},
    {"free: pending over", 0x120, 0x100},
    {"free: pending over", 0x121, 0x101},
    {"free: pending over", 0x130, 0x110},
    {"free: pending over", 0x130, 0x120},
    {"free: pending over", 0x212, 0x202},
    {"free: pending over", 0x221, 0x201},
    {"free: pending over", 0x230, 0x210},
    {"free: pending over", 0x230, 0x220},
    {"free: pending over", 0x312, 0x302},
    {"free: pending over", 0x321, 0x301},
    {"free: pending over", 0x330, 0x310},
    {"free: pending over", 0x330, 0x320},
    {"free: whole page", 0x003, 0x000},
    {"free: whole page", 0x103, 0x100},
};

// powerpc: 1 while a fragment lives or was never handed out, 2 Active; 2 alone is queued, 0 is freed.
inline constexpr state_change powerpc_changes[] = {
    {"defer: mark", 1, 3},
    {"defer: mark", 3, 3},
    {"free", 1, 1},
    {"free", 1, 0},
    {"free", 3, 3},
    {"free", 3, 2},
    {"destroy_context", 1, 0},
    {"destroy_context", 3, 0},
    {"grace period", 2, 0},
};

// One table a page: 0 live, 1 queued, 2 freed.
inline constexpr state_change one_table_changes[] = {{"defer", 0, 1}, {"grace period", 1, 2}, {"free", 0, 2}};

// x86-pae: the two halves of a PMD.  Cleared, it is not to be stored again before every CPU was interrupted.
enum pae_state : u32 { pae_none, pae_high_stored, pae_whole, pae_low_cleared, pae_unwaited };
inline constexpr state_change pae_changes[] = {
    {"set: high half", pae_none, pae_high_stored},
    {"set: low half", pae_high_stored, pae_whole},
    {"get_and_clear: low half", pae_whole, pae_low_cleared},
    {"get_and_clear: high half", pae_low_cleared, pae_unwaited},
    {"pmdp_get_lockless_sync", pae_unwaited, pae_none},
};

// arm: a mapping of a page, and what the cache has of it.
enum arm_state : u32 { arm_none, arm_cached, arm_clean_line, arm_dirty_line, arm_is_uncached };
inline constexpr state_change arm_changes[] = {
    {"fault", arm_none, arm_cached},
    {"load", arm_cached, arm_clean_line},
    {"store", arm_cached, arm_dirty_line},
    {"store", arm_clean_line, arm_dirty_line},
    {"adjust_pte: flush", arm_clean_line, arm_cached},
    {"adjust_pte: flush", arm_dirty_line, arm_cached},
    {"adjust_pte: uncached", arm_cached, arm_is_uncached},
    {"unmap: flush", arm_clean_line, arm_cached},
    {"unmap: flush", arm_dirty_line, arm_cached},
    {"unmap", arm_cached, arm_none},
    {"unmap", arm_is_uncached, arm_none},
};

struct state_machine {
  const char* arch;
  const char* of;
  std::span<const state_change> changes;
};
inline constexpr state_machine state_machines[] = {
    {"x86-64", "table", one_table_changes}, {"x86-pae", "table", one_table_changes},
    {"x86-pae", "slot", pae_changes},       {"arm", "table", one_table_changes},
    {"arm", "mapping", arm_changes},        {"sparc64", "table", one_table_changes},
    {"powerpc", "table", powerpc_changes},  {"s390", "table", s390_changes},
};

/// Is told of changes of state: in the model, where one thing happens at a time.
class state_watch {
 public:
  virtual void changed(const char* operation, u32 from, u32 to) = 0;

 protected:
  ~state_watch() = default;
};

}  // namespace pgtbl::inline PGTBL_WORLD
