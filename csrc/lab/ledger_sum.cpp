#include "lab/ledger_sum.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void ledger_sum::add(const cpu& c) {
  unsigned at = 0;
  for (const lock_counts& l : c.led.locks) {
    rows[at++] += l.acquired.get();
    rows[at++] += l.contended.get();
    rows[at++] += l.failed.get();
    rows[at++] += l.wait_ns.get();
    rows[at++] += l.held_ns.get();
  }
  for (const counter& e : c.led.events) rows[at++] += e.get();
}

void ledger_sum::add_difference(const ledger_sum& later, const ledger_sum& earlier) {
  for (unsigned i = 0; i < ledger_rows; ++i) rows[i] += later.rows[i] - earlier.rows[i];
}

std::vector<std::string> ledger_row_names() {
  std::vector<std::string> names;
  for (const char* lock : lock_class_names) {
    names.emplace_back(lock);
    for (const char* column : {".contended", ".failed", ".wait_ns", ".held_ns"})
      names.push_back(std::string(lock) + column);
  }
  for (const event_row& e : event_table) names.emplace_back(e.name);
  return names;
}

}  // namespace pgtbl::inline PGTBL_WORLD
