"""Refuses what the house rules of csrc/ forbid, and says where.

The core is written once and compiled into several worlds (real threads, the explorer's model). That works
only while every atomic access, lock, thread and allocation goes through csrc/world/. So outside of
csrc/world/ and csrc/bindings/ this check refuses raw atomics, fences, locks, threads, thread-local storage,
clocks (csrc/lab/ excepted, which measures) and raw allocation. And a layer may include only itself and the
layers above it in LAYERS.

    python tools/check_world.py [CSRC]        exit status 1 when anything is refused
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# From the machine up to Python; each may include itself and what stands before it.
LAYERS = (
    "world",
    "base",
    "sync",
    "memory",
    "arch",
    "pgtable",
    "mm",
    "khugepaged",
    "check",
    "explore",
    "lab",
    "bindings",
)
# These stand beside each other, not on each other: one lives in the model world, one in the real one.
# What the sizes of a build are, world/ has from arch/: constants, which stand on nothing but integers.
SIZES = ("world", "arch/geometry.hpp")
APART = {("lab", "explore"), ("explore", "lab"), ("bindings", "explore")}
# The one file of bindings/ that is compiled in the model world alone, and what it has of those in both.
MODEL_BINDING = Path("bindings", "explore.cpp")
IN_BOTH_WORLDS = frozenset({"bindings/gil.hpp"})
# Only these may look behind the seam, at one end of world/.
ENDS_FOR = {"world", "explore", "lab", "bindings"}
SUFFIXES = {".cpp", ".hpp", ".cc", ".hh", ".h", ".inc"}


class Rule(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    advice: str
    exempt: frozenset[str] = frozenset({"world", "bindings"})


def words(*names: str) -> str:
    return "(?:" + "|".join(names) + r")\b"


RULES = (
    Rule(
        "raw atomic",
        re.compile(
            r"\b(?:std\s*::\s*"
            + words(r"atomic\w*", r"memory_order_\w+", "kill_dependency")
            + r"|__atomic_\w+|__sync_\w+|_Atomic\b)"
        ),
        "use atomic<T> and the fences of world/",
    ),
    Rule(
        "raw lock",
        re.compile(
            r"\b(?:std\s*::\s*"
            + words(
                r"(?:recursive_|timed_|recursive_timed_|shared_|shared_timed_)?mutex",
                r"condition_variable\w*",
                "lock_guard",
                "unique_lock",
                "shared_lock",
                "scoped_lock",
                r"\w*_semaphore",
                "latch",
                "barrier",
                "once_flag",
                "call_once",
            )
            + r"|pthread_\w+|sem_(?:wait|post|init)\b|SYS_futex\b)"
        ),
        "use the locks of sync/, which count into the ledger and are known to the explorer",
    ),
    Rule(
        "raw thread",
        re.compile(
            r"\b(?:std\s*::\s*"
            + words(
                "thread",
                "jthread",
                "this_thread",
                "async",
                "future",
                "promise",
                "stop_token",
                "stop_source",
            )
            + r"|sched_yield\s*\(|(?:nano|u)sleep\s*\(|fork\s*\(\s*\)|SYS_membarrier\b)"
        ),
        "use the threads, await and wait/notify of world/",
    ),
    Rule(
        "thread-local storage",
        re.compile(r"\b(?:thread_local|__thread)\b"),
        "pass the cpu explicitly and first",
    ),
    Rule(
        "header of the seam",
        re.compile(
            r"#\s*include\s*<(?:atomic|mutex|shared_mutex|thread|stop_token|condition_variable|semaphore|latch"
            r"|barrier|future|pthread\.h|semaphore\.h|threads\.h|stdatomic\.h|immintrin\.h|x86intrin\.h)>"
        ),
        "include the header of world/ instead",
    ),
    Rule(
        "clock",
        re.compile(
            r"\b(?:std\s*::\s*chrono\s*::\s*\w+_clock\b|clock_gettime\s*\(|gettimeofday\s*\(|__?rdtscp?\b"
            r"|__builtin_ia32_rdtscp?\b)"
        ),
        "take the time from world/: the model world has none",
        frozenset({"world", "lab", "bindings", "explore"}),  # the explorer stops when its time is up,
    ),
    Rule(
        "processor instruction",
        re.compile(r"\b(?:__asm__|__asm|asm)\b|\b(?:_mm_\w+|__builtin_ia32_\w+)"),
        "put it behind a function of world/",
    ),
    # Placement new, `new (p) T`, allocates nothing and is allowed; new (std::nothrow) does.
    Rule(
        "raw new",
        re.compile(
            r"\bnew\b(?!\s*\()|\bnew\s*\(\s*(?:std\s*::\s*)?(?:nothrow|align_val_t)\b|\boperator\s+new\s*(?:\[\s*\])?\s*\("
        ),
        "allocate in memory/, or own it in a container or unique_ptr of a set-up",
    ),
    Rule(
        "raw delete",
        re.compile(
            r"(?<!=)(?<!= )(?<!operator )\bdelete\b|\boperator\s+delete\s*(?:\[\s*\])?\s*\("
        ),
        "free through memory/, or let the owner's destructor do it",
    ),
    Rule(
        "raw allocation",
        re.compile(
            r"(?<![\w.>])(?:(?:std)?\s*::\s*)?" + words("malloc", "calloc", "realloc", "aligned_alloc")
            + r"\s*\(|\bposix_memalign\s*\(|(?<![\w.>])std\s*::\s*free\s*\("
            + r"|(?<![\w>:])::\s*(?:mmap|munmap|madvise|free)\s*\("
        ),
        "allocate in memory/; the arena's reservation is made by world/",
    ),
)  # fmt: skip

TOKEN = re.compile(
    r"""
    (?P<raw>  \b(?:u8|u|U|L)?R"(?P<delim>[^()\\\s]{0,16})\(.*?\)(?P=delim)" )
  | (?P<line> //(?:\\\n|[^\n])* )
  | (?P<block> /\*.*?(?:\*/|\Z) )
  | (?P<include> ^[ \t]*\#[ \t]*include[ \t]*[^\n]* )
  | (?P<number> (?<![\w.])\.?\d(?:[eEpP][+-]|'(?=\w)|[\w.])* )
  | (?P<string> "(?:\\.|[^"\\\n])*" )
  | (?P<char> '(?:\\.|[^'\\\n])+' )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"(?P<path>[^"]*)"', re.MULTILINE)


def strip(text: str) -> str:
    """The code alone: comments, strings and characters become blanks; lines keep their numbers."""

    def blank(match: re.Match[str]) -> str:
        if match.lastgroup == "number":
            return match[0]
        if match["include"] is not None:
            return COMMENT.sub(" ", match[0])
        return re.sub(r"[^\n]", " ", match[0])

    return TOKEN.sub(blank, text)


class Finding(NamedTuple):
    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def refused_include(layer: str, target: str) -> str | None:
    """Why a file of `layer` may not include "target"; None when it may."""
    top = target.split("/", 1)[0]
    if "/" not in target or top not in LAYERS or ".." in target.split("/"):
        return f'include "{target}": write it relative to csrc/, as "layer/file.hpp"'
    if (layer, top) in APART:
        return f'include "{target}": {layer}/ and {top}/ live in different worlds'
    if LAYERS.index(top) > LAYERS.index(layer) and (layer, target) != SIZES:
        return f'include "{target}": {layer}/ stands below {top}/ and may not use it'
    if target.startswith(("world/real/", "world/model/")) and layer not in ENDS_FOR:
        return (
            f'include "{target}": {layer}/ may not look behind the seam; include "world/..." itself'
        )
    return None


def check_file(path: Path, layer: str, may: frozenset[str] = frozenset()) -> Iterator[Finding]:
    code = strip(path.read_text(encoding="utf-8"))
    for rule in RULES:
        if layer in rule.exempt:
            continue
        for match in rule.pattern.finditer(code):
            line = code.count("\n", 0, match.start()) + 1
            found = " ".join(match[0].split())
            yield Finding(path, line, f"{rule.name}: `{found}`; {rule.advice}")
    for match in INCLUDE.finditer(code):
        why = None if match["path"] in may else refused_include(layer, match["path"])
        if why is not None:
            yield Finding(path, code.count("\n", 0, match.start()) + 1, why)


def check(csrc: Path) -> list[Finding]:
    """All findings below `csrc`, in the order of files and lines."""
    findings: list[Finding] = []
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        layer = path.relative_to(csrc).parts[0]
        if layer not in LAYERS:
            findings.append(Finding(path, 1, f"unknown layer; csrc/ has {', '.join(LAYERS)}"))
            continue
        model = path.relative_to(csrc) == MODEL_BINDING
        found = check_file(path, "explore", IN_BOTH_WORLDS) if model else check_file(path, layer)
        findings += sorted(found, key=lambda finding: finding.line)
    return findings


def main(arguments: list[str]) -> int:
    csrc = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "csrc"
    if not csrc.is_dir():
        print(f"{csrc} is not a folder", file=sys.stderr)
        return 2
    findings = check(csrc)
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} breaches of the house rules", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
