"""Numbers of the Linux system call interface on x86-64, and of what /proc shows."""

from __future__ import annotations

from pathlib import Path

SYSCALLS = {
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "mremap": 25,
    "msync": 26,
    "mincore": 27,
    "madvise": 28,
    "close": 3,
    "fcntl": 72,
    "ioctl": 16,
    "munlock": 150,
    "prctl": 157,
    "vmsplice": 278,
    "pipe2": 293,
    "userfaultfd": 323,
    "mlock2": 325,
    "io_uring_setup": 425,
    "io_uring_register": 427,
    "process_madvise": 440,
    "mseal": 462,
}
PROT = {"r": 1, "w": 2, "x": 4}
MAP = {
    "shared": 0x1,
    "private": 0x2,
    "fixed": 0x10,
    "anon": 0x20,
    "locked": 0x2000,
    "noreserve": 0x4000,
    "populate": 0x8000,
}
MREMAP = {"maymove": 1, "fixed": 2, "dontunmap": 4}
SEALS = {"SEAL": 1, "SHRINK": 2, "GROW": 4, "WRITE": 8, "FUTURE_WRITE": 16, "EXEC": 32}
F_ADD_SEALS = 1033
F_SETPIPE_SIZE = 1031
PR_SET_THP_DISABLE = 41
FALLOC_KEEP_SIZE_PUNCH_HOLE = 3
MS_SYNC = 4

UFFD_MODES = {"missing": 1, "wp": 2, "minor": 4}
UFFD_API_VERSION = 0xAA
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_UNREGISTER = 0x8010AA01
UFFDIO_COPY = 0xC028AA03
UFFDIO_ZEROPAGE = 0xC020AA04
UFFDIO_WRITEPROTECT = 0xC018AA06
UFFDIO_CONTINUE = 0xC020AA07

# /proc/PID/pagemap
PM_PRESENT, PM_SWAP, PM_GUARD, PM_UFFD_WP = 63, 62, 58, 57
PM_FRAME = (1 << 55) - 1
# PAGEMAP_SCAN
PAGEMAP_SCAN = 0xC0606610
PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_PFNZERO, PAGE_IS_HUGE, PAGE_IS_GUARD = 8, 16, 32, 64, 256
# /proc/kpageflags
KPF_ANON, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL = 12, 15, 16

SMAPS_FIELDS = (
    "Rss",
    "Pss",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Anonymous",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Locked",
    "Swap",
    "KSM",
    "THPeligible",
)
# What every mapping has, and so says nothing.
VM_FLAGS_LEFT_OUT = ("mr", "mw", "me", "ms")

THP = Path("/sys/kernel/mm/transparent_hugepage")
MOUNTS = Path("/proc/mounts")


def khugepaged(name: str) -> int:
    """A number that khugepaged shows of itself."""
    return int((THP / "khugepaged" / name).read_text())


def _chosen(policy: str) -> str:
    """Of "always [madvise] never" the one in brackets."""
    return (THP / policy).read_text().partition("[")[2].partition("]")[0]


def _tmpfs_option() -> str:
    """How /dev/shm is mounted: the value of huge=, never where nothing is said."""
    for line in MOUNTS.read_text().splitlines():
        _, where, _, options = line.split()[:4]
        if where == "/dev/shm":
            found = [o.partition("=")[2] for o in options.split(",") if o.startswith("huge=")]
            return found[0] if found else "never"
    return "never"


def khugepaged_leaves_alone(kinds: set[str]) -> str:
    """Why khugepaged does not collapse what was advised, memory and files of these kinds; "" if it does."""
    if _chosen("enabled") == "never":
        return "transparent_hugepage/enabled is never"
    shmem = _chosen("shmem_enabled")
    if kinds & {"memfd", "tmpfs"} and shmem == "deny":
        return "shmem_enabled is deny"
    if "memfd" in kinds and shmem == "never":
        return "shmem_enabled is never"
    if "tmpfs" in kinds and shmem != "force" and _tmpfs_option() == "never":
        return "/dev/shm is mounted with huge=never"
    return "ext4 files are left alone" if "ext4" in kinds else ""
