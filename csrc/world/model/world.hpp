// The model end of the seam: the same names as world/real/world.hpp, each access one operation.  Here fences, time and
// threads; the files that it includes have the rest.
//
// Rules for what is compiled here: shared data only in atomic<T>, var<T> and what make<T> returns; waits
// only through await, park and locks; no clocks (time stands still), no order that depends on addresses.
#pragma once
#include <memory>
#include <type_traits>
#include <utility>

#include "world/model/atomic.hpp"
#include "world/model/data.hpp"
#include "world/model/objects.hpp"
#include "world/model/physical.hpp"
#include "world/model/waiting.hpp"

namespace pgtbl::inline PGTBL_WORLD {

inline void fence(memory_order o, where at = where::current()) {
  operation op{.kind = op_kind::fence};
  op.order = model_detail::number(o);
  op.at = at;
  engine::current().perform(op);
}
inline void compiler_barrier(where at = where::current()) {
  operation op{.kind = op_kind::light_fence};
  op.at = at;
  engine::current().perform(op);
}
bool membarrier_available();
inline void membarrier(where at = where::current()) {
  if (!membarrier_available()) return fence(seq_cst, at);
  operation op{.kind = op_kind::heavy_fence};
  op.at = at;
  engine::current().perform(op);
}
bool set_membarrier_enabled(bool on);

// Where a loop looks again.  An engine may abandon the execution here: one in which the loop is passed at the
// first look is explored too, and has the same outcome.
inline void cpu_relax() { engine::current().look_again(); }
inline void yield() { engine::current().look_again(); }
inline void sleep_ns(u64) {}
inline u64 now_ns() { return engine::current().now(); }
inline u64 ticks() { return engine::current().now(); }
inline u64 ticks_to_ns(u64 t) { return t; }

inline u32 thread_id() { return engine::current().actor() + 1; }
inline void name_thread(const char*) {}
inline void thread_name(u32, char (&out)[16]) { out[0] = 0; }
inline u32 fork_generation() { return 0; }  // actors do not fork

/// An actor more.
class thread {
 public:
  thread() = default;
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, thread>)
  explicit thread(F&& f) : joinable_(true) {
    using body = std::remove_cvref_t<F>;
    void* p = engine::current().begin_object(sizeof(body), alignof(body), "thread");
    auto* b = std::construct_at(static_cast<body*>(p), std::forward<F>(f));
    engine::current().end_object();
    engine::current().spawn([](void* ctx) { (*static_cast<body*>(ctx))(); }, b, id_);
  }
  thread(const thread&) = delete;
  thread& operator=(const thread&) = delete;
  thread(thread&& o) noexcept : id_(o.id_), joinable_(std::exchange(o.joinable_, false)) {}
  thread& operator=(thread&& o) noexcept {
    id_ = o.id_;
    joinable_ = std::exchange(o.joinable_, false);
    return *this;
  }
  void join() {
    if (joinable_) engine::current().join(id_);
    joinable_ = false;
  }
  bool joinable() const { return joinable_; }

 private:
  u32 id_ = 0;
  bool joinable_ = false;
};

/// The program found itself wrong.
inline void fail(const char* text, where at = where::current()) {
  operation op{.kind = op_kind::fail};
  op.text = text;
  op.at = at;
  engine::current().perform(op);
}
/// A name for traces.
template <class T>
void name(const atomic<T>& a, const char* text, int index = -1) {
  engine::current().name(a.loc(), text, index);
}

}  // namespace pgtbl::inline PGTBL_WORLD
