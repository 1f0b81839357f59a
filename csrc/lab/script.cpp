#include "lab/script.hpp"

#include <string>

#include "base/errors.hpp"
#include "mm/access.hpp"
#include "mm/machine.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 mincore_pages = 512;

prot_bits bits_of(u8 prot) {
  return {(prot & step_prot_read) != 0, (prot & step_prot_write) != 0, (prot & step_prot_exec) != 0};
}

void map_at(cpu& self, mm& m, const step& s, mapping* file) {
  mmap_args a;
  a.file = file;
  a.length = s.length;
  a.offset = file != nullptr ? s.offset : 0;
  a.addr = s.addr;
  a.prot = bits_of(s.prot);
  a.shared = (s.flags & step_shared) != 0;
  a.fixed = true;
  sys_mmap(self, m, a);
}

void look_at(cpu& self, mm& m, const step& s) {
  u8 resident[mincore_pages];
  const u64 most = mincore_pages * page_size;
  for (u64 at = 0; at < s.length; at += most) {
    sys_mincore(self, m, s.addr + at, s.length - at < most ? s.length - at : most, resident);
  }
}

[[noreturn]] void refuse(std::size_t index, const std::string& why) {
  throw value_error("step " + std::to_string(index) + " of the script: " + why);
}

}  // namespace

void check_script(const script& s, std::size_t mms, std::size_t files, std::size_t points) {
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (static_cast<unsigned>(s[i].op) >= step_ops)
      refuse(i, "unknown operation " + std::to_string(static_cast<unsigned>(s[i].op)));
    if (s[i].mm >= mms) refuse(i, "address space " + std::to_string(s[i].mm) + " of " + std::to_string(mms));
    const bool of_file =
        s[i].op == step_op::map_file || (s[i].op == step_op::map_unmap && s[i].file != no_file);
    if (of_file && s[i].file >= files)
      refuse(i, "file " + std::to_string(s[i].file) + " of " + std::to_string(files));
    if (s[i].op != step_op::post && s[i].op != step_op::meet) continue;
    if (s[i].addr >= points)
      refuse(i, "meeting point " + std::to_string(s[i].addr) + " of " + std::to_string(points));
    if ((s[i].flags & step_off_clock) == 0) refuse(i, "walkers wait for each other off the clock only");
  }
}

u32 perform(cpu& self, const stage& on, const step& s) {
  mm& m = *on.mms[s.mm];
  switch (s.op) {
    case step_op::touch_read: return mm_touch(self, m, s.addr, access::read);
    case step_op::touch_write: return mm_touch(self, m, s.addr, access::write);
    case step_op::touch_exec: return mm_touch(self, m, s.addr, access::exec);
    case step_op::map_anon: map_at(self, m, s, nullptr); return 0;
    case step_op::map_file: map_at(self, m, s, on.files[s.file]); return 0;
    case step_op::unmap: sys_munmap(self, m, s.addr, s.length); return 0;
    case step_op::protect: sys_mprotect(self, m, s.addr, s.length, bits_of(s.prot)); return 0;
    case step_op::dontneed: sys_madvise(self, m, s.addr, s.length, madv_dontneed); return 0;
    case step_op::populate: sys_madvise(self, m, s.addr, s.length, madv_populate_write); return 0;
    case step_op::mincore: look_at(self, m, s); return 0;
    case step_op::map_unmap:
      map_at(self, m, s, s.file == no_file ? nullptr : on.files[s.file]);
      sys_munmap(self, m, s.addr, s.length);
      return 0;
    case step_op::post:
      on.points[s.addr].posts.fetch_add(1, acq_rel);
      unpark_all(on.points[s.addr].posts);
      return 0;
    case step_op::meet: return 0;
  }
  return 0;
}

}  // namespace pgtbl::inline PGTBL_WORLD
