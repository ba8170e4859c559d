"""Finds memory and objects that the core never frees, with LeakSanitizer.

    python -m checks.leaks                      build the core, and run tests/isolated/smoke.py
    python -m checks.leaks --rounds 50          the same with each operation 50 times
    python -m checks.leaks --reports DIRECTORY  judge the reports of other processes

The program runs without any other library than Python's own, so that whatever is left at its end
counts, no matter whose function had allocated it: a payload that lost a reference was allocated by
Python code. What the collector knows is never lost to LeakSanitizer, because the collector's lists
still lead there: of that the program itself keeps count.

With `--reports`, for the whole test suite, only leaks count that have the core in their stack,
because the suite uses libraries that free nothing at their end. Reports of anything but a leak, an
overrun say, are shown as they are, and fail.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from checks import native

TIMEOUT = 600.0
CANNOT_LOOK = "LeakSanitizer has encountered a fatal error"
FEW = 5
"""How many processes of a suite may end so, with threads that run on, that nothing can be said."""


def leaks(report: str) -> list[str]:
    """The single leaks that a report tells of, each with its stack."""
    parts = re.split(r"\n(?=Direct leak|Indirect leak|SUMMARY|-----)", report)
    return [part for part in parts if part.startswith(("Direct leak", "Indirect leak"))]


def judge(directory: Path) -> int:
    """Look through the reports of many processes."""
    files = sorted(directory.iterdir())
    found = unseen = 0
    for file in files:
        report = file.read_text(errors="replace")
        if CANNOT_LOOK in report:
            unseen += 1
            bad = []
        elif "detected memory leaks" in report:
            bad = [leak for leak in leaks(report) if native.ours(leak)]
        else:
            bad = [report]
        found += len(bad)
        for leak in bad:
            print(leak)
    print(f"{len(files)} processes left a report, {found} leaks or faults of the core in them")
    print(f"{unseen} processes ended before they could be looked at; {FEW} may")
    return native.FOUND if found or unseen > FEW else 0


def smoke(rounds: int) -> int:
    """Run every kind of operation."""
    library = native.runtime("libasan.so")
    options = "detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=20"
    with native.built(AEB_SANITIZE="address") as package:
        command = [sys.executable, "-S", str(native.ISOLATED / "smoke.py"), str(rounds)]
        environment = {"LD_PRELOAD": library, "ASAN_OPTIONS": options}
        status, output = native.run(command, package, environment, TIMEOUT)
    print(output)
    if CANNOT_LOOK in output:
        native.cannot_run("LeakSanitizer may not look at the memory of a process here")
    found = len(leaks(output))
    print(f"{found} leaks, with {rounds} rounds of all operations")
    return 0 if status == 0 and found == 0 and "\nok\n" in "\n" + output else native.FOUND


def main() -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m checks.leaks", description=description)
    parser.add_argument("--rounds", type=int, default=4, help="how often each operation is done")
    parser.add_argument("--reports", type=Path, help="a directory of reports to judge")
    options = parser.parse_args()
    return judge(options.reports) if options.reports else smoke(options.rounds)


if __name__ == "__main__":
    sys.exit(main())
