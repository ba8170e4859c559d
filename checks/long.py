"""Runs the long form of every check that has one, one after another, and prints a table.

    python -m pip install -e '.[test]'
    python -m checks.long                   all of them: more than an hour and a half
    python -m checks.long races kills       only those of these names
    python -m checks.long --scale 0.1       with a tenth of the time and rounds each
    python -m checks.long --list            print the commands and do nothing

Everything is run with the interpreter that runs this, and with the package that it imports. What a
check has done it says itself, in figures, and one that names none has failed: it has done nothing.
The exit status is 1 when one has failed. `.ci/run` has the quick forms of all this, and more.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from checks import native

PYTEST = "python -m pytest -o faulthandler_timeout=0"


@dataclass(frozen=True)
class Check:
    """A command, with numbers to be scaled in braces, and what its figures look like."""

    name: str
    command: str
    figures: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, scale: float) -> str:
        """The command, as one would type it."""
        numbers = {name: max(1, round(number * scale)) for name, number in self.numbers.items()}
        return self.command.format(**numbers)


OF_A_TEST = r"figures: .+"
CHECKS = [
    Check(
        "references",
        f"AEB_REFERENCES=1000000 AEB_REFERENCES_SECONDS={{seconds}} {PYTEST} "
        "tests/test_references.py",
        OF_A_TEST,
        {"seconds": 8},
    ),
    Check(
        "allocations",
        f"AEB_NO_MEMORY=long {PYTEST} tests/test_no_memory.py",
        r"figures: .+ places.*",
    ),
    Check("hostile", f"AEB_HOSTILE=1 {PYTEST} tests/test_hostile.py", OF_A_TEST),
    Check(
        "model",
        f"AEB_MODEL_EXAMPLES={{programs}} {PYTEST} tests/test_model.py",
        r"=+ \d+ passed .+",  # each of 1,000 programs
        {"programs": 20_000},
    ),
    Check(
        "fuzz",
        "python tests/fuzz.py --target both --seconds {seconds}",
        r".*\d operations.*",
        {"seconds": 1200},  # half for each
    ),
    Check(
        "races",
        "python tests/isolated/races.py --seconds {seconds} --threads 4",
        r".*\d operations.*",
        {"seconds": 60},
    ),
    Check(
        "interpreters",
        f"AEB_INTERPRETERS={{interpreters}} {PYTEST} tests/test_subinterpreters.py",
        OF_A_TEST,
        {"interpreters": 1000},
    ),
    Check("leaks", "python -m checks.leaks --rounds {rounds}", r"\d+ leaks, .+", {"rounds": 50}),
    Check(
        "memcheck", "python -m checks.memcheck --rounds {rounds}", r"\d+ errors .+", {"rounds": 20}
    ),
    Check(
        "threadsanitizer",
        "python -m checks.races --seconds {seconds}",
        r".*\d+ races in the core.*",
        {"seconds": 300},
    ),
    Check(
        "kills",
        f"AEB_KILL_ROUNDS={{rounds}} AEB_WORKER_KILL_ROUNDS={{rounds}} {PYTEST} "
        "tests/test_store_faults.py tests/test_worker_kill.py -k kill",
        OF_A_TEST,
        {"rounds": 1000},
    ),
]


def run(command: str) -> tuple[int, list[str]]:
    """Run a command of the list, show what it prints, and return its status and its lines."""
    words = shlex.split(command)
    settings: dict[str, str] = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        settings[name] = value
    # Nothing of the caller's makes a form longer or shorter.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "AEB_"}
    environment.update(settings)
    words[0] = sys.executable
    lines: list[str] = []
    with subprocess.Popen(
        words,
        cwd=native.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines


def judge(status: int, lines: Sequence[str], pattern: str) -> tuple[str, list[str]]:
    """What has become of a check, and its figures."""
    figures = [line for line in lines if re.fullmatch(pattern, line)]
    if status == 0 and figures:
        return "passed", figures
    cannot = status == native.CANNOT_RUN
    by_pytest = status == 0 and any(line.startswith("SKIPPED ") for line in lines)
    return ("skipped" if cannot or by_pytest else "FAILED"), figures


def main() -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m checks.long", description=description)
    parser.add_argument("names", nargs="*", help="of checks; all when none is given")
    parser.add_argument("--scale", type=float, default=1.0, help="of the time and the rounds")
    parser.add_argument("--list", action="store_true", help="print the commands and do nothing")
    options = parser.parse_args()
    unknown = set(options.names) - {check.name for check in CHECKS}
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    chosen = [check for check in CHECKS if not options.names or check.name in options.names]
    table: list[str] = []
    failures = 0
    for check in chosen:
        command = check.scaled(options.scale)
        if options.list:
            print(command)
            continue
        print(f"\n=== {check.name}\n+ {command}", flush=True)
        began = time.monotonic()
        result, figures = judge(*run(command), check.figures)
        failures += result == "FAILED"
        table.append(f"{check.name:20}{result:10}{time.monotonic() - began:6.0f} s")
        table += [f"    {line}" for line in figures]
    if table:
        print(f"\n=== summary, {sys.version}")
        print(*table, f"{failures} failed", sep="\n")
    return native.FOUND if failures else 0


if __name__ == "__main__":
    sys.exit(main())
