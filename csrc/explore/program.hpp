// program.hpp -- what an engine explores: a small program of a few actors, set up once and judged at its end.
//
// A program is made in the set-up phase, by a program_maker that calls make<T>(): everything it reaches must
// live in the engine's arena or never change, because each execution starts from a copy of the arena.
#pragma once
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "world/model/operation.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class program {
 public:
  virtual u32 actors() const = 0;
  virtual void act(u32 actor) = 0;
  /// An actor before this one that plays the same part, so that nothing is different if the two change places; or
  /// itself.  Nothing at all: not those either whom a grace period asks one after the other.
  virtual u32 twin_of(u32 actor) const { return actor; }
  /// After all actors have ended: calls fail() where the outcome is wrong.
  virtual void judge() {}
  /// For traces: what the actor is there for ...
  virtual std::string role(u32) const { return {}; }
  /// ... the locks that the actor holds now, and what else it is inside of ...
  virtual std::string held_by(u32) const { return {}; }
  /// ... and where its own text stands, where it is not a function of ours.
  struct place {
    std::string file, text;
    u32 line = 0;
  };
  virtual place doing(u32) const { return {}; }

 protected:
  ~program() = default;
};
using program_maker = std::function<program*()>;

enum class memory_model : u8 { sc, tso, ra, rc11 };
inline constexpr const char* memory_model_names[] = {"sc", "tso", "ra", "rc11"};
constexpr const char* to_string(memory_model m) { return memory_model_names[static_cast<unsigned>(m)]; }

/// The program does something that no engine can explore: the message says what, and where.
struct program_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One line of a trace.
struct trace_step {
  u32 actor = 0;
  op_kind kind = op_kind::load;
  std::string text;      // what was done, with values
  std::string variable;  // to what; empty where it is no one variable
  bool writes = false;
  std::string function;  // who did it
  std::string file;
  u32 line = 0;
  bool near = false;  // an access without a place of its own: that of the actor's step before
  std::string note;   // a stale read's missed write, a store that drains
  std::string locks;  // held by the actor as it does it
};

struct violation {
  std::string invariant;  // deadlock, use after free, ...
  std::string message;
  std::vector<trace_step> steps;
  std::string schedule;            // what replays it, in the engine's own writing
  int preemptions = 0;             // in the order in which the steps are told
  std::vector<std::string> roles;  // of the actors
};

/// How far a search is.  `done`: the part of it, by Knuth's estimate; 0 where nothing is known.
struct progress {
  u64 executions = 0, blocked = 0;
  double done = 0;
};
/// When to stop before everything is explored.
struct bounds {
  double seconds = 1e18;
  u64 executions = ~0ULL;
  std::function<bool(const progress&)> watch;  // called now and then; false: stop here
};

struct outcome {
  u64 executions = 0;  // complete ones
  u64 blocked = 0;     // ended with an actor that waits for what another execution gives it
  u64 dropped = 0;     // begun, and found to be no execution
  u64 duplicates = 0;  // complete ones met twice
  bool complete = false;
  double seconds = 0;
  double progress = 0;  // the part of the search that is done, by Knuth's estimate (graphs alone)
  bool failed = false;
  violation why;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
