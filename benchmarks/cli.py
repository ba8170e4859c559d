"""The command line of the suites: what to run, how long, and where the results go."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.chart import Panel, chart
from benchmarks.harness import QUICK, Pace, Suite, Table
from benchmarks.peers import OURS, titles

ROOT = Path(__file__).parents[1]
SUITES = (
    "emit",
    "emit_async",
    "failures",
    "wildcard",
    "patterns",
    "observing",
    "registration",
    "memory",
    "import_time",
    "recorded",
    "runtime_bus",
    "durable",
    "telemetry",
    "worker",
)
CHARTED = (
    ("emit", "1 handler"),
    ("emit", "10 handlers"),
    ("never_suspending", "1 handler"),
    ("never_suspending", "10 handlers"),
    ("suspending", "10 handlers, sleep(0)"),
)
"""The tables and columns that the chart shows."""
QUOTED = ("0 handlers", "1 handler", "10 handlers")
"""The columns of `emit` that the README quotes."""


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure agent_event_bus beside other in-process buses, and fill the tables of"
        " docs/performance.md and README.md.",
    )
    parser.add_argument(
        "--suite", nargs="+", choices=SUITES, default=list(SUITES), help="run only these"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only show that everything works, and write nothing"
    )
    parser.add_argument("--repeat", type=positive, metavar="N", help="rounds (default: 7 to 25)")
    parser.add_argument(
        "--turn",
        type=positive,
        metavar="MS",
        help="how long a row is timed in each round, in milliseconds (default: 20)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write the documents there, not over the old ones",
    )
    parser.add_argument("--no-write", action="store_true", help="only print the tables")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument(
        "--check",
        type=float,
        nargs="?",
        const=float("nan"),
        metavar="RATIO",
        help="exit with status 1 when a target is missed: for emit, taking more than RATIO times"
        " the inline loop (default: 1.25) or being behind any other bus",
    )
    return parser.parse_args(arguments)


def pace_of(options: argparse.Namespace) -> Pace:
    """Return how long to measure."""
    pace = QUICK if options.quick else Pace()
    return Pace(
        turn=pace.turn if options.turn is None else options.turn / 1000,
        least=options.repeat or pace.least,
        most=options.repeat or pace.most,
        budget=pace.budget,
        quick=pace.quick,
    )


def drawing(tables: Mapping[str, Table], names: Mapping[str, str]) -> str | None:
    """Return the chart, None when a table of it was not measured."""
    if any(key not in tables for key, _ in CHARTED):
        return None
    panels = []
    for key, heading in CHARTED:
        table = tables[key]
        column = table.column(heading)
        bars = [(names.get(row, row), column.ratio(row)) for row in table.rows]
        bars = [(row, ratio) for row, ratio in bars if ratio is not None]
        title = f"{table.title}: {heading} (1x: {column.baseline})"
        panels.append(Panel(title, bars, names[OURS]))
    return chart("Time of an emission as a multiple of what one would write by hand", panels)


def write(
    results: Sequence[tuple[Suite, list[Table]]], names: Mapping[str, str], output: Path | None
) -> list[Path]:
    """Fill the documents with what was measured and return what was written.

    Args:
        results: the suites that have run, with their tables.
        names: what stands in the rows of the tables, by label.
        output: the directory for the documents, None for their own places.
    """
    performance = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = {table.key: table for _, measured in results for table in measured}
    for suite, measured in results:
        body = report.suite_text(measured, suite.targets, names)
        performance = report.fill(performance, suite.name, body)
    docs = output or ROOT / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    written = {docs / "performance.md": performance}
    if "emit" in tables:
        quoted = report.figures_text(tables["emit"], QUOTED, names)
        written[(output or ROOT) / "README.md"] = report.fill(readme, "figures", quoted)
    picture = drawing(tables, names)
    if picture is not None:
        written[docs / "performance.svg"] = picture
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return list(written)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites, print and write the tables, and return the exit status."""
    options = parse(arguments)
    pace = pace_of(options)
    names = titles()
    results: list[tuple[Suite, list[Table]]] = []
    print(f"{report.environment()}: median of the rounds' ratios, and quartiles\n")
    for name in dict.fromkeys(options.suite):
        suite: Suite = importlib.import_module(f"benchmarks.{name}").SUITE
        began = time.monotonic()
        tables = suite.run(pace)
        results.append((suite, tables))
        for table in tables:
            print(report.table_text(table, names), end="\n\n")
        if suite.targets:
            print(report.targets_text(suite.targets, tables), end="\n\n")
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)

    if options.json is not None:
        measured = [table for _, tables in results for table in tables]
        text = json.dumps(
            {"environment": report.environment(), "results": report.as_json(measured, names)},
            indent=1,
        )
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.output is not None or not (options.no_write or options.quick):
        for path in write(results, names, options.output):
            print(f"wrote {path}", file=sys.stderr)
    if options.check is None:
        return 0
    limit = None if options.check != options.check else options.check
    faults = [fault for suite, tables in results for fault in suite.faults(tables, limit)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0
