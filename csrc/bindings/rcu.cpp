#include "bindings/rcu.hpp"

#include <atomic>
#include <chrono>
#include <vector>

#include "base/errors.hpp"
#include "bindings/gil.hpp"
#include "bindings/size.hpp"
#include "lab/rcu_torture.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 patience_ns = 5'000'000'000;  // how long close() waits for other threads' calls
std::atomic<bool> finalizing{false};        // no more pending calls: the interpreter is going

py::object& stall_warning() {
  static py::object* type = new py::object;  // lives as long as the process
  return *type;
}

}  // namespace

// ---- the inbox ----------------------------------------------------------------------------------

void rcu_inbox::push(PyObject* callable) {
  {
    const std::lock_guard held(lock_);
    ready_.push_back(callable);
    ++pushed_;
  }
  ask();
}

void rcu_inbox::warn(std::string text) {
  {
    const std::lock_guard held(lock_);
    warnings_.push_back(std::move(text));
  }
  ask();
}

/// Has the main thread drain, between two bytecodes.  Python has room for 32 such calls: where it has none
/// the next push asks again, and every call that waits drains too.
void rcu_inbox::ask() {
  if (finalizing.load()) return;
  {
    const std::lock_guard held(lock_);
    if (asked_) return;
    asked_ = true;
  }
  auto* keep = new std::shared_ptr<rcu_inbox>(shared_from_this());
  if (Py_AddPendingCall(pending_call, keep) == 0) return;
  delete keep;
  const std::lock_guard held(lock_);
  asked_ = false;
}

int rcu_inbox::pending_call(void* keep) {
  const std::unique_ptr<std::shared_ptr<rcu_inbox>> inbox(static_cast<std::shared_ptr<rcu_inbox>*>(keep));
  if (!(*inbox)->is_ours()) return 0;  // the parent runs its callbacks
  {
    const std::lock_guard held((*inbox)->lock_);
    (*inbox)->asked_ = false;
  }
  (*inbox)->drain();
  return 0;
}

/// False: there is nothing left, and this thread drains no more.
bool rcu_inbox::next(PyObject*& callable, std::string& text) {
  const std::lock_guard held(lock_);
  callable = nullptr;
  if (!warnings_.empty()) {
    text = std::move(warnings_.front());
    warnings_.pop_front();
    return true;
  }
  if (ready_.empty()) {
    draining_ = false;
    drainer_ = 0;
    done_changed_.notify_all();
    return false;
  }
  callable = ready_.front();
  ready_.pop_front();
  return true;
}

/// What a callback raised has nobody to go to.  But a Ctrl-C that came in its midst is the main program's: it comes
/// again between two bytecodes of that.
static void report(PyObject* callable) {
  if (is_main_thread() && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) != 0) {
    PyErr_Clear();
    PyErr_SetInterrupt();
    return;
  }
  PyErr_WriteUnraisable(callable);
}

void rcu_inbox::drain() {
  {
    const std::lock_guard held(lock_);
    if (draining_ || (ready_.empty() && warnings_.empty())) return;
    draining_ = true;
    drainer_ = thread_id();
  }
  const py::error_scope keep_error;  // a pending call may come while an exception is on its way
  PyObject* callable = nullptr;
  std::string text;
  while (next(callable, text)) {
    if (callable == nullptr) {
      if (PyErr_WarnEx(stall_warning().ptr(), text.c_str(), 1) != 0) report(nullptr);
      continue;
    }
    PyObject* result = PyObject_CallNoArgs(callable);
    if (result == nullptr) report(callable);
    Py_XDECREF(result);
    Py_DECREF(callable);
    const std::lock_guard held(lock_);
    ++done_;
    done_changed_.notify_all();
  }
}

void rcu_inbox::drain_all(u64 target) {
  if (draining_here()) return;  // the rest follows when this callback returns
  for (;;) {
    drain();
    {
      const gil_released nogil;
      std::unique_lock held(lock_);
      if (done_ >= target) return;
      // Another thread drains; should it lose its turn before it is done, it is ours again.
      done_changed_.wait_for(held, std::chrono::nanoseconds(wait_watch::ask_every_ns),
                             [&] { return done_ >= target || !draining_; });
      if (done_ >= target) return;
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

u64 rcu_inbox::pushed() {
  const std::lock_guard held(lock_);
  return pushed_;
}

bool rcu_inbox::draining_here() {
  const std::lock_guard held(lock_);
  return draining_ && drainer_ == thread_id();
}

rcu_place::rcu_place() : inbox_(std::make_shared<rcu_inbox>()) {
  hook_.arg = inbox_.get();
  hook_.func = [](void* arg, const rcu_stall& s) {
    char text[320];
    std::snprintf(text, sizeof text,
                  "RCU grace period stalled for %.3f s by thread %u (%s), nested %u deep, in a section that "
                  "began %llu grace "
                  "period(s) ago; pending: %llu callbacks, %llu bytes",
                  static_cast<double>(s.waited_ns) * 1e-9, s.tid, s.name, s.nesting,
                  static_cast<unsigned long long>(s.epoch_age), static_cast<unsigned long long>(s.objects),
                  static_cast<unsigned long long>(s.bytes));
    static_cast<rcu_inbox*>(arg)->warn(text);
  };
}

namespace {

// ---- a domain of its own, and its readers -------------------------------------------------------

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

// ---- callbacks ----------------------------------------------------------------------------------

struct python_callback : rcu_head {
  PyObject* callable;
  std::shared_ptr<rcu_inbox> inbox;
};

void run_python_callback(context&, rcu_head* head) {
  const std::unique_ptr<python_callback> cb(static_cast<python_callback*>(head));
  cb->inbox->push(cb->callable);
}

struct native_callback : rcu_head {
  void (*function)(void*);
  void* argument;
};

void run_native_callback(context&, rcu_head* head) {
  const std::unique_ptr<native_callback> cb(static_cast<native_callback*>(head));
  cb->function(cb->argument);
}

/// Counts the callbacks that ran: a callback in C++ for scripts that measure.
struct rcu_tally {
  std::atomic<u64> value{0};
};

struct tally_callback : rcu_head {
  std::shared_ptr<rcu_tally> tally;
};

void run_tally_callback(context&, rcu_head* head) {
  const std::unique_ptr<tally_callback> cb(static_cast<tally_callback*>(head));
  cb->tally->value.fetch_add(1, std::memory_order_relaxed);
}

constexpr const char* capsule_name = "pgtbl.rcu_callback";

// ---- the Python classes -------------------------------------------------------------------------

class py_rcu {
 public:
  explicit py_rcu(std::shared_ptr<rcu_place> place) : place_(std::move(place)) {}

  class use {
   public:
    explicit use(rcu_place& p) : place(p) { place.enter(); }
    use(const use&) = delete;
    use& operator=(const use&) = delete;
    ~use() { place.leave(); }
    rcu_place& place;
  };

  void read_lock() {
    const use u(*place_);
    place_->reader().read_lock();
  }
  void read_unlock() {
    const use u(*place_);
    place_->reader().read_unlock();
  }
  u32 nesting() {
    const use u(*place_);
    return place_->reader().nesting();
  }
  void synchronize(bool expedited) {
    waiting([=](rcu_domain& d, rcu_reader& r, wait_watch& p) {
      expedited ? d.synchronize_expedited(r, &p) : d.synchronize(r, &p);
    });
  }
  void cond_synchronize(py::handle cookie) {
    const u64 c = checked(cookie);
    waiting([=](rcu_domain& d, rcu_reader& r, wait_watch& p) { d.cond_synchronize(r, c, &p); });
  }
  void barrier();
  void call(const py::object& callback, py::handle bytes, py::handle repeat);

  u64 get_state() {
    const use u(*place_);
    return place_->domain().get_state();
  }
  u64 start_poll() {
    const use u(*place_);
    rcu_reader& r = place_->reader();
    const gil_released nogil;
    return place_->domain().start_poll(r);
  }
  bool poll(py::handle cookie) {
    const u64 c = checked(cookie);
    const use u(*place_);
    return place_->domain().poll_state(c);
  }
  py::dict stats();
  void close() { place_->close(); }
  const std::shared_ptr<rcu_place>& place() const { return place_; }

 private:
  template <class F>
  void waiting(F&& f) {
    rcu_inbox& inbox = *place_->inbox();
    {
      const use u(*place_);
      rcu_reader& r = place_->reader();
      rcu_domain& d = place_->domain();
      // A stall is told while it lasts.
      wait_interruptibly([&](wait_watch& p) { f(d, r, p); }, [&] { inbox.drain(); });
    }
    inbox.drain();
  }
  u64 checked(py::handle cookie);

  const std::shared_ptr<rcu_place> place_;
};

u64 py_rcu::checked(py::handle cookie) {
  const u64 c = to_u64(cookie, "cookie");
  const use u(*place_);
  if (!place_->domain().is_cookie(c))
    throw value_error("cookie " + std::to_string(c) +
                      " was not given out by get_state() or start_poll() of this RCU domain");
  return c;
}

void py_rcu::barrier() {
  rcu_inbox& inbox = *place_->inbox();
  if (inbox.draining_here())
    throw deadlock_error("barrier inside an RCU callback would wait for the callback itself");
  waiting([](rcu_domain& d, rcu_reader& r, wait_watch& p) { d.barrier(r, &p); });
  inbox.drain_all(inbox.pushed());
}

void py_rcu::call(const py::object& callback, py::handle bytes, py::handle repeat) {
  const u64 size = to_size(bytes, "bytes"), n = to_u64(repeat, "repeat");
  const use u(*place_);
  rcu_reader& reader = place_->reader();
  rcu_domain& domain = place_->domain();
  u64 queued = 0;
  const auto queue = [&](auto&& make_one, rcu_callback func) {
    wait_interruptibly([&](wait_watch& p) {
      for (; queued < n && !p.spent; ++queued) domain.call(reader, make_one(), func, size, &p);
    });
  };
  if (py::isinstance<rcu_tally>(callback)) {
    const auto tally = callback.cast<std::shared_ptr<rcu_tally>>();
    queue([&] { return new tally_callback{{}, tally}; }, run_tally_callback);
  } else if (PyCapsule_CheckExact(callback.ptr())) {
    void* pointer = PyCapsule_GetPointer(callback.ptr(), capsule_name);
    if (pointer == nullptr) throw py::error_already_set();
    void* argument = PyCapsule_GetContext(callback.ptr());
    const auto function = reinterpret_cast<void (*)(void*)>(pointer);
    queue([&] { return new native_callback{{}, function, argument}; }, run_native_callback);
  } else if (PyCallable_Check(callback.ptr()) != 0) {
    for (u64 i = 0; i < n; ++i) Py_INCREF(callback.ptr());
    struct take_back {  // of those that an interrupt kept from being queued
      PyObject* callable;
      u64 n;
      const u64& queued;
      ~take_back() {
        for (; n != queued; --n) Py_DECREF(callable);
      }
    } const rest{callback.ptr(), n, queued};
    queue([&] { return new python_callback{{}, callback.ptr(), place_->inbox()}; }, run_python_callback);
  } else {
    throw py::type_error(std::string("callback must be callable, an RcuTally, or a capsule named '") +
                         capsule_name + "', not " + Py_TYPE(callback.ptr())->tp_name);
  }
}

double seconds(u64 ns) { return static_cast<double>(ns) * 1e-9; }

py::dict as_dict(const rcu_stats& s) {
  constexpr const char* kinds[rcu_gp_kinds] = {"normal", "expedited", "polled"};
  py::dict d, by_kind, latency;
  for (unsigned k = 0; k < rcu_gp_kinds; ++k) {
    by_kind[kinds[k]] = s.by_kind[k];
    py::list buckets;
    for (u64 n : s.latency_ns[k]) buckets.append(n);
    latency[kinds[k]] = buckets;
  }
  d["grace_periods"] = s.grace_periods;
  d["grace_periods_by_kind"] = by_kind;
  d["latency_log2_ns"] = latency;
  d["membarrier_available"] = s.membarrier;
  d["membarriers"] = s.membarriers;
  d["membarrier_seconds"] = seconds(s.membarrier_ns);
  d["queued"] = s.queued;
  d["queued_bytes"] = s.queued_bytes;
  d["invoked"] = s.invoked;
  d["pending"] = s.pending;
  d["pending_bytes"] = s.pending_bytes;
  d["pending_max"] = s.pending_max;
  d["pending_bytes_max"] = s.pending_bytes_max;
  d["soft_throttles"] = s.soft_throttles;
  d["hard_throttles"] = s.hard_throttles;
  d["throttled_seconds"] = seconds(s.throttled_ns);
  d["stalls"] = s.stalls;
  d["longest_stall_seconds"] = seconds(s.longest_stall_ns);
  d["readers"] = s.readers;
  d["readers_detached"] = s.readers_detached;
  d["readers_exited_inside"] = s.readers_exited_inside;
  return d;
}

py::dict py_rcu::stats() {
  const use u(*place_);
  return as_dict(place_->domain().stats());
}

/// `with domain.read():`.  May be entered again, also inside of itself; in one thread at a time.
class py_section {
 public:
  explicit py_section(std::shared_ptr<rcu_place> place) : rcu_(std::move(place)) {}

  void enter() {
    const u32 me = thread_id();
    if (depth_ != 0 && owner_ != me)
      throw usage_error("this read section was entered by thread " + std::to_string(owner_));
    rcu_.read_lock();
    owner_ = me;
    ++depth_;
  }
  void exit() {
    if (depth_ == 0 || owner_ != thread_id())
      throw usage_error(depth_ == 0 ? "this read section was not entered"
                                    : "this read section was entered by thread " + std::to_string(owner_));
    rcu_.read_unlock();
    --depth_;
  }

 private:
  py_rcu rcu_;
  u32 owner_ = 0, depth_ = 0;
};

rcu_config make_config(py::handle soft_objects,
                       py::handle hard_objects,
                       py::handle soft_bytes,
                       py::handle hard_bytes,
                       py::handle stall_seconds) {
  rcu_config c;
  const auto set = [](u64& field, u64 value, const char* name) {
    if (value == 0) throw value_error(std::string(name) + " must be at least 1, not 0");
    field = value;
  };
  if (!soft_objects.is_none()) set(c.soft_objects, to_u64(soft_objects, "soft_objects"), "soft_objects");
  if (!hard_objects.is_none()) set(c.hard_objects, to_u64(hard_objects, "hard_objects"), "hard_objects");
  if (!soft_bytes.is_none()) set(c.soft_bytes, to_size(soft_bytes, "soft_bytes"), "soft_bytes");
  if (!hard_bytes.is_none()) set(c.hard_bytes, to_size(hard_bytes, "hard_bytes"), "hard_bytes");
  set(c.stall_ns, to_ns(stall_seconds, "stall_seconds", rcu_config{}.stall_ns), "stall_seconds");
  // A limit that was not said follows the one that was.
  if (soft_objects.is_none() && c.soft_objects > c.hard_objects) c.soft_objects = c.hard_objects;
  if (hard_objects.is_none() && c.hard_objects < c.soft_objects) c.hard_objects = c.soft_objects;
  if (soft_bytes.is_none() && c.soft_bytes > c.hard_bytes) c.soft_bytes = c.hard_bytes;
  if (hard_bytes.is_none() && c.hard_bytes < c.soft_bytes) c.hard_bytes = c.soft_bytes;
  const auto order = [](const char* what, u64 soft, u64 hard) {
    if (soft > hard)
      throw value_error(std::string("soft_") + what + " " + std::to_string(soft) + " must not exceed hard_" +
                        what + " " + std::to_string(hard));
  };
  order("objects", c.soft_objects, c.hard_objects);
  order("bytes", c.soft_bytes, c.hard_bytes);
  return c;
}

// ---- torture ------------------------------------------------------------------------------------

guard_mask guards_named(const std::vector<std::string>& names) {
  guard_mask mask;
  for (const std::string& name : names) {
    unsigned g = 0;
    while (g < guard_count && name != guard_table[g].name) ++g;
    if (g == guard_count) throw value_error("there is no guard named '" + name + "'");
    mask.set(g);
  }
#if defined(PGTBL_WORLD_REAL)
  if (!names.empty()) throw value_error("guards are constants in this build: use pgtbl._torture");
#endif
  return mask;
}

u32 ways_named(const std::vector<std::string>& names) {
  u32 mask = 0;
  for (const std::string& name : names) {
    unsigned w = 0;
    while (w < rcu_ways && name != rcu_way_names[w]) ++w;
    if (w == rcu_ways)
      throw value_error("there is no way to wait named '" + name +
                        "': synchronize, expedited, call, polled and conditional are allowed");
    mask |= 1U << w;
  }
  return mask;
}

/// Takes guards, and perhaps membarrier, away for a scope.
class handicap {
 public:
  handicap(const guard_mask& guards, bool use_membarrier)
      : membarrier_(use_membarrier ? membarrier_available() : set_membarrier_enabled(false)) {
#if !defined(PGTBL_WORLD_REAL)
    before_ = guards_removed.get();
    guards_removed.set(before_ | guards);
#else
    (void)guards;
#endif
  }
  handicap(const handicap&) = delete;
  handicap& operator=(const handicap&) = delete;
  ~handicap() {
#if !defined(PGTBL_WORLD_REAL)
    guards_removed.set(before_);
#endif
    if (membarrier_ != membarrier_available()) set_membarrier_enabled(membarrier_);
  }

 private:
  bool membarrier_;
  [[maybe_unused]] guard_mask before_;
};

py::dict torture(const py::object& run_seconds,
                 u32 readers,
                 u32 updaters,
                 u32 fakes,
                 u32 visitors,
                 u64 seed,
                 const std::string& delays,
                 const std::vector<std::string>& ways,
                 const std::vector<std::string>& without,
                 bool use_membarrier,
                 bool stop_at_error) {
  rcu_torture_options o;
  if (delays != "short" && delays != "long")
    throw value_error("delays '" + delays + "' must be 'short' or 'long'");
  if (readers > 64 || updaters > 64 || fakes > 64 || visitors > 64)
    throw value_error("at most 64 threads of each kind are allowed");
  if (updaters == 0) throw value_error("updaters must be at least 1, not 0");
  o.duration_ns = to_ns(run_seconds, "seconds", o.duration_ns);
  o.readers = readers;
  o.updaters = updaters;
  o.fakes = fakes;
  o.visitors = visitors;
  o.seed = seed;
  o.delays = delays == "short" ? rcu_delays::brief : rcu_delays::lengthy;
  o.stop_at_error = stop_at_error;
  if (!ways.empty()) o.ways = ways_named(ways);
  const guard_mask guards = guards_named(without);
  rcu_torture_result r;
  {
    const gil_released nogil;
    const handicap h(guards, use_membarrier);
    r = rcu_torture(o);
  }
  py::dict d, by_way;
  for (unsigned w = 0; w < rcu_ways; ++w) by_way[rcu_way_names[w]] = r.by_way[w];
  py::list ages;
  for (u64 n : r.ages) ages.append(n);
  d["reads"] = r.reads;
  d["updates"] = r.updates;
  d["updates_by_way"] = by_way;
  d["visits"] = r.visits;
  d["cookies"] = r.cookies;
  d["barriers"] = r.barriers;
  d["ages"] = ages;
  d["errors"] = r.errors;
  d["first_error"] = r.errors == 0 ? py::object(py::none()) : py::object(py::str(r.first_error));
  d["first_error_seconds"] = seconds(r.first_error_ns);
  d["rcu"] = as_dict(r.rcu);
  return d;
}

void bind_torture_function(py::module_& m) {
  m.def("rcu_torture", torture, "seconds"_a = 1.0, py::kw_only(), "readers"_a = 2, "updaters"_a = 2,
        "fakes"_a = 2, "visitors"_a = 1, "seed"_a = 1, "delays"_a = "short",
        "ways"_a = std::vector<std::string>{}, "without"_a = std::vector<std::string>{},
        "membarrier"_a = true, "stop_at_error"_a = true,
        R"(Tortures an RCU domain, after the kernel's rcutorture, and counts what it got wrong.

Updaters publish objects and retire them by every kind of grace period; readers hold them over sections and
report an object that is older than one grace period, or poisoned.

delays: "short" (sections of nanoseconds, many updates: finds missing fences) or "long" (sections of
microseconds to milliseconds: finds grace periods that do not wait). ways: which of "synchronize",
"expedited", "call", "polled" and "conditional" are used; empty for all. without: names of guards to take
away (in pgtbl._torture only). membarrier=False: with the readers' own fences. Each run takes `seconds`
seconds, unless an error ends it.

Returns a dict: reads, updates, updates_by_way, visits, cookies, barriers, ages (how many sections held an
object of that age; beyond 1 is an error), errors, first_error, first_error_seconds, rcu (statistics).)");
}

void bind_domain(py::class_<py_rcu, std::shared_ptr<py_rcu>>& c) {
  c.def(py::init([](const py::object& soft_objects, const py::object& hard_objects,
                    const py::object& soft_bytes, const py::object& hard_bytes,
                    const py::object& stall_seconds) {
          return std::make_shared<py_rcu>(std::make_shared<own_place>(
              make_config(soft_objects, hard_objects, soft_bytes, hard_bytes, stall_seconds)));
        }),
        py::kw_only(), "soft_objects"_a = py::none(), "hard_objects"_a = py::none(),
        "soft_bytes"_a = py::none(), "hard_bytes"_a = py::none(), "stall_seconds"_a = 1.0,
        R"(A domain of its own.

Above the soft limits (16384 pending callbacks, 8 MiB) grace periods are expedited; above the hard limits
(131072, 12 MiB) call() waits, unless its thread is in a read section. A reader that keeps a grace period
waiting for stall_seconds, twice, four times as long and so on is reported by an RcuStallWarning.)");
  c.def(
      "read", [](const py_rcu& self) { return std::make_unique<py_section>(self.place()); },
      "A context manager: a read section, which may be nested and used again.");
  c.def("read_lock", &py_rcu::read_lock, "Enters a read section; never waits. Sections nest.");
  c.def("read_unlock", &py_rcu::read_unlock,
        "Leaves the innermost read section. UsageError outside of sections.");
  c.def_property_readonly("nesting", &py_rcu::nesting, "How many read sections the calling thread is in.");
  c.def("synchronize", &py_rcu::synchronize, py::kw_only(), "expedited"_a = false,
        R"(Waits until every read section that began before has ended, without the GIL.

expedited: yields the processor instead of sleeping. DeadlockError inside a read section of this domain. Like
every wait of a domain it is ended by a signal handler that raises (Ctrl-C).)");
  c.def("call", &py_rcu::call, "callback"_a, py::kw_only(), "bytes"_a = 0, "repeat"_a = 1,
        R"(Has callback run after a grace period; waits only above the hard limit, outside of read sections.

callback: a callable without arguments, which runs in the main thread between two bytecodes or in a thread
that waits for this domain (what it raises goes to sys.unraisablehook); an RcuTally; or a capsule named
"pgtbl.rcu_callback" around a C function void (*)(void *), which gets the capsule's context, in any thread
and without the GIL. bytes: what its memory counts for the limits. repeat: queue it so many times.)");
  c.def("barrier", &py_rcu::barrier,
        "Waits until every callback queued before has run, Python callbacks too. DeadlockError in a section "
        "or callback.");
  c.def("get_state", &py_rcu::get_state,
        "A cookie that passes once a whole grace period lies behind now; starts none.");
  c.def("start_poll", &py_rcu::start_poll,
        "The same, and starts the grace period; poll() carries it on. Never waits.");
  c.def("poll", &py_rcu::poll, "cookie"_a, "Whether the cookie's grace period is over. Never waits.");
  c.def("cond_synchronize", &py_rcu::cond_synchronize, "cookie"_a,
        "Waits for a grace period unless the cookie's is over.");
  c.def("stats", &py_rcu::stats,
        R"(What happened so far, as a dict.

grace_periods; grace_periods_by_kind and latency_log2_ns (per kind: element b counts those of 2**b to
2**(b+1) ns) for normal, expedited and polled; membarriers and membarrier_seconds; callbacks queued, invoked,
pending and pending_max (to within a batch of 256 per thread), the same in bytes; soft_throttles,
hard_throttles, throttled_seconds; stalls, longest_stall_seconds; readers (threads attached now),
readers_detached, readers_exited_inside (threads that ended inside a read section).)");
  c.def("close", &py_rcu::close,
        R"(Waits for a grace period, runs what callbacks are left, and closes the domain; twice is no error.

UsageError while a thread is in a read section, or inside of another call for more than 5 seconds.)");
  c.def("__enter__", [](const py::object& self) { return self; });
  c.def("__exit__", [](py_rcu& self, const py::args&) { self.close(); });
}

}  // namespace

py::object make_rcu_object(std::shared_ptr<rcu_place> place) {
  return py::cast(std::make_shared<py_rcu>(std::move(place)));
}

void bind_rcu(py::module_& m) {
  const auto errors = py::module_::import("pgtbl.errors");
  stall_warning() =
      py::getattr(errors, "RcuStallWarning", py::reinterpret_borrow<py::object>(PyExc_RuntimeWarning));
  py::module_::import("atexit").attr("register")(py::cpp_function([] { finalizing.store(true); }));

  py::class_<rcu_tally, std::shared_ptr<rcu_tally>>(m, "RcuTally",
                                                    "A callback in C++ that counts how often it ran.")
      .def(py::init())
      .def_property_readonly("value", [](const rcu_tally& t) { return t.value.load(); }, "How often it ran.");
  py::class_<py_section>(m, "RcuSection", "A read section of an RcuDomain, made by its read().")
      .def("__enter__", &py_section::enter)
      .def("__exit__", [](py_section& self, const py::args&) { self.exit(); });
  py::class_<py_rcu, std::shared_ptr<py_rcu>> domain(
      m, "RcuDomain",
      "Read-copy-update: readers never wait, updaters wait for them. Threads attach by their first use, and "
      "leave as they end.");
  bind_domain(domain);
  bind_torture_function(m);
}

}  // namespace pgtbl::inline PGTBL_WORLD
