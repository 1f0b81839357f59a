#include "base/breach.hpp"

#include <cstring>

namespace pgtbl::inline PGTBL_WORLD {

void breach_log::report(const char* invariant, const std::string& text) {
  const u32 i = count.fetch_add(1, acq_rel);
  if (i >= capacity) return;
  std::strncpy(rows[i].invariant, invariant, sizeof rows[i].invariant - 1);
  rows[i].invariant[sizeof rows[i].invariant - 1] = 0;
  std::strncpy(rows[i].text, text.c_str(), sizeof rows[i].text - 1);
  rows[i].text[sizeof rows[i].text - 1] = 0;
  written.fetch_add(1, acq_rel);
}

std::string breach_log::text() const {
  std::string all;
  const u32 n = written.load(acquire);
  for (u32 i = 0; i < n && i < capacity; ++i) {
    if (i != 0) all += '\n';
    all += rows[i].invariant;
    all += ": ";
    all += rows[i].text;
  }
  const u32 total = count.load(acquire);
  if (total > n) all += "\n(and " + std::to_string(total - n) + " more)";
  return all;
}

void breach(context& self, const char* invariant, const std::string& text) {
  if (self.breaches != nullptr) self.breaches->report(invariant, text);
}

}  // namespace pgtbl::inline PGTBL_WORLD
