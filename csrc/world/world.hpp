// world.hpp -- the one seam between the laboratory's code and the machine that it runs on.
//
// Problem.  A protocol that is right on every schedule and every memory model must be run twice:
// fast, on real threads, to measure it; and slowly, one operation at a time, to explore it.  Two
// copies of the source would drift apart.
//
// Method.  Everything above this folder is written once, in `namespace pgtbl::inline PGTBL_WORLD`,
// and uses nothing of the machine but what is declared here.  The macro chosen on the compiler's
// command line decides which end it gets:
//
//   PGTBL_WORLD_REAL     atomic<T> is std::atomic<T>, guard(g) is the constant true
//   PGTBL_WORLD_TORTURE  the real end, with guards that can be switched off, named pauses and checks
//   PGTBL_WORLD_MODEL    every access is one operation handed to an engine (world/model/)
//
// What a world gives (the same names in each):
//
//   atomic<T>, var<T>      shared data: lock-free, or protected by a lock (race-checked in the model)
//   fence, compiler_barrier, membarrier       ordering; the heavy half of an asymmetric fence
//   await(a, pred, order)  the only way to spin
//   park, unpark_one, unpark_all              sleep on a 32-bit word, and wake its sleepers
//   counter                a statistic: written by one thread, read by any; never an operation
//   thread, now_ns, ticks, sleep_ns           threads and time
//   make<T>, destroy       shared objects; pooled<T>, a base of those that come and go all the time
//   physical               the bytes and the entries of the simulated physical memory
//
// Cost.  In the real world, none: tests/test_seam.py compares the instructions.
#pragma once

#include "world/types.hpp"

#if defined(PGTBL_WORLD_MODEL)
#include "world/model/world.hpp"
#else
#include "world/real/world.hpp"
#endif
