// uffd_server.hpp -- a thread of the laboratory's own that serves a userfaultfd: what a pager in user space does.
//
// Every missing page gets the same word all over, every minor fault the page that the file has, every store to a protected
// page the right to write.  Events are read, so that the calls that wait for them go on.  Where no frame is left the fault
// stays asleep.
#pragma once
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class machine;

class uffd_server {
 public:
  uffd_server(machine& m, userfaultfd& u, u64 word) : machine_(m), of_(u), word_(word) {}
  ~uffd_server() { stop(); }
  uffd_server(const uffd_server&) = delete;
  uffd_server& operator=(const uffd_server&) = delete;

  /// Throws usage_error where no CPU is left for it.  start() and stop() by one thread at a time.
  void start();
  void stop();
  bool running() const { return running_.load(acquire) != 0; }
  /// It has read of a fault and not done with it, or may be about to.
  bool busy() const { return busy_.load(acquire) != 0; }
  u64 served() const { return served_.load(relaxed); }

 private:
  enum : u32 { starting, started, no_cpu };
  void run();
  void serve(cpu& self, const uffd_message& m);
  void resolve(cpu& self, const uffd_message& m);

  machine& machine_;
  userfaultfd& of_;
  const u64 word_;
  thread thread_;
  atomic<u32> state_{starting};
  atomic<u32> running_{0}, stop_{0}, busy_{0};
  atomic<u64> served_{0};
  u64 page_[page_size / sizeof(u64)] = {};
};

}  // namespace pgtbl::inline PGTBL_WORLD
