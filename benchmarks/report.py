"""Tables of results as Markdown and JSON, and the places in the documents where they go.

A generated part stands between the comments `<!-- benchmarks: NAME -->` and
`<!-- /benchmarks -->`; what is around it is written by hand and stays as it is.
"""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Column, Spread, Table, Target

END = "<!-- /benchmarks -->"


def environment() -> str:
    """Return what the figures depend on, in a line."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return (
        f"{platform.python_implementation()} {platform.python_version()}"
        f" ({platform.python_compiler()}, {'with' if optimised else 'without'} profile-guided"
        f" optimisation), {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )


def number(value: float) -> str:
    """Return a figure with the digits that mean something, two after the point at most."""
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}"


def cell(column: Column, label: str, table: Table) -> str:
    """Return a row's ratio to the baseline with its quartiles; for the baseline its figure too."""
    figure, ratio = column.figure(label), column.ratio(label)
    if figure is not None and table.absolute:
        return spread(figure)
    if figure is None or ratio is None:
        return "-"
    if label == column.baseline:
        return f"1.00 = {number(figure.median)} {table.unit}"
    return spread(ratio)


def spread(ratio: Spread) -> str:
    """Return a median and, when there was more than one figure, its quartiles."""
    if ratio.lower == ratio.upper:
        return number(ratio.median)
    return f"{number(ratio.median)} ({number(ratio.lower)} to {number(ratio.upper)})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them the heads, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(texts: Sequence[str]) -> str:
        first = texts[0].ljust(widths[0])
        return f"| {' | '.join([first, *map(str.rjust, texts[1:], widths[1:])])} |"

    return "\n".join(line(texts) for texts in [rows[0], rule, *rows[1:]])


def remarks(table: Table, titles: Mapping[str, str]) -> list[str]:
    """Return the notes to the rows, and why some have no figures, a line each."""
    found: dict[str, list[str]] = {}
    for label in table.rows:
        if label in table.notes:
            found.setdefault(table.notes[label], []).append(label)
        reasons = dict.fromkeys(
            column.missing[label] for column in table.columns if label in column.missing
        )
        for reason in reasons:
            if reason != table.notes.get(label):
                found.setdefault(reason, []).append(label)
    return [f"- {', '.join(labels)}: {note}." for note, labels in found.items()]


def table_text(table: Table, titles: Mapping[str, str]) -> str:
    """Return a table with its title and its notes as Markdown.

    Args:
        table: what was measured.
        titles: what stands in the rows, by label, where that is not the label itself.
    """
    shown = table.unit if table.absolute else "ratio"
    heads = [f"{table.title} ({shown})", *(column.heading for column in table.columns)]
    rows = [heads]
    for label in table.rows:
        cells = [cell(column, label, table) for column in table.columns]
        rows.append([titles.get(label, label), *cells])
    parts = [markdown(rows)] if table.columns else [f"No figures for {table.title}."]
    notes = remarks(table, titles)
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def targets_text(targets: Sequence[Target], tables: Sequence[Table]) -> str:
    """Return what had to be reached, what was, and whether it is enough, as Markdown."""
    rows = [["target", "measured", "met"]]
    for target in targets:
        ratio = target.measured(tables)
        reached = "not measured" if ratio is None else spread(ratio)
        rows.append([target.what, reached, "yes" if ratio and target.met(ratio.median) else "no"])
    return markdown(rows)


def suite_text(
    tables: Sequence[Table], targets: Sequence[Target], titles: Mapping[str, str]
) -> str:
    """Return everything about a suite as Markdown."""
    parts = [f"{environment()}:"]
    parts += [table_text(table, titles) for table in tables]
    if targets:
        parts.append(targets_text(targets, tables))
    return "\n\n".join(parts)


def figures_text(table: Table, headings: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return some columns of a table without their spread, as Markdown."""
    rows = [["ratio to the " + table.columns[0].baseline, *headings]]
    for label in table.rows:
        ratios = [table.column(heading).ratio(label) for heading in headings]
        cells = ["-" if ratio is None else number(ratio.median) for ratio in ratios]
        rows.append([titles.get(label, label), *cells])
    return f"{environment()}:\n\n{markdown(rows)}"


def fill(text: str, name: str, body: str) -> str:
    """Return a document with another body between the comments of that name.

    Raises:
        ValueError: the document does not have the two comments exactly once.
    """
    begin = f"<!-- benchmarks: {name} -->"
    found = re.findall(f"{re.escape(begin)}.*?{re.escape(END)}", text, re.DOTALL)
    if len(found) != 1 or text.count(begin) != 1:
        raise ValueError(f"the document must have {begin} once, and {END} after it")
    return text.replace(found[0], f"{begin}\n\n{body}\n\n{END}")


def as_json(tables: Sequence[Table], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return everything that was measured, every sample of it, as JSON objects."""
    return [
        {
            "table": table.key,
            "title": table.title,
            "column": column.heading,
            "baseline": column.baseline,
            "row": label,
            "contender": titles.get(label, label),
            "unit": table.unit,
            "missing": column.missing.get(label),
            "samples": column.samples.get(label, []),
            "ratio": ratio.median if (ratio := column.ratio(label)) else None,
        }
        for table in tables
        for column in table.columns
        for label in table.rows
    ]
