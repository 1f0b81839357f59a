// guards_arch.hpp -- the guards of csrc/arch/: rows of guards.hpp, in a list of their own.
#pragma once

#define PGTBL_ARCH_GUARDS(X)                                                                                        \
  X(pae_low_again, "B48", "v6.4", "x86-pae: a lockless read looks at the low half again")                            \
  X(pae_high_first, "B48", "v6.4", "x86-pae: the high half is stored before the low half that says present")         \
  X(pae_low_off_first, "B48", "v6.4", "x86-pae: clearing takes the low half, which says present, before the high half") \
  X(pae_irq_off, "B48", "v6.6", "x86-pae: the halves of a PMD are read with interrupts off")                         \
  X(pae_sync, "B48", "v6.6", "x86-pae: after a PMD was cleared, CPUs are interrupted before it can be set again")    \
  X(pae_sync_all, "B48", "v6.6", "x86-pae: these are all CPUs, not only those that run the mm")                      \
  X(ppc_cache_lock, "A-12", "v6.4", "powerpc: a fragment is taken from the cache under page_table_lock")             \
  X(ppc_cache_recheck, "A-11", "v6.4", "powerpc: who brings a page looks again whether the cache is still empty")    \
  X(ppc_one_head, "B39", "v6.6", "powerpc: a deferred fragment drops its reference; only the last one queues the page") \
  X(ppc_active_first, "B40", "v6.6", "powerpc: the page is marked Active before the fragment's reference is dropped") \
  X(ppc_free_sees_active, "B40", "v6.6", "powerpc: the last fragment to go looks at the mark, however it goes")      \
  X(ppc_destroy_drops, "A-11", "v6.4", "powerpc: destroying the context drops the references of fragments never handed out") \
  X(assert_none_exempt, "B41", "v6.6", "powerpc: assert_pte_locked lets a PMD that is none pass")                    \
  X(deposit_table, "B50", "v6.4", "powerpc: a table is deposited behind every huge PMD, of files too")               \
  X(deposit_fresh, "B50", "v6.6", "powerpc: what is deposited is not a table that was handed to RCU")                \
  X(ppc_slots_cleared, "B50", "v6.4", "powerpc: a deposited table is cleared of hash slots as it is withdrawn")       \
  X(ppc_serialize, "B50", "v6.4", "powerpc: who still looks at a huge PMD is waited for before its table is withdrawn") \
  X(sparc_handle_is_entries, "A-14", "v6.6", "sparc64: a table's handle points to entries, and leads to its page")   \
  X(s390_pending_busy, "B43", "v6.4", "s390: a half that is pending removal is not handed out")                      \
  X(s390_two_steps, "B44", "v6.4", "s390: a half goes from allocated to pending to free, and who clears the last bit frees") \
  X(s390_unlist, "B42", "v6.4", "s390: a page with no half left leaves the list before its head is queued")          \
  X(s390_one_head, "B42", "v6.6", "s390: the head is queued once, when both halves are gone")                        \
  X(s390_active_first, "A-18", "v6.6", "s390: the page is marked Active before the half goes")                       \
  X(s390_active_unlisted, "B45", "v6.6", "s390: a page that can hand out nothing any more is not listed")            \
  X(s390_callback_no_mm, "B46", "v6.6", "s390: the RCU callback looks at the page alone, not at its mm")             \
  X(s390_pgste_allowed, "B47", "v6.6", "s390: pte_free_defer says nothing of a program that has guests")             \
  X(s390_pgste_whole, "A-19", "v6.4", "s390: a page that has a guest's status in it is freed whole: never pending, never listed") \
  X(arm_split_only, "B49", "v6.4", "arm: adjust_pte takes no lock where one lock covers every PTE")                  \
  X(arm_same_table, "B49", "v6.4", "arm: nor, where locks are split, that of the table whose lock is held")          \
  X(arm_by_address, "B49", "v6.13", "arm: which of them it is, is found by the addresses, not by a fault")           \
  X(arm_one_read, "B13", "v6.6", "arm: the other table and its lock are found by one read of the PMD")               \
  X(arm_flush_line, "A-9", "v6.4", "arm: the cache line of a mapping is written back before it is made uncached")    \
  X(arm_adjust_own, "A-9", "v6.4", "arm: the mapping that was just made becomes uncached, too, if there is another")
