#include "explore/litmus.hpp"

#include "explore/graph_engine.hpp"
#include "explore/interleave_engine.hpp"
#include "world/model/world.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

class litmus_actors final : public program {
 public:
  explicit litmus_actors(const litmus_program& p) : program_(&p), vars_(make_array<atomic<u64>>(p.vars)) {}
  u32 actors() const override { return program_->threads; }
  void act(u32 actor) override {
    for (const litmus_step& s : program_->steps)
      if (s.thread == actor) take(s);
  }

 private:
  void take(const litmus_step& s) {
    const auto order = static_cast<std::memory_order>(s.order);
    if (s.op == litmus_op::fence) {
      fence(order);
      return;
    }
    atomic<u64>& v = vars_[s.var];
    u64 expected = s.expect;
    switch (s.op) {
      case litmus_op::load: v.load(order); return;
      case litmus_op::store: v.store(s.value, order); return;
      case litmus_op::exchange: v.exchange(s.value, order); return;
      case litmus_op::fetch_add: v.fetch_add(s.value, order); return;
      case litmus_op::compare_exchange: v.compare_exchange_strong(expected, s.value, order); return;
      case litmus_op::fence: return;
    }
  }
  const litmus_program* program_;
  atomic<u64>* vars_;
};

program_maker maker_of(const litmus_program& p) {
  return [&p]() -> program* { return make<litmus_actors>(p); };
}

}  // namespace

litmus_count count_graphs(const litmus_program& p, memory_model m) {
  graph_engine e(m);
  e.set_up(maker_of(p));
  const outcome o = e.explore({});
  if (o.failed) throw program_error(o.why.invariant + ": " + o.why.message);
  return {o.executions, o.duplicates};
}

litmus_agreement compare_engines(const litmus_program& p, memory_model m) {
  graph_engine graphs(m);
  graphs.set_up(maker_of(p));
  graphs.explore({});
  interleave_options o;
  o.memory = m;
  o.keep_hashes = true;
  interleave_engine interleavings(o);
  interleavings.set_up(maker_of(p));
  const outcome found = interleavings.explore({});
  return {found.executions + found.blocked, graphs.hashes().size(),
          graphs.hashes() == interleavings.hashes()};
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
