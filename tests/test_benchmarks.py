"""benchmarks/: its statistics, its documents, and what `--check` refuses. No peer is needed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from helpers import PACKAGES

from agent_event_bus.store import EventStore

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import chart, cli, instructions, report  # noqa: E402
from benchmarks.durable import EVENT as DURABLE_EVENT  # noqa: E402
from benchmarks.durable import FILES, NUMBERS, folder_on_disk, prepare  # noqa: E402
from benchmarks.durable import SUITE as DURABLE_SUITE  # noqa: E402
from benchmarks.emit import complaints  # noqa: E402
from benchmarks.emit_async import SUITE as ASYNC_SUITE  # noqa: E402
from benchmarks.emit_async import TARGETS  # noqa: E402
from benchmarks.harness import (  # noqa: E402
    PAYLOAD,
    QUICK,
    Column,
    Handlers,
    Spread,
    Statement,
    Suite,
    Table,
    Target,
    UnsupportedError,
    event_loop,
    measure,
)
from benchmarks.observing import HISTORY, TIMING, differences  # noqa: E402
from benchmarks.observing import SUITE as OBSERVING_SUITE  # noqa: E402
from benchmarks.patterns import SUITE as PATTERNS_SUITE  # noqa: E402
from benchmarks.peers import OURS  # noqa: E402
from benchmarks.runtime_bus import SUITE as RUNTIME_SUITE  # noqa: E402
from benchmarks.telemetry import SUITE as TELEMETRY_SUITE  # noqa: E402
from benchmarks.worker import SUITE as WORKER_SUITE  # noqa: E402


def column(heading: str, **samples: list[float]) -> Column:
    """Return a column whose baseline is the row `by_hand`."""
    return Column(heading, "by_hand", dict(samples))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the benchmarks as a command."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


# Statistics


def test_a_spread_has_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)


def test_a_single_figure_is_its_own_spread() -> None:
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_ratio_compares_the_times_of_the_same_round() -> None:
    measured = column("1 handler", by_hand=[10.0, 20.0, 40.0], ours=[20.0, 40.0, 80.0])
    assert measured.ratio("ours") == Spread(2.0, 2.0, 2.0)
    assert measured.ratio("by_hand", to="ours") == Spread(0.5, 0.5, 0.5)


def test_there_is_no_ratio_where_nothing_was_measured() -> None:
    measured = column("1 handler", by_hand=[10.0], nothing=[0.0])
    assert measured.ratio("absent") is None
    assert measured.ratio("by_hand", to="nothing") is None


# Measuring


def test_a_slower_statement_has_a_higher_ratio() -> None:
    def calls(count: int) -> Statement:
        return Statement("for _ in range(count): pass", {"count": count})

    rows = {"by_hand": lambda _: calls(10), "slow": lambda _: calls(10_000)}
    measured = measure("loops", rows, "by_hand", QUICK)
    ratio = measured.ratio("slow")
    assert ratio is not None
    assert ratio.median > 20
    assert len(measured.samples["slow"]) == QUICK.most


def test_a_statement_that_awaits_is_timed_in_an_event_loop() -> None:
    def awaiting(handlers: Handlers) -> Statement:
        (handler,) = handlers.make("suspending", 1)
        names = {"handler": handler, "payload": PAYLOAD}
        return Statement("await handler(payload)", names, awaits=True)

    measured = measure("one", {"by_hand": awaiting}, "by_hand", QUICK)
    assert measured.missing == {}
    assert all(sample > 0 for sample in measured.samples["by_hand"])


def test_a_row_that_does_not_reach_every_handler_is_not_timed() -> None:
    def forgetful(handlers: Handlers) -> Statement:
        first, _ = handlers.make("sync", 2)
        return Statement("first(payload)", {"first": first, "payload": PAYLOAD})

    measured = measure("two", {"by_hand": forgetful}, "by_hand", QUICK)
    assert measured.missing == {"by_hand": "does not reach every handler exactly once"}
    assert measured.samples == {}


def test_a_row_that_delivers_something_else_is_not_timed() -> None:
    def wrong(handlers: Handlers) -> Statement:
        (handler,) = handlers.make("sync", 1)
        return Statement("handler(None)", {"handler": handler})

    measured = measure("one", {"by_hand": wrong}, "by_hand", QUICK)
    assert measured.missing == {"by_hand": "does not deliver the payload"}


def test_a_row_says_why_it_cannot_be_measured() -> None:
    def unable(_: Handlers) -> Statement:
        raise UnsupportedError("has no such thing")

    def absent(_: Handlers) -> Statement:
        raise ModuleNotFoundError("no module")

    measured = measure("one", {"unable": unable, "absent": absent}, "unable", QUICK)
    assert measured.missing == {"unable": "has no such thing", "absent": "not installed"}


# Tables and documents


def test_a_table_shows_ratios_quartiles_dashes_and_notes() -> None:
    measured = column("1 handler", by_hand=[10.0, 10.0, 10.0], ours=[15.0, 20.0, 25.0])
    measured.missing["theirs"] = "not installed"
    table = Table("t", "emit", ["by_hand", "ours", "theirs"], [measured], notes={"ours": "a note"})
    text = report.table_text(table, {"ours": "ours 1.0"})
    assert text.splitlines() == [
        "| emit (ratio) |           1 handler |",
        "| ------------ | ------------------: |",
        "| by_hand      |      1.00 = 10.0 ns |",
        "| ours 1.0     | 2.00 (1.75 to 2.25) |",
        "| theirs       |                   - |",
        "",
        "- ours: a note.",
        "- theirs: not installed.",
    ]


def test_a_generated_part_replaces_what_stands_between_its_comments_only() -> None:
    part = "<!-- benchmarks: {} -->\n{}\n<!-- /benchmarks -->\n"
    text = f"a\n{part.format('x', 'old')}b\n{part.format('y', 'kept')}"
    filled = report.fill(text, "x", "new")
    assert filled == text.replace("\nold\n", "\n\nnew\n\n")
    assert report.fill(filled, "x", "new") == filled


@pytest.mark.parametrize(
    "text", ["", "<!-- benchmarks: x -->", "<!-- benchmarks: x -->\n<!-- /benchmarks -->" * 2]
)
def test_a_document_without_one_place_for_a_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="benchmarks: x"):
        report.fill(text, "x", "new")


def test_the_documents_have_a_place_for_every_suite() -> None:
    performance = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in cli.SUITES:
        assert "filled" in report.fill(performance, name, "filled")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "filled" in report.fill(readme, "figures", "filled")


def test_a_chart_is_well_formed_and_has_a_bar_for_every_ratio() -> None:
    bars = [("ours & theirs", Spread(2.0, 1.5, 2.5)), ("<none>", None), ("x", Spread(900, 1, 1e4))]
    root = ElementTree.fromstring(chart.chart("A title", [chart.Panel("A & B", bars, "x")]))
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{svg}svg"
    texts = [element.text for element in root.iter(f"{svg}text")]
    assert {"A & B", "ours & theirs", "<none>", "2.00", "900"} <= set(texts)
    kinds = [element.get("class") for element in root.iter(f"{svg}rect")]
    assert sorted(kind for kind in kinds if kind) == ["bar", "ours"]
    widths = {e.get("class"): float(e.get("width", "0")) for e in root.iter(f"{svg}rect")}
    assert 0 < widths["bar"] < widths["ours"] <= chart.WIDTH - chart.LABELS - chart.FIGURES


# Checks


def test_emit_must_stay_within_the_limit_and_ahead_of_every_other_bus() -> None:
    inline = [10.0, 10.0]
    measured = Column("1 handler", "inline loop", {"inline loop": inline, OURS: [13.0, 13.0]})
    table = Table("emit", "emit", [], [measured])
    assert complaints([table], 1.25) == [
        f"1 handler: {OURS} takes 1.30 times the inline loop, limit 1.25"
    ]
    assert complaints([table], 1.35) == []
    measured.samples["other"] = [12.0, 12.0]
    assert complaints([table], 1.35) == [
        f"1 handler: other is faster than {OURS}, 1.20 against 1.30 times the inline loop"
    ]


def async_tables(ratio_of_ours: float) -> list[Table]:
    """Return tables in which the baselines take 100 and gather 4000, and ours a multiple of 100."""
    tables: dict[str, Table] = {}
    for target in TARGETS:
        table = tables.setdefault(target.table, Table(target.table, "", [], []))
        rows = {target.row, target.other or ""}
        found = Column(target.heading, "")
        found.samples = {row: [4000.0 if "gather" in row else 100.0] for row in rows}
        found.samples[OURS] = [ratio_of_ours * 100]
        known = [c for c in table.columns if c.heading == target.heading]
        if known:
            known[0].samples.update(found.samples)
        else:
            table.columns.append(found)
    return list(tables.values())


def test_the_targets_of_emit_async_are_met_or_named() -> None:
    assert ASYNC_SUITE.faults(async_tables(1.5)) == []
    missed = ASYNC_SUITE.faults(async_tables(1.7))
    assert any("10 handlers, of awaiting them: at most 1.6 times: 1.70" in m for m in missed)
    assert any("at least 25 times faster: 23.53" in m for m in missed)
    assert not any(m.startswith("1 handler, of awaiting it") for m in missed)


def test_a_target_that_was_not_measured_is_missed() -> None:
    assert len(ASYNC_SUITE.faults([])) == len(TARGETS) == 8


def test_a_target_may_be_a_figure_of_its_own() -> None:
    table = Table("t", "", [], [column("added", history=[70.0, 80.0, 90.0])], absolute=True)
    fine = Target("history: at most 80 ns", "t", "added", "history", None, 80.0)
    missed = Target("history: at most 79 ns", "t", "added", "history", None, 79.0)
    suite = Suite("s", lambda pace: [table], targets=(fine, missed))
    assert suite.faults([table]) == ["history: at most 79 ns: 80.00"]


def test_what_looking_back_adds_is_the_difference_of_the_same_round() -> None:
    measured = Column(
        "emit, 10 handlers",
        "off",
        {
            "off": [100.0, 200.0],
            "history=1000": [130.0, 240.0],
            "timing=True": [600.0, 900.0],
            "slow_after=1.0": [100.0, 200.0],
        },
    )
    added = differences(measured, 10)
    assert added.samples[HISTORY] == [30.0, 40.0]
    assert added.samples[TIMING] == [50.0, 70.0]


@pytest.mark.parametrize(
    "suite",
    [
        PATTERNS_SUITE,
        OBSERVING_SUITE,
        TELEMETRY_SUITE,
        RUNTIME_SUITE,
        WORKER_SUITE,
        DURABLE_SUITE,
    ],
    ids=lambda suite: suite.name,
)
def test_the_targets_of_a_suite_are_rows_that_it_measures(suite: Suite) -> None:
    tables = suite.run(QUICK)
    for target in suite.targets:
        of_full_size = "10,000 patterns" in target.row  # which a quick run does not have
        assert (target.measured(tables) is None) == of_full_size, target.what


@pytest.mark.parametrize("row", NUMBERS)
def test_each_row_of_durable_events_writes_what_it_is_divided_by(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    number = min(NUMBERS[row], 50)
    with folder_on_disk() as folder, event_loop() as loop:
        statement = prepare(Handlers(), row=row, folder=folder, number=number)
        if row == FILES:
            queue = statement.names["files"]
            statement = dataclasses.replace(statement, teardown="")
        statement.compiled(loop)(2)
        if statement.finish is not None:
            loop.run_until_complete(statement.finish())
        if row == FILES:
            found = [json.loads(file.read_text())["payload"] for file in queue.folder.iterdir()]
        else:
            with EventStore(next(folder.iterdir())) as store:
                found = [event.payload for event in store.read()]
                assert store.verify() == []
        assert found == [DURABLE_EVENT] * (2 * number)
    assert list(tmp_path.iterdir()) == []


# The command


def test_a_quick_run_of_a_suite_measures_this_package_and_writes_nothing(tmp_path: Path) -> None:
    before = (ROOT / "docs" / "performance.md").read_bytes()
    samples = tmp_path / "samples.json"
    done = run("benchmarks", "--quick", "--suite", "emit_async", "--json", str(samples))
    assert done.returncode == 0, done.stderr
    measured = [
        result
        for result in json.loads(samples.read_text(encoding="utf-8"))["results"]
        if result["row"] == OURS
    ]
    assert len(measured) == 9
    for result in measured:
        assert result["missing"] is None
        assert result["ratio"] > 0
    assert "no handlers, of awaiting nothing: at most 1.5 times" in done.stdout
    assert (ROOT / "docs" / "performance.md").read_bytes() == before


def test_a_run_with_output_writes_the_documents_there(tmp_path: Path) -> None:
    done = run("benchmarks", "--quick", "--suite", "emit", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"performance.md", "README.md"}
    assert "10 handlers" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_check_that_fails_is_the_exit_status() -> None:
    done = run("benchmarks.emit", "--check", "0.0001", "--repeat", "1", "--turn", "1")
    assert done.returncode == 1
    assert "times the inline loop, limit 0.00" in done.stderr


# Counting instructions

COMMITTED = {"w": {"core": 1000, "total": 5000}}


@pytest.mark.parametrize(("core", "faults"), [(1040, 0), (1050, 0), (1060, 1), (900, 0)])
def test_instructions_may_grow_by_five_per_cent_and_no_more(core: int, faults: int) -> None:
    counts = {"w": {"core": core, "total": 5000}}
    found = instructions.grown(COMMITTED, counts)
    assert len(found) == faults
    assert all("core instructions grew by 6.0 %, from 1,000 to 1,060" in fault for fault in found)


def test_work_that_moved_into_the_interpreter_is_found_in_the_total() -> None:
    counts = {"w": {"core": 900, "total": 5300}}
    (fault,) = instructions.grown(COMMITTED, counts)
    assert "total instructions grew by 6.0 %" in fault


@pytest.mark.parametrize("what", ["interpreter", "compiler"])
def test_instructions_of_another_build_are_not_checked(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/valgrind")
    monkeypatch.setattr(instructions, "count_all", lambda: {"w": {"core": 9, "total": 9}})
    assert instructions.main(["--update", "--figures", str(figures)]) == 0
    entry = json.loads(figures.read_text(encoding="utf-8"))
    entry[instructions.key()].update({what: "an older one", "workloads": {}})
    figures.write_text(json.dumps(entry), encoding="utf-8")
    assert instructions.main(["--check", "--figures", str(figures)]) == 77
    assert f"another {what}:" in capsys.readouterr().err


def test_a_workload_without_committed_instructions_is_a_fault() -> None:
    counts = {"new": {"core": 1, "total": 1}}
    (fault,) = instructions.grown(COMMITTED, counts)
    assert "--update" in fault


CALLGRIND = """\
events: Ir
ob=(1) /usr/lib/libc.so.6
fn=(1) malloc
10 100
ob=(2) /site/agent_event_bus/_core.so
fn=(2) emit
20 7
+1 3
cob=(1)
cfn=(1)
calls=4 0
22 5000
23 2
cob=(3) /usr/bin/python
cfn=(3) call
calls=1 0
* 900
ob=(3)
fn=(3)
30 50
ob=(2)
fn=(4) emit_async
* 1
totals: 163
"""


def test_instructions_are_those_of_the_compiled_module_without_what_it_calls() -> None:
    assert instructions.parsed(CALLGRIND, "_core.so") == {"core": 13, "total": 163}


def test_a_run_without_the_compiled_module_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing of"):
        instructions.parsed(CALLGRIND, "_other.so")


def test_instructions_without_valgrind_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert instructions.main(["--check"]) == 77
    assert "valgrind is not installed" in capsys.readouterr().err


def test_an_interpreter_without_committed_instructions_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/valgrind")
    assert instructions.main(["--check", "--figures", str(tmp_path / "none.json")]) == 1
    assert "run --update" in capsys.readouterr().err


def test_an_update_is_what_the_next_check_compares_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = str(tmp_path / "figures.json")
    counts = {"w": {"core": 1000, "total": 5000}}
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/valgrind")
    monkeypatch.setattr(instructions, "count_all", lambda: counts)
    assert instructions.main(["--update", "--figures", figures]) == 0
    counts["w"]["core"] = 1040
    assert instructions.main(["--check", "--figures", figures]) == 0
    counts["w"]["core"] = 1060
    assert instructions.main(["--check", "--figures", figures]) == 1
    assert "grew by 6.0 %" in capsys.readouterr().err


def test_the_committed_instructions_are_those_of_the_five_workloads() -> None:
    figures = instructions.load(instructions.FIGURES)
    assert figures
    for entry in figures.values():
        assert set(entry["workloads"]) == set(instructions.WORKLOADS)
        assert all(part > 0 for counts in entry["workloads"].values() for part in counts.values())


@pytest.mark.parametrize("workload", instructions.WORKLOADS)
def test_a_counted_workload_calls_its_handlers_as_often_as_it_says(workload: str) -> None:
    _, _, handlers = instructions.WORKLOADS[workload]
    assert instructions.perform(workload, 3) == (instructions.WARM_UP + 3) * handlers
