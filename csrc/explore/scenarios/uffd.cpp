// userfaultfd: what its ioctls put into tables, and what it is to hear of, against those who take tables away, fill
// holes, and fork.
#include "explore/scenarios/machine_cast.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

// A page that moved is not where it was stored to.
constexpr const char* but_stores = "accounts sections";
// The other thread's store shows by what is read, and not in what check/ finds at the end.
constexpr const char* seen = "stores";

constexpr cast_plan wp_retract{"uffd_protect_and_store retract", layout::empty_table},
    wp_cpmt{"uffd_protect_and_store collapse_pte_mapped", layout::full_table},
    wp_anon{"uffd_protect_and_store collapse_anon_decided", layout::anon_pages},
    wp_sees{"store uffd_protect_and_look", layout::first_page, 1, false, false, 1, seen},
    copy_cpmt{"uffd_copy collapse_pte_mapped", layout::empty_table, 1, true},
    copy_retract{"uffd_copy retract", layout::empty_table, 1, true},
    hole_file{"touch_reported_hole collapse_file_decided", layout::first_page},
    hole_anon{"touch_reported_hole collapse_anon_decided", layout::anon_first_page},
    wait_copy{"load_hole uffd_copy_last", layout::anon_first_page},
    wait_register{"load_hole uffd_register_and_copy_last", layout::anon_first_page},
    fork_copy{"fork uffd_copy_and_follow_fork", layout::anon_first_page},
    move_reclaim{"uffd_move dontneed_last_extent", layout::anon_first_page, 1, false, false, 2, but_stores},
    two_copies{"uffd_copy_last uffd_copy_last", layout::anon_first_page},
    copy_dontneed{"uffd_copy dontneed", layout::empty_table, 1, true};

constexpr scenario table[] = {
    {"uffd-wp-vs-retract", "a page is protected by a userfaultfd, and a marker left, against retraction",
     "v6.6 v6.4 v6.5 v6.14 v6.18", cast_of<wp_retract>},
    {"uffd-wp-vs-collapse-pte-mapped", "a page is protected by a userfaultfd against collapse_pte_mapped_thp",
     "v6.6 v6.4 v6.5 v6.13", cast_of<wp_cpmt>},
    {"uffd-wp-vs-anon-collapse", "a page is protected by a userfaultfd against anonymous collapse",
     "v6.6 v6.4 v6.17", cast_of<wp_anon>},
    {"uffd-wp-sees-store",
     "UFFDIO_WRITEPROTECT against a store: whether it comes after the call has returned", "v6.6 v6.4 v6.17",
     cast_of<wp_sees>},
    {"uffd-copy-vs-collapse-pte-mapped", "UFFDIO_COPY of a private page against collapse_pte_mapped_thp",
     "v6.6 v6.4 v6.5 v6.13", cast_of<copy_cpmt>},
    {"uffd-copy-vs-retract", "UFFDIO_COPY of a private page against retraction", "v6.6 v6.4 v6.5 v6.14",
     cast_of<copy_retract>},
    {"uffd-copy-vs-dontneed", "UFFDIO_COPY of a private page against MADV_DONTNEED, which may free the table",
     "v6.14 v6.17 v6.6", cast_of<copy_dontneed>},
    {"uffd-hole-vs-collapse-file", "a hole whose touch a userfaultfd is to hear of against collapse_file",
     "v6.6", cast_of<hole_file>},
    {"uffd-hole-vs-anon-collapse", "the same against anonymous collapse", "v6.6 v6.4 v6.17",
     cast_of<hole_anon>},
    {"uffd-wait-vs-copy", "a fault waits for a userfaultfd, which puts the page in and wakes it",
     "v6.6 v6.4 v6.18", cast_of<wait_copy>},
    {"uffd-wait-vs-register", "the same by one who changes the mapping first", "v6.4 v6.6",
     cast_of<wait_register>},
    {"uffd-fork-vs-copy", "a fork that a userfaultfd follows against UFFDIO_COPY", "v6.6 v6.4 v6.17",
     cast_of<fork_copy>},
    {"uffd-move-vs-reclaim", "UFFDIO_MOVE into a table that MADV_DONTNEED frees", "v6.14 v6.17",
     cast_of<move_reclaim>},
    {"uffd-two-copies", "UFFDIO_COPY of one page by two threads", "v6.6 v6.4 v6.18", cast_of<two_copies>},
};

}  // namespace

std::span<const scenario> scenarios_of_uffd() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
