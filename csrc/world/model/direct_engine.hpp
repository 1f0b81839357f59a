// direct_engine.hpp -- the engine that explores nothing: each operation is done at once.
//
// Guarantee.  A single-threaded program has in the model world the outcome that it has in the real one,
// so a difference between the two ends of the seam shows without an explorer.  A spawned thread runs inside
// join(), to its end, so a worker that is told to stop there does what is left and stops.  Use of a freed object is recorded; a wait that nobody can end throws stuck.
#pragma once
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "world/model/operation.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// The one actor waits for something that only another could do.
struct stuck : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class direct_engine final : public engine {
 public:
  direct_engine();
  ~direct_engine() override;

  void perform(operation& op) override;
  location new_location(u64 value, const void* address) override;
  void name(location loc, const char* text, int index) override;
  void* begin_object(std::size_t bytes, std::size_t align, const char* type) override;
  void end_object() override;
  void spawn(void (*body)(void*), void* ctx, u32& id) override;
  void join(u32 id) override;
  u32 actor() const override { return actor_; }
  bool abstract_locks() const override { return abstract_locks_; }
  void set_abstract_locks(bool on) { abstract_locks_ = on; }

  u64 operations() const { return operations_; }
  u64 operations(op_kind k) const { return by_kind_[static_cast<std::size_t>(k)]; }
  /// What the program did wrong, one a line.
  const std::vector<std::string>& failures() const { return failures_; }

 private:
  static constexpr u32 no_object = ~0U;
  static constexpr std::size_t kinds = static_cast<std::size_t>(op_kind::fail) + 1;
  struct cell {
    u64 value;
    u32 object;
    const char* name;
    int index;
  };
  struct object {
    std::unique_ptr<std::byte[]> bytes;
    const std::byte* begin;
    std::size_t size;
    const char* type;
    bool freed;
  };
  void check_alive(const operation& op);
  void fail(const operation& op, const std::string& text);
  std::string describe(location loc) const;

  std::vector<cell> cells_;
  std::vector<object> objects_;
  std::vector<u32> open_;  // objects being constructed, innermost last
  std::vector<std::string> failures_;
  u64 operations_ = 0;
  u64 by_kind_[kinds] = {};
  struct body {
    void (*run)(void*);
    void* ctx;
  };
  std::vector<body> bodies_;  // of actors 1, 2, ...
  u32 actor_ = 0;
  bool abstract_locks_ = false;
};

}  // namespace pgtbl::inline PGTBL_WORLD
