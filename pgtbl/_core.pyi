"""
The laboratory, compiled for real threads.
"""
from __future__ import annotations
import typing_extensions
import collections.abc
import numpy
import numpy.typing
import pgtbl.ledger
import typing
class RcuTally:
    """
    A callback in C++ that counts how often it ran.
    """
    def __init__(self) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    @property
    def value(self) -> int:
        """
        How often it ran.
        """
class RcuSection:
    """
    A read section of an RcuDomain, made by its read().
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
class RcuDomain:
    """
    Read-copy-update: readers never wait, updaters wait for them. Threads attach by their first use, and leave as they end.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __init__(self, *, soft_objects: typing.Any = None, hard_objects: typing.Any = None, soft_bytes: typing.Any = None, hard_bytes: typing.Any = None, stall_seconds: typing.Any = 1.0) -> None:
        """
        A domain of its own.
        
        Above the soft limits (16384 pending callbacks, 8 MiB) grace periods are expedited; above the hard limits
        (131072, 12 MiB) call() waits, unless its thread is in a read section. A reader that keeps a grace period
        waiting for stall_seconds, twice, four times as long and so on is reported by an RcuStallWarning.
        """
    def __reduce__(self) -> typing.Any:
        ...
    def barrier(self) -> None:
        """
        Waits until every callback queued before has run, Python callbacks too. DeadlockError in a section or callback.
        """
    def call(self, callback: typing.Any, *, bytes: typing.Any = 0, repeat: typing.Any = 1) -> None:
        """
        Has callback run after a grace period; waits only above the hard limit, outside of read sections.
        
        callback: a callable without arguments, which runs in the main thread between two bytecodes or in a thread
        that waits for this domain (what it raises goes to sys.unraisablehook); an RcuTally; or a capsule named
        "pgtbl.rcu_callback" around a C function void (*)(void *), which gets the capsule's context, in any thread
        and without the GIL. bytes: what its memory counts for the limits. repeat: queue it so many times.
        """
    def close(self) -> None:
        """
        Waits for a grace period, runs what callbacks are left, and closes the domain; twice is no error.
        
        UsageError while a thread is in a read section, or inside of another call for more than 5 seconds.
        """
    def cond_synchronize(self, cookie: typing.Any) -> None:
        """
        Waits for a grace period unless the cookie's is over.
        """
    def get_state(self) -> int:
        """
        A cookie that passes once a whole grace period lies behind now; starts none.
        """
    def poll(self, cookie: typing.Any) -> bool:
        """
        Whether the cookie's grace period is over. Never waits.
        """
    def read(self) -> RcuSection:
        """
        A context manager: a read section, which may be nested and used again.
        """
    def read_lock(self) -> None:
        """
        Enters a read section; never waits. Sections nest.
        """
    def read_unlock(self) -> None:
        """
        Leaves the innermost read section. UsageError outside of sections.
        """
    def start_poll(self) -> int:
        """
        The same, and starts the grace period; poll() carries it on. Never waits.
        """
    def stats(self) -> dict:
        """
        What happened so far, as a dict.
        
        grace_periods; grace_periods_by_kind and latency_log2_ns (per kind: element b counts those of 2**b to
        2**(b+1) ns) for normal, expedited and polled; membarriers and membarrier_seconds; callbacks queued, invoked,
        pending and pending_max (to within a batch of 256 per thread), the same in bytes; soft_throttles,
        hard_throttles, throttled_seconds; stalls, longest_stall_seconds; readers (threads attached now),
        readers_detached, readers_exited_inside (threads that ended inside a read section).
        """
    def synchronize(self, *, expedited: bool = False) -> None:
        """
        Waits until every read section that began before has ended, without the GIL.
        
        expedited: yields the processor instead of sleeping. DeadlockError inside a read section of this domain. Like
        every wait of a domain it is ended by a signal handler that raises (Ctrl-C).
        """
    @property
    def nesting(self) -> int:
        """
        How many read sections the calling thread is in.
        """
class SpinLock:
    """
    A spinlock, as the laboratory has one in every page table.
    
    A waiter pauses, yields, and at last sleeps for at most a millisecond at a time; waiters get in in no
    particular order. Not recursive. Raises UsageError where a call could only wait for itself, or where the
    holder's thread has ended, and ClosedError once closed.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __init__(self) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def acquire(self, blocking: bool = True) -> bool:
        """
        Takes the lock. False, without waiting, if blocking is false and it is held. A signal handler that raises (Ctrl-C) ends the wait.
        """
    def close(self) -> None:
        """
        Ends the lock's use. UsageError while it is held; again is harmless.
        """
    def release(self) -> None:
        """
        Gives the lock back. UsageError if this thread does not hold it.
        """
    def stats(self) -> dict:
        """
        Counts since it was made, by ledger names: lock (acquisitions), lock.contended (those that waited), lock.failed (tries that did not get it), lock.wait_ns, lock.held_ns.
        """
    @property
    def closed(self) -> bool:
        """
        Whether close() was called.
        """
    @property
    def locked(self) -> bool:
        """
        Whether a thread holds it now.
        """
class RwSemSection:
    """
    A read or write section of an RwSem, for the with statement.
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
class RwSem:
    """
    A fair reader-writer semaphore: mmap_lock, with the rules of the kernel's rwsem.
    
    New readers queue behind a waiting writer; when a reader is first in the queue all waiting readers enter
    together; whoever has waited for 4 ms is handed the semaphore. Not recursive, not even for reading. Raises
    UsageError where a call could only wait for itself, or where a writer's thread has ended, and ClosedError once closed.
    """
    def __init__(self) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def close(self) -> None:
        """
        Ends the semaphore's use. UsageError while anybody is inside; again is harmless.
        """
    def downgrade(self) -> None:
        """
        Goes on as a reader; no other writer comes between. Waiting readers enter too. Counts as a read acquisition.
        """
    def read(self) -> RwSemSection:
        """
        A read section: with sem.read(): ...
        """
    def read_lock(self) -> None:
        """
        Enters for reading; waits while a writer is inside or waits.
        """
    def read_unlock(self) -> None:
        """
        Leaves. UsageError if this thread is not inside for reading.
        """
    def stats(self) -> dict:
        """
        Counts since it was made, by ledger names: rwsem.read and rwsem.write (acquisitions), each with .contended, .failed (tries), .wait_ns and .held_ns.
        """
    def try_read_lock(self) -> bool:
        """
        Enters for reading if that needs no wait.
        """
    def try_write_lock(self) -> bool:
        """
        Enters for writing if nobody is inside and nobody waits.
        """
    def write(self) -> RwSemSection:
        """
        A write section: with sem.write(): ...
        """
    def write_lock(self) -> None:
        """
        Enters for writing, alone.
        """
    def write_unlock(self) -> None:
        """
        Leaves. UsageError if this thread is not inside for writing.
        """
    @property
    def closed(self) -> bool:
        """
        Whether close() was called.
        """
    @property
    def contended(self) -> bool:
        """
        Whether anybody waits.
        """
    @property
    def locked(self) -> bool:
        """
        Whether anybody is inside.
        """
    @property
    def owner(self) -> typing.Any:
        """
        Thread id (threading.get_native_id()) of the writer inside, or None.
        """
    @property
    def readers(self) -> int:
        """
        How many readers are inside.
        """
    @property
    def write_locked(self) -> bool:
        """
        Whether a writer is inside.
        """
class Vma:
    """
    A range of addresses that one rule covers, as it was when it was mapped or listed.
    
    start, end: bytes, [start, end). It does not follow later changes of the address space.
    """
    def __contains__(self, arg0: typing.Any) -> bool:
        ...
    def __eq__(self, arg0: object) -> typing.Any:
        ...
    def __hash__(self) -> int:
        ...
    def __len__(self) -> int:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def addresses(self, step: int | str = 4096) -> numpy.typing.NDArray[numpy.uint64]:
        """
        Every step-th address from start on: a NumPy array of uint64, as mm.touch() takes it.
        """
    @property
    def end(self) -> int:
        """
        First byte behind it (int).
        """
    @property
    def file(self) -> File | None:
        """
        The File that is mapped; None for anonymous memory and where the File was closed.
        """
    @property
    def flags(self) -> int:
        """
        VM_READ, VM_WRITE, VM_EXEC and VM_SHARED, or-ed (int).
        """
    @property
    def length(self) -> int:
        """
        Bytes (int); also len().
        """
    @property
    def offset(self) -> int:
        """
        Where in the file it starts, in bytes (int).
        """
    @property
    def prot(self) -> str:
        """
        What is allowed: "rw", "r", ..., or "none" (str).
        """
    @property
    def shared(self) -> bool:
        """
        Whether stores reach the file (bool).
        """
    @property
    def start(self) -> int:
        """
        First byte (int).
        """
    @property
    def vm_flags(self) -> str:
        """
        All flags, as VmFlags of /proc/PID/smaps has them, without those that every mapping has: "rd wr sh" (str).
        """
class File:
    """
    A file: of shared memory (shmem), as memfd_create gives one, or a regular file on a disk.
    
    Made by Machine.shmem() and Machine.file(). Mappings of it, in any mm of the same machine, keep its pages after close().
    All sizes and offsets are bytes, as an int or text like "2MiB". Every call raises ClosedError once the
    file or its machine is closed.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def allocate(self, offset: int | str, length: int | str) -> None:
        """
        fallocate(): every page of the range is there afterwards, as zeros; the file grows where it must.
        
        OSError(EINVAL) where length is 0; OutOfMemory when no frame is left. What was set aside and not read or written yet is
        not uptodate (pages()), as SEEK_DATA sees it. Of a regular file it is the size alone that may change: room on the disk is not
        modelled.
        """
    def close(self) -> None:
        """
        Gives the file up; mappings of it stay as they are. Harmless if repeated.
        """
    def contents(self) -> numpy.ndarray:
        """
        Every cached page of the file: a NumPy structured array, one row for each page of 4 KiB.
        
        Fields: index (page of the file), first (its first word), rest (the value of all others, where mixed is 0), order (of
        its folio), uptodate (0: allocated, and never written), mixed.
        """
    def drop_cache(self) -> int:
        """
        Clean pages that nobody maps leave the cache (POSIX_FADV_DONTNEED); returns how many (int).
        
        They are read in again when they are used. Nothing for shared memory, which is nowhere else.
        """
    def open(self) -> OpenFile:
        """
        Opens the file for writing, until the OpenFile that this returns is closed, or forgotten.
        
        As long as somebody has a regular file open for writing it gets no huge pages; those that it has go from its cache as it is opened,
        and from every mapping. write(), truncate(), punch() and allocate() open the file by themselves for as long as they take. For
        shared memory nothing depends on it. OutOfMemory when no frame is left for what has to be written back.
        """
    def pages(self) -> numpy.ndarray:
        """
        The cached pages, in order: a NumPy structured array with one row for each small or huge page.
        
        Fields: index (page of the file), pfn (its frame; a huge page's first), mapcount (page table entries that map
        it; for a huge page PMDs), refcount (references of the folio), order (of the folio: a huge page has 9), huge, dirty,
        uptodate (0 or 1). Other threads may change the file meanwhile.
        """
    def punch(self, offset: int | str, length: int | str) -> None:
        """
        Punches a hole (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE).
        
        Whole pages in the range leave the file and every mapping, parts of pages are zeroed; a huge page that is
        only partly inside is split first. OSError(EINVAL) where length is 0.
        """
    def read(self, offset: int | str, n: int | str) -> bytes:
        """
        n bytes from offset on, as pread() reads them; holes are zeros. Of a regular file they come into its cache.
        
        Raises ValueError where the range reaches beyond the end of the file.
        """
    def seal(self, seals: collections.abc.Sequence[str]) -> None:
        """
        Adds seals to shared memory, as fcntl(F_ADD_SEALS) does.
        
        seals: a list of "SEAL", "SHRINK", "GROW", "WRITE", "FUTURE_WRITE", "EXEC" (without effect here). What a seal forbids is OSError(EPERM)
        from then on. OSError(EBUSY) for "WRITE" while somebody maps the file to store to it, or has pages of it pinned.
        """
    def sync(self) -> None:
        """
        Writes what is dirty back to the file's disk, as fsync() does. Nothing for shared memory.
        
        Each page then has a second frame, on the disk. OutOfMemory when no frame is left.
        """
    def truncate(self, size: int | str) -> None:
        """
        Sets the size, as ftruncate() does.
        
        Pages beyond the new end go, mapped or not: an access to them raises BusError afterwards.
        """
    def write(self, offset: int | str, data: typing.Any) -> None:
        """
        Writes data (any contiguous buffer) at offset, as pwrite() does.
        
        The file does not grow: ValueError where the range reaches beyond its end. OutOfMemory when no frame is left.
        """
    @property
    def closed(self) -> bool:
        """
        Whether the file, or its machine, was closed.
        """
    @property
    def id(self) -> int:
        """
        Number of the file on its machine (int).
        """
    @property
    def kind(self) -> str:
        """
        "shmem" (Machine.shmem) or "regular" (Machine.file).
        """
    @property
    def nr_thps(self) -> int:
        """
        Huge pages that a regular file counts in its cache (int); of shared memory nobody counts them.
        """
    @property
    def size(self) -> int:
        """
        Size in bytes (int).
        """
class Mm:
    """
    An address space, and the simulated program that runs in it.
    
    Made by Machine.mm(). The calling thread acts as a thread of that program, on the machine's CPU that it has.
    Addresses are bytes; lengths are bytes or text like "2MiB". Every call raises ClosedError once the mm or
    its machine is closed, and DeadlockError where it would wait for an mmap_lock that this thread itself holds.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def brk(self, addr: int | None = None) -> int:
        """
        Moves the end of the heap to addr, and returns where it is then (int).
        
        As the system call: the old end where the request can not be met. Without addr: only says where it is.
        """
    def close(self, timeout: float | None = None) -> None:
        """
        The program ends: everything is unmapped, and every page table freed.
        
        Waits for its calls under way in other threads, `timeout` seconds (default 5), then raises UsageError naming them; also
        where Python code holds its mmap_lock. Harmless if repeated.
        """
    def fork(self) -> Mm:
        """
        Copies the address space, as fork() does; returns the child's Mm.
        
        Private pages are shared by both until one of them stores (copy on write). Mappings advised MADV_DONTFORK are left
        out, those advised MADV_WIPEONFORK are empty. The calling thread stays the parent's. OutOfMemory when no frame is left
        for the child's page tables.
        """
    def load(self, addr: int) -> int:
        """
        The 64-bit word at addr, a multiple of 8, by one access. Raises SegmentationFault, BusError, OutOfMemory.
        """
    def madvise(self, addr: typing.Any, length: int | str | None, advice: typing.SupportsIndex) -> None:
        """
        madvise(2) for [addr, addr + length).
        
        advice: one of the MADV_ constants. As on Linux: an advice does what it can up to the mapping that refuses it, and
        passes over holes, which it tells of at the end. What there is no counterpart of in the laboratory (read-ahead, swap)
        does nothing. Raises OSError with Linux's errno: EINVAL (alignment, unknown advice, a mapping that does not take it),
        ENOMEM (nothing mapped somewhere, or no huge page to be had), EAGAIN (a page is in use), EBUSY, EFAULT, EACCES.
        
        MADV_COLLAPSE: which locks it takes depends on the machine's era; counted at Linux 6.18, one call over n mapped
        extents of shared memory takes no mmap_lock for write and 2n + 1 for read (v6.6); each extent of anonymous memory takes
        it for write once, in every era. MADV_GUARD_INSTALL and MADV_GUARD_REMOVE exist from v6.13 on.
        """
    def mincore(self, addr: typing.Any, length: int | str | None = None) -> numpy.typing.NDArray[numpy.bool]:
        """
        Which pages of [addr, addr + length) (or of a Vma) are in memory: a NumPy array of bool, one a page.
        
        OSError: EINVAL where addr is not a multiple of 4096, ENOMEM where something is not mapped.
        """
    def mlock(self, addr: typing.Any, length: int | str | None = None, onfault: bool = False) -> None:
        """
        Locks [addr, addr + length) (or a Vma) into memory: all of it is brought in, as mlock(2) does.
        
        onfault: pages are locked as they come (MLOCK_ONFAULT). OSError(ENOMEM) where something is not mapped, or can not be
        brought in.
        """
    def mmap(self, file: File | None = None, length: int | str | None = None, offset: int | str = 0, addr: int | None = None, prot: str = 'rw', shared: bool = True, fixed: bool = False, populate: bool = False, locked: bool = False, noreserve: bool = False) -> Vma:
        """
        Maps a file, or anonymous memory, and returns the Vma.
        
        file: a File of the same machine; None is anonymous memory: shared, a shmem file without a name, or private.
        length: bytes, rounded up to pages; by default the rest of the file from offset on.
        offset: into the file, a multiple of 4096.
        addr: where it should go; with fixed=True where it must go, over whatever is there. Where it may choose, it
        goes top-down, at a multiple of 2 MiB if it is that long.
        prot: of "r", "w" and "x", or "none".
        populate, locked, noreserve: MAP_POPULATE, MAP_LOCKED and MAP_NORESERVE: the first two bring every page in.
        
        Raises OSError with mmap's errno (EINVAL, ENOMEM, EPERM, EOVERFLOW), ValueError, UsageError for another machine's file.
        Shared files are mapped small until they are collapsed.
        """
    def mprotect(self, addr: typing.Any, length: int | str | None, prot: str) -> None:
        """
        Changes what is allowed in [addr, addr + length).
        
        OSError: EINVAL as for munmap, ENOMEM where something in the range is not mapped.
        """
    def mremap(self, addr: int, old_length: int | str, new_length: int | str, maymove: bool = False, fixed: bool = False, dontunmap: bool = False, to: int | None = None) -> int:
        """
        Resizes or moves a mapping, as mremap(2); returns its address then (int).
        
        maymove: it may go elsewhere where there is no room behind it. fixed: it must go to `to`, over whatever is there.
        dontunmap: the old mapping stays, empty; `to` is a hint then. Both need maymove. Tables and huge pages move whole where
        source and destination are aligned alike.
        
        OSError: EINVAL (flags, alignment, overlap), EFAULT (not mapped, or more than one mapping), ENOMEM (no room).
        """
    def mseal(self, addr: typing.Any, length: int | str | None = None) -> None:
        """
        Seals [addr, addr + length) (or a Vma), as mseal(2) does (6.10).
        
        To the end of the program it is not unmapped, moved, mapped over, nor given other rights, and anonymous memory that cannot be stored
        to is not discarded: OSError(EPERM). OSError(ENOMEM), and nothing is sealed, where not all of it is mapped; OSError(ENOSYS)
        in earlier eras.
        """
    def msync(self, addr: typing.Any, length: int | str | None = None) -> None:
        """
        Writes back the regular files that are mapped shared there, as msync(MS_SYNC) does. OSError(ENOMEM) for a hole.
        """
    def munlock(self, addr: typing.Any, length: int | str | None = None) -> None:
        """
        Undoes mlock() for a range or a Vma. OSError(ENOMEM) where something is not mapped.
        """
    def munmap(self, addr: typing.Any, length: int | str | None = None) -> None:
        """
        Unmaps [addr, addr + length), or a whole Vma. Holes in it are no error.
        
        OSError(EINVAL) where addr is not a multiple of 4096, length is 0, or the range leaves the address space.
        """
    def pagemap(self, area: typing.Any, length: int | str | None = None) -> numpy.ndarray:
        """
        How the pages of a range are mapped: a NumPy structured array with one row for each populated page.
        
        area: a Vma, a pair (start, length), or a start with `length` beside it.
        
        Fields: va (address of the page), pfn (its frame), index (page of the file, 0 for anonymous memory), mapcount (entries
        that map the page, of either size), refcount (of its folio), anon, order (of the folio: 0, or 9 for a huge page), huge
        (mapped by a PMD), write, dirty, young (bits of the entry), zero (the zero page: no page of the program's), guard (a guard
        marker), swap (another entry that is not present). Takes mmap_lock for read; exact while nothing runs.
        """
    def pin(self, addr: int, pages: int = 1, write: bool = False, kind: str = 'get') -> Pin:
        """
        Takes a reference to each of `pages` pages from addr on, as vmsplice() does: a Pin.
        
        kind: "get" (FOLL_GET) is a reference like any other; of "pin" (FOLL_PIN), as for direct I/O, the kernel knows: fork() copies such
        a page for the child at once (of a huge page that is pinned, every page), so that the parent's stores still reach it, and UFFDIO_MOVE
        refuses it. So a page that is pinned is the program's alone: one that is shared since a fork is copied first, also where it is only read.
        "longterm" (FOLL_LONGTERM), as for io_uring's buffers or RDMA, may last for ever: the zero page, and a file's page in a private mapping,
        are copied first, too; a shared mapping of a regular file is refused to write=True (6.5). write: the page is made writable first.
        
        Pages are faulted in where they must. A page with such a reference is not collapsed and not split. Stops before the
        first page that cannot be read; OSError(EFAULT) where that is the first.
        """
    def read(self, addr: int, n: int | str) -> bytes:
        """
        The n bytes from addr on (bytes), through the simulated MMU, faulting as a program would.
        
        Raises SegmentationFault, BusError (beyond the end of the file), OutOfMemory.
        """
    def secondary_mmu(self, kind: str = 'shadow') -> SecondaryMmu:
        """
        Registers a device with this address space: a SecondaryMmu.
        
        kind: "shadow" has tables of its own, as a hypervisor has: it looks pages up as get_user_pages() does, and is told where a range begins to
        change and where that is over. "walker" walks the program's page tables, as an IOMMU with shared addresses: it is told by every TLB
        flush from v6.6 on, before that where a range's change is over.
        """
    def smaps(self) -> list:
        """
        What /proc/PID/smaps tells of each mapping: a list of dicts, upwards.
        
        Keys: start, end (bytes); flags (VmFlags, as Vma.vm_flags); kib, a dict of those of Rss, Pss, Shared_Clean, Shared_Dirty,
        Private_Clean, Private_Dirty, Anonymous, LazyFree, AnonHugePages, ShmemPmdMapped, FilePmdMapped and Locked that are not 0, in KiB, and
        THPeligible where it is 1. Takes mmap_lock for read; exact while nothing runs.
        """
    def snapshot(self, addr: typing.Any, length: int | str | None = None) -> numpy.ndarray:
        """
        Every entry of [addr, addr + length) (or of a Vma) that is not none: a NumPy structured array.
        
        Fields: va, pfn (its frame, 0 where none is present), first (the page's first word), rest (the value of all others, where
        mixed is 0), mapcount (entries that map this page, of either size), kind (the code of a letter: A anonymous, F file, Z
        the zero page, s not present, g a guard marker), order (of the folio), huge (mapped by a PMD), uffd_wp, mixed. Takes
        mmap_lock for read; exact while nothing runs.
        """
    def store(self, addr: int, word: int) -> None:
        """
        Stores a 64-bit word (0 to 2**64 - 1) at addr, a multiple of 8, by one access. Raises SegmentationFault, BusError, OutOfMemory.
        """
    def sweep(self, addr: int, pages: int, how: str = 'read', stride: int = 1, value: int = 0, step: int = 0) -> dict:
        """
        Touches pages, `stride` pages apart, upwards, and goes on where a program would be killed.
        
        how: "read" loads the first word of each page, "write" stores `value` to it, "fill" to all of its words; each next page's
        value is `step` more. Returns a dict: "ok" (accesses that succeeded), "faults" (page faults served), "segv" and "bus"
        (accesses refused), "first" (number of the first refused one, or None), "sum" (of what was loaded, in order:
        sum * 1099511628211 + word, modulo 2**64). Raises OutOfMemory.
        """
    def thp_disable(self, on: bool = True, flags: int = 0) -> None:
        """
        The program gets no huge pages from now on, or again, as prctl(PR_SET_THP_DISABLE) says; those that it has stay.
        
        flags: 2 (PR_THP_DISABLE_EXCEPT_ADVISED, 6.18): but where it advises them, by MADV_HUGEPAGE or MADV_COLLAPSE. Children inherit it.
        OSError(EINVAL) for other flags.
        """
    def touch(self, addresses: int | numpy.typing.ArrayLike, write: bool = False) -> int:
        """
        Loads the word at each address, or with write=True adds 0 to it in one step; returns how many faults that took.
        
        addresses: one int, or an array of integers (any shape), touched in order without the GIL; Ctrl-C stops it.
        Raises SegmentationFault, BusError, OutOfMemory at the first address that can not be served.
        """
    def userfaultfd(self, features: collections.abc.Iterable = ()) -> Userfaultfd:
        """
        A new userfaultfd of this address space: a Userfaultfd.
        
        features: names without UFFD_FEATURE_. With "SIGBUS" a fault that would wait raises BusError instead. "EVENT_FORK",
        "EVENT_REMAP", "EVENT_REMOVE" and "EVENT_UNMAP": such changes of registered ranges are told, and wait until that was read.
        OSError(EINVAL) for one that is later than the machine's era ("POISON" v6.6, "MOVE" v6.13).
        """
    def vmas(self) -> list[Vma]:
        """
        Every Vma of the mm, upwards (list). Takes mmap_lock for read.
        """
    def walk(self, addr: int) -> list[WalkLevel]:
        """
        The levels of the page tables that a walk to addr meets, top down: a list of WalkLevel.
        
        It ends with the first entry that is not a table: at "pte", or above where a level is missing or huge. Takes mmap_lock for read.
        """
    def write(self, addr: int, data: typing.Any) -> None:
        """
        Stores data (any contiguous buffer) at addr, through the simulated MMU.
        
        Raises SegmentationFault, BusError, OutOfMemory; what was stored before a fault that can not be served stays stored.
        """
    @property
    def closed(self) -> bool:
        """
        Whether the mm, or its machine, was closed.
        """
    @property
    def id(self) -> int:
        """
        Number of the mm on its machine (int).
        """
    @property
    def machine(self) -> Machine:
        """
        The Machine that it is on.
        """
    @property
    def mmap_lock(self) -> MmapLock:
        """
        The mm's mmap_lock, to be held by tests: an MmapLock.
        """
    @property
    def pgste(self) -> bool:
        """
        Whether its page tables have room for a guest's status (Machine.mm(pgste=True), on s390).
        """
    @property
    def pgtables_bytes(self) -> int:
        """
        Bytes of page tables that the mm has (int); a table leaves the count when it is detached, before RCU frees it.
        """
    @property
    def rss(self) -> dict:
        """
        Mapped pages (of 4 KiB) by kind: a dict of "file", "anon" and "shmem".
        """
class Machine:
    """
    A simulated machine: memory, CPUs, page tables, RCU, and one kernel's rules for them.
    
    Everything made on it may be used from any thread, and belongs to it alone.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __init__(self, *, era: str = 'v6.6', arch: str = 'x86-64', form: typing.Any = None, memory: int | str = '256MiB', cpus: int = 64, alloc: str = 'reuse', switches: typing.Any = None, broadcast_flush: bool = False, thp: str = 'madvise') -> None:
        """
        Makes a machine.
        
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
        
        Raises ValueError for an unknown name, a size that does not fit, or switches that are not safe together.
        """
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def check(self, timeout: float | None = None) -> None:
        """
        Checks the machine's invariants, while nobody is inside of a call.
        
        Calls of other threads wait meanwhile. Returns None where all hold, and raises InvariantError otherwise, which says
        which invariant (G-n, A-n), where and between whom, one a line; what was noticed earlier, while threads ran, too. A thread
        that sleeps in a page fault, until a userfaultfd answers, holds nothing and is not waited for: it sleeps on.
        timeout: seconds to wait for calls under way (default 5), then UsageError.
        """
    def close(self, timeout: float | None = None) -> None:
        """
        Ends every program, drops every file, and frees the simulated memory.
        
        Everything made on the machine raises ClosedError from then on. Harmless if repeated. Waits for calls under way
        in other threads, `timeout` seconds (default 5), then raises UsageError naming them; also where Python code
        still holds an mmap_lock or is in a read section. The machine stays open then.
        """
    def count(self, name: str) -> int:
        """
        One row of the ledger, such as "mmap_lock.write": cheaper than the whole. KeyError for unknown names.
        """
    def file(self, size: int | str) -> File:
        """
        A new regular file, of that size in bytes (int or text like "8MiB"), on a disk of its own: a File.
        
        Its pages are read from there as they are first used, zeroes where nothing was written. khugepaged and MADV_COLLAPSE make huge
        pages of it only while nobody has it open for writing, and only of what was written back (Linux: READ_ONLY_THP_FOR_FS; before
        6.11 of executable mappings): File.open(), File.sync(). A shared mapping with "w" keeps it open for writing; one without is never
        to be written. ValueError above 4096 files.
        """
    def ledger(self) -> pgtbl.ledger.Ledger:
        """
        What was locked, waited for, flushed, freed and collapsed since the machine was made.
        
        A Ledger: a mapping of dotted names to ints, summed over all CPUs. A difference of two that were read while nothing
        ran is exact. pgtbl.ledger_names() says what each row counts.
        """
    def mm(self, pgste: bool = False) -> Mm:
        """
        A new address space, empty: an Mm.
        
        pgste: its page tables have room for the status of a guest (s390's PGSTE, as with the sysctl vm.allocate_pgste): each takes a whole
        page, of which the second half is no table. Children inherit it. ValueError where there are none: s390 has them, in the eras in
        which a page holds two tables (v6.4 to v6.6).
        
        OutOfMemory when no frame is left for its root table; ValueError above 4096 of them.
        """
    def scans(self) -> list:
        """
        What this thread's collapses found since the last call, in order: a list of lists, as Linux's tracepoints.
        
        ["scan_file", result, present, swap], ["collapse_file", result], ["scan_pmd", result, none_or_zero, unmapped],
        ["isolate", result, none_or_zero], ["collapse_anon", result, isolated], ["swapin"]. Needs trace_scans().
        """
    def shmem(self, size: int | str) -> File:
        """
        A new file of shared memory, of that size in bytes (int or text like "8MiB"): a File.
        
        Its pages are made as they are first used. ValueError above 4096 files.
        """
    def trace_scans(self, on: bool = True) -> None:
        """
        Begins to note what this thread's collapses find, for scans(); on=False ends it.
        """
    @property
    def alloc(self) -> str:
        """
        What happens to freed frames: "reuse" or "quarantine".
        """
    @property
    def arch(self) -> str:
        """
        Architecture (str).
        """
    @property
    def broadcast_flush(self) -> bool:
        """
        Whether TLB flushes reach other CPUs without interrupts (bool).
        """
    @property
    def closed(self) -> bool:
        """
        Whether close() was called.
        """
    @property
    def cpus(self) -> int:
        """
        How many threads may use it at once (int).
        """
    @property
    def era(self) -> str:
        """
        Name of the era whose rules it follows (str).
        """
    @property
    def form(self) -> str:
        """
        Form of its page tables (str).
        """
    @property
    def free_memory(self) -> int:
        """
        Of this, what is not in use, in bytes (int); frames in quarantine count as free.
        """
    @property
    def khugepaged(self) -> Khugepaged:
        """
        The machine's khugepaged; it runs once started.
        """
    @property
    def memory(self) -> int:
        """
        Simulated physical memory in bytes (int).
        """
    @property
    def page_size(self) -> int:
        """
        Bytes of a page (int).
        """
    @property
    def pmd_size(self) -> int:
        """
        Bytes of an extent: what one PTE table covers, and of a huge page (int).
        """
    @property
    def rcu(self) -> RcuDomain:
        """
        The machine's RCU domain: an RcuDomain whose readers are the machine's CPUs.
        """
    @property
    def switches(self) -> dict:
        """
        The rules in force: a dict of names to ints.
        """
    @property
    def thp(self) -> str:
        """
        When anonymous memory gets huge pages: "never", "madvise" or "always".
        """
class OpenFile:
    """
    A file that somebody has open for writing. Made by File.open().
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def close(self) -> None:
        """
        Nobody writes to it by this any more. Harmless if repeated.
        """
    @property
    def closed(self) -> bool:
        """
        Whether this, the file or its machine was closed (bool).
        """
class WalkLevel:
    """
    What one level of the page tables holds for an address: an item of mm.walk().
    """
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    @property
    def entry(self) -> int:
        """
        The entry as it stands in the table (int, 64 bits as on x86-64).
        """
    @property
    def flags(self) -> str:
        """
        Of r, w, x, a (accessed), d (dirty) those that are set; "" where not present (str).
        """
    @property
    def kind(self) -> str:
        """
        "none", "table", "page", "huge", "other" or "bad" (str).
        """
    @property
    def name(self) -> str:
        """
        "pgd", "pud", "pmd" or "pte".
        """
    @property
    def pfn(self) -> int:
        """
        Number of the frame that the entry points to; 0 where there is none (int).
        """
    @property
    def table(self) -> int:
        """
        Number of the frame of the table that the entry is in (int).
        """
class MmapSection:
    """
    A section of an mmap_lock, for the with statement.
    """
    def __enter__(self) -> typing_extensions.Self:
        """
        Enters. None, or for a try whether it got the lock (bool).
        """
    def __exit__(self, *args: typing.Any) -> None:
        """
        Leaves, if it got in.
        """
    def __reduce__(self) -> typing.Any:
        ...
class MmapLock:
    """
    The mmap_lock of an mm: a fair reader-writer semaphore, as the kernel's.
    
    A thread that is inside must not call what may take the lock again: that raises DeadlockError. A thread that ends
    inside gives it back. Sections count in Machine.ledger() as mmap_lock.read and mmap_lock.write.
    """
    def __reduce__(self) -> typing.Any:
        ...
    def read(self) -> MmapSection:
        """
        A read section: with mm.mmap_lock.read(): ... Waits behind waiting writers.
        """
    def try_read(self) -> MmapSection:
        """
        with mm.mmap_lock.try_read() as got: got is False where that would wait.
        """
    def try_write(self) -> MmapSection:
        """
        with mm.mmap_lock.try_write() as got: got is False where that would wait.
        """
    def write(self) -> MmapSection:
        """
        A write section: with mm.mmap_lock.write(): ...
        """
    @property
    def contended(self) -> bool:
        """
        Whether anybody waits.
        """
    @property
    def locked(self) -> bool:
        """
        Whether anybody is inside.
        """
    @property
    def readers(self) -> int:
        """
        How many readers are inside.
        """
    @property
    def write_locked(self) -> bool:
        """
        Whether a writer is inside.
        """
class Khugepaged:
    """
    The machine's khugepaged: looks for extents to collapse, in all its mms.
    
    Machine.khugepaged. ClosedError once the machine is closed.
    """
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def scan(self) -> int:
        """
        One pass over every extent of every mm, in this thread; returns how many it changed (int): 0 once all that can be huge is.
        """
    def start(self, interval: typing.Any = 0.01) -> None:
        """
        Starts the thread: it looks at pages_to_scan pages, rests for `interval` seconds, and so on.
        
        Started again, it goes on with the new interval. It needs a CPU of the machine: UsageError where all are taken.
        """
    def stop(self) -> None:
        """
        Stops the thread, and waits for the end of its round. Harmless where it does not run.
        """
    @property
    def max_ptes_none(self) -> int:
        """
        How many of an extent's pages may be holes (int; all but one, as in Linux, unless set: 511 on x86-64).
        """
    @max_ptes_none.setter
    def max_ptes_none(self, arg1: typing.Any) -> None:
        ...
    @property
    def max_ptes_shared(self) -> int:
        """
        How many of an extent's pages other programs may share since a fork (int; half of them, as in Linux, unless set).
        """
    @max_ptes_shared.setter
    def max_ptes_shared(self, arg1: typing.Any) -> None:
        ...
    @property
    def max_ptes_swap(self) -> int:
        """
        How many entries that are not present an extent may have (int; an eighth of its pages, as in Linux, unless set).
        """
    @max_ptes_swap.setter
    def max_ptes_swap(self, arg1: typing.Any) -> None:
        ...
    @property
    def pages_to_scan(self) -> int:
        """
        How many pages the thread looks at in one round (int; eight extents, as in Linux, unless set).
        """
    @pages_to_scan.setter
    def pages_to_scan(self, arg1: typing.Any) -> None:
        ...
    @property
    def running(self) -> bool:
        """
        Whether the thread was started (bool).
        """
class Userfaultfd:
    """
    Ranges of an Mm whose faults wait until somebody has resolved them. Made by Mm.userfaultfd().
    
    A thread reads what happened, and answers with copy(), zeropage(), continue_(), poison(), move() or
    writeprotect(on=False); each wakes the faults of its range, and they try again::
    
        def pager(uffd):
            for message in uffd:                         # ends when the userfaultfd is closed
                if isinstance(message, pgtbl.UffdPagefault):
                    uffd.zeropage(message.address, 4096)
    
    A thread that waits ends with Ctrl-C, if it is the main thread, or with ClosedError when its mm or machine is closed; when
    the userfaultfd is closed its fault is served as any other. Addresses are bytes, lengths bytes or text like "2MiB"; whole
    pages are needed. Calls raise OSError with the ioctl's errno; those that fill raise OSError(EAGAIN) while a change of the
    mapping waits to be read, or where only some pages were put in. wake=False leaves the faults asleep until wake().
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __iter__(self) -> typing.Any:
        ...
    def __next__(self) -> UffdMessage:
        """
        As read(), until the userfaultfd is closed.
        """
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def close(self) -> None:
        """
        Every range is given up, and what waits goes on. Harmless if repeated; done when the object goes.
        """
    def continue_(self, addr: typing.Any, length: int | str | None = None, wp: bool = False, wake: bool = True) -> None:
        """
        UFFDIO_CONTINUE: maps the pages that the file has. OSError(EFAULT) where it has none; else as copy().
        """
    def copy(self, addr: int, data: typing.Any, wp: bool = False, wake: bool = True) -> None:
        """
        UFFDIO_COPY: whole pages of data (any contiguous buffer) where nothing is mapped; wp: protected at once.
        
        OSError: ENOENT (not registered), EEXIST (a page is there), EAGAIN (see above; or the table has just gone).
        """
    def move(self, to: int, source: int, length: int | str, allow_holes: bool = False, wake: bool = True) -> None:
        """
        UFFDIO_MOVE (Linux 6.8; here from v6.13 on): private pages go from source to the registered `to`, uncopied.
        
        OSError: ENOENT (nothing at the source, unless allow_holes), EEXIST (a page is at the destination), EBUSY (somebody else
        has the page: after a fork, or by a pin), EINVAL (not private anonymous memory, or another protection), EAGAIN.
        """
    def poison(self, addr: typing.Any, length: int | str | None = None, wake: bool = True) -> None:
        """
        UFFDIO_POISON (v6.6): an access to these pages raises BusError from now on; MADV_DONTNEED ends that.
        
        Errors as copy(); OSError(EINVAL) before v6.6.
        """
    def read(self, timeout: float | None = None) -> UffdMessage | None:
        """
        The next message, waited for without the GIL; None when `timeout` seconds have gone by. Ctrl-C ends it.
        
        Faults come before events. A call that changed a mapping (fork, mremap, munmap, madvise) goes on when its event was read.
        ClosedError where the userfaultfd is closed, also meanwhile by another thread.
        """
    def register(self, addr: typing.Any, length: int | str | None, modes: collections.abc.Iterable) -> None:
        """
        UFFDIO_REGISTER. modes: of "missing" (nothing is there), "minor" (the file has the page, the table does
        not) and "wp" (a store to what writeprotect() protected).
        
        OSError: EINVAL (alignment, nothing mapped, minor for anonymous memory), EBUSY (another userfaultfd has it).
        """
    def serve(self, word: int = 0) -> UffdServer:
        """
        Starts a thread that resolves every fault: a UffdServer. It needs a CPU of the machine (cpus=).
        
        A missing page gets `word` all over, a minor fault the file's page, a store to a protected page the right to write. Events
        are read, so that nobody waits for them. UsageError with EVENT_FORK, or where there is one already.
        """
    def unregister(self, addr: typing.Any, length: int | str | None = None) -> None:
        """
        UFFDIO_UNREGISTER: faults are served again, those that wait too, and protection ends.
        """
    def wake(self, addr: typing.Any, length: int | str | None = None) -> None:
        """
        UFFDIO_WAKE: the faults that wait in the range try again.
        """
    def writeprotect(self, addr: typing.Any, length: int | str | None = None, on: bool = True, wake: bool = True) -> None:
        """
        UFFDIO_WRITEPROTECT: protects what is mapped (of a file also what is not), or ends that with on=False.
        
        OSError(ENOENT) where the range is not registered for "wp".
        """
    def zeropage(self, addr: typing.Any, length: int | str | None = None, wake: bool = True) -> None:
        """
        UFFDIO_ZEROPAGE: pages of zeros where nothing is mapped. Errors as copy().
        """
    @property
    def closed(self) -> bool:
        """
        Whether it, its mm or its machine was closed.
        """
    @property
    def features(self) -> list[str]:
        """
        Names of its features (list of str).
        """
    @property
    def mm(self) -> Mm:
        """
        The Mm that it is of.
        """
    @property
    def waiting(self) -> int:
        """
        How many faults wait, read or not (int).
        """
class UffdMessage:
    """
    What a Userfaultfd tells: one of the classes below.
    """
    def __reduce__(self) -> typing.Any:
        ...
class UffdPagefault(UffdMessage):
    """
    A fault that waits until somebody resolves it, or wakes it.
    """
    __match_args__: typing.ClassVar[tuple] = ('address', 'kind', 'write')
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    @property
    def address(self) -> int:
        """
        Of the page; with EXACT_ADDRESS of the access (int).
        """
    @property
    def kind(self) -> str:
        """
        "missing", "minor" or "wp" (str).
        """
    @property
    def thread_id(self) -> int:
        """
        The thread's number for the kernel, with THREAD_ID; else 0 (int).
        """
    @property
    def write(self) -> bool:
        """
        Whether the access is a store (bool).
        """
class UffdFork(UffdMessage):
    """
    The program forked (EVENT_FORK); fork() goes on now that this was read.
    """
    __match_args__: typing.ClassVar[tuple] = ('uffd',)
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    @property
    def uffd(self) -> Userfaultfd:
        """
        The child's Userfaultfd: its faults are reported there, and nowhere else.
        """
class UffdRemap(UffdMessage):
    """
    A registered mapping moved, and its registration with it (EVENT_REMAP).
    """
    __match_args__: typing.ClassVar[tuple] = ('old', 'new', 'length')
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    @property
    def length(self) -> int:
        """
        Bytes that moved (int).
        """
    @property
    def new(self) -> int:
        """
        Where it is (int).
        """
    @property
    def old(self) -> int:
        """
        Where it was (int).
        """
class UffdRemove(UffdMessage):
    """
    MADV_DONTNEED, MADV_FREE or MADV_REMOVE of a registered range (EVENT_REMOVE): what is there goes as soon as this was read.
    """
    __match_args__: typing.ClassVar[tuple] = ('start', 'end')
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self: UffdMessage) -> str:
        ...
    @property
    def end(self) -> int:
        """
        First byte behind it (int).
        """
    @property
    def start(self) -> int:
        """
        First byte (int).
        """
class UffdUnmap(UffdMessage):
    """
    A range with registered mappings was unmapped (EVENT_UNMAP).
    """
    __match_args__: typing.ClassVar[tuple] = ('start', 'end')
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self: UffdMessage) -> str:
        ...
    @property
    def end(self) -> int:
        """
        First byte behind it (int).
        """
    @property
    def start(self) -> int:
        """
        First byte (int).
        """
class UffdServer:
    """
    A thread of the laboratory's own that resolves the faults of a Userfaultfd. Made by Userfaultfd.serve().
    
    It ends with stop(), at the end of its with block, and with the userfaultfd.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def stop(self) -> None:
        """
        The thread ends; faults wait from now on. Harmless if repeated.
        """
    @property
    def running(self) -> bool:
        """
        Whether its thread runs (bool).
        """
    @property
    def served(self) -> int:
        """
        How many faults it resolved (int).
        """
class Pin:
    """
    References to pages of a program, as somebody has them who works on its memory behind its back. Made by Mm.pin().
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def close(self) -> None:
        """
        Gives the references back. Harmless if repeated.
        """
    @property
    def closed(self) -> bool:
        """
        Whether they were given back.
        """
    @property
    def frames(self) -> list[int]:
        """
        Numbers of the frames, in order; [] once closed (list of int).
        """
    @property
    def pages(self) -> int:
        """
        How many pages it got (int).
        """
class SecondaryMmu:
    """
    A device that works on the memory of an Mm by its addresses. Made by Mm.secondary_mmu().
    
    It remembers translations, and mmu notifiers make it forget those that change. One that it uses after its frame was freed raises
    InvariantError (G-16) with the histories of both; Machine.check() compares what it remembers with the page tables.
    """
    def __enter__(self) -> typing_extensions.Self:
        ...
    def __exit__(self, *args: typing.Any) -> None:
        ...
    def __reduce__(self) -> typing.Any:
        ...
    def __repr__(self) -> str:
        ...
    def close(self) -> None:
        """
        It forgets everything and works no more: ClosedError. Harmless if repeated.
        """
    def frame(self, addr: int) -> int | None:
        """
        Number of the frame that it has for addr; None where it would have to look (int or None).
        """
    def load(self, addr: int) -> int:
        """
        The 64-bit word at addr, a multiple of 8, as the device sees it.
        
        A walker raises what the program's access would raise; a shadow OSError(EFAULT) where the page can not be had.
        """
    def start(self, addr: typing.Any, length: int | str | None = None, write: bool = False, seed: int = 0) -> None:
        """
        Starts a thread that accesses random pages of the range: loads, or with write=True stores that change nothing.
        
        It needs a CPU of the machine (cpus=). What is not mapped is passed over. UsageError where it runs already.
        """
    def stop(self) -> None:
        """
        Ends that thread. Harmless if repeated.
        """
    def store(self, addr: int, word: int) -> None:
        """
        The device stores a 64-bit word at addr, a multiple of 8.
        """
    @property
    def accesses(self) -> int:
        """
        How many accesses it has made (int).
        """
    @property
    def kind(self) -> str:
        """
        "shadow" or "walker" (str).
        """
    @property
    def running(self) -> bool:
        """
        Whether its thread runs (bool).
        """
    @property
    def translations(self) -> int:
        """
        How many pages it has a translation of (int).
        """
def arch_load(*, arch: str = 'x86-64', one_table: bool = False, seconds: typing.Any = 1.0, churners: typing.SupportsIndex = 2, walkers: typing.SupportsIndex = 1, programs: typing.SupportsIndex = 2, slots: typing.SupportsIndex = 512, batch_percent: typing.SupportsIndex = 50, seed: typing.SupportsIndex = 1) -> dict:
    """
    Real threads that make, walk and free page tables of one architecture; pgtbl.arch.load() says more.
    
    Returns a dict of counts. ValueError for an unknown architecture or numbers that make no run.
    """
def architectures() -> list:
    """
    The architectures, one dict for each form of their tables: name, form, eras (that have this form), page_size (bytes), entries (of a PTE table), tables_per_page, levels, split_ptl, split_pml, vma_locks and thp (whether it has them).
    """
def build_info() -> dict:
    """
    How this module was built: a dict (version, world, compiler, sanitize, ...).
    """
def echo(value: int) -> int:
    """
    Returns value, an int from 0 to 2**64 - 1: the least that a call into C costs.
    """
def eras() -> list[str]:
    """
    Names of the eras: the kernel releases whose rules a Machine can follow (list of str).
    """
def guards() -> list:
    """
    The named lines that each prevent a bug, one dict each: name, prevents (bug or invariant), since (era), doc.
    """
def ledger_names() -> dict:
    """
    What each row of a Ledger counts: a dict of names to sentences.
    """
def lock_starve(readers: typing.SupportsIndex = 4, milliseconds: typing.SupportsIndex = 100, section_ns: typing.SupportsIndex = 1000, pause_ns: typing.SupportsIndex = 20000) -> dict:
    """
    What one writer waits (ns, entry by entry) among readers that loop without a pause.
    """
def lock_stress(kind: str, threads: typing.SupportsIndex = 2, locks: typing.SupportsIndex = 1, milliseconds: typing.SupportsIndex = 100, inside: typing.SupportsIndex = 50, outside: typing.SupportsIndex = 50, write_percent: typing.SupportsIndex = 10, downgrade_percent: typing.SupportsIndex = 0, try_percent: typing.SupportsIndex = 0, seed: typing.SupportsIndex = 1) -> dict:
    """
    Threads that do nothing but lock ('spin' or 'rwsem') for some milliseconds, checking that they are alone; a dict of what they did and of what their ledgers counted. inside and outside are rounds of about 1 ns.
    """
def race_round(*, era: str, switches: collections.abc.Sequence[tuple[str, typing.SupportsIndex]], memory: typing.SupportsIndex, files: collections.abc.Sequence[typing.SupportsIndex], mms: typing.SupportsIndex, setup: numpy.ndarray, walkers: collections.abc.Sequence[numpy.ndarray], rates: collections.abc.Sequence[typing.SupportsFloat], gaps: collections.abc.Sequence[typing.SupportsFloat], idle_ns: typing.SupportsIndex, loaded_ns: typing.SupportsIndex, max_samples: typing.SupportsIndex, processors: typing.SupportsIndex, mode: str, collapse_file: typing.SupportsIndex, collapse_base: typing.SupportsIndex, collapse_mms: collections.abc.Sequence[typing.SupportsIndex], collapsers: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsIndex]], khugepaged_every: typing.SupportsIndex, collapse_rate: typing.SupportsFloat = 0.0) -> dict:
    """
    One round of pgtbl.race(): a machine of one era, walkers on a schedule, collapsers beside them.
    
    Blocks without the GIL; a signal ends it early. Use pgtbl.race().
    """
def rcu_torture(seconds: typing.Any = 1.0, *, readers: typing.SupportsIndex = 2, updaters: typing.SupportsIndex = 2, fakes: typing.SupportsIndex = 2, visitors: typing.SupportsIndex = 1, seed: typing.SupportsIndex = 1, delays: str = 'short', ways: collections.abc.Sequence[str] = [], without: collections.abc.Sequence[str] = [], membarrier: bool = True, stop_at_error: bool = True) -> dict:
    """
    Tortures an RCU domain, after the kernel's rcutorture, and counts what it got wrong.
    
    Updaters publish objects and retire them by every kind of grace period; readers hold them over sections and
    report an object that is older than one grace period, or poisoned.
    
    delays: "short" (sections of nanoseconds, many updates: finds missing fences) or "long" (sections of
    microseconds to milliseconds: finds grace periods that do not wait). ways: which of "synchronize",
    "expedited", "call", "polled" and "conditional" are used; empty for all. without: names of guards to take
    away (in pgtbl._torture only). membarrier=False: with the readers' own fences. Each run takes `seconds`
    seconds, unless an error ends it.
    
    Returns a dict: reads, updates, updates_by_way, visits, cookies, barriers, ages (how many sections held an
    object of that age; beyond 1 is an error), errors, first_error, first_error_seconds, rcu (statistics).
    """
def replay_program(*, era: str, switches: collections.abc.Sequence[tuple[str, typing.SupportsIndex]], memory: typing.SupportsIndex, files: collections.abc.Sequence[typing.SupportsIndex], spaces: typing.SupportsIndex, threads: collections.abc.Sequence[numpy.ndarray], collapsers: typing.SupportsIndex, max_ptes_none: typing.SupportsIndex) -> dict:
    """
    A recorded program, performed once by as many threads as it had, collapsers beside it.
    
    Blocks without the GIL; a signal ends it early. Use pgtbl.replay().
    """
def stress(*, era: str = 'v6.6', switches: collections.abc.Mapping[str, typing.SupportsIndex] = {}, seed: typing.SupportsIndex = 1, seconds: typing.Any = 1.0, ops: typing.SupportsIndex | None = None, mix: collections.abc.Mapping[str, typing.SupportsIndex] | None = None, memory: typing.Any = '128MiB', mms: typing.SupportsIndex = 3, extents: typing.SupportsIndex = 3, alloc: str = 'reuse', broadcast_flush: bool = False, jitter: typing.SupportsIndex = 0) -> dict:
    """
    Lets many threads do everything at once on a machine of its own, and looks whether anything gets lost.
    
    Writers store stamps through several mappings in several mms, readers look for them through others and in the page
    cache, while extents collapse, fall apart, are punched, truncated, mapped, unmapped and protected, and programs come
    and go. The machine is checked at the end, with everything mapped, and again with everything closed.
    
    era, switches, alloc, broadcast_flush: as for Machine; memory likewise, from 16 huge pages on (32 MiB on x86).
    seed: of every thread's choices; the interleaving is the processor's.
    seconds, ops: the run ends after this time or so many operations, whichever comes first.
    mix: threads of each role, a dict; roles that are not named get none. By default writer 2, reader 1, collapser 1,
    khugepaged 1, puncher 1, mapper 2, truncator 1 (at most one), program 1.
    mms, extents: how many programs map the file, and how many of its extents hold stamps.
    jitter: in the torture build, threads rest once in so many times at a point where they could be paused.
    
    Returns a dict: clean (bool), interrupted (bool), seconds, ops (operations done), done (by kind), and three lists
    of str that are empty in a clean run: lost (contents that were wrong), breaches, errors. Ctrl-C ends it early:
    interrupted says so. ValueError for options that make no run.
    """
def switches() -> list:
    """
    The rules that make an era, one dict each: name, highest (allowed value), doc, and eras (value in each era).
    """
MADV_COLD: int = 20
MADV_COLLAPSE: int = 25
MADV_DODUMP: int = 17
MADV_DOFORK: int = 11
MADV_DONTDUMP: int = 16
MADV_DONTFORK: int = 10
MADV_DONTNEED: int = 4
MADV_DONTNEED_LOCKED: int = 24
MADV_FREE: int = 8
MADV_GUARD_INSTALL: int = 102
MADV_GUARD_REMOVE: int = 103
MADV_HUGEPAGE: int = 14
MADV_KEEPONFORK: int = 19
MADV_NOHUGEPAGE: int = 15
MADV_NORMAL: int = 0
MADV_PAGEOUT: int = 21
MADV_POPULATE_READ: int = 22
MADV_POPULATE_WRITE: int = 23
MADV_RANDOM: int = 1
MADV_REMOVE: int = 9
MADV_SEQUENTIAL: int = 2
MADV_WILLNEED: int = 3
MADV_WIPEONFORK: int = 18
PAGE_SIZE: int = 4096
PMD_SIZE: int = 2097152
TASK_SIZE: int = 140737488355328
VM_EXEC: int = 4
VM_READ: int = 1
VM_SHARED: int = 8
VM_WRITE: int = 2
__version__: str
