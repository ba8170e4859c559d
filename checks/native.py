"""What the checks share: a build of the core of their own, running a program under a tool."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent
ISOLATED = ROOT / "tests" / "isolated"
CANNOT_RUN = 77
FOUND = 1

FILES = "|".join(sorted(re.escape(path.name) for path in (ROOT / "src").glob("*.[ch]")))
OURS = re.compile(rf"\b_core\.[\w.-]*so\b|\bsrc/(?:{FILES}):\d+")
BUILT_FROM = ["_agent_event_bus_pytest.py", "LICENSE", "README.md", "pyproject.toml", "setup.py"]


def cannot_run(why: str) -> NoReturn:
    """End with the exit status of a test that cannot run here."""
    print("cannot run:", why)
    raise SystemExit(CANNOT_RUN)


def compiler() -> str:
    """The compiler to build with: an instrumented interpreter and the core need the same."""
    if instrumented():
        return str(sysconfig.get_config_var("CC")).split()[0]
    return os.environ.get("CC") or "gcc"


def instrumented() -> bool:
    """Whether this interpreter was built with ThreadSanitizer itself."""
    return "-fsanitize=thread" in str(sysconfig.get_config_var("PY_CFLAGS_NODIST")) or (
        "--with-thread-sanitizer" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    )


def runtime(library: str) -> str:
    """Where the run-time library of a sanitizer is: it has to be loaded before Python."""
    if shutil.which(compiler()) is None:
        cannot_run(f"no {compiler()} on this machine")
    command = [compiler(), f"-print-file-name={library}"]
    path = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    if not os.path.isabs(path) or not os.path.exists(path):
        cannot_run(f"{compiler()} has no {library}")
    return path


@contextlib.contextmanager
def built(**switches: str) -> Iterator[Path]:
    """Build the package with these switches of setup.py; give where it can be imported from."""
    with tempfile.TemporaryDirectory(prefix="checks-") as place:
        source, target = Path(place, "source"), Path(place, "target")
        source.mkdir()
        for name in BUILT_FROM:
            shutil.copy(ROOT / name, source)
        leave_out = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
        for name in ("agent_event_bus", "src"):
            shutil.copytree(ROOT / name, source / name, ignore=leave_out)
        environment = {name: value for name, value in os.environ.items() if name[:4] != "AEB_"}
        environment.update(switches, CC=compiler(), PIP_DISABLE_PIP_VERSION_CHECK="1")
        environment["PIP_ROOT_USER_ACTION"] = "ignore"
        environment.setdefault("TSAN_OPTIONS", "report_bugs=0")  # of an instrumented interpreter
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(target), str(source)]
        print("+", *command, flush=True)
        subprocess.run(command, check=True, env=environment)
        yield target


def run(
    command: Sequence[str], package: Path, environment: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Run a command with the package that was built and no other; return status and output.

    The status is -9 when it was killed because it did not end in time.
    """
    settings = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    settings.update(environment, PYTHONPATH=str(package))
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):  # which has one allocator alone
        settings["PYTHONMALLOC"] = "malloc"
    settings.update(PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
    print("+", *(f"{name}={value}" for name, value in environment.items()), *command, flush=True)
    process = subprocess.Popen(
        command,
        cwd=package,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        output += f"\nkilled after {timeout:.0f} s\n"
    return process.returncode, output


def ours(report: str) -> bool:
    """Whether a report has a function of the core in one of its stacks."""
    return OURS.search(report) is not None
