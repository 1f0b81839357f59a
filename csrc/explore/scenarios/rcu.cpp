// RCU by itself: the shipped epochs, and its definition, under the same casts.
//
// The test is what RCU is for.  A pointer leads to an item; readers follow it inside of sections; updaters take it
// away, wait in one of the ways that RCU offers, and free it.  A free that is not ordered after every access is a
// use after free, so that a grace period that ends too early is found in one graph, whatever the interleaving.
// The worker thread never gets a processor; what it would do is done by barrier(), or by an actor that plays it.
#include "explore/scenario.hpp"
#include "explore/scenarios/reach.hpp"
#include "explore/scenarios/tell.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

struct item : rcu_head {
  atomic<u64> value{7};
  atomic<u32>* ran = nullptr;
};
void free_item(context&, rcu_head* h) {
  item* x = static_cast<item*>(h);
  if (x->ran != nullptr) x->ran->store(1, relaxed);
  destroy(x);
}

/// Letters say what each actor does:
///   r  a section          2  two sections, one after the other      n  a section within a section
///   s  synchronize        e  synchronize_expedited                  k  a cookie, then cond_synchronize
///   p  a cookie, polled once    c  call, then barrier               b  call; barrier is another's
///   B  barrier           q  call with batches of one, so that it runs what has expired; then barrier
///   W  two rounds of the worker: for quiet queues, and for all
///   f  two calls like that, and says so after the first      g  one call, and says so
///   G  a section, then barrier if that was said: the first must have run           H  the same without a section
class rcu_cast final : public program {
 public:
  rcu_cast(stage& s, const char* parts, bool definition, bool membarriers) : parts_(parts) {
    s.use_abstract_rcu(definition);
    s.use_membarriers(membarriers);
    rcu_config config;
    for (const char* p = parts; *p != 0; ++p)
      if (*p == 'q' || *p == 'f') config.soft_objects = 0;
    domain_ = pgtbl::make<rcu_domain>(config);
    for (n_ = 0; parts[n_] != 0; ++n_) {
      actors_[n_].self.id = n_;
      if (parts[n_] == 'W') {  // joins the readers for as long as it runs callbacks
        domain_->set_worker(actors_[n_].reader, actors_[n_].self);
        continue;
      }
      domain_->attach(actors_[n_].reader, actors_[n_].self);
      shared_[n_].store(pgtbl::make<item>());
      actors_[n_].spare = pgtbl::make<item>();
      s.name_all(actors_[n_].reader, "reader " + s.actor_name(n_));
      s.name_all(shared_[n_], "pointer " + std::to_string(n_));
      s.name_all(*shared_[n_].load(), "item " + std::to_string(n_));
    }
    name_parts(s, *domain_);
    leave_statistics_unexplored(s, *domain_);
  }
  u32 actors() const override { return n_; }
  std::string role(u32 i) const override {
    switch (parts_[i]) {
      case 'r': return "reader";
      case '2': return "reader, twice";
      case 'n': return "reader, nested";
      case 's': return "synchronize";
      case 'e': return "synchronize_expedited";
      case 'k': return "cond_synchronize";
      case 'p': return "poll_state";
      case 'c':
      case 'q': return "call, barrier";
      case 'B':
      case 'G':
      case 'H': return "barrier";
      case 'W': return "worker";
      default: return "call";
    }
  }
  std::string held_by(u32 i) const override {
    std::string s = locks_of(actors_[i].self);
    if (actors_[i].inside) add_held(s, "a read section");
    return s;
  }

  void act(u32 i) override {
    rcu_reader& me = actors_[i].reader;
    switch (parts_[i]) {
      case 'r': section(i); break;
      case '2': section(i), section(i); break;
      case 'n': nested(i); break;
      case 's': remove(i), domain_->synchronize(me), drop(i); break;
      case 'e': remove(i), domain_->synchronize_expedited(me), drop(i); break;
      case 'k': remove(i), domain_->cond_synchronize(me, domain_->get_state()), drop(i); break;
      case 'p': poll(i); break;
      case 'c': call(i), domain_->barrier(me); break;
      case 'q': call(i), domain_->barrier(me); break;
      case 'b': call(i), call_spare(i); break;
      case 'f': call(i), said_.store(1, release), call_spare(i); break;
      case 'G':
        section(i);  // the first batch cannot expire while this lasts
        barrier_if_said(me);
        break;
      case 'g': call(i), said_.store(1, release); break;
      case 'H': barrier_if_said(me); break;
      case 'B': domain_->barrier(me); break;
      case 'W':
        run_worker_round(*domain_, true);
        run_worker_round(*domain_, false);
        break;
      default: break;
    }
  }
  void judge() override {
    for (u32 i = 0; i < n_; ++i)
      if (parts_[i] != 'W' && actors_[i].reader.in_section()) pgtbl::fail("a read section was left open");
    domain_->barrier(actors_[0].reader);
    if (domain_->stats().pending != 0) pgtbl::fail("a callback was lost");
  }

 private:
  struct part {
    context self;
    rcu_reader reader;
    item *removed = nullptr, *spare = nullptr;
    bool inside = false;  // of a section, as traces say it: to ask the reader would be a step
  };
  /// Follows every updater's pointer.
  void follow() {
    for (u32 i = 0; i < n_; ++i) {
      if (!updates(parts_[i])) continue;
      if (const item* x = shared_[i].load(acquire)) static_cast<void>(x->value.load(relaxed));
    }
  }
  void section(u32 i) {
    rcu_reader& me = actors_[i].reader;
    me.read_lock();
    actors_[i].inside = true;
    follow();
    me.read_unlock();
    actors_[i].inside = false;
  }
  void nested(u32 i) {
    rcu_reader& me = actors_[i].reader;
    me.read_lock();
    actors_[i].inside = true;
    me.read_lock();
    me.read_unlock();
    follow();
    me.read_unlock();
    actors_[i].inside = false;
  }
  void barrier_if_said(rcu_reader& me) {
    if (said_.load(acquire) == 0) return;
    domain_->barrier(me);
    if (ran_.load(relaxed) == 0)
      pgtbl::fail("rcu_barrier returned before a callback that was queued before it had run");
  }
  void remove(u32 i) {
    actors_[i].removed = shared_[i].load(relaxed);
    shared_[i].store(nullptr, release);
  }
  void drop(u32 i) { destroy(actors_[i].removed); }
  void call(u32 i) {
    remove(i);
    actors_[i].removed->ran = &ran_;
    domain_->call(actors_[i].reader, actors_[i].removed, free_item, sizeof(item));
  }
  void call_spare(u32 i) { domain_->call(actors_[i].reader, actors_[i].spare, free_item, sizeof(item)); }
  void poll(u32 i) {
    remove(i);
    const u64 cookie = domain_->start_poll(actors_[i].reader);
    if (domain_->poll_state(cookie)) drop(i);
  }
  static bool updates(char c) { return c != 'r' && c != '2' && c != 'n' && c != 'B' && c != 'W' && c != 'H'; }

  const char* parts_;
  u32 n_ = 0;
  rcu_domain* domain_;
  part actors_[4];
  atomic<item*> shared_[4] = {};
  atomic<u32> said_{0}, ran_{0};
};

constexpr char rs[] = "rs", rss[] = "rss", rrs[] = "rrs", two[] = "2s", ns[] = "ns", re[] = "re", rk[] = "rk",
               rp[] = "rp", rc[] = "rc", rse[] = "rse", bB[] = "bB", rq[] = "rq", fG[] = "Gf",
               two_s[] = "2ss", rps[] = "rps", nss[] = "nss", ne[] = "ne", nk[] = "nk", rkk[] = "rkk",
               rek[] = "rek", rbW[] = "rbW", bbW[] = "bbW", gHW[] = "gHW";
enum class build : u8 { epochs, definition, epochs_with_fences };
template <const char* Parts, build B>
program* cast_of(stage& s, const era&) {
  return pgtbl::make<rcu_cast>(s, Parts, B == build::definition, B != build::epochs_with_fences);
}

constexpr const char* any_era = "v6.6 v6.5 v6.4";
constexpr scenario table[] = {
    {"rcu-definition", "RCU's definition: a reader, two updaters that synchronize", any_era,
     cast_of<rss, build::definition>},
    {"rcu-synchronize", "a reader and an updater that waits for it", any_era, cast_of<rs, build::epochs>},
    {"rcu-two-readers", "two readers and an updater", any_era, cast_of<rrs, build::epochs>},
    {"rcu-two-updaters", "a reader and two updaters whose grace periods meet", any_era,
     cast_of<rss, build::epochs>},
    {"rcu-two-sections", "a reader that enters again while it is waited for", any_era,
     cast_of<two, build::epochs>},
    {"rcu-two-sections-two-updaters", "the same with two updaters", any_era, cast_of<two_s, build::epochs>},
    {"rcu-nesting", "a section inside of a section", any_era, cast_of<ns, build::epochs>},
    {"rcu-nesting-two-updaters", "a section inside of a section, and two updaters", any_era,
     cast_of<nss, build::epochs>},
    {"rcu-nesting-expedited", "a section inside of a section, and synchronize_expedited", any_era,
     cast_of<ne, build::epochs>},
    {"rcu-nesting-cookie", "a section inside of a section, and cond_synchronize", any_era,
     cast_of<nk, build::epochs>},
    {"rcu-expedited", "synchronize_expedited", any_era, cast_of<re, build::epochs>},
    {"rcu-expedited-and-normal", "an expedited and a normal updater", any_era, cast_of<rse, build::epochs>},
    {"rcu-cookie", "get_state and cond_synchronize", any_era, cast_of<rk, build::epochs>},
    {"rcu-two-cookies", "two cookies that ask for the same or for successive grace periods", any_era,
     cast_of<rkk, build::epochs>},
    {"rcu-cookie-and-expedited", "a cookie that an expedited grace period may answer", any_era,
     cast_of<rek, build::epochs>},
    {"rcu-poll", "start_poll and poll_state", any_era, cast_of<rp, build::epochs>},
    {"rcu-poll-and-synchronize", "a poller's grace period is finished by one who waits", any_era,
     cast_of<rps, build::epochs>},
    {"rcu-call", "call and barrier", any_era, cast_of<rc, build::epochs>},
    {"rcu-call-barrier", "call by one thread, barrier by another", any_era, cast_of<bB, build::epochs>},
    {"rcu-call-batches", "call runs the batches that have expired", any_era, cast_of<rq, build::epochs>},
    {"rcu-barrier-runners", "barrier while another thread runs a batch", any_era, cast_of<fG, build::epochs>},
    {"rcu-worker", "a reader, a thread that calls and goes away, and the worker that runs its callbacks",
     any_era, cast_of<rbW, build::epochs>},
    {"rcu-worker-two-callers", "the worker takes the callbacks of two threads", any_era,
     cast_of<bbW, build::epochs>},
    {"rcu-worker-and-barrier", "barrier while the worker has the callback", any_era,
     cast_of<gHW, build::epochs>},
    {"rcu-fences", "where membarrier is missing: readers fence for themselves", any_era,
     cast_of<rs, build::epochs_with_fences>},
};

}  // namespace

std::span<const scenario> scenarios_of_rcu() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
