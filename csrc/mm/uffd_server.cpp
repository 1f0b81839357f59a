#include "mm/uffd_server.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
constexpr u64 longest_wait_ns = 100'000'000;
}

void uffd_server::start() {
  if ((of_.features & uffd_feature_event_fork) != 0)
    throw usage_error("a userfaultfd with EVENT_FORK: nobody would serve the child's");
  if (running_.exchange(1, acq_rel) != 0) return;
  std::fill(std::begin(page_), std::end(page_), word_);
  stop_.store(0, release);
  state_.store(starting, release);
  thread_ = thread([this] { run(); });
  if (await(state_, [](u32 s) { return s != starting; }, acquire) == started) return;
  stop();
  throw usage_error(
      "all " + std::to_string(machine_.config.cpus) +
      " CPUs of the machine are taken, and the server needs one: make the machine with a larger cpus=");
}

void uffd_server::stop() {
  if (running_.load(acquire) == 0) return;
  stop_.store(1, release);
  of_.arrivals.fetch_add(1, release);
  unpark_all(of_.arrivals);
  thread_.join();
  running_.store(0, release);
}

void uffd_server::run() {
  cpu* self = machine_.cpu_get();
  state_.store(self != nullptr ? started : no_cpu, release);
  if (self == nullptr) return;
  while (stop_.load(acquire) == 0) {
    const u32 seen = of_.arrivals.load(acquire);
    // Before it reads: who finds the queue empty, and looks at this afterwards, sees that the server has what was in it.
    busy_.store(1, seq_cst);
    while (stop_.load(acquire) == 0) {
      const auto m = uffd_read(*self, of_);
      if (!m) break;
      serve(*self, *m);
    }
    busy_.store(0, release);
    if (stop_.load(acquire) == 0) uffd_await(of_, seen, longest_wait_ns);
  }
  machine_.cpu_put(self);
}

void uffd_server::serve(cpu& self, const uffd_message& m) {
  if (m.event != uffd_event::pagefault) return;
  // Counted first: whoever is woken finds that his fault was served.
  served_.fetch_add(1, relaxed);
  try {
    resolve(self, m);
  } catch (const os_error& error) {
    served_.fetch_sub(1, relaxed);
    // Somebody was faster, or the mapping is about to change: the access is repeated, and says what it needs then.
    if (error.code != ENOMEM) uffd_wake(self, of_, page_align_down(m.start), page_size);
  }
}

void uffd_server::resolve(cpu& self, const uffd_message& m) {
  mm& of = of_.owner;
  const va_t at = page_align_down(m.start);
  switch (m.reason) {
    case uffd_reason::missing: return uffd_copy(self, of, of_, at, page_, page_size, false);
    case uffd_reason::minor: return uffd_continue(self, of, of_, at, page_size);
    case uffd_reason::wp: return uffd_writeprotect(self, of, of_, at, page_size, false);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
