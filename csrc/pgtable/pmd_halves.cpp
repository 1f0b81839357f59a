#include "pgtable/pmd_halves.hpp"

#if defined(PGTBL_ARCH_X86_PAE)
#include "base/breach.hpp"
#include "pgtable/cpu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void pmd_history::note(what how, u64 value, u32 cpu) {
  const u64 i = n_.load(relaxed);
  rows_[i % kept].value.store(value, relaxed);
  rows_[i % kept].how.store(static_cast<u32>(how) | cpu << 8, relaxed);
  n_.store(i + 1, release);
}

pmd_history::event pmd_history::at(u64 i) const {
  const u32 how = rows_[i % kept].how.load(relaxed);
  return {rows_[i % kept].value.load(relaxed), static_cast<what>(how & 0xff), how >> 8};
}

namespace {
/// From the newest to the oldest that is kept; f returns false to end it.
template <class F>
void back(const pmd_history& h, F&& f) {
  const u64 n = h.count();
  for (u64 i = n; i != 0 && i + pmd_history::kept > n; --i)
    if (!f(h.at(i - 1))) return;
}

std::string halves(u64 v) {
  char s[40];
  std::snprintf(s, sizeof s, "%08llx:%08llx", static_cast<unsigned long long>(v >> 32),
                static_cast<unsigned long long>(v & 0xffffffff));
  return s;
}
}  // namespace

bool pmd_history::was_stored(u64 value) const {
  bool found = false;
  back(*this, [&](const event& e) {
    found = e.how == what::stored && e.value == value;
    return !found;
  });
  return found;
}

bool pmd_history::waits_for_sync() const {
  bool waits = false;
  back(*this, [&](const event& e) {
    waits = e.how == what::taken_out;
    return e.how == what::cleared;
  });
  return waits;
}

std::string pmd_history::text() const {
  std::string s;
  back(*this, [&](const event& e) {
    const std::string by = " by CPU " + std::to_string(e.cpu);
    std::string one;
    switch (e.how) {
      case what::stored: one = halves(e.value) + " stored" + by; break;
      case what::cleared: one = halves(e.value) + " cleared" + by; break;
      case what::taken_out: one = "table " + halves(e.value) + " taken out" + by; break;
      case what::all_interrupted: one = "all interrupted" + by; break;
      case what::nothing: break;
    }
    s = s.empty() ? one : one + ", " + s;
    return true;
  });
  return s;
}

pmd_histories::pmd_histories(u64 frames)
    : pages_(make_array<atomic<pmd_history*>>(frames)), frames_(frames) {}

pmd_histories::~pmd_histories() {
  for (u64 i = 0; i < frames_; ++i)
    if (pmd_history* p = pages_[i].load(relaxed); p != nullptr) destroy_array(p, ptrs_at(2));
  destroy_array(pages_, frames_);
}

void pmd_histories::begin(pfn_t page) {
  pmd_history* have = pages_[page].load(relaxed);
  if (have == nullptr) {
    pages_[page].store(make_array<pmd_history>(ptrs_at(2)), release);
    return;
  }
  for (u64 i = 0; i < ptrs_at(2); ++i) have[i].forget();
}

namespace {

/// Of a slot that lies in a page of PMDs; null for one that a collapse keeps to itself.
pmd_history* history_of(cpu& self, const entry_word& slot, pgtable_t in) {
  pmd_history* page = self.arch->pmds.of(pfn_of(in));
  const auto at =
      reinterpret_cast<std::uintptr_t>(&slot) - reinterpret_cast<std::uintptr_t>(self.ram->phys.entries(in));
  const u64 index = at / sizeof(entry_word);  // huge where the slot lies before the page
  return page != nullptr && index < ptrs_at(2) ? page + index : nullptr;
}

std::string slot_name(cpu& self, const entry_word& slot, pgtable_t in) {
  return "PMD " + std::to_string(&slot - self.ram->phys.entries(in)) + " of frame " +
         std::to_string(pfn_of(in));
}

}  // namespace

u64 pmd_read_halves(cpu& self, const entry_word& slot, pgtable_t in) {
  const pmd_history* h = history_of(self, slot, in);
  const u64 before = h != nullptr ? h->count() : 0;
  const u64 v = slot.load_halves([&] { pause_at(self, point::pae_low_read); },
                                 [&] { pause_at(self, point::pae_high_read); });
  if (h == nullptr || !pmd_t{v}.table() || h->was_stored(v)) return v;
  // What it held as we came may be forgotten by now: then nobody knows.
  if (h->count() - before >= pmd_history::kept) return v;
  breach(self, "A-5",
         "CPU " + std::to_string(self.id) + " read " + halves(v) + " without a lock from " +
             slot_name(self, slot, in) +
             ", takes it for a table, and it was never stored there: a half of one value, a half of another. "
             "Of the slot: " +
             h->text());
  return v;
}

void pmd_set_halves(cpu& self, entry_word& slot, pgtable_t in, u64 v) {
  pmd_history* h = history_of(self, slot, in);
  if (h == nullptr) {
    slot.store(v, release);
    return;
  }
  if (v == 0) {
    h->note(pmd_history::what::cleared, slot.clear_halves([&] { pause_at(self, point::pae_half_cleared); }),
            self.id);
    return;
  }
  if (h->waits_for_sync())
    breach(self, "A-6",
           "CPU " + std::to_string(self.id) + " stores " + halves(v) + " into " + slot_name(self, slot, in) +
               ", and not every CPU was interrupted since a table was taken out there. Of the slot: " +
               h->text());
  // Before the store: whoever reads the value finds it there.
  h->note(pmd_history::what::stored, v, self.id);
  if (slot.load_low(relaxed) != 0)
    slot.store(v, release);
  else
    slot.store_halves(v, [&] { pause_at(self, point::pae_half_stored); });
}

u64 pmd_clear_halves(cpu& self, entry_word& slot, pgtable_t in) {
  const u64 old = slot.clear_halves([&] { pause_at(self, point::pae_half_cleared); });
  if (pmd_history* h = history_of(self, slot, in); h != nullptr)
    h->note(pmd_t{old}.table() ? pmd_history::what::taken_out : pmd_history::what::cleared, old, self.id);
  return old;
}

void note_all_interrupted(cpu& self, const entry_word& slot, pgtable_t in) {
  if (pmd_history* h = history_of(self, slot, in); h != nullptr)
    h->note(pmd_history::what::all_interrupted, 0, self.id);
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
