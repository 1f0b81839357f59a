// ledger_sum.hpp -- the counts of some CPUs, as plain numbers that add and subtract.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "pgtable/cpu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

inline constexpr unsigned ledger_columns = 5;  // of a lock: acquired, contended, failed, wait_ns, held_ns
inline constexpr unsigned ledger_rows = lock_class_count * ledger_columns + event_count;

struct ledger_sum {
  std::array<u64, ledger_rows> rows{};

  /// Adds what the CPU has counted so far.  From its own thread, an exact reading.
  void add(const cpu& c);
  /// Adds later - earlier.
  void add_difference(const ledger_sum& later, const ledger_sum& earlier);
  u64 of(event e) const { return rows[lock_class_count * ledger_columns + static_cast<unsigned>(e)]; }
};

/// What each row is called in machine.ledger().
std::vector<std::string> ledger_row_names();

}  // namespace pgtbl::inline PGTBL_WORLD
