"""The wheels that a release has, one for each Python and platform.

`python tests/wheels.py DIR` checks that DIR has exactly these and one sdist, all of one version. A
release is not published before that.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PYTHONS = ("cp39", "cp310", "cp311", "cp312", "cp313", "cp314", "cp314t")

# By platform as cibuildwheel calls it: its systems and architectures, the pattern of the tag that
# wheels of it have, and the Pythons that there are none for.
PLATFORMS = {
    "manylinux_x86_64": ("linux", "x86_64", r"[.\w]*manylinux_2_(?:[5-9]|1\d|2[0-8])_x86_64"),
    "musllinux_x86_64": ("linux", "x86_64", r"musllinux_1_[12]_x86_64"),
    "manylinux_aarch64": ("linux", "aarch64", r"[.\w]*manylinux_2_(?:1\d|2[0-8])_aarch64"),
    "musllinux_aarch64": ("linux", "aarch64", r"musllinux_1_[12]_aarch64"),
    "macosx_x86_64": ("macos", "x86_64", r"macosx_10_15_x86_64"),
    "macosx_arm64": ("macos", "arm64", r"macosx_11_0_arm64"),
    "win_amd64": ("windows", "AMD64", r"win_amd64"),
    "win_arm64": ("windows", "ARM64", r"win_arm64"),
}
# There is no installer of Python for Windows on ARM before 3.11.
MISSING = {"cp39-win_arm64", "cp310-win_arm64"}

IDENTIFIERS = {f"{python}-{platform}" for python in PYTHONS for platform in PLATFORMS} - MISSING


def identifier(wheel: str) -> tuple[str, str]:
    """Return the version of a wheel, and the identifier of it, by its file name.

    Raises:
        ValueError: The name is not that of a wheel that a release has.
    """
    parts = re.fullmatch(r"agent_event_bus-([^-]+)-(\w+)-(\w+)-([\w.]+)\.whl", wheel)
    if parts is not None:
        version, python, abi, tag = parts.groups()
        found = python + ("t" if abi == f"{python}t" else "")
        for platform, (_, _, pattern) in PLATFORMS.items():
            built = f"{found}-{platform}"
            if abi == found and built in IDENTIFIERS and re.fullmatch(pattern, tag):
                return version, built
    raise ValueError(f"{wheel} is not among the wheels of a release")


def check(directory: Path) -> str:
    """Return a line about the complete release in a directory.

    Raises:
        ValueError: Something is missing, there twice, or should not be there.
    """
    names = sorted(file.name for file in directory.iterdir())
    sdists = [re.fullmatch(r"agent_event_bus-([^-]+)\.tar\.gz", name) for name in names]
    versions = [sdist[1] for sdist in sdists if sdist is not None]
    if len(versions) != 1:
        raise ValueError(f"{len(versions)} sdists instead of one")
    found: list[str] = []
    for name in names:
        if not name.endswith(".tar.gz"):
            version, built = identifier(name)
            versions.append(version)
            found.append(built)
    if len(set(versions)) != 1:
        raise ValueError(f"more than one version: {sorted(set(versions))}")
    if len(found) != len(set(found)):
        raise ValueError("two wheels for the same Python and platform")
    if set(found) != IDENTIFIERS:
        raise ValueError(f"no wheel for {', '.join(sorted(IDENTIFIERS - set(found)))}")
    return f"agent_event_bus {versions[0]}: the sdist and {len(found)} wheels\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(check(Path(sys.argv[1])))
    except ValueError as error:
        raise SystemExit(str(error)) from None
