"""What the checks of the compiled core in checks/ run, and what they make of the tools' reports."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers import run_isolated

# The checkout, beside which no package of this name is installed.
sys.path.insert(0, str(Path(__file__).parent.parent))

from checks import leaks, long, memcheck, native, races

SANITIZER = """
=================================================================
==8180==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 77 byte(s) in 1 object(s) allocated from:
    #0 0x7fc21fab89cf in __interceptor_malloc ../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x7fc21d4b0bf6 in bus_emit src/bus.c:216
    #2 0x7fc21f564edd in method_vectorcall_FASTCALL Objects/descrobject.c:407

Indirect leak of 56 byte(s) in 1 object(s) allocated from:
    #0 0x7fc21fab78d5 in __interceptor_realloc ../src/libsanitizer/asan/asan_malloc_linux.cpp:85
    #1 0x7fc21f5d39f6 in resize_compact Objects/unicodeobject.c:1060

SUMMARY: AddressSanitizer: 133 byte(s) leaked in 2 allocation(s).
"""
OVERRUN = """
==1==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602000000017
READ of size 1 at 0x602000000017 thread T0
    #0 0x7fc21f5d39f6 in resize_compact Objects/unicodeobject.c:1060
"""
MEMCHECK = """
==7== Memcheck, a memory error detector
==7== Command: python -S smoke.py 1
==7==
==7== Conditional jump or move depends on uninitialised value(s)
==7==    at 0x49E04DA: maybe_small_long (/build/Python/Objects/longobject.c:71)
==7==    by 0x49E075F: int_from_bytes_impl (/build/Python/Objects/longobject.c:5946)
==7==
==7== Invalid read of size 4
==7==    at 0x7B6D9C2: bus_emit (/tmp/source/src/bus.c:193)
==7==    by 0x49E075F: method_vectorcall_FASTCALL (/build/Python/Objects/descrobject.c:407)
==7==  Address 0x6aa2a40 is 0 bytes inside a block of size 8 free'd
==7==    at 0x48431EF: free (in /usr/lib/valgrind/vgpreload_memcheck.so)
==7==
ok
==7==
==7== ERROR SUMMARY: 2 errors from 2 contexts (suppressed: 0 from 0)
"""
RACE = """
==================
WARNING: ThreadSanitizer: data race (pid=22146)
  Read of size 8 at 0x7ffff2b56198 by thread T4:
    #0 bus_emit src/bus.c:216 (_core.cpython-313-x86_64-linux-gnu.so+0x9eab)
    #1 method_vectorcall_FASTCALL Objects/descrobject.c:401 (libpython3.13.so.1.0+0xfd344)

  Previous write of size 8 at 0x7ffff2b56198 by thread T5:
    #0 bus_emit src/bus.c:216 (_core.cpython-313-x86_64-linux-gnu.so+0x9ebe)
    #1 _PyEval_EvalFrameDefault Python/generated_cases.c.h:1640 (libpython3.13.so.1.0+0x92cd8)

SUMMARY: ThreadSanitizer: data race src/bus.c:216 in bus_emit
==================
==================
WARNING: ThreadSanitizer: data race (pid=22146)
  Read of size 8 at 0x7ffff2b56200 by thread T4:
    #0 dict_get Objects/dictobject.c:216 (libpython3.13.so.1.0+0x9eab)
    #1 _PyEval_EvalFrameDefault Python/generated_cases.c.h:1640 (libpython3.13.so.1.0+0x92cd8)
    #2 bus_emit src/bus.c:216 (_core.cpython-313-x86_64-linux-gnu.so+0x9ebe)

  Previous write of size 8 at 0x7ffff2b56200 by thread T5:
    #0 dict_set Objects/dictobject.c:216 (libpython3.13.so.1.0+0x9eab)
    #1 _PyEval_EvalFrameDefault Python/generated_cases.c.h:1640 (libpython3.13.so.1.0+0x92cd8)

SUMMARY: ThreadSanitizer: data race Objects/dictobject.c:216 in dict_get
==================
ok
"""


def test_every_kind_of_operation_leaves_no_object_behind() -> None:
    assert run_isolated("smoke.py").strip() == "ok"


def test_many_threads_use_one_bus() -> None:
    assert run_isolated("parallel.py", "threads", "0.5").strip() == "ok"


def test_interpreters_with_a_lock_each_use_the_core_at_once() -> None:
    output = run_isolated("parallel.py", "interpreters", "0.5").strip()
    if output == "unavailable":
        pytest.skip("3.13 is the first that bears interpreters with a lock each")
    assert output == "ok"


def test_a_leak_counts_when_the_core_is_in_its_stack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = leaks.leaks(SANITIZER)
    assert [native.ours(leak) for leak in found] == [True, False]
    (tmp_path / "report.1").write_text(SANITIZER)
    assert leaks.judge(tmp_path) == native.FOUND
    (tmp_path / "report.1").write_text(SANITIZER.replace("src/bus.c", "src/other.c"))
    assert leaks.judge(tmp_path) == 0
    assert "0 leaks" in capsys.readouterr().out


def test_what_is_no_leak_counts_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.1").write_text(OVERRUN)
    assert leaks.judge(tmp_path) == native.FOUND


def test_an_error_of_memcheck_counts_when_the_core_is_in_its_stack() -> None:
    assert [native.ours(error) for error in memcheck.errors(MEMCHECK)] == [False, True]


def test_a_race_counts_when_no_python_code_is_between() -> None:
    assert [races.is_ours(report) for report in races.reports(RACE)] == [True, False]


@pytest.mark.parametrize(
    ("status", "lines", "result"),
    [
        (0, ["figures: 3 calls"], "passed"),
        (1, ["figures: 3 calls"], "FAILED"),
        (-9, ["figures: 3 calls"], "FAILED"),
        (0, ["1 passed"], "FAILED"),  # it has not said what it did
        (0, ["SKIPPED [1] no compiler", "1 skipped"], "skipped"),
        (1, ["SKIPPED [1] no compiler", "1 failed"], "FAILED"),
        (native.CANNOT_RUN, ["cannot run: no valgrind"], "skipped"),
    ],
)
def test_a_long_form_has_passed_when_it_names_its_figures(
    status: int, lines: list[str], result: str
) -> None:
    assert long.judge(status, lines, long.OF_A_TEST)[0] == result


def test_a_long_form_is_run_with_its_settings_and_no_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AEB_HOSTILE", "1")
    code = "import os; print(sorted(name for name in os.environ if name[:4] == 'AEB_')); exit(3)"
    status, lines = long.run(f"AEB_KILL_ROUNDS=5 python -c {shlex.quote(code)}")
    assert (status, lines) == (3, ["['AEB_KILL_ROUNDS']"])
    assert capsys.readouterr().out == "['AEB_KILL_ROUNDS']\n"


@pytest.mark.parametrize("check", long.CHECKS, ids=lambda check: check.name)
def test_every_long_form_sets_what_is_read_and_runs_what_is_there(check: long.Check) -> None:
    words = shlex.split(check.scaled(1))
    script, *further = [
        Path(word) if word[-3:] == ".py" else Path(*word.split(".")).with_suffix(".py")
        for word in words
        if word.startswith("checks.") or word[-3:] == ".py"
    ]
    text = "".join((native.ROOT / file).read_text(encoding="utf-8") for file in [script, *further])
    for isolated in re.findall(r'run_isolated\(\s*"(\w+\.py)"', text):
        text += (native.ISOLATED / isolated).read_text(encoding="utf-8")
    for word in words:
        name = word.partition("=")[0]
        if name[:4] == "AEB_" or word[:2] == "--":
            assert f'"{name}"' in text, word
    assert check.scaled(1) == check.command or check.scaled(0.1) != check.scaled(1)


def test_the_page_about_reliability_has_the_command_of_every_long_form() -> None:
    page = (native.ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    (commands,) = [
        block for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) if "fuzz" in block
    ]
    assert commands.splitlines() == [check.scaled(1) for check in long.CHECKS]
