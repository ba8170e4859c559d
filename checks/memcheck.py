"""Finds reads of memory that is freed or was never written, with valgrind's memcheck.

    python -m checks.memcheck               build the core, and run tests/isolated/smoke.py
    python -m checks.memcheck --rounds 20   the same with each operation 20 times

Errors that have no function of the core in their stack are the interpreter's, and do not count. The
one comparison that the core makes on purpose is in checks/memcheck.supp.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from checks import native

SUPPRESSIONS = Path(__file__).with_suffix(".supp")
TIMEOUT = 1800.0


def errors(output: str) -> list[str]:
    """The single errors that memcheck has reported, each with its stacks."""
    lines = [line for line in output.splitlines() if re.match(r"==\d+==", line)]
    text = "\n".join(re.sub(r"^==\d+== ?", "", line) for line in lines)
    return [
        part for part in text.split("\n\n") if re.search(r"^ {3}(at|by) 0x", part, re.MULTILINE)
    ]


def main() -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m checks.memcheck", description=description)
    parser.add_argument("--rounds", type=int, default=1, help="how often each operation is done")
    rounds = parser.parse_args().rounds
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        native.cannot_run("no valgrind on this machine")
    command = [
        valgrind,
        "--tool=memcheck",
        "--num-callers=30",
        "--fullpath-after=",
        "--leak-check=no",
    ]
    command += [f"--suppressions={SUPPRESSIONS}"]
    command += [sys.executable, "-S", str(native.ISOLATED / "smoke.py"), str(rounds)]
    with native.built(AEB_DEBUG="1") as package:
        status, output = native.run(command, package, {}, TIMEOUT)
    found = errors(output)
    ours = [error for error in found if native.ours(error)]
    if status != 0 or "\nok\n" not in "\n" + output:
        print(output[-5000:])
        print(f"the program has failed: {status}")
        return native.FOUND
    if "ERROR SUMMARY" not in output:
        print(output[-5000:])
        print("memcheck has not come to its end")
        return native.FOUND
    for error in ours:
        print(error, end="\n\n")
    print(f"{len(ours)} errors in the core, {len(found) - len(ours)} elsewhere")
    return native.FOUND if ours else 0


if __name__ == "__main__":
    sys.exit(main())
