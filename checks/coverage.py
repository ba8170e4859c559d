"""Says which lines of src/ have not run, and fails when one of them is not explained.

    AEB_COVERAGE=1 python -m pip install -e '.[test]'      build for gcov
    python -m pytest                                       run, all processes add their counts
    python -m checks.coverage                              the table, and what is missing

The exit status is 1 when less than 95 % of the lines have run, when a line has not run that
checks/uncovered.txt does not explain, and when that file names what is not there any more. Lines
that `#if` leaves out with the Python at hand do not count.

checks/uncovered.txt has, under a heading with the reason, the lines that no test has to run, by
file, function and text, each below the line that opens its block: so an explanation stays true when
lines move, and ends when the line or its condition changes. Chance may have it that such a line
runs all the same. `python -m checks.coverage --missing` prints in that form what is not explained.
One reason is found without being written down, because it can be: the branch after an allocation
that failed. It is recognised by its form alone:

    name = one_of_the_functions(...);        which fail for want of memory only
    if (name == NULL) {                      or: if (one_of_the_functions(...) < 0) {
        ...                                  not run
    }

The functions are those of ALLOCATES below. Any other condition is not of this form.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checks import native

OBJECTS = native.ROOT / "build" / "coverage" / "src"
EXPLANATIONS = Path(__file__).with_name("uncovered.txt")
GOAL = 95.0

ALLOCATES = [
    *("PyMem_Malloc", "PyMem_Calloc", "PyMem_Realloc", "PyMem_New", "PyObject_Malloc"),
    *("PyList_New", "PyTuple_New", "PyTuple_Pack", "PyDict_New", "PyDict_Copy", "PySet_New"),
    *("PyList_Append", "PyList_Insert", "PyList_AsTuple", "PyList_GetSlice", "PyMethod_New"),
    *("PyLong_FromSsize_t", "PyLong_FromLongLong", "PyLong_FromUnsignedLongLong"),
    *("PyFloat_FromDouble", "PyUnicode_FromString", "PyUnicode_InternFromString"),
    *("PyUnicode_Substring", "PyContext_New", "PyContext_CopyCurrent", "PyContextVar_New"),
]
NULL_TEST = re.compile(r"if \((?:AEB_UNLIKELY\()?(?P<name>[\w>.\[\]-]+) == NULL\)?\) \{$")
BELOW_0_TEST = re.compile(rf"if \((?:{'|'.join(ALLOCATES)})\([^()]*\) < 0\) \{{$")

Place = tuple[str, str, str, str]
"""File, function, the line that opens the block, and the text of a line."""


class Line:
    """A line of code that can run."""

    def __init__(self, file: str, number: int, function: str, source: list[str]) -> None:
        self.file = file
        self.number = number
        self.function = function
        self.head = head_of(source, number - 1)
        self.text = " ".join(source[number - 1].split())
        self.count = 0

    @property
    def place(self) -> Place:
        return self.file, self.function, self.head, self.text


def records() -> Iterator[dict[str, Any]]:
    """What gcov says, by object file."""
    gcov = shutil.which("gcov")
    if gcov is None:
        native.cannot_run("no gcov on this machine")
    objects = sorted(OBJECTS.glob("*.gcda"))
    if not objects:
        native.cannot_run(f"no counts in {OBJECTS}: build with AEB_COVERAGE=1, and run the tests")
    with tempfile.TemporaryDirectory() as place:
        command = [gcov, "--json-format", "--stdout", *map(str, objects)]
        output = subprocess.run(command, cwd=place, check=True, stdout=subprocess.PIPE).stdout
    for document in output.decode().splitlines():
        yield json.loads(document)


def measure() -> list[Line]:
    """All lines of src/ that are code for this Python, headers counted once."""
    found: dict[tuple[str, int], Line] = {}
    sources: dict[str, list[str]] = {}
    for record in records():
        for part in record["files"]:
            file = part["file"]
            if not file.startswith("src/"):
                continue
            source = sources.setdefault(file, (native.ROOT / file).read_text().splitlines())
            for entry in part["lines"]:
                number = entry["line_number"]
                line = found.get((file, number))
                if line is None:
                    line = Line(file, number, entry.get("function_name", ""), source)
                    found[file, number] = line
                line.count += entry["count"]
    return [found[key] for key in sorted(found)]


def after_an_allocation(source: list[str]) -> set[int]:
    """The numbers of the lines in branches that an allocation which failed leads to."""
    numbers: set[int] = set()
    for index, text in enumerate(source):
        if not BELOW_0_TEST.search(text.strip()) and not is_test_of_allocation(source, index):
            continue
        indent = indentation(text)
        for inside in range(index + 1, len(source)):
            if source[inside].strip() and indentation(source[inside]) <= indent:
                break
            numbers.add(inside + 1)
    return numbers


def is_test_of_allocation(source: list[str], index: int) -> bool:
    """Whether this line tests for NULL what the statement before it has allocated."""
    test = NULL_TEST.search(source[index].strip())
    if test is None:
        return False
    statement = ""  # which may take three lines
    for before in reversed(source[max(0, index - 3) : index]):
        if statement and before.rstrip().endswith((";", "{", "}", "*/")):
            break
        statement = before.strip() + " " + statement
    name, functions = re.escape(test["name"]), "|".join(ALLOCATES)
    return bool(re.search(rf"(?<![\w>.]){name} = (?:\([\w *]+\))?(?:{functions})\(", statement))


def indentation(text: str) -> int:
    """How far a line is indented."""
    return len(text) - len(text.lstrip())


def head_of(source: list[str], index: int) -> str:
    """The line that opens the block which a line is in; a function's own is opened by its brace."""
    for before in reversed(source[:index]):
        if not before.strip() or before.startswith("#"):
            continue
        if indentation(before) < indentation(source[index]):
            return " ".join(before.split())
    return "{"


def explanations() -> tuple[dict[Place, int], list[str]]:
    """How many lines of each place are explained, and what is wrong with the file."""
    explained: Counter[Place] = Counter()
    wrong: list[str] = []
    reason = place = head = ""
    for number, line in enumerate(EXPLANATIONS.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("== "):
            reason, place, head = line[3:].strip(), "", ""
        elif not line.startswith(" "):
            place, head = line.strip(), ""
        elif not line.startswith(" " * 8):
            head = line.strip()
        elif reason and head and place.count(":") == 1:
            file, function = place.split(":")
            explained[file, function, head, line.strip()] += 1
        else:
            wrong.append(
                f"{EXPLANATIONS.name}:{number}: a line needs a reason, FILE:FUNCTION and a head"
            )
    return explained, wrong


def listing(lines: list[Line]) -> str:
    """Lines in the form of the file."""
    shown: list[str] = []
    last = head = ""
    for line in lines:
        place = f"{line.file}:{line.function}"
        if place != last:
            shown.append(place)
            last, head = place, ""
        if line.head != head:
            head = line.head
            shown.append(f"    {head}")
        shown.append(f"        {line.text}")
    return "\n".join(shown)


def table(lines: list[Line]) -> float:
    """Print how much of each file has run; return how much of all, in percent."""
    files: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        files[line.file].append(line)
    print(f"{'file':28}{'lines':>8}{'not run':>9}{'run':>9}")
    for name, part in [*files.items(), ("all", lines)]:
        missed = sum(line.count == 0 for line in part)
        share = 100.0 * (len(part) - missed) / len(part)
        print(f"{name:28}{len(part):8}{missed:9}{share:8.1f}%")
    return share


def main() -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m checks.coverage", description=description)
    parser.add_argument("--missing", action="store_true", help="print only what is not explained")
    options = parser.parse_args()
    lines = measure()
    missed = [line for line in lines if line.count == 0]
    for file in {line.file for line in missed}:
        branches = after_an_allocation((native.ROOT / file).read_text().splitlines())
        missed = [line for line in missed if line.file != file or line.number not in branches]
    explained, wrong = explanations()
    there = Counter(line.place for line in lines)
    for place, number in sorted(explained.items()):
        if there[place] < number:
            file, function, head, text = place
            wrong.append(f"{file}:{function} has not {number} times: {head} {text}")
    left = dict(explained)
    unexplained: list[Line] = []
    for line in missed:
        if left.get(line.place, 0) > 0:
            left[line.place] -= 1
        else:
            unexplained.append(line)
    if options.missing:
        print(listing(unexplained))
        return 0
    share = table(lines)
    not_run = sum(line.count == 0 for line in lines)
    print(f"{not_run - len(missed)} of the lines not run follow an allocation that failed")
    print(f"{len(missed) - len(unexplained)} are explained in {EXPLANATIONS.name}")
    print(f"{sum(left.values())} lines that it explains have run")
    for complaint in wrong:
        print(complaint)
    if unexplained:
        print(f"{len(unexplained)} are not explained:\n{listing(unexplained)}")
    if share < GOAL:
        print(f"{share:.2f} % of the lines have run, and not {GOAL:.0f} %")
    return native.FOUND if unexplained or wrong or share < GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
