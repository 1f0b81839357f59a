// Words for people: what a stage calls its locations and objects, and what it says of a step in a trace.
#include <algorithm>
#include <cstdio>

#include "explore/stage.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

std::string base_name(const char* path) {
  const std::string s = path;
  const auto slash = s.rfind('/');
  return slash == std::string::npos ? s : s.substr(slash + 1);
}

/// "pgtbl::model::rwsem::read_lock" of the compiler's long signature.
std::string short_function(const char* signature) {
  std::string s = signature;
  const auto open = s.find('(');
  const auto lambda = s.find("::<lambda");
  s.resize(std::min({s.size(), open, lambda}));
  const auto space = s.rfind(' ');
  if (space != std::string::npos) s.erase(0, space + 1);
  const auto colons = s.rfind("::");
  if (colons != std::string::npos && colons > 1) {
    const auto outer = s.rfind("::", colons - 1);
    std::string cls = s.substr(outer == std::string::npos ? 0 : outer + 2);
    if (cls.rfind("model::", 0) == 0) cls.erase(0, 7);
    if (cls.rfind("{anonymous}::", 0) == 0) cls.erase(0, 13);
    return cls;
  }
  return s;
}
}  // namespace

std::string place_of(const std::source_location& at) {
  if (at.line() == 0) return "the step that the trace marks";
  return base_name(at.file_name()) + ':' + std::to_string(at.line());
}

const char* order_name(u8 order) {
  constexpr const char* names[] = {"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
  return names[order];
}

namespace {
/// "vma_node" of "const char* ...type_name() [with T = pgtbl::model::vma_node]".
std::string short_type(const char* signature) {
  std::string s = signature;
  const auto with = s.find("T = ");
  if (with == std::string::npos) return s;
  s = s.substr(with + 4, s.find_first_of("];", with) - with - 4);
  const auto open = s.find('<');
  const auto colons = s.rfind("::", open);
  if (colons != std::string::npos) s.erase(0, colons + 2);
  return s;
}
}  // namespace

std::string stage::describe(location loc) const {
  if (is_handshake(loc)) return "interrupts of " + actor_names_[loc - first_handshake];
  if (loc >= first_free_block) return "the last block freed";
  if (loc >= cells) return "sleepers on " + describe(loc - cells);
  const cell& c = cells_[loc];
  std::string s;
  if (c.name != nullptr) {
    s = c.name;
  } else if (c.object != no_object) {
    const object& o = objects_[c.object];
    s = short_type(o.type) + " at +" + std::to_string(static_cast<const char*>(c.address) - o.begin);
  } else {
    s = "variable " + std::to_string(loc);
  }
  if (c.index >= 0) s += '[' + std::to_string(c.index) + ']';
  return s;
}

/// By the name of what lies there, or else by its type.
std::string stage::describe_pointer(const char* p) const {
  for (u32 l = 1; l < regions_[0].locations; ++l)
    if (cells_[l].name != nullptr && static_cast<const char*>(cells_[l].address) == p)
      return "&" + describe(l);
  for (u32 which = 0; which <= actors_; ++which)
    for (u32 n = regions_[which].objects; n-- > 0;) {
      const object& o = objects_[object_index(which, n)];
      if (p >= o.begin && p < o.begin + o.size) return "&" + short_type(o.type);
    }
  return "a pointer";
}

/// Of an allocation or a free.
std::string stage::told_object(const operation& op) const {
  if (op.expected >= objects_.size()) return "an object";
  const object& o = objects_[op.expected];
  for (u32 l = 1; l < regions_[0].locations; ++l)
    if (cells_[l].name != nullptr && cells_[l].object == op.expected) return cells_[l].name;
  return short_type(o.type);
}

std::string stage::describe_value(location loc, u64 v) const {
  if (loc < cells && cells_[loc].tell != nullptr) return cells_[loc].tell(v);
  const char* p = reinterpret_cast<const char*>(v);
  for (u32 which = 0; which <= actors_; ++which) {
    const region& r = regions_[which];
    if (p >= r.base && p < r.base + r.used) return describe_pointer(p);
  }
  if (v < 4096) return std::to_string(v);
  char hex[24];
  std::snprintf(hex, sizeof hex, "%#llx", static_cast<unsigned long long>(v));
  return hex;
}

trace_step stage::line_of(u32 actor, const operation& op, u32 index) const {
  trace_step s;
  s.actor = actor;
  s.kind = op.kind;
  s.line = op.at.line();
  if (s.line != 0) {
    s.file = base_name(op.at.file_name());
    s.function = short_function(op.at.function_name());
  } else {
    s.file = last_told_[actor].file;
    s.function = last_told_[actor].function;
    s.line = last_told_[actor].line;
    s.near = s.line != 0;
  }
  note here;
  if (index == now_step)
    here = {program_->held_by(actor), program_->doing(actor)};
  else if (index < noted_[actor].size())
    here = noted_[actor][index];
  s.locks = here.locks;
  if (here.doing.line != 0 && (s.line == 0 || s.file.rfind("steps.", 0) == 0)) {
    s.file = here.doing.file;
    s.line = here.doing.line;
    s.function = here.doing.text;
    s.near = false;
  }
  const std::string where = op.loc == no_location ? "" : describe(op.loc);
  const auto value = [&](u64 v) { return describe_value(op.loc, v); };
  s.variable = where;
  // A lock's word says less than its name.
  const bool gives_back =
      s.function.find("unlock") != std::string::npos && s.function.rfind("rcu_", 0) == std::string::npos;
  switch (op.kind) {
    case op_kind::load: s.text = "read " + where + " -> " + value(op.result); break;
    case op_kind::plain_load: s.text = "read " + where + " -> " + value(op.operand); break;
    case op_kind::store:
    case op_kind::plain_store:
      s.writes = true;
      s.text = gives_back ? "unlock " + where : where + " = " + value(op.operand);
      break;
    case op_kind::rmw: {
      const rmw_outcome out = apply(op, op.result);
      s.writes = out.stored && out.value != op.result;
      if (!out.stored)
        s.text = where + " is " + value(op.result) + ": compare-exchange fails";
      else if (gives_back)
        s.text = "unlock " + where;
      else if (!s.writes)
        s.text = "looks at " + where + " -> " + value(op.result);
      else
        s.text = where + ": " + value(op.result) + " -> " + value(out.value);
      break;
    }
    case op_kind::await:
      s.text = (op.loc >= cells ? "wakes up: " : "waited for ") + where + " -> " + value(op.result);
      break;
    case op_kind::update:
      s.writes = true;
      s.text = "lock " + where;
      break;
    case op_kind::fence: s.text = std::string("fence ") + order_name(op.order); break;
    case op_kind::light_fence: s.text = "compiler barrier"; break;
    case op_kind::heavy_fence: s.text = "membarrier: " + where; break;
    case op_kind::alloc: s.text = "allocate " + told_object(op); break;
    case op_kind::free: s.text = "free " + told_object(op); break;
    default: s.text = to_string(op.kind); break;
  }
  last_told_[actor] = s;
  return s;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
