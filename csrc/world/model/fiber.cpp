#include "world/model/fiber.hpp"

#if defined(PGTBL_WORLD_MODEL)

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(PGTBL_FIBER_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(PGTBL_FIBER_TSAN)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(PGTBL_FIBER_UCONTEXT)
#include <ucontext.h>
#endif

// pgtbl_fiber_switch(save, to): pushes the registers that a callee keeps, stores the stack pointer in *save,
// and goes on where `to` was stored.  It leaves by a jump, not by a return: the processor predicts returns
// from the calls that it saw, which were on another stack.
#if !defined(PGTBL_FIBER_UCONTEXT)
extern "C" void pgtbl_fiber_switch(void** save, void* to) noexcept;
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl pgtbl_fiber_switch
.hidden pgtbl_fiber_switch
.type pgtbl_fiber_switch,@function
pgtbl_fiber_switch:
  .cfi_startproc
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
  .cfi_endproc
.size pgtbl_fiber_switch,.-pgtbl_fiber_switch
)");
#else
asm(R"(
.text
.p2align 4
.globl pgtbl_fiber_switch
.hidden pgtbl_fiber_switch
.type pgtbl_fiber_switch,%function
pgtbl_fiber_switch:
  .cfi_startproc
  hint #34
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  br x30
  .cfi_endproc
.size pgtbl_fiber_switch,.-pgtbl_fiber_switch
)");
#endif
#endif

namespace pgtbl::inline PGTBL_WORLD {

struct fiber_set::context {
#if defined(PGTBL_FIBER_UCONTEXT)
  ucontext_t registers;
#else
  void* sp = nullptr;
#endif
#if defined(PGTBL_FIBER_TSAN)
  void* tsan = nullptr;
#endif
  const void* stack = nullptr;  // of the driver: what ASan told us
  std::size_t size = 0;
};

namespace {
// The set whose fiber is being entered for the first time; start() has no argument.
thread_local fiber_set* starting = nullptr;

#if defined(PGTBL_FIBER_UCONTEXT)
using registers_of = ucontext_t;
void swap(registers_of& save, registers_of& to) { swapcontext(&save, &to); }
#endif
}  // namespace

reserved_memory::reserved_memory(std::size_t bytes) : bytes_(bytes) {
  void* p =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  begin_ = static_cast<char*>(p);
}
reserved_memory::~reserved_memory() { ::munmap(begin_, bytes_); }

// A page without access below each stack: an actor that recurses for ever faults instead of scribbling.
fiber_set::fiber_set(u32 count, std::size_t stack_bytes, entry run, void* ctx)
    : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
      stack_bytes_((stack_bytes + page_ - 1) / page_ * page_),
      stacks_((stack_bytes_ + page_) * count),
      count_(count),
      run_(run),
      ctx_(ctx) {
  for (u32 f = 0; f < count; ++f) ::mprotect(stacks_.begin() + (stack_bytes_ + page_) * f, page_, PROT_NONE);
  contexts_ = new context[count + 1];
  for (u32 f = 0; f < count; ++f) {
    contexts_[f + 1].stack = stacks_.begin() + (stack_bytes_ + page_) * f + page_;
    contexts_[f + 1].size = stack_bytes_;
  }
#if defined(PGTBL_FIBER_TSAN)
  contexts_[0].tsan = __tsan_get_current_fiber();
  for (u32 f = 0; f < count; ++f) contexts_[f + 1].tsan = __tsan_create_fiber(0);
#endif
}

fiber_set::~fiber_set() {
#if defined(PGTBL_FIBER_TSAN)
  for (u32 f = 0; f < count_; ++f) __tsan_destroy_fiber(contexts_[f + 1].tsan);
#endif
  delete[] contexts_;
}

void fiber_set::start() { starting->begin(); }

void fiber_set::begin() {
#if defined(PGTBL_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &contexts_[0].stack, &contexts_[0].size);
#endif
  run_(ctx_, entering_);
  __builtin_unreachable();
}

void fiber_set::restart(u32 fiber) {
  context& c = contexts_[fiber + 1];
  auto* const bottom = static_cast<char*>(const_cast<void*>(c.stack));
#if defined(PGTBL_FIBER_ASAN)
  __asan_unpoison_memory_region(bottom, c.size);  // frames that the last execution abandoned
#endif
#if defined(PGTBL_FIBER_UCONTEXT)
  getcontext(&c.registers);
  c.registers.uc_stack.ss_sp = bottom;
  c.registers.uc_stack.ss_size = c.size;
  c.registers.uc_link = nullptr;
  makecontext(&c.registers, &fiber_set::start, 0);
#else
  auto* sp =
      reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(bottom + c.size) & ~std::uintptr_t{15});
#if defined(__x86_64__)
  *--sp = nullptr;  // where start() would return to: the end of a backtrace, and what aligns the stack
  *--sp = reinterpret_cast<void*>(&fiber_set::start);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
#else
  sp -= 20;
  for (int i = 0; i < 20; ++i) sp[i] = nullptr;
  sp[11] = reinterpret_cast<void*>(&fiber_set::start);  // x30
#endif
  c.sp = sp;
#endif
}

void fiber_set::resume(u32 fiber) {
  context &here = contexts_[0], &there = contexts_[fiber + 1];
  starting = this;
  entering_ = fiber;
#if defined(PGTBL_FIBER_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, there.stack, there.size);
#elif defined(PGTBL_FIBER_TSAN)
  here.tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(there.tsan, 0);
#endif
#if defined(PGTBL_FIBER_UCONTEXT)
  swap(here.registers, there.registers);
#else
  pgtbl_fiber_switch(&here.sp, there.sp);
#endif
#if defined(PGTBL_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void fiber_set::suspend(u32 fiber) {
  context &here = contexts_[fiber + 1], &there = contexts_[0];
#if defined(PGTBL_FIBER_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, there.stack, there.size);
#elif defined(PGTBL_FIBER_TSAN)
  __tsan_switch_to_fiber(there.tsan, 0);
#endif
#if defined(PGTBL_FIBER_UCONTEXT)
  swap(here.registers, there.registers);
#else
  pgtbl_fiber_switch(&here.sp, there.sp);
#endif
#if defined(PGTBL_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(fake, &there.stack, &there.size);
#endif
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
