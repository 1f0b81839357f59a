// The primer: a walker that sets an entry against the lockless retraction of its page table, in sixty lines.
//
// It is the protocol of the series without the machine around it, and what the engines are measured with: the number
// of executions of each cast is known from another tool (GenMC 0.10.1), and the same casts are written for relacy
// (bench/native/relacy_primer.cpp).  RCU is its definition, or epochs with a fence in each section.
#include "explore/scenario.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

constexpr u32 entries = 2, most_readers = 4;

struct tiny_lock {
  atomic<u32> word{0};
  void lock() {
    await_update(word, [](u32 v, u32& next) { return next = 1, v == 0; }, acquire);
  }
  void unlock() { word.store(0, release); }
};

struct tiny_table {
  tiny_lock ptl;
  atomic<u64> pte[entries] = {};
};

/// One word a reader.  A definition: it is odd inside of a section, and only the order in which the reader and the
/// grace period reach it is left to chance.  Epochs: it is the epoch that the reader has seen, or 0.
class tiny_rcu {
 public:
  void use(u32 readers, bool epochs) { readers_ = readers, epochs_ = epochs; }
  void read_lock(u32 r) {
    if (!epochs_) {
      word_[r].fetch_add(1, acq_rel);
      return;
    }
    word_[r].store(epoch_.load(relaxed), release);
    fence(seq_cst);
  }
  void read_unlock(u32 r) {
    if (epochs_) {
      word_[r].store(0, release);
    } else {
      word_[r].fetch_add(1, acq_rel);
    }
  }
  void synchronize() { epochs_ ? wait_for_epochs() : wait_for_sections(); }
  atomic<u32>& word(u32 r) { return word_[r]; }
  atomic<u32>& epoch() { return epoch_; }

 private:
  void wait_for_sections() {
    u32 seen[most_readers];
    for (u32 r = 0; r < readers_; ++r) seen[r] = word_[r].fetch_add(0, acq_rel);
    for (u32 r = 0; r < readers_; ++r)
      if ((seen[r] & 1) != 0) await(word_[r], [s = seen[r]](u32 now) { return now != s; }, acquire);
  }
  void wait_for_epochs() {
    const u32 now = epoch_.fetch_add(1, acq_rel) + 1;
    fence(seq_cst);
    for (u32 r = 0; r < readers_; ++r) await(word_[r], [now](u32 v) { return v == 0 || v >= now; }, acquire);
  }

  atomic<u32> epoch_{1}, word_[most_readers] = {};
  u32 readers_ = 0;
  bool epochs_ = false;
};

/// Letters say what each actor does:
///   w  sets an entry       c  retracts the table       f  sets an entry, in a new table if there is none
///   r  reads an entry without a lock     s  looks twice, and takes the same address for the same table
///   x  retracts the table, frees it under the lock, and puts another in its place
class primer final : public program {
 public:
  primer(stage& s, const char* parts, bool empty, bool epochs) : parts_(parts) {
    u32 readers = 0;
    for (; parts[n_] != 0; ++n_)
      if (parts[n_] != 'c') readers = n_ + 1;
    rcu_.use(readers, epochs);
    s.name_all(pml_, "pml");
    s.name_all(pmd_, "pmd");
    s.name_all(rcu_.epoch(), "epoch");
    for (u32 i = 0; i < readers; ++i) s.name_all(rcu_.word(i), "section of " + s.actor_name(i));
    if (empty) return;
    auto* const table = pgtbl::make<tiny_table>();
    s.name_all(table->ptl, "ptl");
    s.name_all(table->pte, "pte", true);
    pmd_.store(table);
  }
  u32 actors() const override { return n_; }
  /// Walkers differ: each sets an entry of its own.
  u32 twin_of(u32 i) const override { return i != 0 && parts_[i] == 'c' && parts_[i - 1] == 'c' ? i - 1 : i; }
  std::string role(u32 i) const override {
    switch (parts_[i]) {
      case 'w': return "set_pte";
      case 'f': return "fault";
      case 'r': return "reader";
      default: return "retract";
    }
  }
  void act(u32 i) override {
    switch (parts_[i]) {
      case 'w': set_[i] = set_pte(i); break;
      case 'f':
        while (!set_pte(i)) populate();
        set_[i] = true;
        break;
      case 'r': walk(i); break;
      case 's': look_twice(); break;
      case 'x': exchange_table(); break;
      default: retract(); break;
    }
  }
  void judge() override {
    const tiny_table* const table = pmd_.load();
    for (u32 i = 0; i < n_; ++i) {
      if (!set_[i]) continue;
      if (table == nullptr) {
        pgtbl::fail("an entry was set, and its page table retracted: the entry is lost");
        return;
      }
      bool another = false;
      for (u32 j = 0; j < n_; ++j) another |= j != i && set_[j] && j % entries == i % entries;
      if (!another && table->pte[i % entries].load() != value_of(i))
        pgtbl::fail("an entry was set in a page table that is no longer linked: the entry is lost");
    }
  }

 private:
  static u64 value_of(u32 i) { return 100 + i; }

  tiny_table* map_lock(u32 i) {
    for (;;) {
      rcu_.read_lock(i);
      tiny_table* const table = pmd_.load(acquire);
      if (table == nullptr) {
        rcu_.read_unlock(i);
        return nullptr;
      }
      table->ptl.lock();
      if (pmd_.load(relaxed) == table) return table;
      table->ptl.unlock();
      rcu_.read_unlock(i);
    }
  }
  bool set_pte(u32 i) {
    tiny_table* const table = map_lock(i);
    if (table == nullptr) return false;
    table->pte[i % entries].store(value_of(i), relaxed);
    table->ptl.unlock();
    rcu_.read_unlock(i);
    return true;
  }
  void populate() {
    auto* fresh = pgtbl::make<tiny_table>();
    pml_.lock();
    if (pmd_.load(relaxed) == nullptr) {
      pmd_.store(fresh, release);
      fresh = nullptr;
    }
    pml_.unlock();
    pgtbl::destroy(fresh);
  }
  void walk(u32 i) {
    rcu_.read_lock(i);
    if (const tiny_table* const table = pmd_.load(acquire)) static_cast<void>(table->pte[0].load(relaxed));
    rcu_.read_unlock(i);
  }
  void look_twice() {
    pml_.lock();
    const tiny_table* const table = pmd_.load(relaxed);
    const u64 seen = table == nullptr ? 0 : table->pte[0].load(relaxed);
    pml_.unlock();
    pml_.lock();
    if (table != nullptr && pmd_.load(relaxed) == table && table->pte[0].load(relaxed) != seen)
      pgtbl::fail("the PMD leads to the same address as before, and to another table");
    pml_.unlock();
  }
  void exchange_table() {
    pml_.lock();
    tiny_table* const old = pmd_.load(relaxed);
    pmd_.store(nullptr, relaxed);
    pgtbl::destroy(old);
    pml_.unlock();
    auto* const fresh = pgtbl::make<tiny_table>();
    fresh->pte[0].store(1, relaxed);
    pml_.lock();
    pmd_.store(fresh, release);
    pml_.unlock();
  }
  void retract() {
    pml_.lock();
    tiny_table* table = pmd_.load(relaxed);
    if (table != nullptr) {
      table->ptl.lock();
      bool none = true;
      for (const atomic<u64>& pte : table->pte) none &= pte.load(relaxed) == 0;
      if (none) pmd_.store(nullptr, relaxed);
      table->ptl.unlock();
      if (!none) table = nullptr;
    }
    pml_.unlock();
    if (table == nullptr) return;
    rcu_.synchronize();
    pgtbl::destroy(table);
  }

  const char* parts_;
  u32 n_ = 0;
  bool set_[stage::max_actors] = {};
  tiny_lock pml_;
  atomic<tiny_table*> pmd_{nullptr};
  tiny_rcu rcu_;
};

constexpr char wc[] = "wc", wcc[] = "wcc", wwc[] = "wwc", wwcc[] = "wwcc", wwwc[] = "wwwc", wwwwc[] = "wwwwc",
               wwwrc[] = "wwwrc", ffc[] = "ffc", sx[] = "sx";
template <const char* Parts, bool Empty = false, bool Epochs = false>
program* cast_of(stage& s, const era&) {
  return pgtbl::make<primer>(s, Parts, Empty, Epochs);
}

constexpr const char* any_era = "v6.6 v6.5 v6.4";
constexpr scenario table[] = {
    {"primer-wc", "a walker and a retraction of one page table, in sixty lines", any_era, cast_of<wc>},
    {"primer-wcc", "a walker and two retractions", any_era, cast_of<wcc>},
    {"primer-wwc", "two walkers and a retraction", any_era, cast_of<wwc>},
    {"primer-wwcc", "two walkers and two retractions", any_era, cast_of<wwcc>},
    {"primer-wwwc", "three walkers and a retraction", any_era, cast_of<wwwc>},
    {"primer-wwwrc", "three walkers, a lockless reader and a retraction", any_era, cast_of<wwwrc>},
    {"primer-wwwwc", "four walkers and a retraction", any_era, cast_of<wwwwc>},
    {"primer-ffc", "two faults and a retraction, with no table at first", any_era, cast_of<ffc, true>},
    {"primer-same-address",
     "an address that is the same is taken for the same table: wrong if memory is used again", any_era,
     cast_of<sx>},
    {"primer-wwwc-epochs", "three walkers and a retraction, over epochs with fences", any_era,
     cast_of<wwwc, false, true>},
};

}  // namespace

std::span<const scenario> scenarios_of_primer() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
