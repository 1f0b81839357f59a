// stress_run.hpp -- the stage of a stress run, and who plays on it (stress.hpp says what the roles do).
//
// stress.cpp sets the stage and looks at it when all have left; stress_roles.cpp has the roles.
#pragma once
#include <memory>

#include "base/dice.hpp"
#include "lab/stress.hpp"

namespace pgtbl::inline PGTBL_WORLD::stress_stage {

// The pages of an extent that hold stamps; the collapsers punch others.
inline constexpr u64 cell_pages[] = {0,
                                     1,
                                     7,
                                     8,
                                     pages_per_huge / 8 - 1,
                                     pages_per_huge * 25 / 64,
                                     pages_per_huge * 3 / 4 - 1,
                                     pages_per_huge - 1};
inline constexpr u64 cells_per_extent = std::size(cell_pages);
inline constexpr u64 private_offset = 2048;         // in a cell page: words of the private mapping
inline constexpr u64 spare_offset = page_size - 8;  // touched, never stamped
inline constexpr u64 slot_bytes = pmd_size / 2;     // two mappers share a PTE table
inline constexpr u64 tail_bytes = pmd_size;         // of the truncated file beyond its collapsible extents
// Nobody else maps there: mmap begins at the other end.
inline constexpr va_t mapper_base = task_size / 2 > u64{1} << pud_shift ? u64{1} << pud_shift : task_size / 2;
inline constexpr unsigned max_reports = 8;

constexpr u64 stamp(u32 who, u64 sequence) { return u64{who + 1} << 48 | sequence; }
constexpr u64 sequence_of(u64 s) { return s & ((u64{1} << 48) - 1); }

/// A mapping of the file: pages [first, first + pages) of it, from `base` on.
struct view {
  mm* in = nullptr;
  va_t base = 0;
  pgoff_t first = 0;
  u64 pages = 0;
  bool aligned = false;  // extents of the file are extents of the addresses
  bool has(pgoff_t page) const { return page >= first && page < first + pages; }
  va_t at(pgoff_t page, u64 offset) const { return base + ((page - first) << page_shift) + offset; }
};

/// What a writer has stored in one of its cells.
struct cell {
  atomic<u64> issued{0};        // sequence numbers up to this may be found
  atomic<u64> acknowledged{0};  // older ones must not
};

struct stress_actor {
  stress_actor(stress_role r, u32 n, u64 seed, u64 stream) : role(r), number(n), random(seed, stream) {}
  const stress_role role;
  const u32 number;  // among those of its role
  dice random;
  cpu* self = nullptr;
  counter done[stress_ops];
  counter total;
  std::vector<std::string> lost, errors;
  thread runner;

  void count(stress_op op, u64 n = 1) {
    done[static_cast<unsigned>(op)].add(n);
    total.add(n);
  }
};

class stress_run {
 public:
  explicit stress_run(const stress_options& o);
  stress_result run();

 private:
  u32 threads(stress_role r) const { return o_.threads[static_cast<unsigned>(r)]; }
  void set_up();
  void body(stress_actor& a);
  void turn(stress_actor& a);
  bool over() const { return stop_.load(relaxed) != 0; }

  void write_turn(stress_actor& a);
  void read_turn(stress_actor& a);
  void collapse_turn(stress_actor& a);
  void khugepaged_turn(stress_actor& a);
  void punch_turn(stress_actor& a);
  void map_turn(stress_actor& a);
  void truncate_turn(stress_actor& a);
  void program_turn(stress_actor& a);

  void store_stamp(stress_actor& a, const view& v, u64 c);
  void look(stress_actor& a, u32 writer, u64 c, const view* v);
  void private_words(stress_actor& a);
  void disturb(stress_actor& a, const view& v);
  void map_private_memory(stress_actor& a, mm& m, va_t at);
  void map_the_file(stress_actor& a, mm& m, va_t at);
  void map_for_moments(stress_actor& a, mm& m, va_t at);
  void collapse(stress_actor& a, mm& m, va_t at, u64 bytes);

  pgoff_t page_of(u64 c) const {
    return c / cells_per_extent * pages_per_huge + cell_pages[c % cells_per_extent];
  }
  u64 cells() const { return o_.extents * cells_per_extent; }
  cell& cell_of(u32 writer, u64 c) { return cells_[writer * cells() + c]; }
  const view& any_view(stress_actor& a) { return views_[a.random.below(views_.size())]; }
  const view& any_aligned(stress_actor& a) { return views_[aligned_[a.random.below(aligned_.size())]]; }
  void report(stress_actor& a, const std::string& text) {
    if (a.lost.size() < max_reports) a.lost.push_back(text);
    stop_.store(1, relaxed);
  }
  void expect(stress_actor& a, u64 found, u64 wanted, const char* where, va_t at) {
    if (found == wanted) return;
    report(a, std::string(stress_role_names[static_cast<unsigned>(a.role)]) + " " + std::to_string(a.number) +
                  " (CPU " + std::to_string(a.self->id) + "), " + where + " at " + std::to_string(at) +
                  ": found " + std::to_string(found) + ", left " + std::to_string(wanted));
  }
  void finish(stress_result& r);
  void close_all();

  const stress_options& o_;
  machine* machine_;
  cpu* main_;
  mapping* file_ = nullptr;
  mapping* tail_ = nullptr;  // the truncators'
  std::vector<mm*> mms_;
  std::vector<view> views_;
  std::vector<u64> aligned_;
  std::vector<view> private_views_;  // one for each mm
  std::vector<view> tail_views_;
  std::unique_ptr<cell[]> cells_;
  // Words that writer w last stored in mm m's private mapping: its alone.
  std::vector<std::vector<u64>> private_words_;
  std::vector<std::unique_ptr<stress_actor>> actors_;
  atomic<u32> stop_{0};
};

}  // namespace pgtbl::inline PGTBL_WORLD::stress_stage
