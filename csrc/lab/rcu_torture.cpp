#include "lab/rcu_torture.hpp"

#include <cstdio>
#include <memory>
#include <vector>

#include "base/dice.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 alive = 0x1122334455667788, freed_word = 0xdeadbeefdeadbeef;
constexpr u32 pool_size = 16'384;
constexpr u32 oldest = rcu_torture_result::oldest;

struct actor : context {
  rcu_reader reader;
  counter ages[oldest + 1];  // its own: a shared count would be a fence between two sections
  counter cookies;
};

class torture;

struct alignas(64) object : rcu_head {
  atomic<u64> magic{0}, a{0}, b{0};
  atomic<u32> age{0};
  object* next = nullptr;  // in the free list, or among the removed
  torture* home = nullptr;
};

class torture {
 public:
  explicit torture(const rcu_torture_options& o);
  rcu_torture_result run();

 private:
  void read(u32 i);
  void update(u32 i);
  void fake(u32 i);
  void visit(u32 i);

  void look(actor& me, dice& d);
  void delay(dice& d);
  void disturb(u64 lines);
  object* take_free();
  void put_free(object* o);
  object* fresh(dice& d);
  void grow_older(object* o);
  object* age_all(object* removed);
  static void aged_by_callback(context& self, rcu_head* head);
  static void counted(context& self, rcu_head* head);
  void wait_one(actor& me, dice& d, rcu_way way);
  bool polled(actor& me, dice& d);
  rcu_way choose(dice& d) const;
  void check_barrier(actor& me, dice& d);

  bool running() const { return stop_.load(relaxed) == 0; }
  void fail(const char* what, u64 value);
  actor& enter(u32 i);

  const rcu_torture_options options_;
  rcu_config config_;
  actor worker_;
  std::vector<std::unique_ptr<actor>> actors_;
  std::vector<object> pool_;
  std::vector<atomic<object*>> slots_;
  std::vector<thread> threads_;
  struct alignas(128) line {
    atomic<u64> word{0};
  };
  static constexpr u64 noise_lines = 8;
  line noise_[noise_lines];
  atomic<object*> free_{nullptr};
  atomic<u32> stop_{0};
  atomic<u64> reads_{0}, updates_{0}, visits_{0}, barriers_{0}, errors_{0};
  atomic<u64> by_way_[rcu_ways] = {};
  u64 began_ = 0;
  atomic<u64> first_error_ns_{0};
  char first_error_[160] = {};
  std::unique_ptr<rcu_domain> rcu_;  // last: it ends first, and runs what is left
};

rcu_config small_limits() {
  rcu_config c;
  c.soft_objects = 1'024;
  c.hard_objects = 8'192;
  c.idle_ns = 1'000'000;  // the worker comes by often
  return c;
}

torture::torture(const rcu_torture_options& o)
    : options_(o),
      config_(small_limits()),
      pool_(pool_size),
      slots_(o.updaters),
      rcu_(std::make_unique<rcu_domain>(config_)) {
  rcu_->set_worker(worker_.reader, worker_);
  for (u32 i = 0; i < o.readers + o.updaters + o.fakes + o.visitors; ++i)
    actors_.push_back(std::make_unique<actor>());
  for (object& x : pool_) {
    x.home = this;
    put_free(&x);
  }
  dice d(o.seed, 0);
  for (auto& slot : slots_) slot.store(fresh(d), release);
}

void torture::fail(const char* what, u64 value) {
  if (errors_.fetch_add(1, relaxed) == 0) {
    std::snprintf(first_error_, sizeof first_error_, "%s: %llu", what,
                  static_cast<unsigned long long>(value));
    first_error_ns_.store(now_ns() - began_, release);
  }
  if (options_.stop_at_error) stop_.store(1, relaxed);
}

// ---- objects ------------------------------------------------------------------------------------

void torture::put_free(object* o) {
  object* head = free_.load(relaxed);
  do {
    o->next = head;
  } while (!free_.compare_exchange_weak(head, o, release, relaxed));
}

/// One from the list; the whole list is taken and the rest put back, so that no head comes again (ABA).
object* torture::take_free() {
  object* o = free_.exchange(nullptr, acquire);
  if (o == nullptr || o->next == nullptr) return o;
  object* rest = o->next;
  object* none = nullptr;
  if (free_.compare_exchange_strong(none, rest, release, relaxed)) return o;
  while (rest != nullptr) {
    object* next = rest->next;
    put_free(rest);
    rest = next;
  }
  return o;
}

object* torture::fresh(dice& d) {
  object* o = take_free();
  if (o == nullptr) return nullptr;
  const u64 x = d.roll();
  o->age.store(0, relaxed);
  o->a.store(x, relaxed);
  o->b.store(x, relaxed);
  o->magic.store(alive, relaxed);
  return o;
}

/// A grace period went by since it was removed, or since its last birthday.
void torture::grow_older(object* o) {
  const u32 age = o->age.load(relaxed) + 1;
  o->age.store(age, relaxed);
  if (age != 2) return;
  o->magic.store(freed_word, relaxed);
  o->a.store(1, relaxed);
  o->b.store(2, relaxed);
}

/// The removed objects that are not yet old enough to be used again.
object* torture::age_all(object* removed) {
  object* left = nullptr;
  while (removed != nullptr) {
    object* o = removed;
    removed = o->next;
    grow_older(o);
    if (o->age.load(relaxed) >= oldest) {
      put_free(o);
    } else {
      o->next = left;
      left = o;
    }
  }
  return left;
}

void torture::aged_by_callback(context& self, rcu_head* head) {
  object* o = static_cast<object*>(head);
  torture& t = *o->home;
  t.grow_older(o);
  if (o->age.load(relaxed) >= oldest || !t.running()) {
    t.put_free(o);
  } else {
    t.rcu_->call(static_cast<actor&>(self).reader, o, aged_by_callback, sizeof(object));
  }
}

// ---- readers ------------------------------------------------------------------------------------

void torture::delay(dice& d) {
  if (options_.delays == rcu_delays::brief) {
    for (u64 i = d.below(2) == 0 ? d.below(1'000) : 0; i != 0; --i) compiler_barrier();
    if (d.one_in(100'000)) yield();
    return;
  }
  if (d.one_in(400)) {
    const u64 until = now_ns() + 200'000;
    while (now_ns() < until) cpu_relax();
  }
  if (d.one_in(1'000)) yield();
  if (d.one_in(20'000)) sleep_ns(3'000'000);
}

/// Stores to lines that updaters have just written.  They wait in the store buffer for their lines, and the
/// announcement behind them: the loads of a section without a fence go first by so much more.
void torture::disturb(u64 lines) {
  for (u64 i = 0; i < lines; ++i) noise_[i].word.store(lines, relaxed);
}

/// One read section.
void torture::look(actor& me, dice& d) {
  rcu_reader& r = me.reader;
  const bool nested = d.one_in(8), tests_cookie = d.one_in(32);
  const atomic<object*>& slot = slots_[d.below(slots_.size())];
  disturb(d.below(noise_lines + 1));
  r.read_lock();
  const u64 cookie = tests_cookie ? rcu_->get_state() : 0;
  if (nested) {
    r.read_lock();
    r.read_unlock();
  }
  const object* o = slot.load(acquire);
  const u32 before = o->age.load(relaxed);
  if (o->magic.load(relaxed) != alive) fail("a reader found a freed object, of age", before);
  delay(d);
  if (o->magic.load(relaxed) != alive)
    fail("an object was freed under a reader, at age", o->age.load(relaxed));
  if (o->a.load(relaxed) != o->b.load(relaxed))
    fail("a reader found a torn object, of age", o->age.load(relaxed));
  u32 age = o->age.load(relaxed);
  if (age < before) age = before;
  if (age > 1) fail("a reader held an object of age", age);
  if (tests_cookie && rcu_->poll_state(cookie))
    fail("a cookie passed inside of the section that took it", cookie);
  r.read_unlock();
  me.ages[age < oldest ? age : oldest].add();
  if (tests_cookie) me.cookies.add();
}

actor& torture::enter(u32 i) {
  actor& me = *actors_[i];
  me.id = i;
  me.tid.store(thread_id(), relaxed);
  rcu_->attach(me.reader, me);
  return me;
}

void torture::read(u32 i) {
  actor& me = enter(i);
  dice d(options_.seed, i);
  u64 n = 0;
  for (; running(); ++n) look(me, d);
  reads_.fetch_add(n, relaxed);
  rcu_->detach(me.reader);
}

/// A thread that comes, reads and goes, one time in four from inside of a section.
void torture::visit(u32 i) {
  dice d(options_.seed, i);
  while (running()) {
    actor& me = enter(i);
    look(me, d);
    if (d.one_in(4)) me.reader.read_lock();
    rcu_->detach(me.reader);
    visits_.fetch_add(1, relaxed);
    sleep_ns(d.below(200'000));
  }
}

// ---- updaters -----------------------------------------------------------------------------------

rcu_way torture::choose(dice& d) const {
  for (;;) {
    const u64 w = d.below(rcu_ways);
    if ((options_.ways >> w & 1) != 0) return static_cast<rcu_way>(w);
  }
}

/// False: the end came first.
bool torture::polled(actor& me, dice& d) {
  const u64 cookie = rcu_->start_poll(me.reader);
  while (!rcu_->poll_state(cookie)) {
    if (!running()) return false;
    if (d.one_in(16)) yield();
  }
  return true;
}

void torture::wait_one(actor& me, dice& d, rcu_way way) {
  const u64 cookie = rcu_->get_state();
  switch (way) {
    case rcu_way::expedited: rcu_->synchronize_expedited(me.reader); break;
    case rcu_way::polled:
      if (!polled(me, d)) return;
      break;
    case rcu_way::conditional:
      if (d.one_in(2)) yield();
      rcu_->cond_synchronize(me.reader, cookie);
      break;
    default: rcu_->synchronize(me.reader); break;
  }
  if (!rcu_->poll_state(cookie))
    fail("a cookie had not passed after a grace period by way", static_cast<u64>(way));
}

void torture::update(u32 i) {
  actor& me = enter(i);
  dice d(options_.seed, i);
  atomic<object*>& slot = slots_[i - options_.readers];
  object* removed = nullptr;
  u64 n = 0;
  while (running()) {
    object* o = fresh(d);
    rcu_way way = choose(d);
    if (o != nullptr) {
      disturb(noise_lines);
      object* old = slot.exchange(o, acq_rel);
      old->age.store(1, relaxed);
      ++n;
      by_way_[static_cast<unsigned>(way)].fetch_add(1, relaxed);
      if (way == rcu_way::call) {
        rcu_->call(me.reader, old, aged_by_callback, sizeof(object));
        continue;
      }
      old->next = removed;
      removed = old;
    } else if (way == rcu_way::call) {
      yield();  // every object is on its way through the callbacks
      continue;
    }
    wait_one(me, d, way);
    if (running()) removed = age_all(removed);
  }
  updates_.fetch_add(n, relaxed);
  rcu_->detach(me.reader);
}

namespace {
struct tally : rcu_head {
  atomic<u32> done{0};
};
}  // namespace

void torture::counted(context&, rcu_head* head) { static_cast<tally*>(head)->done.fetch_add(1, release); }

/// What was queued before a barrier has run once after it; also if the worker took it meanwhile.
void torture::check_barrier(actor& me, dice& d) {
  constexpr u64 n = 3;
  tally* t = make_array<tally>(n);
  for (u64 i = 0; i < n; ++i) rcu_->call(me.reader, &t[i], counted, sizeof(tally));
  if (d.one_in(2)) sleep_ns(d.below(3 * config_.idle_ns));
  rcu_->barrier(me.reader);
  barriers_.fetch_add(1, relaxed);
  for (u64 i = 0; i < n; ++i) {
    const u32 done = t[i].done.load(acquire);
    if (done == 1) continue;
    fail("after rcu_barrier a callback had run so many times", done);
    return;  // and leave the memory to the callback
  }
  destroy_array(t, n);
}

void torture::fake(u32 i) {
  actor& me = enter(i);
  dice d(options_.seed, i);
  while (running()) {
    if (d.one_in(32)) {
      check_barrier(me, d);
    } else {
      wait_one(me, d, choose(d));
    }
    sleep_ns(d.below(options_.delays == rcu_delays::brief ? 200'000 : 2'000'000));
  }
  rcu_->detach(me.reader);
}

// ---- the run ------------------------------------------------------------------------------------

rcu_torture_result torture::run() {
  began_ = now_ns();
  const u32 r = options_.readers, u = r + options_.updaters, f = u + options_.fakes,
            v = f + options_.visitors;
  for (u32 i = 0; i < r; ++i) threads_.emplace_back([this, i] { read(i); });
  for (u32 i = r; i < u; ++i) threads_.emplace_back([this, i] { update(i); });
  for (u32 i = u; i < f; ++i) threads_.emplace_back([this, i] { fake(i); });
  for (u32 i = f; i < v; ++i) threads_.emplace_back([this, i] { visit(i); });
  while (running() && now_ns() - began_ < options_.duration_ns) sleep_ns(1'000'000);
  stop_.store(1, relaxed);
  for (thread& t : threads_) t.join();

  rcu_torture_result result;
  result.reads = reads_.load(relaxed);
  result.updates = updates_.load(relaxed);
  result.visits = visits_.load(relaxed);
  result.barriers = barriers_.load(relaxed);
  for (const auto& a : actors_) {
    result.cookies += a->cookies.get();
    for (u32 age = 0; age <= oldest; ++age) result.ages[age] += a->ages[age].get();
  }
  for (unsigned w = 0; w < rcu_ways; ++w) result.by_way[w] = by_way_[w].load(relaxed);
  result.errors = errors_.load(relaxed);
  result.first_error_ns = first_error_ns_.load(acquire);
  result.first_error = first_error_;
  result.rcu = rcu_->stats();
  return result;
}

}  // namespace

rcu_torture_result rcu_torture(const rcu_torture_options& options) {
  auto t = std::make_unique<torture>(options);
  return t->run();
}

}  // namespace pgtbl::inline PGTBL_WORLD
