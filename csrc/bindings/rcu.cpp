#include "bindings/rcu.hpp"

#include <atomic>

#include "base/errors.hpp"
#include "bindings/gil.hpp"
#include "bindings/size.hpp"

namespace pgtbl::inline PGTBL_WORLD {

py::dict rcu_stats_dict(const rcu_stats& s) {
  constexpr const char* kinds[rcu_gp_kinds] = {"normal", "expedited", "polled"};
  const auto seconds = [](u64 ns) { return static_cast<double>(ns) * 1e-9; };
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

namespace {

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

py::dict py_rcu::stats() {
  const use u(*place_);
  return rcu_stats_dict(place_->domain().stats());
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

void bind_domain(py::class_<py_rcu, std::shared_ptr<py_rcu>>& c) {
  c.def(py::init([](const py::object& soft_objects, const py::object& hard_objects,
                    const py::object& soft_bytes, const py::object& hard_bytes,
                    const py::object& stall_seconds) {
          return std::make_shared<py_rcu>(
              make_own_place(make_config(soft_objects, hard_objects, soft_bytes, hard_bytes, stall_seconds)));
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
  bind_rcu_inbox();
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
#if !defined(PGTBL_ARCH_TABLES)
  bind_rcu_torture(m);
#endif
}

}  // namespace pgtbl::inline PGTBL_WORLD
