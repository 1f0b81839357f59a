#include "pgtable/map.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void map_failed(cpu& self, pmd_ref pmdp, pmd_t pmdval, va_t va) {
  if (self.rules->map_opens_rcu && guard(Guard::map_rcu)) self.rcu.read_unlock();
  self.led.add(event::map_failed);
  // Before 6.5 the caller had to know that there is a table: a walk through anything else was a wild pointer.
  if (!self.rules->map_may_fail)
    breach(self, "G-4",
           "CPU " + std::to_string(self.id) + " walks address " + std::to_string(va) +
               " through a PMD that is no table (value " + std::to_string(pmdval.v) +
               "), in an era in which mapping can not fail");
  if (pmdval.kind() == pmd_kind::bad || pmdval.kind() == pmd_kind::other) {
    breach(self, "G-4",
           "bad PMD " + std::to_string(pmdval.v) + " for address " + std::to_string(va) + ", cleared");
    pmdp.set(self, {});
  }
}

bool read_whole(cpu& self, pmd_t pmdval, va_t va) {
  const pgtable_t t = pmdval.pgtable();
  const pfn_t table = pfn_of(t);
  const bool exists = table != 0 && table < self.ram->frames();
  if (exists) {
    const auto& f = life_of(self, t);
    const frame_state s = f.state.load(acquire);
    const bool is_table =
        s == frame_state::table_live || s == frame_state::table_detached || s == frame_state::table_queued;
    if (is_table && f.level == 1) return true;
  }
  breach(self, "G-9",
         "CPU " + std::to_string(self.id) + " read " + std::to_string(pmdval.v) +
             " from the PMD of address " + std::to_string(va) +
             ", a value that was never stored whole: frame " + std::to_string(table) + " is " +
             (exists ? std::string("a ") + to_string(self.ram->of(table).state.load(relaxed)) : "not there") +
             ", not a PTE table");
  return exists;
}

}  // namespace pgtbl::inline PGTBL_WORLD
