"""README.md and docs/: the examples do what they say, and what is named there exists."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PACKAGES

import agent_event_bus
from agent_event_bus.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
TESTS = ROOT / "tests"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]

COMMANDS = {
    "demo": "python -m pip install -e '.[cli]' && python -m agent_event_bus demo",
    "test": "python -m pip install -e '.[test]' && python -m pytest",
}
CLASSES = (
    "EventBus",
    "Subscription",
    "Emitter",
    "Event",
    "EventKey",
    "Outcome",
    "Expectation",
    "Stream",
)
# The pages that have tables of promises, and more rows than how many.
PROMISES = {
    "reliability.md": 15,
    "runtime.md": 50,
    "semantics.md": 150,
    "store.md": 50,
    "telemetry.md": 50,
    "worker.md": 50,
}
EXPORTED = {name: getattr(agent_event_bus, name) for name in agent_event_bus.__all__}
FUNCTIONS = {name for name, value in EXPORTED.items() if inspect.isfunction(value)}
EXCEPTIONS = {
    name
    for name, value in EXPORTED.items()
    if isinstance(value, type) and issubclass(value, Exception)
}


def blocks(document: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each fenced block of a language."""
    text = document.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start()) + 2, match[1]


def prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    text = document.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(document: Path, heading: str) -> str:
    """Return what stands between a heading and the next one of any level, without fenced blocks."""
    found = re.split(rf"^#+ {re.escape(heading)}$", prose(document), flags=re.MULTILINE)
    assert len(found) == 2, f"{document.name} must have one heading {heading!r}"
    return re.split(r"^#+ ", found[1], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without heads and the lines under them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(lines) if re.fullmatch(r"[|: ]*-[-|: ]*", line)}
    no_body = rules | {number - 1 for number in rules}
    body = [line for number, line in enumerate(lines) if number not in no_body]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


# Examples


EXAMPLES = [
    pytest.param(code, id=f"{document.name}:{line}")
    for document in DOCUMENTS
    for line, code in blocks(document, "python")
]


def stated(code: str, mark: str) -> list[str]:
    """Return the lines that an example states behind a mark."""
    return re.findall(rf"^{re.escape(mark)} (.*)$", code, re.MULTILINE)


def without_tracebacks(text: str) -> list[str]:
    """Return the lines of a log that belong to no traceback."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("Traceback "):
            inside = True
        elif not inside:
            kept.append(line)
        elif not line.startswith(" "):
            inside = False  # the line that names the exception ends it
    return kept


@pytest.mark.parametrize("code", EXAMPLES)
def test_every_example_prints_and_logs_exactly_what_it_states(code: str, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert stated(code, "# >"), "the example states nothing to check"
    assert done.stdout.splitlines() == stated(code, "# >")
    assert without_tracebacks(done.stderr) == stated(code, "# !")


def test_the_readme_has_examples() -> None:
    assert len(list(blocks(README, "python"))) >= 5


# Commands


def test_the_readme_has_exactly_two_set_up_commands_each_a_line_of_its_own() -> None:
    text = README.read_text(encoding="utf-8")
    found = re.findall(r"^<!-- command: (.+) -->\n```sh\n(.+)\n```$", text, re.MULTILINE)
    assert found == list(COMMANDS.items())
    assert text.count("<!-- command:") == text.count("pip install") == len(COMMANDS)


def test_the_set_up_commands_use_extras_that_exist() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for command in COMMANDS.values():
        for extra in re.findall(r"\[(\w+)\]", command):
            assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra


def test_the_trace_command_of_the_readme_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [code for _, code in blocks(README, "sh") if "--trace" in code]
    assert len(commands) == 1
    arguments = shlex.split(commands[0])
    assert arguments[:3] == ["python", "-m", "agent_event_bus"]
    monkeypatch.chdir(ROOT)
    assert main(arguments[3:]) == 0
    assert "two_runs.jsonl" in capsys.readouterr().out


def test_the_readme_lists_the_options_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    offered = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)  # some twice
    listed = [row[0].strip("`").split()[0] for row in rows(section(README, "The demo"))]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(offered)


# The API


def listed_api(name: str) -> list[str]:
    """Return what the README lists for a class, in the words of its table."""
    return [re.sub(r"^`(.+)`$", r"\1", row[0]) for row in rows(section(README, name))]


def bare(signature: inspect.Signature) -> str:
    """Return a signature as text without annotations."""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    plain = signature.replace(parameters=parameters, return_annotation=signature.empty)
    return str(plain)


def signature_of(cls: type[Any], name: str) -> str:
    """Return the signature of a method, or of the class itself by its name, as a caller sees it."""
    if name == cls.__name__:
        return bare(inspect.signature(cls))
    signature = inspect.signature(getattr(cls, name))
    return bare(signature.replace(parameters=list(signature.parameters.values())[1:]))


def test_the_readme_describes_every_class_and_what_else_is_exported() -> None:
    exported = re.findall(r"`(\w+)`", section(README, "API"))
    assert set(exported) - {"agent_event_bus"} == set(agent_event_bus.__all__)
    assert {name for name in EXPORTED if name[0].isupper()} - EXCEPTIONS == set(CLASSES)


def test_the_readme_lists_every_function_with_its_real_signature() -> None:
    signatures = {name + bare(inspect.signature(EXPORTED[name])) for name in FUNCTIONS}
    assert len(signatures) >= 3
    assert sorted(listed_api("Functions")) == sorted(signatures)


def test_the_readme_lists_every_exception_with_its_base_and_its_attributes() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows(section(README, "Exceptions"))}
    assert set(listed) == EXCEPTIONS
    assert len(EXCEPTIONS) >= 3
    for name, text in listed.items():
        exception: Any = EXPORTED[name]
        assert f"A `{exception.__base__.__name__}`" in text
        attributes = text.partition("attributes ")[2]
        own = vars(exception).get("__init__")  # which keeps each of its arguments
        needed = [] if own is None else list(inspect.signature(own).parameters)[1:]
        assert [word for word in re.findall(r"`(\w+)`", attributes) if word != "None"] == needed


@pytest.mark.parametrize("name", CLASSES)
def test_the_readme_lists_every_public_attribute_and_no_other(name: str) -> None:
    listed = [entry.partition("(")[0] for entry in listed_api(name)]
    cls: type[Any] = getattr(agent_event_bus, name)
    of_text = set(dir(str)) if issubclass(cls, str) else set()
    public = [attribute for attribute in set(dir(cls)) - of_text if attribute[0] != "_"]
    assert sorted(entry for entry in listed if entry != name) == sorted(public)


@pytest.mark.parametrize("name", CLASSES)
def test_the_readme_gives_methods_their_real_signatures(name: str) -> None:
    cls: type[Any] = getattr(agent_event_bus, name)
    for entry in listed_api(name):
        method, parenthesis, _ = entry.partition("(")
        if method == name and sys.version_info < (3, 11):
            continue  # a native constructor does not tell its signature there
        assert bool(parenthesis) == callable(getattr(cls, method, cls)), entry
        if parenthesis:
            assert entry == method + signature_of(cls, method)


def test_the_page_of_the_store_lists_every_public_attribute_with_its_real_signature() -> None:
    from agent_event_bus.store import EventStore

    listed = [row[0].strip("`") for row in rows(section(DOCS / "store.md", "API"))]
    public = {name for name in dir(EventStore) if name[0] != "_"}
    assert {entry.partition("(")[0] for entry in listed} == public | {"EventStore"}
    for entry in listed:
        name, parenthesis, _ = entry.partition("(")
        assert bool(parenthesis) == callable(getattr(EventStore, name, EventStore)), entry
        if parenthesis:
            assert entry == name + signature_of(EventStore, name)


def test_the_readme_explains_every_option_of_a_subscription() -> None:
    parameters = inspect.signature(agent_event_bus.EventBus.subscribe).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    explained = re.findall(r"^- `(\w+)`:", section(README, "EventBus"), re.MULTILINE)
    assert explained == options


# What the documents refer to


def defined_tests(file: Path) -> set[str]:
    """Return the tests that a file defines, those of a class as `Class::test`."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, functions):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.update(f"{node.name}::{m.name}" for m in node.body if isinstance(m, functions))
    return found


def promises(document: Path) -> list[list[str]]:
    """Return the rows of all tables of a document that have promises and the tests behind them."""
    tables = re.findall(
        r"^\| promise \| shown by \|\n(?:\|.*\n)+", prose(document), flags=re.MULTILINE
    )
    return rows("\n".join(tables))


@pytest.mark.parametrize(("page", "least"), PROMISES.items())
def test_every_promise_names_a_test_and_every_test_named_exists(page: str, least: int) -> None:
    given = promises(DOCS / page)
    assert len(given) > least
    known = {f"tests/{file.name}": defined_tests(file) for file in TESTS.glob("test_*.py")}
    missing: list[str] = []
    for promise in given:
        named = re.findall(r"`(tests/\w+\.py)::([\w:]+)`", promise[-1])
        assert named, f"no test shows: {promise[0]}"
        assert promise[-1].count("::test_") == len(named), f"misspelt: {promise[-1]}"
        missing += [f"{file}::{test}" for file, test in named if test not in known.get(file, ())]
    assert missing == []


def anchors(document: Path) -> set[str]:
    """Return the anchors that the headings of a document get."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = prose(document)
    if document.parent == ROOT:
        assert "![" not in text, "an image would not be shown on the package index"
    no_code = re.sub(r"`[^`\n]+`", "", text)
    for target in re.findall(r"\]\(([^)]+)\)", no_code):
        path, _, anchor = target.partition("#")
        if re.match(r"https?://", target):
            continue
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_architecture_lists_every_source_file() -> None:
    files = section(DOCS / "architecture.md", "Files")
    listed = {name for row in rows(files) for name in re.findall(r"`([\w./]+\.\w+)`", row[0])}
    package = ROOT / "agent_event_bus"
    present = [*(ROOT / "src").iterdir(), *package.glob("*.py*"), *package.glob("py.typed")]
    names = {file.name for file in present if file.suffix != ".pyd"}
    for system in ("runtime", "store", "worker"):
        names |= {f"{system}/{file.name}" for file in (package / system).glob("*.py")}
    assert listed == names


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(?!Unreleased)(.+?)\]", text, re.MULTILINE)
    assert newest is not None
    assert newest[1] == agent_event_bus.__version__


def test_the_figures_of_the_readme_are_those_of_the_measurement() -> None:
    measured = {
        row[0]: [cell.split()[0] for cell in row[1:]]
        for row in rows(section(DOCS / "performance.md", "emit"))
    }
    quoted = rows(section(README, "Figures"))
    assert len(quoted) >= 8
    for label, *ratios in quoted:
        # The README leaves out the last column, of 100 handlers.
        assert measured[label][:-1] == ratios, label
