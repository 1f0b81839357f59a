#include "lab/arch_load.hpp"

#include <algorithm>
#include <memory>

#include "arch/list.hpp"
#include "arch/one_table.hpp"
#include "arch/powerpc.hpp"
#include "arch/s390.hpp"
#include "base/dice.hpp"
#include "base/errors.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 bit_there = 1, frame_bytes = 4096, poison = 0x6b6b6b6b6b6b6b6aULL;
constexpr u32 tables_of_a_batch = 32;

struct real_page : table_page {
  atomic<u32> live{0};
  u32 next_free = 0;
};

struct worker : context {
  rcu_reader reader;
  breach_log log;
  thread runner;
  dice chance{1};
  counter allocated, freed, deferred, gathered, walks, stale;
  std::vector<table_addr> batch;
};

struct program {
  arch_context context;
  atomic<table_addr>* slots;
};

/// Pages of tables out of one reserved region, with a stack of free ones.
class page_pool final : public table_host {
 public:
  page_pool(const arch_row& row, u32 pages, rcu_domain& domain)
      : bytes_(row.page_bytes),
        pages_(pages),
        page_(make_array<real_page>(pages + 1)),
        memory_((pages + 1) * (row.page_bytes / frame_bytes)),
        domain_(domain) {
    for (u32 i = pages; i >= 1; --i) {
      page_[i].host = this;
      page_[i].next_free = free_;
      free_ = i;
    }
  }
  ~page_pool() { destroy_array(page_, pages_ + 1); }
  page_pool(const page_pool&) = delete;
  page_pool& operator=(const page_pool&) = delete;

  void serve(pte_tables& t) { tables_ = &t; }

  table_page* page_alloc(context& self) override {
    u32 i = 0;
    {
      const spin_guard g(self, lock_, lock_class::allocator);
      i = free_;
      if (i == 0) return nullptr;
      free_ = page_[i].next_free;
      ++allocated_;
    }
    held_.fetch_add(1, relaxed);
    real_page& p = page_[i];
    p.active.store(0, relaxed);
    p.live.store(1, relaxed);
    for (table_addr a = i * bytes_; a < (i + 1) * bytes_; a += sizeof(u64)) entry(a).store(0, relaxed);
    return &p;
  }
  void page_free(context& self, table_page& page) override {
    real_page& p = static_cast<real_page&>(page);
    const u32 i = number_of(p);
    if (page.now() != overlay::use::idle)
      breach(self, "G-8", "a page of tables is freed while its two words are in use");
    if (p.live.exchange(0, acq_rel) == 0) {
      breach(self, "A-19", "a page of tables is freed a second time");
      return;
    }
    for (table_addr a = i * bytes_; a < (i + 1) * bytes_; a += sizeof(u64)) entry(a).store(poison, relaxed);
    held_.fetch_sub(1, relaxed);
    const spin_guard g(self, lock_, lock_class::allocator);
    p.next_free = free_;
    free_ = i;
    ++freed_;
  }
  void page_call_rcu(context& self, table_page& page, rcu_callback f) override {
    domain_.call(static_cast<worker&>(self).reader, page.head(), f, bytes_);
  }
  table_page& page_of(table_addr a) override { return page_[a / bytes_]; }
  table_addr base_of(const table_page& p) override {
    return number_of(static_cast<const real_page&>(p)) * bytes_;
  }
  pte_tables& tables() override { return *tables_; }
  atomic<u64>& entry(table_addr a) override {
    return memory_.entry(table_at(a / frame_bytes), a % frame_bytes / sizeof(u64));
  }
  u64 page_bytes() const override { return bytes_; }

  u64 held() const { return held_.load(relaxed); }
  u64 allocated() const { return allocated_; }
  u64 freed() const { return freed_; }

 private:
  u32 number_of(const real_page& p) const { return static_cast<u32>(&p - page_); }
  const u64 bytes_;
  const u32 pages_;
  real_page* const page_;
  physical memory_;
  rcu_domain& domain_;
  pte_tables* tables_ = nullptr;
  spinlock lock_;
  u32 free_ = 0;                   // protected by lock_
  u64 allocated_ = 0, freed_ = 0;  // protected by lock_
  atomic<u64> held_{0};
};

class arch_load {
 public:
  arch_load(const arch_load_config& c, const arch_row& row)
      : config_(c),
        row_(row),
        pool_(row, pages_for(c, row), domain_),
        whole_(pool_, c.arch == "sparc64" ? table_handle::entries : table_handle::descriptor),
        fragments_(pool_, row.tables_per_page),
        halves_(pool_, c.one_table ? s390_form::one_table : s390_form::halves) {
    tables_ = c.arch == "powerpc" ? static_cast<pte_tables*>(&fragments_)
              : c.arch == "s390"  ? static_cast<pte_tables*>(&halves_)
                                  : &whole_;
    pool_.serve(*tables_);
    for (u32 i = 0; i < c.programs; ++i) {
      programs_.push_back(std::make_unique<program>());
      programs_.back()->slots = make_array<atomic<table_addr>>(c.slots);
    }
    for (u32 i = 0; i < c.churners + c.walkers; ++i) workers_.push_back(std::make_unique<worker>());
    join_domain(keeper_, static_cast<u32>(workers_.size()));
    for (u32 i = 0; i < workers_.size(); ++i) join_domain(*workers_[i], i);
    rcu_runner_.id = static_cast<u32>(workers_.size()) + 1;
    rcu_runner_.breaches = &rcu_runner_.log;
    domain_.set_worker(rcu_runner_.reader, rcu_runner_);
  }
  ~arch_load() {
    for (const auto& p : programs_) destroy_array(p->slots, config_.slots);
  }
  arch_load(const arch_load&) = delete;
  arch_load& operator=(const arch_load&) = delete;

  arch_load_result run() {
    const u64 start = now_ns();
    for (u32 i = 0; i < workers_.size(); ++i) {
      worker& me = *workers_[i];
      me.runner = thread([this, &me, churns = i < config_.churners] {
        me.tid.store(thread_id(), relaxed);
        while (!stop_.load(relaxed)) churns ? churn(me) : walk(me);
        if (churns) give_batch_back(me);
      });
    }
    while (now_ns() - start < config_.ns && !result_.interrupted) {
      sleep_ns(1'000'000);
      sample();
      result_.interrupted = config_.interrupted && config_.interrupted();
    }
    stop_.store(true, relaxed);
    for (const auto& w : workers_) w->runner.join();
    result_.seconds = static_cast<double>(now_ns() - start) * 1e-9;
    end();
    return result_;
  }

 private:
  static u32 pages_for(const arch_load_config& c, const arch_row& row) {
    // Every table alone in its page, and as many again that wait for a grace period.
    const u64 pages = 2ULL * c.slots * c.programs + 16384 / row.tables_per_page + 64;
    return static_cast<u32>(pages);
  }
  void join_domain(worker& w, u32 id) {
    w.id = id;
    w.breaches = &w.log;
    w.chance = dice(config_.seed, id);
    domain_.attach(w.reader, w);
  }
  u64 tag_of(u64 program, u64 slot) const { return (program * config_.slots + slot) << 1 | bit_there; }

  void churn(worker& me) {
    const u64 which = me.chance.below(config_.programs), slot = me.chance.below(config_.slots);
    program& p = *programs_[which];
    if (const table_addr t = p.slots[slot].exchange(0, acq_rel); t != 0) {
      give_up(me, p, t);
      return;
    }
    const auto fresh = tables_->pte_alloc_one(me, p.context);
    if (!fresh) {  // what waits for a grace period has them all
      give_batch_back(me);
      return;
    }
    me.allocated.add();
    pool_.entry(*fresh).store(tag_of(which, slot), relaxed);
    table_addr none = 0;
    // Release: the entries before the slot that leads to them.
    if (p.slots[slot].compare_exchange_strong(none, *fresh, acq_rel)) return;
    tables_->pte_free(me, p.context, *fresh);  // nobody has seen it
    me.freed.add();
  }
  void give_up(worker& me, program& p, table_addr t) {
    if (me.chance.below(100) >= config_.batch_percent) {
      tables_->pte_free_defer(me, p.context, t);
      me.deferred.add();
      return;
    }
    tables_->pte_free_tlb(me, p.context, t);
    me.batch.push_back(t);
    me.gathered.add();
    if (me.batch.size() == tables_of_a_batch) give_batch_back(me);
  }
  void give_batch_back(worker& me) {
    domain_.synchronize(me.reader);
    for (const table_addr t : me.batch) tables_->tlb_remove_table(me, t);
    me.batch.clear();
  }
  void walk(worker& me) {
    const u64 which = me.chance.below(config_.programs), slot = me.chance.below(config_.slots);
    const rcu_section inside(me.reader);
    const table_addr t = programs_[which]->slots[slot].load(acquire);
    if (t == 0) return;
    me.walks.add();
    for (u32 look = 0; look < 8; ++look)
      if (pool_.entry(t).load(relaxed) != tag_of(which, slot)) {
        me.stale.add();
        return;
      }
  }

  u64 living() const {
    u64 n = 0;
    for (const auto& w : workers_)
      n += w->allocated.get() - w->freed.get() - w->deferred.get() - w->gathered.get();
    return n;
  }
  void sample() {
    const u64 pages = pool_.held(), tables = living();
    ++samples_;
    pages_sum_ += pages;
    tables_sum_ += tables;
    result_.pages_max = std::max(result_.pages_max, pages);
    result_.tables_max = std::max(result_.tables_max, tables);
    result_.queued_max = std::max(result_.queued_max, domain_.stats().pending);
  }
  /// Everything is freed; what is still held then is lost.
  void end() {
    for (const auto& p : programs_) {
      for (u32 i = 0; i < config_.slots; ++i)
        if (const table_addr t = p->slots[i].load(relaxed); t != 0) tables_->pte_free(keeper_, p->context, t);
      tables_->destroy_context(keeper_, p->context);
    }
    domain_.barrier(keeper_.reader);
    result_.pages_left = pool_.held();
    result_.pages_allocated = pool_.allocated();
    result_.pages_freed = pool_.freed();
    result_.page_bytes = row_.page_bytes;
    result_.tables_per_page = row_.tables_per_page;
    result_.grace_periods = domain_.stats().grace_periods;
    if (samples_ != 0) {
      result_.pages_mean = static_cast<double>(pages_sum_) / static_cast<double>(samples_);
      result_.tables_mean = static_cast<double>(tables_sum_) / static_cast<double>(samples_);
    }
    for (const auto& w : workers_) {
      result_.allocated += w->allocated.get();
      result_.deferred += w->deferred.get();
      result_.gathered += w->gathered.get();
      result_.walks += w->walks.get();
      result_.stale += w->stale.get();
      tell(*w);
    }
    tell(keeper_);
    tell(rcu_runner_);
    for (const auto& w : workers_) domain_.detach(w->reader);
    domain_.detach(keeper_.reader);
  }
  void tell(const worker& w) {
    if (w.log.any()) result_.breaches.push_back(w.log.text());
  }

  const arch_load_config& config_;
  const arch_row& row_;
  worker keeper_, rcu_runner_;  // outlive the domain
  std::vector<std::unique_ptr<worker>> workers_;
  rcu_domain domain_;
  page_pool pool_;
  one_table whole_;
  powerpc_tables fragments_;
  s390_tables halves_;
  pte_tables* tables_;
  std::vector<std::unique_ptr<program>> programs_;
  atomic<bool> stop_{false};
  u64 samples_ = 0, pages_sum_ = 0, tables_sum_ = 0;
  arch_load_result result_;
};

const arch_row& row_of(const arch_load_config& c) {
  for (const arch_row& r : arch_table)
    if (c.arch == r.name && (c.arch != "s390" || (r.tables_per_page == 1) == c.one_table)) return r;
  throw value_error("unknown arch '" + c.arch + "'; there are " + arch_names());
}

void check_range(const char* what, u64 value, u64 least, u64 most) {
  if (value < least || value > most)
    throw value_error(std::string(what) + " " + std::to_string(value) + ": " + std::to_string(least) +
                      " to " + std::to_string(most) + " are allowed");
}

}  // namespace

arch_load_result run_arch_load(const arch_load_config& c) {
  const arch_row& row = row_of(c);
  check_range("churners", c.churners, 1, 64);
  check_range("walkers", c.walkers, 0, 64);
  check_range("programs", c.programs, 1, 64);
  check_range("slots", c.slots, 1, 4096);
  check_range("batch_percent", c.batch_percent, 0, 100);
  return std::make_unique<arch_load>(c, row)->run();
}

}  // namespace pgtbl::inline PGTBL_WORLD
