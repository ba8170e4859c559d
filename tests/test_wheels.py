"""What a release is made of, and the workflows that make it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wheels

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
WORKFLOWS = ROOT / ".github" / "workflows"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
SYSTEMS = sorted({(system, arch) for system, arch, _ in wheels.PLATFORMS.values()})

# Whether what the extra `release` installs has to be there.
TOOLS = "AEB_RELEASE_TOOLS"


def tool(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of the extra `release`, or skip the test where that is not installed."""
    # Not all of them are Python modules.
    program = shutil.which(module, path=str(Path(sys.executable).parent))
    command = [sys.executable, "-m", module] if program is None else [program]
    if program is None and importlib.util.find_spec(module) is None and not os.environ.get(TOOLS):
        pytest.skip(f"{module} is not installed")
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


def setting(name: str) -> str:
    """Return the text of a setting in pyproject.toml."""
    found = re.findall(rf"^{re.escape(name)} = (.*)$", PROJECT, re.MULTILINE)
    assert len(found) == 1, name
    return str(found[0])


# Which wheels


@pytest.mark.parametrize(("system", "arch"), SYSTEMS)
def test_cibuildwheel_would_build_exactly_the_wheels_of_a_release(system: str, arch: str) -> None:
    done = tool(
        "cibuildwheel", "--print-build-identifiers", "--platform", system, "--archs", arch, "."
    )
    assert done.returncode == 0, done.stderr
    kinds = {name for name, of in wheels.PLATFORMS.items() if of[:2] == (system, arch)}
    promised = {name for name in wheels.IDENTIFIERS if name.partition("-")[2] in kinds}
    assert promised
    assert set(done.stdout.split()) == promised


def test_there_are_wheels_for_every_python_that_the_package_supports() -> None:
    classified = re.findall(r"Python :: (3\.\d+)\"", PROJECT)
    with_gil = [name for name in wheels.PYTHONS if not name.endswith("t")]
    assert [f"3.{name[3:]}" for name in with_gil] == classified
    workflow = (WORKFLOWS / "ci.yml").read_text(encoding="utf-8")
    tested = re.search(r"^ +python: \[(.*)\]$", workflow, re.MULTILINE)
    assert tested is not None
    names = [name.strip('" ') for name in tested[1].split(",")]
    assert ["cp" + name.replace(".", "") for name in names] == list(wheels.PYTHONS)


# The completeness of a release


def release(directory: Path) -> list[Path]:
    """Put the files of a complete release into a directory, empty ones."""
    tags = {
        "manylinux_x86_64": "manylinux_2_17_x86_64.manylinux2014_x86_64.manylinux_2_28_x86_64",
        "musllinux_x86_64": "musllinux_1_2_x86_64",
        "manylinux_aarch64": "manylinux2014_aarch64.manylinux_2_17_aarch64.manylinux_2_28_aarch64",
        "musllinux_aarch64": "musllinux_1_2_aarch64",
        "macosx_x86_64": "macosx_10_15_x86_64",
        "macosx_arm64": "macosx_11_0_arm64",
    }
    made = [directory / "agent_event_bus-1.2.3.tar.gz"]
    for identifier in sorted(wheels.IDENTIFIERS):
        abi, _, platform = identifier.partition("-")
        tag = tags.get(platform, platform)
        made.append(directory / f"agent_event_bus-1.2.3-{abi.rstrip('t')}-{abi}-{tag}.whl")
    for file in made:
        file.touch()
    return made


def test_a_complete_release_is_accepted(tmp_path: Path) -> None:
    files = release(tmp_path)
    assert len(files) == 1 + len(wheels.IDENTIFIERS) == 55
    script = [sys.executable, str(TESTS / "wheels.py"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert done.stdout == "agent_event_bus 1.2.3: the sdist and 54 wheels\n"


def test_a_release_that_lacks_any_file_is_refused(tmp_path: Path) -> None:
    for file in release(tmp_path):
        file.unlink()
        with pytest.raises(ValueError, match=r"^no wheel for cp\S+$|^0 sdists instead of one$"):
            wheels.check(tmp_path)
        file.touch()
    wheels.check(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("agent_event_bus-1.2.3-cp312-cp312-linux_x86_64.whl", "not among"),
        ("agent_event_bus-1.2.3-cp312-cp312-manylinux_2_35_x86_64.whl", "not among"),
        ("agent_event_bus-1.2.3-cp313-cp313t-win_amd64.whl", "not among"),
        ("agent_event_bus-1.2.3-py3-none-any.whl", "not among"),
        ("another-1.2.3-cp312-cp312-win_amd64.whl", "not among"),
        ("agent_event_bus-1.2.4-cp312-cp312-manylinux_2_28_x86_64.whl", "more than one version"),
        ("agent_event_bus-1.2.3-cp312-cp312-manylinux_2_28_x86_64.whl", "two wheels for the same"),
        ("agent_event_bus-1.2.2.tar.gz", "2 sdists"),
    ],
)
def test_a_release_with_a_file_that_does_not_belong_to_it_is_refused(
    tmp_path: Path, name: str, reason: str
) -> None:
    release(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=reason):
        wheels.check(tmp_path)


# The tests that each wheel has to pass


def test_what_a_wheel_is_tested_with_needs_nothing_that_is_not_installed_there() -> None:
    required = set(re.findall(r'"([\w-]+)', setting("test-requires")))
    copied = set(ast.literal_eval(setting("test-sources")))
    assert (required, copied) == ({"pytest", "pytest-asyncio"}, {"pyproject.toml", "tests"})
    listed = (TESTS / "wheel.txt").read_text(encoding="utf-8").splitlines()
    assert len(listed) == len(set(listed)) > 50
    assert listed == sorted(listed)
    known = {"agent_event_bus", *(name.replace("-", "_") for name in required)}
    known |= {file.stem for file in TESTS.glob("*.py")} | standard_library()
    for name in listed:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        for node in tree.body:  # what is imported in functions may be skipped by these
            imported = [alias.name for alias in getattr(node, "names", ())]
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert {module.partition(".")[0] for module in imported} <= known, name


def standard_library() -> set[str]:
    """Return the names of the modules of the standard library; all there are, before 3.10."""
    names: frozenset[str] | None = getattr(sys, "stdlib_module_names", None)  # from 3.10 on
    if names is None:
        pytest.skip("this Python does not know which modules are its own")
    return set(names)


# Settings and workflows


def test_threads_on_windows_for_arm_see_what_was_written_before_a_shared_field() -> None:
    # MSVC is not at hand; compat.h makes shared fields volatile for it, and counts on the switch.
    compat = (ROOT / "src" / "compat.h").read_text(encoding="utf-8")
    assert re.search(r"defined\(_MSC_VER\)(?s:.*?)#define AEB_SHARED volatile", compat)
    flags = re.search(r"^def msvc_flags(?s:.*?)^class", SETUP, re.MULTILINE)
    assert flags is not None
    assert '"/volatile:ms"' in flags[0]


def test_pyproject_toml_is_valid() -> None:
    done = tool("validate_pyproject", "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflows_are_valid() -> None:
    files = [str(file) for file in sorted(WORKFLOWS.glob("*.yml"))]
    assert len(files) == 2
    done = tool("check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files)
    assert done.returncode == 0, done.stdout


def test_the_workflows_give_no_more_rights_than_they_need() -> None:
    done = tool("zizmor", "--offline", "--no-progress", "--persona=pedantic", str(WORKFLOWS))
    assert done.returncode == 0, done.stdout


def test_the_workflows_use_the_pinned_versions() -> None:
    pinned = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', PROJECT))
    for file in WORKFLOWS.glob("*.yml"):
        text = file.read_text(encoding="utf-8")
        for tool_name, version in re.findall(r"([\w-]+)==([\d.]+)", text):
            assert pinned[tool_name] == version, f"{file.name}: {tool_name}"
        actions = re.findall(r"uses: (\S+)(.*)", text)
        assert actions
        for action, comment in actions:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    release_text = (WORKFLOWS / "release.yml").read_text(encoding="utf-8")
    assert {"build==", "twine==", "cibuildwheel=="} <= set(re.findall(r"\b\w+==", release_text))


def test_only_the_job_that_publishes_gets_a_token_and_only_for_a_tag() -> None:
    text = (WORKFLOWS / "release.yml").read_text(encoding="utf-8")
    jobs = dict(re.findall(r"^  (\w+):\n((?: {4}.*\n|\n)+)", text.partition("\njobs:\n")[2], re.M))
    assert list(jobs) == ["sdist", "wheels", "complete", "publish"]
    assert [name for name, job in jobs.items() if "id-token" in job] == ["publish"]
    assert "      id-token: write" in jobs["publish"]
    assert "    environment: pypi\n" in jobs["publish"]
    assert "if: github.event_name == 'push' && github.ref_type == 'tag'" in jobs["publish"]
    assert "needs: complete\n" in jobs["publish"]
    assert "needs: [sdist, wheels]\n" in jobs["complete"]
    assert "secrets." not in text
