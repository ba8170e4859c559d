"""Counts the instructions of five fixed workloads, and fails when one has grown.

    python -m benchmarks.instructions --check       exit status 1 when one grew by more than 5 %
    python -m benchmarks.instructions --update      write the figures of this interpreter

Time on a shared machine varies by more than a regression worth catching; the number of instructions
that callgrind counts does not. A workload runs twice under valgrind, with two numbers of calls, and
the difference divided by that of the calls is what one call takes: starting up, importing and
warming up cancel out. The environment is fixed, strings hash with a fixed seed, and the collector
is off.

Two figures are committed for each workload, by version of Python and machine architecture, and each
may grow by 5 %:

- `core`: the instructions inside our compiled module, from callgrind's records by object file,
  which no change of handlers, asyncio or libc can hide or pretend.
- `total`: those of the whole process. They show what the other figure cannot: work that moved out
  of our module into calls of the interpreter.

Both are exact for one build and not comparable between builds. Two builds of CPython 3.11 that were
tried on one machine with one compiler differed by 13 % in `total`, and, because an extension is
compiled with the flags and headers of its interpreter, by 11 % in `core`. So the build of the
interpreter and the compiler stand beside the figures, and with others the counts are printed but
not checked.

The exit status is 77, as of a test that cannot run here, when there is no valgrind or the build is
another. An interpreter without figures is an error: run `--update` and commit instructions.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

FIGURES = Path(__file__).with_name("instructions.json")
LIMIT = 0.05
"""By what part a figure may grow."""
WARM_UP = 200
CALLS = (100, 600)
"""The two numbers of calls, after the warm-up."""
CANNOT_RUN = 77

EVENT = "tool_called"
OTHER_EVENT = "model_responded"

Counts = dict[str, dict[str, int]]
"""By workload, the instructions of one call by `core` and `total`."""


# The workloads, which run under valgrind ----------------------------------------------------------


def sync_handler(payload: object) -> None:
    """Do nothing."""


def distinct(make: Callable[[], Callable[[object], Any]], count: int) -> list[Any]:
    """Return so many handlers."""
    return [make() for _ in range(count)]


def sync_one() -> Callable[[object], Any]:
    """Return a sync handler that does nothing."""

    def handler(payload: object) -> None:
        pass

    return handler


def async_one() -> Callable[[object], Any]:
    """Return an async handler that never suspends."""

    async def handler(payload: object) -> None:
        pass

    return handler


def sleeping_one() -> Callable[[object], Any]:
    """Return an async handler that suspends once."""

    async def handler(payload: object) -> None:
        await asyncio.sleep(0)

    return handler


WORKLOADS: dict[str, tuple[bool, Callable[[], Callable[[object], Any]], int]] = {
    "emit, no handlers": (False, sync_one, 0),
    "emit, 10 sync handlers": (False, sync_one, 10),
    "emit_async, no handlers": (True, async_one, 0),
    "emit_async, 10 handlers that never suspend": (True, async_one, 10),
    "emit_async, 10 handlers with sleep(0)": (True, sleeping_one, 10),
}
"""By name, whether it is awaited, what makes a handler, and how many there are."""


def perform(workload: str, calls: int) -> int:
    """Emit that many times, after the warm-up, and return how often handlers were called."""
    from agent_event_bus import EventBus

    awaited, make, count = WORKLOADS[workload]
    bus = EventBus()
    bus.on(OTHER_EVENT, sync_handler)
    for handler in distinct(make, count):
        bus.on(EVENT, handler)

    async def emit_async(number: int) -> None:
        for _ in range(number):
            await bus.emit_async(EVENT, None)

    def emit(number: int) -> None:
        for _ in range(number):
            bus.emit(EVENT, None)

    async def both() -> None:
        await emit_async(WARM_UP)
        await emit_async(calls)

    if awaited:
        asyncio.run(both())
    else:
        emit(WARM_UP)
        emit(calls)
    return sum(subscription.calls for subscription in bus.handlers(EVENT))


# Counting -----------------------------------------------------------------------------------------


def parsed(callgrind: str, core: str) -> dict[str, int]:
    """Return the instructions of a run from callgrind's file.

    Args:
        callgrind: the text of the file.
        core: the end of the path of our compiled module.

    Returns:
        Those spent inside our module as `core`, and all of them as `total`.

    Raises:
        ValueError: the file has no total, or nothing about our module.
    """
    found = re.search(r"^(?:summary|totals): (\d+)", callgrind, re.MULTILINE)
    if found is None:
        raise ValueError("callgrind wrote no total")
    names: dict[str, str] = {}
    in_core = False
    of_call = False
    seen = False
    spent = 0
    for line in callgrind.splitlines():
        # "ob=(3) /path" introduces a number for an object file, "ob=(3)" refers to it. Names that
        # calls introduce, in "cob=", count as well.
        match = re.match(r"(c?)ob=(\(\d+\))(?: (.+))?$", line)
        if match is not None:
            called, key, name = match.groups()
            if name is not None:
                names[key] = name
            if not called:
                in_core = names[key].endswith(core)
                seen = seen or in_core
        elif line.startswith("calls="):
            of_call = True  # the next line has the inclusive cost of a call, which is not our own
        elif re.match(r"[+\-*\d]", line):
            if in_core and not of_call:
                spent += int(line.split()[1])
            of_call = False
    if not seen:
        raise ValueError(f"callgrind has seen nothing of {core}")
    return {"core": spent, "total": int(found[1])}


def core_file() -> Path:
    """Return the file of our compiled module."""
    from agent_event_bus import _core

    return Path(_core.__file__).resolve()


def counted(workload: str, calls: int) -> dict[str, int]:
    """Run a workload under valgrind and return its instructions.

    Raises:
        RuntimeError: valgrind or the workload failed.
    """
    core = core_file()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet"),
                *(sys.executable, "-S", str(Path(__file__).resolve())),
                *("--perform", workload, str(calls)),
            ],
            # No more than what is named here, so that the caller's environment changes nothing.
            env={
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": str(core.parent.parent),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{workload}: {done.stderr.strip()}")
        return parsed(out.read_text(encoding="utf-8"), core.name)


def count_all() -> Counts:
    """Return the instructions of one call of each workload."""
    counts: Counts = {}
    few, many = CALLS
    for workload in WORKLOADS:
        less, more = counted(workload, few), counted(workload, many)
        counts[workload] = {
            key: round((more[key] - less[key]) / (many - few)) for key in ("core", "total")
        }
    return counts


# Comparing ----------------------------------------------------------------------------------------


def key() -> str:
    """Return under which name the figures of this interpreter are committed."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}-{platform.machine()}"


def builds() -> dict[str, str]:
    """Return what the figures of this interpreter were made with."""
    compiler = re.search(rb"(?:GCC: \([^)]*\)|clang version) [\d.]+", core_file().read_bytes())
    return {
        "interpreter": " ".join(sys.version.split()),
        "compiler": compiler[0].decode() if compiler else "unknown",
    }


def grown(
    committed: Mapping[str, Mapping[str, int]], counts: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """Return, a sentence each, which figures have grown by more than LIMIT.

    Args:
        committed: the figures to compare with, as `counts`.
        counts: by workload, the instructions of a call by `core` and `total`.
    """
    found: list[str] = []
    for workload, now in counts.items():
        before = committed.get(workload)
        if before is None:
            found.append(f"{workload}: no committed figures, run --update")
            continue
        for part in ("core", "total"):
            if now[part] > before[part] * (1 + LIMIT):
                growth = (now[part] / before[part] - 1) * 100 if before[part] else 100.0
                found.append(
                    f"{workload}: {part} instructions grew by {growth:.1f} %,"
                    f" from {before[part]:,} to {now[part]:,}"
                )
    return found


def text_of(counts: Counts, committed: Mapping[str, Mapping[str, int]]) -> str:
    """Return the counts and how they differ from the committed ones, a line a figure."""
    lines = []
    for workload, now in counts.items():
        for part, figure in now.items():
            before = committed.get(workload, {}).get(part)
            change = f"{(figure / before - 1) * 100:+.2f} %" if before else "new"
            lines.append(f"{workload:44} {part:6} {figure:>9,}  {change}")
    return "\n".join(lines)


def load(path: Path) -> dict[str, Any]:
    """Return all committed figures, none when there is no file."""
    if not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, compare or update, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description="Count the instructions of five fixed workloads with valgrind's callgrind.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="fail when one grew by more than 5 %%")
    action.add_argument("--update", action="store_true", help="commit to these figures")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="the file of the figures")
    options = parser.parse_args(arguments)

    if shutil.which("valgrind") is None:
        print("valgrind is not installed: no instructions to count", file=sys.stderr)
        return CANNOT_RUN
    figures = load(options.figures)
    ours = figures.get(key())
    if options.check and ours is None:
        print(f"no figures for {key()}: run --update and commit them", file=sys.stderr)
        return 1
    counts = count_all()
    made_with = builds()
    committed = ours["workloads"] if ours else {}
    print(f"{key()}, instructions of one call\n{text_of(counts, committed)}")
    if options.update:
        figures[key()] = {**made_with, "workloads": counts}
        text = json.dumps(figures, indent=2, sort_keys=True)
        options.figures.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {options.figures}")
    if not options.check or ours is None:
        return 0
    others = [what for what, build in made_with.items() if build != ours[what]]
    if others:
        for what in others:
            print(
                f"another {what}: {made_with[what]}, figures are of {ours[what]}", file=sys.stderr
            )
        print("nothing was checked", file=sys.stderr)
        return CANNOT_RUN
    faults = grown(committed, counts)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--perform"]:
        gc.disable()
        perform(sys.argv[2], int(sys.argv[3]))
        sys.exit()
    sys.exit(main())
