"""Builds the C extension `agent_event_bus._core`; everything else is in pyproject.toml.

Switches, all read from the environment and meant for development builds:

AEB_DEBUG=1         no optimisation, full debug information, C assertions on
AEB_SANITIZE=a,b    compile and link with -fsanitize=a,b (address, undefined, thread, ...)
AEB_COVERAGE=1      instrument for gcov, no optimisation; the counts go to build/coverage
AEB_WERROR=1        compiler warnings are errors
AEB_NO_LAZY_TASKS=1 ordinary asyncio tasks, as from Python 3.14 on and in builds without the GIL
"""

from __future__ import annotations

import os
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def switched_on(name: str) -> bool:
    """Return whether the environment variable `name` is set to anything but nothing or 0."""
    return os.environ.get(name, "").strip() not in ("", "0")


def unix_flags() -> tuple[list[str], list[str]]:
    """Return the compiler and the linker arguments for gcc and clang."""
    compile_args = ["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden", "-O3"]
    # Where functions and loops happen to lie makes up to a tenth of the time of a short emission.
    compile_args += ["-falign-functions=64", "-falign-loops=32"]
    link_args: list[str] = []
    # The last -O wins, so what follows overrides the optimised build.
    sanitizers = os.environ.get("AEB_SANITIZE", "").replace(" ", "")
    if sanitizers:
        compile_args += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
        compile_args += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
        link_args += [f"-fsanitize={sanitizers}"]
    if switched_on("AEB_DEBUG"):
        compile_args += ["-O0", "-g3", "-UNDEBUG"]
    if switched_on("AEB_COVERAGE"):
        # Atomic, because interpreters that have a GIL each count at the same time.
        compile_args += ["-O0", "-g", "--coverage", "-fprofile-update=atomic"]
        link_args += ["--coverage"]
    if switched_on("AEB_WERROR"):
        compile_args += ["-Werror"]
    return compile_args, link_args


def msvc_flags() -> tuple[list[str], list[str]]:
    """Return the compiler and the linker arguments for MSVC, which has no coverage build."""
    for name in ("AEB_SANITIZE", "AEB_COVERAGE"):
        if switched_on(name):
            raise SystemExit(f"{name} is not supported with MSVC")
    # On ARM a volatile field would otherwise not order what threads write before it: see compat.h.
    compile_args = ["/std:c11", "/W3", "/volatile:ms"]
    link_args: list[str] = []
    if switched_on("AEB_DEBUG"):
        compile_args += ["/Od", "/Zi", "/UNDEBUG"]
        link_args += ["/DEBUG"]
    if switched_on("AEB_WERROR"):
        compile_args += ["/WX"]
    return compile_args, link_args


class BuildExt(build_ext):
    """`build_ext` that picks the flags once the compiler is known."""

    def build_extensions(self) -> None:
        """Add the flags of the compiler in use to every extension, then build."""
        # Time stamps cannot tell that a switch has changed since the last build.
        self.force = True
        if switched_on("AEB_COVERAGE"):
            # The counts are written beside the object files, which must outlast the build.
            self.build_temp = os.path.join("build", "coverage")
        msvc = self.compiler.compiler_type == "msvc"
        compile_args, link_args = msvc_flags() if msvc else unix_flags()
        for extension in self.extensions:
            if switched_on("AEB_NO_LAZY_TASKS"):
                extension.define_macros.append(("AEB_NO_LAZY_TASKS", "1"))
            extension.extra_compile_args += compile_args
            extension.extra_link_args += link_args
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "agent_event_bus._core",
            sources=sorted(glob("src/*.c")),
            depends=sorted(glob("src/*.h")),
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
