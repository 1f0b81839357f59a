// scan_trace.hpp -- what a collapse found, step by step: the huge_memory tracepoints of the kernel.
//
// Who wants to know hangs a scan_trace into his CPU; nobody else pays more than a test of a pointer.
#pragma once
#include "khugepaged/collapse.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// One tracepoint hit: its name, its result, and up to two numbers.
struct scan_event {
  const char* what = "";
  scan_result result = scan_result::fail;
  u32 numbers = 0;  // how many of n are meant
  u64 n[2] = {};
};

struct scan_trace {
  static constexpr u32 capacity = 4096;
  u32 n = 0;
  u32 lost = 0;  // events that had no room
  scan_event events[capacity];
};

inline void trace_scan(cpu& self, const scan_event& e) {
  scan_trace* const t = self.tracing;
  if (t == nullptr) [[likely]]
    return;
  if (t->n == scan_trace::capacity)
    ++t->lost;
  else
    t->events[t->n++] = e;
}

/// mm_khugepaged_scan_file: pages found in the cache, and swapped out.
inline void trace_scan_file(cpu& self, scan_result r, u64 present, u64 swap) {
  trace_scan(self, {"scan_file", r, 2, {present, swap}});
}
/// mm_khugepaged_collapse_file.
inline void trace_collapse_file(cpu& self, scan_result r) { trace_scan(self, {"collapse_file", r, 0, {}}); }
/// mm_khugepaged_scan_pmd: empty entries and zero pages, and swapped-out ones.
inline void trace_scan_pmd(cpu& self, scan_result r, u64 none_or_zero, u64 unmapped) {
  trace_scan(self, {"scan_pmd", r, 2, {none_or_zero, unmapped}});
}
/// mm_collapse_huge_page_isolate.
inline void trace_isolate(cpu& self, scan_result r, u64 none_or_zero) {
  trace_scan(self, {"isolate", r, 1, {none_or_zero}});
}
/// mm_collapse_huge_page.
inline void trace_collapse_anon(cpu& self, scan_result r, u64 isolated) {
  trace_scan(self, {"collapse_anon", r, 1, {isolated}});
}
/// mm_collapse_huge_page_swapin.
inline void trace_swapin(cpu& self) { trace_scan(self, {"swapin", scan_result::succeed, 0, {}}); }

}  // namespace pgtbl::inline PGTBL_WORLD
