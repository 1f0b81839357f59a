// breach.hpp -- where broken invariants are written down.
//
// A breach found while threads run cannot be thrown across locks: it is logged, and the machine
// raises it at its next call from outside (machine::check() at the latest).
#pragma once
#include <string>

#include "base/context.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct breach_log {
  static constexpr unsigned capacity = 64;
  struct row {
    char invariant[8];
    char text[504];
  };
  atomic<u32> count{0};    // breaches met; rows beyond capacity are counted only
  atomic<u32> written{0};  // rows complete
  row rows[capacity];

  void report(const char* invariant, const std::string& text);
  bool any() const { return count.load(acquire) != 0; }
  std::string text() const;  // every row, one a line
  void clear() {
    count.store(0, release);
    written.store(0, release);
  }
};

/// Reports where self can report; ignored where it has no log.
void breach(context& self, const char* invariant, const std::string& text);

}  // namespace pgtbl::inline PGTBL_WORLD
