"""csrc/ keeps the house rules, and the check that says so refuses planted breaches."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "check_world.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_world", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check_world = load()


def findings(tmp_path: Path, name: str, text: str) -> list[str]:
    path = tmp_path / "csrc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [
        f"{finding.line}: {finding.message}" for finding in check_world.check(tmp_path / "csrc")
    ]


def test_sources_keep_the_rules() -> None:
    assert [str(finding) for finding in check_world.check(ROOT / "csrc")] == []


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("std::atomic<int> x;", "raw atomic"),
        ("std :: atomic_ref<int> x(y);", "raw atomic"),
        ("std::atomic_thread_fence(o);", "raw atomic"),
        ("x.load(std::memory_order_relaxed);", "raw atomic"),
        ("__atomic_load_n(&x, 0);", "raw atomic"),
        ("std::mutex m;", "raw lock"),
        ("std::shared_mutex m;", "raw lock"),
        ("std::lock_guard g(m);", "raw lock"),
        ("std::condition_variable_any c;", "raw lock"),
        ("pthread_mutex_lock(&m);", "raw lock"),
        ("std::thread t;", "raw thread"),
        ("std::jthread t;", "raw thread"),
        ("std::this_thread::yield();", "raw thread"),
        ("thread_local int x;", "thread-local storage"),
        ("static __thread int x;", "thread-local storage"),
        ("#include <atomic>", "header of the seam"),
        ("# include <shared_mutex>", "header of the seam"),
        ("auto t = std::chrono::steady_clock::now();", "clock"),
        ('asm volatile("pause");', "processor instruction"),
        ("auto* p = new vma;", "raw new"),
        ("auto* p = new vma{1, 2};", "raw new"),
        ("auto* p = new (std::nothrow) vma;", "raw new"),
        ("delete p;", "raw delete"),
        ("delete[] p;", "raw delete"),
        ("void* p = malloc(8);", "raw allocation"),
        ("void* p = std::calloc(1, 8);", "raw allocation"),
        ("std::free(p);", "raw allocation"),
        ("::mmap(nullptr, n, 0, 0, -1, 0);", "raw allocation"),
    ],
)
def test_refuses(tmp_path: Path, code: str, rule: str) -> None:
    found = findings(tmp_path, "mm/fault.cpp", f"// line one\n\n{code}\n")
    assert [line for line in found if line.startswith(f"3: {rule}: ")] != []


@pytest.mark.parametrize("layer", ["world/real", "bindings"])
def test_the_machine_and_python_may(tmp_path: Path, layer: str) -> None:
    code = "#include <atomic>\nthread_local std::atomic<int>* x = new std::atomic<int>;\n"
    assert findings(tmp_path, f"{layer}/x.cpp", code) == []


@pytest.mark.parametrize(
    "code",
    [
        "// std::atomic<int> in a comment\n",
        "/* thread_local, new,\n   delete */\n",
        "// a comment that goes on \\\nstd::mutex m;\n",
        'auto s = "std::mutex \\" new";\n',
        'auto s = R"x(delete "p"; )" std::thread)x";\n',
        "auto n = 1'000'000; auto c = '\\''; auto d = 'n';  // ' new\n",
        "vma(const vma&) = delete;\n",
        "void operator=(vma&&) =delete;\n",
        "auto* p = new (place) vma{1};\n",
        "arena.free(frame); void free(frame f); mm.mmap(file); area->munmap(a, n);\n",
        "bool new_table = renew(table); newer.deleted = false;\n",
        "atomic<std::uint64_t> entry; world::fence(); spinlock ptl;\n",
        "namespace pgtbl { int delete_me; int mutex; int thread; }\n",
    ],
)
def test_allows(tmp_path: Path, code: str) -> None:
    assert findings(tmp_path, "mm/fault.cpp", code) == []


@pytest.mark.parametrize(
    ("name", "include"),
    [
        ("base/ledger.hpp", "sync/rcu.hpp"),
        ("pgtable/walk.hpp", "mm/mm.hpp"),
        ("mm/fault.cpp", "check/lock_order.hpp"),
        ("check/scan.cpp", "explore/engine.hpp"),
        ("bindings/explore.cpp", "bindings/size.hpp"),
        ("khugepaged/v6_6.cpp", "bindings/bind.hpp"),
        ("lab/race.cpp", "bindings/bind.hpp"),
        ("lab/race.cpp", "explore/engine.hpp"),
        ("mm/fault.cpp", "world/real/atomic.hpp"),
        ("mm/fault.cpp", "zap.hpp"),
        ("mm/fault.cpp", "../sync/rcu.hpp"),
        ("mm/fault.cpp", "mm/../lab/race.hpp"),
        ("mm/fault.cpp", "elsewhere/x.hpp"),
    ],
)
def test_refuses_include(tmp_path: Path, name: str, include: str) -> None:
    found = findings(tmp_path, name, f'#pragma once\n#include "{include}"  // why\n')
    assert len(found) == 1
    assert found[0].startswith(f'2: include "{include}"')


@pytest.mark.parametrize(
    ("name", "include"),
    [
        ("mm/fault.cpp", "mm/zap.hpp"),
        ("mm/fault.cpp", "world/atomic.hpp"),
        ("check/scan.cpp", "khugepaged/collapse.hpp"),
        ("lab/race.cpp", "check/scan.hpp"),
        ("lab/race.cpp", "world/real/clock.hpp"),
        ("explore/engine.cpp", "world/model/atomic.hpp"),
        ("bindings/module.cpp", "lab/race.hpp"),
        ("bindings/explore.cpp", "bindings/gil.hpp"),
    ],
)
def test_allows_include(tmp_path: Path, name: str, include: str) -> None:
    assert findings(tmp_path, name, f'#include "{include}"\n// #include "lab/x.hpp"\n') == []


def test_refuses_an_unknown_layer(tmp_path: Path) -> None:
    assert findings(tmp_path, "util/x.hpp", "#pragma once\n")[0].startswith("1: unknown layer")


def test_command_line(tmp_path: Path) -> None:
    findings(tmp_path, "mm/fault.cpp", "\nstd::mutex m;\n")
    command = [sys.executable, str(TOOL), str(tmp_path / "csrc")]
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "fault.cpp:2: raw lock: `std::mutex`" in bad.stdout
    (tmp_path / "csrc" / "mm" / "fault.cpp").write_text("int x;\n")
    assert subprocess.run(command, check=False).returncode == 0
    assert subprocess.run([*command[:2], str(tmp_path / "none")], check=False, capture_output=True).returncode == 2  # fmt: skip


def test_every_named_pause_has_its_place() -> None:
    """A name alone would be accepted by torture.pause(), and never be reached."""
    from pgtbl import torture

    placed: set[str] = set()
    for path in (ROOT / "csrc").rglob("*.[ch]pp"):
        placed.update(re.findall(r"pause_at\([^;]*point::(\w+)", path.read_text()))
    assert set(torture.points()) == placed
