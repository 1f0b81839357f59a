// points.hpp -- named places in the protocols where a test can hold a thread still.
//
// pause_at(self, point::rt_pml) is nothing in the real world.  In the torture world a test arms a
// point, waits until a thread has arrived, does what the race needs, and lets the thread go on: any
// race of the catalogue can be forced, not just hoped for.
#pragma once
#include <iterator>

#include "world/world.hpp"

#define PGTBL_POINTS(X)                                                                                            \
  X(map_rcu_entered) X(map_pmd_read) X(maplock_before_lock) X(maplock_locked_before_recheck) X(nolock_returned)    \
  X(rt_vma) X(rt_after_anon_check) X(rt_after_find) X(rt_after_uffd_check) X(rt_notified) X(rt_pml) X(rt_ptl)      \
  X(rt_cleared_before_flush) X(rt_flushed) X(rt_unlocked) X(rt_before_defer)                                       \
  X(cp_vma_ok) X(cp_folio_locked) X(cp_checked) X(cp_notified) X(cp_before_clear) X(cp_cleared_i)                  \
  X(cp_ptl_dropped) X(cp_refs_dropped) X(cp_before_remove) X(cp_removed) X(cp_before_install)                      \
  X(cf_folio_locked_i) X(cf_unmapped_i) X(cf_before_flush) X(cf_copied_i) X(cf_holes_marked) X(cf_published)       \
  X(cf_retracted) X(cf_unlocked) X(kh_mm_found)                                                                 \
  X(ft_orig_read) X(ft_folio_locked) X(ft_before_maplock) X(ft_pte_set)                                            \
  X(mu_downgraded) X(mu_unlinked) X(mu_table_freed) X(mv_write_locked) X(rcu_callback)                             \
  X(fp_slot_found) X(vl_found) X(vl_before_lock) X(zp_before_flush)                                                \
  X(cow_copied) X(cow_cleared) X(fk_before_ptes) X(fk_entry_copied) X(mr_pmd_read) X(mr_rmap_locked) X(mr_moved)    \
  X(zp_ptl_dropped) X(zp_last_pte) X(zp_pmd_cleared) X(ca_pmd_checked) X(ca_detached) X(ca_isolated) X(ca_copied)   \
  X(sp_frozen) X(gd_anon_vma_set) X(av_published) X(cf_page_seen)                                                    \
  X(uf_reported) X(uf_sleeps) X(uf_anon_vma_set) X(uf_pmd_checked) X(uf_before_maplock) X(uf_move_mapped) X(uf_event) \
  X(sm_looked_up) X(gf_pmd_read) X(gf_pte_read) X(gf_pinned) X(gf_before_seq) X(fk_pins_seen) X(cf_thp_counted) X(fo_counted) \
  X(pc_missing) X(md_unlocked) \
  X(pae_low_read) X(pae_high_read) X(pae_half_stored) X(pae_half_cleared) X(ap_table_found)

namespace pgtbl::inline PGTBL_WORLD {

enum class point : u8 {
#define X(name) name,
  PGTBL_POINTS(X)
#undef X
};
inline constexpr const char* point_names[] = {
#define X(name) #name,
    PGTBL_POINTS(X)
#undef X
};
inline constexpr unsigned point_count = std::size(point_names);
static_assert(point_count <= 128, "the mask of armed points is two words");

struct context;

#if defined(PGTBL_WORLD_TORTURE)
inline counter points_armed[2];  // bit per point
inline counter points_jitter;
void pause_slow(context& self, point p);
inline void pause_at(context& self, point p) {
  if (((points_armed[static_cast<unsigned>(p) / 64].get() >> static_cast<unsigned>(p) % 64 & 1) |
       points_jitter.get()) != 0) [[unlikely]]
    pause_slow(self, p);
}
/// Arms a point: the next `arrivals` threads that reach it stop there (skip lets that many pass first).
void point_arm(point p, u32 arrivals, u32 skip);
/// Waits until a thread stands at the point; false when timeout_ns went by first.
bool point_wait(point p, u64 timeout_ns);
/// Lets the threads that stand at the point go on, and disarms it.
void point_release(point p);
void points_release_all();
u32 point_waiting(point p);
/// From now on a thread that comes to any point yields or sleeps there for some microseconds, once in `one_in`
/// times; 0: no more.  What stands armed stays so.
void points_set_jitter(u32 one_in);
#else
inline void pause_at(context&, point) {}
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
