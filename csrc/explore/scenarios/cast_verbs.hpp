// cast_verbs.hpp -- what an actor of a cast on a machine can do: one row a verb, in one file a family.
//
// A verb plays the shipped sources and nothing else; what it adds is the look by which a program would notice that
// something is wrong.  Its traits tell the set-up and the judgement what they must know about it.
#pragma once
#include <span>

#include "explore/scenario.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class machine_cast;
class step_actor;
struct verb_row;

/// One actor of a cast.
struct cast_actor {
  const verb_row* verb = nullptr;
  u32 number = 0;
  u32 which = 0;  // the program that it acts in
  cpu* self = nullptr;
  step_actor* steps = nullptr;  // of one that is written down
};

/// What the cast has to know of a verb.
enum trait : u32 {
  outside = 1,        // acts on the file or from a CPU that does not run the program
  knows_the_way = 2,  // its CPU has read the first page before, where that is mapped
  has_stored = 4,     // its CPU has stored to the first page before, where that is mapped
  retracts = 8,       // begins with the huge page's lock, as collapse_file has it when it comes to retraction
  takes_huge = 16,    // may take a huge page from the common pool
  unmaps = 32,        // others may die rightly: nothing is at their address, or they have no right to it
  cuts_file = 64,  // others may find themselves beyond the end of the file; and what was stored there is gone
  own_pages = 128,           // puts private pages into the table: the file is not what the program sees
  pins = 256,                // begins with a reference to the first page, as a device has it
  leaves_copies = 512,       // private copies of pages are there when it begins
  drops = 1024,              // pages that it was asked to give up read as zeroes
  uses_uffd = 2048,          // its program has a userfaultfd
  hears_of_missing = 4096,   // and all of its mapping is registered for missing pages
  dies_of_reports = 8192,    // whose faults are not to wait but to kill (UFFD_FEATURE_SIGBUS)
  hears_of_forks = 1 << 14,  // that is told of forks
  uses_shadow = 1 << 15,     // a device with tables of its own works on its program
  uses_walker = 1 << 16,     // a device that walks the program's tables does
  is_dirty = 1 << 17,        // the last page of the extent was stored to, and is not written back
  begins_huge = 1 << 18      // the huge page in the cache is mapped whole when it begins
};

struct verb_row {
  verb named;
  void (*play)(machine_cast& c, const cast_actor& a);
  u32 traits = 0;
  bool is(trait t) const { return (traits & t) != 0; }
};

std::span<const verb_row> verbs_of_tables();    // walks, map helpers, retraction
std::span<const verb_row> verbs_of_programs();  // loads, stores, and what a program asks of its address space
std::span<const verb_row> verbs_of_forks();     // fork, mprotect, mremap, and what others see of them
std::span<const verb_row> verbs_of_collapse();  // khugepaged's part and MADV_COLLAPSE
std::span<const verb_row> verbs_of_vmas();      // the per-VMA lock
std::span<const verb_row> verbs_of_anon();      // collapse, splits and guards of memory that is nobody else's
std::span<const verb_row> verbs_of_uffd();      // faults that somebody in user space hears of
std::span<const verb_row> verbs_of_devices();   // secondary MMUs, and references behind the program's back
std::span<const verb_row> verbs_of_files();     // a file on a disk that somebody opens for writing

}  // namespace pgtbl::inline PGTBL_WORLD::explore
