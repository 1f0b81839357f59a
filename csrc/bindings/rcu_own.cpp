// rcu_own.cpp -- pgtbl.RcuDomain(): a domain that belongs to no machine, and its readers.
//
// A thread gets its reader at its first call, and gives it back as it ends.  close() comes beside calls of other
// threads: each call says that it is there before it looks whether the domain is closed, and close() says so
// before it looks for calls.
#include <atomic>
#include <vector>

#include "base/errors.hpp"
#include "bindings/gil.hpp"
#include "bindings/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 patience_ns = 5'000'000'000;  // how long close() waits for other threads' calls

class own_place;

/// A thread's place in an RcuDomain.
struct record {
  context ctx;
  rcu_reader reader;
  std::atomic<u32> busy{0};  // calls under way; written by its thread
  std::weak_ptr<own_place> place;
  u64 serial = 0;
};

std::atomic<u64> domain_serials{1};

struct record_cache {
  u64 serial = 0;
  record* found = nullptr;
};
constinit thread_local record_cache last_record;

class own_place : public rcu_place, public std::enable_shared_from_this<own_place> {
 public:
  explicit own_place(const rcu_config& config)
      : serial_(domain_serials.fetch_add(1)),
        generation_(fork_generation()),
        domain_(std::make_unique<rcu_domain>(config)) {
    domain_->set_stall_hook(stall_hook());
  }
  ~own_place() override {
    if (!ours()) {
      (void)domain_.release();  // the parent's: any lock may be held for ever
    } else if (domain_ != nullptr) {
      tear_down();
    }
  }

  void enter() override;
  void leave() override {
    std::atomic<u32>& busy = here().busy;
    busy.store(busy.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  }
  rcu_domain& domain() override { return *domain_; }
  rcu_reader& reader() override { return here().reader; }
  void close() override;
  void thread_ends(record& r);

 private:
  record& here() { return last_record.serial == serial_ ? *last_record.found : find(); }
  record& find();
  std::string inside(const record* but);
  std::string in_sections();
  void tear_down();
  bool ours() const { return generation_ == fork_generation(); }

  const u64 serial_;
  const u32 generation_;
  std::mutex lock_;
  std::atomic<bool> closed_{false};
  std::unique_ptr<rcu_domain> domain_;
  std::vector<std::shared_ptr<record>> records_;  // protected by lock_
};

struct thread_records {
  std::vector<std::shared_ptr<record>> all;
  ~thread_records() {
    last_record = {};
    for (const auto& r : all)
      if (const auto place = r->place.lock()) place->thread_ends(*r);
  }
};
thread_local thread_records records_of_thread;

/// The calling thread's record; made and attached the first time.
record& own_place::find() {
  auto& all = records_of_thread.all;
  for (const auto& r : all)
    if (r->serial == serial_) {
      last_record = {serial_, r.get()};
      return *r;
    }
  std::erase_if(all, [](const auto& r) { return r->place.expired(); });
  const auto r = std::make_shared<record>();
  r->ctx.tid.store(thread_id(), relaxed);
  r->serial = serial_;
  r->place = weak_from_this();
  {
    const std::lock_guard held(lock_);
    if (closed_.load()) throw closed_error("the RCU domain is closed");
    domain_->attach(r->reader, r->ctx);
    records_.push_back(r);
  }
  all.push_back(r);
  last_record = {serial_, r.get()};
  return *r;
}

void own_place::enter() {
  if (!ours())
    throw closed_error("this RCU domain belongs to the parent process: a forked child makes its own");
  if (closed_.load(std::memory_order_acquire)) throw closed_error("the RCU domain is closed");
  record& r = here();
  // Our call before the look at closed_, against closed_ before the looks at the calls in close().
  r.busy.fetch_add(1, std::memory_order_seq_cst);
  if (!closed_.load(std::memory_order_seq_cst)) return;
  leave();
  throw closed_error("the RCU domain is closed");
}

void own_place::thread_ends(record& r) {
  if (!ours()) return;
  const std::lock_guard held(lock_);
  if (r.reader.attached()) domain_->detach(r.reader);
  std::erase_if(records_, [&](const auto& other) { return other.get() == &r; });
}

std::string own_place::inside(const record* but) {
  const std::lock_guard held(lock_);
  std::string tids;
  for (const auto& r : records_)
    if (r.get() != but && r->busy.load() != 0)
      tids += (tids.empty() ? "" : ", ") + std::to_string(r->ctx.tid.load(relaxed));
  return tids;
}

std::string own_place::in_sections() {
  const std::lock_guard held(lock_);
  std::string tids;
  for (const auto& r : records_)
    if (r->reader.in_section()) tids += (tids.empty() ? "" : ", ") + std::to_string(r->ctx.tid.load(relaxed));
  return tids;
}

void own_place::close() {
  if (!ours()) return;
  const record* own = last_record.serial == serial_ ? last_record.found : nullptr;
  if (own != nullptr && own->busy.load() != 0)
    throw usage_error("close: this thread is inside of a call on the RCU domain");
  if (closed_.exchange(true)) return;
  std::string who;
  {
    const gil_released nogil;
    const u64 give_up = now_ns() + patience_ns;
    while (!(who = inside(own)).empty() && now_ns() < give_up) sleep_ns(100'000);
  }
  const std::string readers = in_sections();
  if (!who.empty() || !readers.empty()) {
    closed_.store(false);
    throw usage_error(who.empty()
                          ? "close: thread(s) " + readers + " are inside of read sections of the RCU domain"
                          : "close: thread(s) " + who + " are inside of calls on the RCU domain");
  }
  tear_down();
  inbox()->drain_all(inbox()->pushed());
}

void own_place::tear_down() {
  const maybe_released away;
  const std::lock_guard held(lock_);
  closed_.store(true);
  for (const auto& r : records_)
    if (r->reader.attached()) domain_->detach(r->reader);
  domain_.reset();
  records_.clear();
}

}  // namespace

std::shared_ptr<rcu_place> make_own_place(const rcu_config& config) {
  return std::make_shared<own_place>(config);
}

}  // namespace pgtbl::inline PGTBL_WORLD
