"""The corpus of tests/fuzz.py goes right, and the fuzzer finds faults that are planted.

What it finds is left in a file, which is to be added to tests/corpus/ when the fault is mended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PACKAGES

TESTS = Path(__file__).parent
CORPUS = sorted((TESTS / "corpus" / "model").iterdir())
HOSTILE = sorted((TESTS / "corpus" / "hostile").iterdir())
PARTS = ["fuzz", "fuzz_targets", "hostile_of_bytes", "programs_of_bytes"]
PARTS += ["worlds", "model", "model_keys", "stepping"]


def fuzz(script: Path, *arguments: object) -> tuple[int, str]:
    """Run the fuzzer; return its exit status, and what it and what it ran have said."""
    done = subprocess.run(
        [sys.executable, str(script), "--engine", "plain", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
        check=False,
    )
    return done.returncode, done.stdout


def copied(directory: Path) -> Path:
    """Copy the fuzzer, for a fault to be planted in the copy; return its directory."""
    for part in PARTS:
        shutil.copy(TESTS / f"{part}.py", directory)
    shutil.copytree(TESTS / "corpus", directory / "corpus")
    return directory


def test_the_corpus_does_on_the_bus_what_it_does_on_the_model() -> None:
    status, said = fuzz(TESTS / "fuzz.py", *CORPUS)
    assert status == 0, said
    assert len(CORPUS) >= 30
    assert f"model, plain: {len(CORPUS)} executions" in said


def test_whatever_strangers_do_in_the_corpus_the_buses_stand_it() -> None:
    status, said = fuzz(TESTS / "fuzz.py", "--target", "hostile", *HOSTILE)
    assert status == 0, said
    assert len(HOSTILE) >= 20
    assert f"hostile, plain: {len(HOSTILE)} executions" in said


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("self.strong.append(handler)", "LOGGER.handler = handler", "left alive"),
        ("raise RAISED[error]()", "raise SystemError", "nobody made"),
        ("self.subs.append((weakref.ref(bus), sub))", "self.last = ''", "AssertionError"),
    ],
)
def test_what_strangers_do_is_judged(tmp_path: Path, before: str, after: str, says: str) -> None:
    directory = copied(tmp_path)
    source = (directory / "hostile_of_bytes.py").read_text(encoding="utf-8")
    assert source.count(before) == 1
    changed = source.replace(before, after)
    (directory / "hostile_of_bytes.py").write_text(changed, encoding="utf-8")
    given = ["--target", "hostile", "--seconds", 60, "--faults", tmp_path / "faults"]
    status, said = fuzz(directory / "fuzz.py", *given)
    assert status == 1, said
    assert says in said


def test_a_hundred_new_inputs_find_nothing(tmp_path: Path) -> None:
    script, given = TESTS / "fuzz.py", ["--runs", 100, "--seconds", 100, "--seed", 1]
    status, said = fuzz(script, *given, "--faults", tmp_path)
    assert status == 0, said
    assert f"model, plain: {len(CORPUS) + 100} executions" in said


def test_a_difference_is_found_and_its_input_shows_it_again(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    source = (directory / "model.py").read_text(encoding="utf-8")
    once = "sub.subscribed = not sub.once"
    assert source.count(once) == 1
    wrong = source.replace(once, "sub.subscribed = True")
    (directory / "model.py").write_text(wrong, encoding="utf-8")
    status, said = fuzz(directory / "fuzz.py", "--seconds", 60, "--faults", tmp_path / "faults")
    assert status == 1, said
    assert "and not" in said
    (fault,) = (tmp_path / "faults").iterdir()
    assert str(fault) in said
    again, said = fuzz(directory / "fuzz.py", fault, "--faults", tmp_path / "again")
    assert again == 1, said
    (directory / "model.py").write_text(source, encoding="utf-8")
    mended, said = fuzz(directory / "fuzz.py", fault)
    assert mended == 0, said


def test_an_input_that_ends_the_process_is_left_in_a_file(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    dies = (
        "import os\n\ndef model(data):\n    return os.abort() if b'!' in data else 1, {len(data)}\n"
    )
    (directory / "fuzz_targets.py").write_text(dies, encoding="utf-8")
    status, said = fuzz(directory / "fuzz.py", "--seconds", 60, "--faults", tmp_path / "faults")
    assert status == 1, said
    assert "exit status" in said
    (fault,) = (tmp_path / "faults").iterdir()
    assert b"!" in fault.read_bytes()
