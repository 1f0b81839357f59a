// Machine for Python: making it, what it counts, checking and closing it.
#include <sys/sysinfo.h>

#include "arch/list.hpp"
#include "bindings/objects.hpp"
#include "bindings/rcu.hpp"
#include "bindings/size.hpp"
#include "check/check.hpp"
#include "khugepaged/khugepaged.hpp"
#include "mm/uffd_server.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// A Ledger, for signatures.
class ledger_object : public py::object {
 public:
  using py::object::object;
  explicit ledger_object(py::object&& o) : py::object(std::move(o)) {}
};

/// An RcuDomain, likewise.
class rcu_object : public py::object {
 public:
  using py::object::object;
  explicit rcu_object(py::object&& o) : py::object(std::move(o)) {}
};

}  // namespace pgtbl::inline PGTBL_WORLD

namespace pybind11::detail {
template <>
struct handle_type_name<pgtbl::rcu_object> {
  static constexpr auto name = const_name < pgtbl::checked_build &&
                               !pgtbl::tables_by_arch > ("pgtbl._torture.RcuDomain", "pgtbl._core.RcuDomain");
};
template <>
struct handle_type_name<pgtbl::ledger_object> {
  static constexpr auto name = const_name("pgtbl.ledger.Ledger");
};
}  // namespace pybind11::detail

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// The machine's own domain; each thread's reader is that of its CPU.
class machine_rcu final : public rcu_place {
 public:
  explicit machine_rcu(std::weak_ptr<home> h) : home_(std::move(h)) {}
  void enter() override {
    auto h = home_.lock();
    if (h == nullptr) throw closed_error("the machine of this RCU domain is gone");
    auto c = std::make_unique<call>(*h, h->entrance, "machine.rcu");
    calls().push_back({std::move(h), std::move(c)});
  }
  void leave() override { calls().pop_back(); }
  rcu_domain& domain() override { return calls().back().where->core().rcu; }
  rcu_reader& reader() override { return calls().back().under_way->self().rcu; }
  void close() override {
    throw usage_error("machine.rcu is a part of its machine, and closed with it: machine.close()");
  }

 private:
  struct entry {
    std::shared_ptr<home> where;
    std::unique_ptr<call> under_way;  // goes first
  };
  static std::vector<entry>& calls() {
    static thread_local std::vector<entry> stack;  // a callback may call in the midst of a call
    return stack;
  }
  const std::weak_ptr<home> home_;  // which owns this
};

// ---------------------------------------------------------------- making one

constexpr u64 smallest_memory = 4 * pmd_size;
constexpr const char* default_memory = pmd_size > 4ULL << 20 ? "1GiB" : "256MiB";

/// Descriptors are real memory: more than a quarter of this computer's would make it swap, or kill us.
u64 largest_memory() {
  struct sysinfo s = {};
  if (sysinfo(&s) != 0) return u64{16} << 30;
  const u64 real = static_cast<u64>(s.totalram) * s.mem_unit;
  return std::min(real / 4 / sizeof(frame) * page_size, u64{4} << 40) & ~(pmd_size - 1);
}

u64 memory_size(py::handle memory) {
  const u64 n = to_size(memory, "memory");
  const u64 most = largest_memory();
  if (n < smallest_memory || n > most || n % pmd_size != 0)
    throw value_error("memory " + py::cast<std::string>(py::repr(memory)) + ": a multiple of " +
                      std::to_string(pmd_size >> 20) + "MiB is allowed, from " +
                      std::to_string(smallest_memory >> 20) + "MiB to " + std::to_string(most >> 20) +
                      "MiB on this computer");
  return n;
}

/// A switch that was asked for, and that the architecture has not got.
void refuse_what_is_not(const machine_config& c, const py::object& switches) {
  if (switches.is_none()) return;
  const era &asked = c.rules, has = on_this_architecture(c).rules;
  for (const switch_row& s : switch_table)
    if (has.*s.field != asked.*s.field && switches.contains(s.name))
      throw value_error("switch " + std::string(s.name) + "=" + std::to_string(asked.*s.field) + ": " +
                        arch_name + ", form " + quoted(c.form_name) + ", has " +
                        std::to_string(has.*s.field) + " in every era");
  if (geometry.cache_lines == 0 && switches.contains("adjust_pte"))
    throw value_error("switch adjust_pte=" + std::to_string(asked.adjust_pte) + ": the caches of " +
                      arch_name + " need no such thing; arm's do");
}

const arch_row& form_of(const era& rules, const py::object& form) {
  if (!form.is_none() && !py::isinstance<py::str>(form)) throw py::type_error("form must be a str or None");
  std::string why;
  const arch_row* row = form_in(rules.name, form.is_none() ? "" : py::cast<std::string>(form), why);
  if (row == nullptr) throw value_error(why);
  return *row;
}

std::shared_ptr<home> make_home(const std::string& era_name,
                                const std::string& arch,
                                const py::object& form,
                                const size_arg& memory,
                                const int_arg& cpus,
                                const std::string& alloc,
                                const py::object& switches,
                                bool broadcast_flush,
                                const std::string& thp) {
  machine_config c;
  c.rules = era_named(era_name);
  if (!switches.is_none()) {
    if (!py::isinstance<py::dict>(switches)) throw py::type_error("switches must be a dict of names to ints");
    for (const auto& [name, value] : py::cast<py::dict>(switches)) {
      if (!py::isinstance<py::str>(name)) throw py::type_error("switches must be a dict of names to ints");
      if (PyIndex_Check(value.ptr()) == 0)
        throw py::type_error("switch " + py::cast<std::string>(name) + " must be an int");
      int overflow = 0;
      const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
      if (!index) throw py::error_already_set();
      const i64 v = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
      set_switch(c.rules, py::cast<std::string>(name), overflow != 0 ? -1 : v);
    }
  }
  validate(c.rules);
  if (arch != arch_name)
    throw value_error(arch_names().find(quoted(arch)) == std::string::npos
                          ? "unknown arch " + quoted(arch) + "; there are " + arch_names()
                          : "arch " + quoted(arch) + ": the machines of this module are " + arch_name +
                                "; pgtbl.Machine makes all of them");
  const arch_row& chosen = form_of(c.rules, form);
#if defined(PGTBL_ARCH_TABLES)
  c.form = chosen.split_ptl && !geometry.split_ptl ? table_form::split_locks
           : chosen.tables_per_page == 1           ? table_form::one_table
                                                   : table_form::usual;
#endif
  c.form_name = chosen.form;
  refuse_what_is_not(c, switches);
  c.memory_bytes = memory_size(memory);
  const u64 n = to_u64(cpus, "cpus");
  if (n == 0 || n > max_cpus)
    throw value_error("cpus " + std::to_string(n) + ": 1 to " + std::to_string(max_cpus) + " are allowed");
  c.cpus = static_cast<u32>(n);
  if (alloc != "reuse" && alloc != "quarantine")
    throw value_error("unknown alloc '" + alloc + "'; allowed are 'reuse' and 'quarantine'");
  c.alloc = alloc == "reuse" ? alloc_mode::reuse : alloc_mode::quarantine;
  c.broadcast_flush = broadcast_flush;
  if (thp != "never" && thp != "madvise" && thp != "always")
    throw value_error("unknown thp '" + thp + "'; allowed are 'never', 'madvise' and 'always'");
  c.thp = thp == "never" ? thp_policy::never : thp == "madvise" ? thp_policy::madvise : thp_policy::always;
  const gil_released nogil;
  const auto h = std::make_shared<home>(c);
  h->rcu = std::make_shared<machine_rcu>(h);
  h->core().rcu.set_stall_hook(h->rcu->stall_hook());
  return h;
}

// ---------------------------------------------------------------- what is made on it

std::shared_ptr<py_mm> make_mm(home& h, bool pgste) {
  return run(h, "machine.mm", [&](cpu& self) {
    if (pgste && !h.core().has_pgste())
      throw value_error(std::string("pgste=True: ") + arch_name + " with " +
                        quoted(h.core().config.form_name) +
                        " has no PGSTE tables; s390 has, with 'two halves a page' (v6.4 to v6.6)");
    mm* m = h.core().new_mm(self, pgste);
    auto handle = std::make_shared<py_mm>(h.shared_from_this(), m);
    h.add(m, handle);
    return handle;
  });
}

template <file_kind Kind>
std::shared_ptr<py_file> make_file(home& h, const size_arg& size) {
  const u64 bytes = to_file_size(size);
  return run(h, Kind == file_kind::regular ? "machine.file" : "machine.shmem", [&](cpu& self) {
    mapping* f = h.core().new_mapping(self, bytes, Kind);
    auto handle = std::make_shared<py_file>(h.shared_from_this(), f);
    h.add(f, handle);
    return handle;
  });
}

rcu_object show_rcu(home& h) {
  const call c(h, h.entrance, "machine.rcu");
  return rcu_object(make_rcu_object(h.rcu));
}

// ---------------------------------------------------------------- counts and checks

ledger_object read_ledger(home& h) {
  std::vector<std::pair<std::string, u64>> rows;
  run(h, "machine.ledger", [&](cpu&) {
    h.core().each_count([&](const std::string& name, u64 value) { rows.emplace_back(name, value); });
  });
  py::dict d;
  for (const auto& [name, value] : rows) d[py::str(name)] = value;
  return ledger_object(py::module_::import("pgtbl.ledger").attr("Ledger")(d));
}

/// Faults may sleep while the machine is checked, but for those that a server of the laboratory's own is about to answer: in a
/// while it has.  Those whose sleeper has gone already too: it may be inside of the call that answers.
void await_servers(cpu& self, machine& m, u64 patience_ns) {
  const u64 end = now_ns() + patience_ns;
  for (mm* x : m.reg.mms)
    for (userfaultfd* u = x != nullptr ? x->uffds : nullptr; u != nullptr; u = u->next)
      while (u->server != nullptr && u->server->running() &&
             (uffd_sleepers(self, *u) != 0 || u->server->busy())) {
        if (now_ns() >= end)
          throw usage_error("cannot check the machine while the server of a userfaultfd of mm " +
                            std::to_string(x->id) + " has faults that it does not answer");
        sleep_ns(50'000);
      }
}

void check(home& h, const optional_seconds_arg& timeout) {
  const u64 patience = to_ns(timeout, "timeout", default_patience_ns);
  const cpu_slot& slot = h.slot();
  std::string found;
  h.refuse_sections();
  h.while_stopped(patience, "check the machine", [&] {
    const std::lock_guard held(h.daemon.lock);
    if (h.daemon.interval_ns != 0) h.daemon.it->stop();
    await_servers(*slot.self, h.core(), patience);
    for (const std::string& line : check_machine(*slot.self, h.core()))
      found += (found.empty() ? "" : "\n") + line;
    h.core().breaches.clear();  // they were among those
    if (h.daemon.interval_ns != 0) h.daemon.it->start(h.daemon.interval_ns);
  });
  if (!found.empty()) throw invariant_error(found);
}

py::dict switches_of(home& h) {
  const call c(h, h.entrance, "machine.switches");
  py::dict d;
  for (const switch_row& s : switch_table) d[s.name] = py::int_(h.core().config.rules.*s.field);
  return d;
}

template <class F>
auto config_of(F&& f) {
  return [f](home& h) {
    const call c(h, h.entrance, "machine");
    return f(h.core().config);
  };
}

std::string show_machine(home& h) {
  if (!h.is_ours()) return "<pgtbl.Machine of the parent process>";
  if (!h.is_open()) return "<pgtbl.Machine, closed>";
  const call c(h, h.entrance, "machine");
  const machine_config& k = h.core().config;
  return std::string("<pgtbl.Machine era=") + k.rules.name +
         (tables_by_arch ? std::string(", arch=") + arch_name : "") + ", " +
         std::to_string(k.memory_bytes >> 20) + "MiB, cpus=" + std::to_string(k.cpus) + ">";
}

void define_machine(object_classes& c) {
  c.machine
      .def(py::init(&make_home), py::kw_only(), "era"_a = "v6.6", "arch"_a = arch_name, "form"_a = py::none(),
           "memory"_a = default_memory, "cpus"_a = 64, "alloc"_a = "reuse", "switches"_a = py::none(),
           "broadcast_flush"_a = false, "thp"_a = "madvise",
           R"(Makes a machine.

era: whose rules it follows, a kernel release; pgtbl.eras() lists them.
arch: whose page tables it has; pgtbl.architectures() lists them. x86-64 is this build; pgtbl.Machine() finds the others'.
form: of its page tables, where the architecture had several in that era; None: the usual one.
memory: simulated physical memory in bytes, a multiple of a huge page (2 MiB on x86), as an int or text like "256MiB".
cpus: how many threads may use it at once (1 to 256); a thread takes a CPU at its first call, until it ends.
alloc: "reuse" gives the frame freed last to the next who asks; "quarantine" holds freed frames back, poisoned,
and finds writes to them.
switches: overrides of single rules of the era, {name: value}; pgtbl.switches() lists them.
broadcast_flush: TLB flushes reach other CPUs without interrupts (INVLPGB).
thp: when a fault on anonymous memory may give a huge page, and khugepaged may make one: "never", "madvise" (where
MADV_HUGEPAGE was given) or "always". Shared memory becomes huge by collapse only.

Raises ValueError for an unknown name, a size that does not fit, or switches that are not safe together.)")
      .def("mm", &make_mm, "pgste"_a = false, R"(A new address space, empty: an Mm.

pgste: its page tables have room for the status of a guest (s390's PGSTE, as with the sysctl vm.allocate_pgste): each takes a whole
page, of which the second half is no table. Children inherit it. ValueError where there are none: s390 has them, in the eras in
which a page holds two tables (v6.4 to v6.6).

OutOfMemory when no frame is left for its root table; ValueError above 4096 of them.)")
      .def(
          "file", &make_file<file_kind::regular>, "size"_a,
          R"(A new regular file, of that size in bytes (int or text like "8MiB"), on a disk of its own: a File.

Its pages are read from there as they are first used, zeroes where nothing was written. khugepaged and MADV_COLLAPSE make huge
pages of it only while nobody has it open for writing, and only of what was written back (Linux: READ_ONLY_THP_FOR_FS; before
6.11 of executable mappings): File.open(), File.sync(). A shared mapping with "w" keeps it open for writing; one without is never
to be written. ValueError above 4096 files.)")
      .def("shmem", &make_file<file_kind::shmem>, "size"_a,
           R"(A new file of shared memory, of that size in bytes (int or text like "8MiB"): a File.

Its pages are made as they are first used. ValueError above 4096 files.)")
      .def_property_readonly("rcu", py::cpp_function(&show_rcu, py::keep_alive<0, 1>()),
                             "The machine's RCU domain: an RcuDomain whose readers are the machine's CPUs.")
      .def("ledger", &read_ledger,
           R"(What was locked, waited for, flushed, freed and collapsed since the machine was made.

A Ledger: a mapping of dotted names to ints, summed over all CPUs. A difference of two that were read while nothing
ran is exact. pgtbl.ledger_names() says what each row counts.)")
      .def("check", &check, "timeout"_a = py::none(),
           R"(Checks the machine's invariants, while nobody is inside of a call.

Calls of other threads wait meanwhile. Returns None where all hold, and raises InvariantError otherwise, which says
which invariant (G-n, A-n), where and between whom, one a line; what was noticed earlier, while threads ran, too. A thread
that sleeps in a page fault, until a userfaultfd answers, holds nothing and is not waited for: it sleeps on.
timeout: seconds to wait for calls under way (default 5), then UsageError.)")
      .def(
          "close",
          [](home& h, const optional_seconds_arg& timeout) {
            h.close(to_ns(timeout, "timeout", default_patience_ns));
          },
          "timeout"_a = py::none(), R"(Ends every program, drops every file, and frees the simulated memory.

Everything made on the machine raises ClosedError from then on. Harmless if repeated. Waits for calls under way
in other threads, `timeout` seconds (default 5), then raises UsageError naming them; also where Python code
still holds an mmap_lock or is in a read section. The machine stays open then.)")
      .def_property_readonly(
          "closed", [](const home& h) { return !h.is_open(); }, "Whether close() was called.")
      .def_property_readonly("era",
                             config_of([](const machine_config& k) { return std::string(k.rules.name); }),
                             "Name of the era whose rules it follows (str).")
      .def_property_readonly("switches", &switches_of, "The rules in force: a dict of names to ints.")
      .def_property_readonly("arch", config_of([](const machine_config&) { return std::string(arch_name); }),
                             "Architecture (str).")
      .def_property_readonly("form",
                             config_of([](const machine_config& k) { return std::string(k.form_name); }),
                             "Form of its page tables (str).")
      .def_property_readonly("page_size", config_of([](const machine_config&) { return page_size; }),
                             "Bytes of a page (int).")
      .def_property_readonly("pmd_size", config_of([](const machine_config&) { return pmd_size; }),
                             "Bytes of an extent: what one PTE table covers, and of a huge page (int).")
      .def_property_readonly("memory", config_of([](const machine_config& k) { return k.memory_bytes; }),
                             "Simulated physical memory in bytes (int).")
      .def_property_readonly(
          "free_memory",
          [](home& h) {
            const call k(h, h.entrance, "machine.free_memory");
            return h.core().ram.free_frames() << page_shift;
          },
          "Of this, what is not in use, in bytes (int); frames in quarantine count as free.")
      .def_property_readonly("cpus", config_of([](const machine_config& k) { return k.cpus; }),
                             "How many threads may use it at once (int).")
      .def_property_readonly("alloc", config_of([](const machine_config& k) {
                               return std::string(k.alloc == alloc_mode::reuse ? "reuse" : "quarantine");
                             }),
                             "What happens to freed frames: \"reuse\" or \"quarantine\".")
      .def_property_readonly("thp", config_of([](const machine_config& k) {
                               return std::string(k.thp == thp_policy::never     ? "never"
                                                  : k.thp == thp_policy::madvise ? "madvise"
                                                                                 : "always");
                             }),
                             "When anonymous memory gets huge pages: \"never\", \"madvise\" or \"always\".")
      .def_property_readonly("broadcast_flush",
                             config_of([](const machine_config& k) { return k.broadcast_flush; }),
                             "Whether TLB flushes reach other CPUs without interrupts (bool).")
      .def("__enter__",
           [](const py::object& self) {
             home& h = self.cast<home&>();
             const call now(h, h.entrance, "machine");
             return self;
           })
      .def("__exit__", [](home& h, const py::args&) { h.close(default_patience_ns); })
      .def("__repr__", &show_machine);
}

}  // namespace

object_classes::object_classes(py::module_& m)
    : vma(m, "Vma", R"(A range of addresses that one rule covers, as it was when it was mapped or listed.

start, end: bytes, [start, end). It does not follow later changes of the address space.)"),
      file(m,
           "File",
           R"(A file: of shared memory (shmem), as memfd_create gives one, or a regular file on a disk.

Made by Machine.shmem() and Machine.file(). Mappings of it, in any mm of the same machine, keep its pages after close().
All sizes and offsets are bytes, as an int or text like "2MiB". Every call raises ClosedError once the
file or its machine is closed.)"),
      mm(m, "Mm", R"(An address space, and the simulated program that runs in it.

Made by Machine.mm(). The calling thread acts as a thread of that program, on the machine's CPU that it has.
Addresses are bytes; lengths are bytes or text like "2MiB". Every call raises ClosedError once the mm or
its machine is closed, and DeadlockError where it would wait for an mmap_lock that this thread itself holds.)"),
      machine(m,
              "Machine",
              R"(A simulated machine: memory, CPUs, page tables, RCU, and one kernel's rules for them.

Everything made on it may be used from any thread, and belongs to it alone.)") {}

void bind_machine(py::module_& m) {
  object_classes c(m);
  define_file(m, c);
  define_mm(m, c);
  define_machine(c);
  define_khugepaged(m, c);
  define_observations(c);
  define_uffd(m, c);
  define_pin(m, c);
  define_secondary(m, c);
}

}  // namespace pgtbl::inline PGTBL_WORLD
