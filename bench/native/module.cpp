// pgtbl_bench: the C++ loops that bench/ drives, beside what they are compared with.  pytest-benchmark
// misreads calls under a microsecond, so those are timed here.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_bench_rcu(py::module_& m);    // rcu_bench.cpp
void bind_bench_locks(py::module_& m);  // lock_bench.cpp
void bind_bench_mm(py::module_& m);     // mm_bench.cpp
void bind_bench_large(py::module_& m);  // large_bench.cpp

PYBIND11_MODULE(pgtbl_bench, m, py::mod_gil_not_used()) {
  m.doc() = "C++ loops for the benchmarks.";
  bind_bench_rcu(m);
  bind_bench_locks(m);
  bind_bench_mm(m);
  bind_bench_large(m);
}
