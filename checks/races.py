"""Finds threads that disturb each other in the core, with ThreadSanitizer.

    python -m checks.races                  build the core, and run tests/isolated/parallel.py
    python -m checks.races --seconds 300    the same, each of its two forms for so long

With an ordinary interpreter threads take turns, and what is shared by interpreters that have a lock
each (Python 3.13 and later) is what can be found. A free-threaded one has all the rest, and so that
its own locks are understood it has to be instrumented as well: `configure --disable-gil
--with-thread-sanitizer`, with the compiler that the core is then built with, too. Then it is

    /path/to/that/python3 -m checks.races

Only reports count whose stack leads to the core before it leads to Python code: what Python code,
a handler say, makes the interpreter do is not the core's doing.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from checks import native

MARGIN = 600.0
"""How many seconds longer than asked for the program may take: it is slowed down."""


def reports(output: str) -> list[str]:
    """The single reports in the output."""
    parts = re.split(r"^=+$", output, flags=re.MULTILINE)
    return [part for part in parts if "WARNING: ThreadSanitizer" in part]


def is_ours(report: str) -> bool:
    """Whether the core is in one of the stacks above all Python code."""
    for stack in report.split("\n\n"):
        frames = [line for line in stack.splitlines() if re.match(r"\s+#\d+ ", line)]
        above: list[str] = []
        for frame in frames:
            if "_PyEval_EvalFrame" in frame:
                break
            above.append(frame)
        if native.ours("\n".join(above)):
            return True
    return False


def main() -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m checks.races", description=description)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each form runs")
    seconds = parser.parse_args().seconds
    environment = {
        "TSAN_OPTIONS": "exitcode=0:halt_on_error=0:report_thread_leaks=0:history_size=4",
    }
    if not native.instrumented():
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            native.cannot_run("without a GIL, locks are seen in an instrumented interpreter alone")
        environment["LD_PRELOAD"] = native.runtime("libtsan.so")
    elif sysconfig.get_config_var("Py_GIL_DISABLED"):
        environment["PYTHON_GIL"] = "0"  # also where a module asks for one
    fixed = native_addresses()
    bad = False
    with native.built(AEB_SANITIZE="thread") as package:
        for form in ("threads", "interpreters"):
            bad |= not passes(form, seconds, fixed, package, environment)
    return native.FOUND if bad else 0


def native_addresses() -> list[str]:
    """The command that switches address randomisation off, which older run-times cannot bear."""
    setarch = shutil.which("setarch")
    command = [setarch, "-R"] if setarch else []
    if command and subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode == 0:
        return command
    return []


def passes(
    form: str, seconds: float, fixed: list[str], package: Path, environment: dict[str, str]
) -> bool:
    """Run one form of the program, and show what was found in it."""
    script = str(native.ISOLATED / "parallel.py")
    command = [*fixed, sys.executable, "-S", script, form, str(seconds)]
    status, output = native.run(command, package, environment, seconds + MARGIN)
    found = reports(output)
    ours = [report for report in found if is_ours(report)]
    for report in ours[:20]:
        print(report)
    lines = output.splitlines()
    if status == 0 and lines and lines[-1] == "unavailable":
        print(f"{form}: this Python has none with a lock each")
        return True
    print(f"{form}: {len(ours)} races in the core, {len(found) - len(ours)} reports elsewhere")
    if status != 0 or "ok" not in lines:
        print(output[-5000:])
        print(f"the program has failed: {status}")
        return False
    return not ours


if __name__ == "__main__":
    sys.exit(main())
