#include "world/model/direct_engine.hpp"

#if defined(PGTBL_WORLD_MODEL)
#include <utility>

namespace pgtbl::inline PGTBL_WORLD {

namespace {

u64 truncate(u64 v, u8 size) { return size >= 8 ? v : v & ((1ULL << size * 8) - 1); }

std::string place(const std::source_location& at) {
  if (at.line() == 0) return "(no place)";
  std::string file = at.file_name();
  const auto slash = file.rfind('/');
  if (slash != std::string::npos) file.erase(0, slash + 1);
  return file + ':' + std::to_string(at.line());
}

}  // namespace

engine::~engine() = default;
void engine::name(location, const char*, int) {}

engine& engine::fallback() {
  static thread_local direct_engine fallback;
  return fallback;
}

engine_scope::engine_scope(engine& e) : before_(engine::installed_) { engine::installed_ = &e; }
engine_scope::~engine_scope() { engine::installed_ = before_; }

const char* to_string(op_kind k) {
  constexpr const char* names[] = {"load",  "store",  "rmw",   "fence",  "light fence", "heavy fence",
                                   "await", "update", "park",  "unpark", "plain load",  "plain store",
                                   "alloc", "free",   "spawn", "join",   "fail"};
  return names[static_cast<unsigned>(k)];
}

rmw_outcome apply(const operation& op, u64 old) {
  switch (op.fn) {
    case rmw_fn::exchange: return {op.operand, true};
    case rmw_fn::add: return {truncate(old + op.operand, op.size), true};
    case rmw_fn::sub: return {truncate(old - op.operand, op.size), true};
    case rmw_fn::bit_and: return {old & op.operand, true};
    case rmw_fn::bit_or: return {old | op.operand, true};
    case rmw_fn::bit_xor: return {old ^ op.operand, true};
    case rmw_fn::compare_exchange:
      return old == op.expected ? rmw_outcome{op.operand, true} : rmw_outcome{old, false};
    case rmw_fn::none: break;
  }
  return {old, false};
}

direct_engine::direct_engine() { cells_.push_back({0, no_object, "none", -1}); }
direct_engine::~direct_engine() = default;

location direct_engine::new_location(u64 value, const void*) {
  cells_.push_back({value, open_.empty() ? no_object : open_.back(), nullptr, -1});
  return static_cast<location>(cells_.size() - 1);
}

void direct_engine::name(location loc, const char* text, int index) {
  cells_[loc].name = text;
  cells_[loc].index = index;
}

// Memory is not used again while the engine lives: what a freed object's stale pointer meets is the
// freed object, and is found out by that.
void* direct_engine::begin_object(std::size_t bytes, std::size_t align, const char* type) {
  auto block = std::make_unique<std::byte[]>(bytes + align);
  void* p = block.get();
  std::size_t room = bytes + align;
  p = std::align(align, bytes, p, room);
  open_.push_back(static_cast<u32>(objects_.size()));
  objects_.push_back({std::move(block), static_cast<const std::byte*>(p), bytes, type, false});
  return p;
}

void direct_engine::end_object() { open_.pop_back(); }

void direct_engine::spawn(void (*run)(void*), void* ctx, u32& id) {
  bodies_.push_back({run, ctx});
  id = static_cast<u32>(bodies_.size());
}

void direct_engine::join(u32 id) {
  const body b = std::exchange(bodies_[id - 1], body{nullptr, nullptr});
  if (b.run == nullptr) return;
  const u32 before = std::exchange(actor_, id);
  b.run(b.ctx);
  actor_ = before;
}

std::string direct_engine::describe(location loc) const {
  const cell& c = cells_[loc];
  std::string s = c.name != nullptr ? c.name : "location " + std::to_string(loc);
  if (c.index >= 0) s += '[' + std::to_string(c.index) + ']';
  if (c.object != no_object) s += std::string(" of ") + objects_[c.object].type;
  return s;
}

void direct_engine::fail(const operation& op, const std::string& text) {
  failures_.push_back(text + " at " + place(op.at));
}

void direct_engine::check_alive(const operation& op) {
  if (op.loc == no_location) return;
  const u32 o = cells_[op.loc].object;
  if (o != no_object && objects_[o].freed)
    fail(op, std::string(to_string(op.kind)) + " of " + describe(op.loc) + " after it was freed");
}

void direct_engine::perform(operation& op) {
  ++operations_;
  ++by_kind_[static_cast<std::size_t>(op.kind)];
  check_alive(op);
  cell& c = cells_[op.loc];
  switch (op.kind) {
    case op_kind::load:
    case op_kind::plain_load: op.result = c.value; return;
    case op_kind::store:
    case op_kind::plain_store: c.value = op.operand; return;
    case op_kind::rmw: {
      const rmw_outcome out = apply(op, c.value);
      op.result = c.value;
      op.succeeded = out.stored;
      c.value = out.value;
      return;
    }
    case op_kind::await:
      if (!op.holds(op.ctx, c.value)) throw stuck("waits for " + describe(op.loc) + " at " + place(op.at));
      op.result = c.value;
      return;
    case op_kind::update: {
      u64 next = c.value;
      if (!op.step(op.ctx, c.value, next))
        throw stuck("waits for " + describe(op.loc) + " at " + place(op.at));
      op.result = c.value;
      c.value = next;
      return;
    }
    case op_kind::park:
      if (c.value == op.expected) throw stuck("sleeps on " + describe(op.loc) + " at " + place(op.at));
      return;
    case op_kind::free:
      for (object& o : objects_) {
        if (o.begin != op.object) continue;
        if (o.freed) fail(op, std::string(o.type) + " freed twice");
        o.freed = true;
        return;
      }
      fail(op, "free of something that was not allocated");
      return;
    case op_kind::fail: fail(op, op.text); return;
    case op_kind::fence:
    case op_kind::light_fence:
    case op_kind::heavy_fence:
    case op_kind::unpark:
    case op_kind::alloc:
      for (object& o : objects_)
        if (o.begin == op.object) o.freed = false;  // memory that is used again
      return;
    case op_kind::spawn:
    case op_kind::join: return;
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
