"""What one `emit` costs, beside a hand-written loop and the field's other in-process buses.

    python -m pip install '.[bench]'
    python -m benchmarks.emit

How it measures:

- Every row runs the same trivial handlers through `timeit`: its emit is a statement whose names are
  local variables, so reaching the bus, the handlers and the payload costs each of them the same.
- All rows run in one process, taking turns in a new order each round, so that a noisy moment of the
  machine hits all of them. A cell shows the median of the rounds, and the interquartile range.
- The cost of the empty timing loop is measured in the same rounds and taken off every row.
- A ratio is the median of the rounds' own ratios to the inline loop of the same round.
- Before it is timed, each statement has to prove that it reaches every handler exactly once.

The inline loop is the floor a user could write by hand, with neither registration nor a bus object.
Peers are used in their own idiom and with their default options; what they do for an exception, a
dead handler or a thread differs, and the figures do not show it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import platform
import random
import statistics
import sys
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

Handler = Callable[[object], object]

EVENT = "tool_called"
OTHER_EVENT = "model_responded"
"""Subscribed to in every bus that is keyed by name, so that none of them is empty."""

PAYLOAD: object = {"tool": "search"}

INLINE = "inline loop"
PLAIN = "plain-Python bus"
OURS = "agent_event_bus"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """A statement that emits once, and the names it uses."""

    statement: str
    names: dict[str, Any]

    def timer(self) -> timeit.Timer:
        """Return a timer of the statement, with its names as local variables."""
        setup = "\n".join(f"{name} = given[{name!r}]" for name in self.names) or "pass"
        return timeit.Timer(self.statement, setup, globals={"given": self.names})


@dataclass(frozen=True)
class Contender:
    """One row of the table: how to make its workload for a list of handlers."""

    label: str
    prepare: Callable[[Sequence[Handler]], Workload]
    distribution: str | None = None

    def title(self) -> str:
        """Return the label, with the version of the distribution that is installed."""
        if self.distribution is None:
            return self.label
        try:
            return f"{self.label} {metadata.version(self.distribution)}"
        except metadata.PackageNotFoundError:
            return self.label


@dataclass
class Cell:
    """The samples of one row and one number of handlers, in ns per call, a sample a round."""

    samples: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median time of a call in ns, without the timing loop."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range of the time of a call in ns; 0 for a single round."""
        if len(self.samples) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.samples, n=4, method="inclusive")
        return upper - lower

    @property
    def ratio(self) -> float:
        """The median ratio to the inline loop of the same round."""
        return statistics.median(self.ratios)


# The contenders -----------------------------------------------------------------------------------


class PlainBus:
    """What a careful user writes in Python: a dict of lists, a snapshot, a try around each call."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Handler]] = {}

    def on(self, name: str, handler: Handler) -> None:
        """Register `handler` for the events called `name`."""
        self._handlers.setdefault(name, []).append(handler)

    def emit(self, name: str, payload: object = None) -> int:
        """Call every handler of `name` with `payload` and return how many were called."""
        handlers = tuple(self._handlers.get(name, ()))
        for handler in handlers:
            try:
                handler(payload)
            except Exception:
                log.exception("Handler raised on event %r", name)
        return len(handlers)


def ignore(payload: object) -> None:
    """Be the handler of the event that is not measured."""


def prepare_inline(handlers: Sequence[Handler]) -> Workload:
    """Make the loop that a user would write by hand where the event happens."""
    table: dict[str, list[Handler]] = {OTHER_EVENT: [ignore]}
    if handlers:
        table[EVENT] = list(handlers)
    statement = (
        f"for h in handlers.get({EVENT!r}, ()):\n"
        "    try:\n"
        "        h(payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    return Workload(statement, {"handlers": table, "payload": PAYLOAD, "log": log})


def on_and_emit(bus: Any, handlers: Sequence[Handler]) -> Workload:
    """Make the workload of a bus that has `on(name, handler)` and `emit(name, payload)`."""
    bus.on(OTHER_EVENT, ignore)
    for handler in handlers:
        bus.on(EVENT, handler)
    return Workload(f"bus.emit({EVENT!r}, payload)", {"bus": bus, "payload": PAYLOAD})


def prepare_ours(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of this package."""
    return on_and_emit(importlib.import_module("agent_event_bus").EventBus(), handlers)


def prepare_plain(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of the bus in plain Python above."""
    return on_and_emit(PlainBus(), handlers)


def prepare_eventkit(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of eventkit, where an event is an object of its own."""
    event = importlib.import_module("eventkit").Event(EVENT)
    for handler in handlers:
        event += handler
    return Workload("event.emit(payload)", {"event": event, "payload": PAYLOAD})


def prepare_pyee(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of pyee."""
    return on_and_emit(importlib.import_module("pyee").EventEmitter(), handlers)


def prepare_psygnal(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of psygnal, where a signal is a descriptor on a class."""
    signal = importlib.import_module("psygnal").Signal(object)
    agent = type("Agent", (), {EVENT: signal})()
    for handler in handlers:
        getattr(agent, EVENT).connect(handler)
    return Workload(f"agent.{EVENT}.emit(payload)", {"agent": agent, "payload": PAYLOAD})


def prepare_blinker(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of blinker, whose handlers get the sender: here the payload is the sender.

    Its receivers are held weakly, so they are among the names to keep them alive.
    """
    signal = importlib.import_module("blinker").Signal()
    for handler in handlers:
        signal.connect(handler)
    names = {"signal": signal, "payload": PAYLOAD, "kept": handlers}
    return Workload("signal.send(payload)", names)


def prepare_pymitter(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of pymitter."""
    return on_and_emit(importlib.import_module("pymitter").EventEmitter(), handlers)


def prepare_pydispatcher(handlers: Sequence[Handler]) -> Workload:
    """Make the workload of PyDispatcher, whose dispatcher is a module.

    Its signals live in the module and its receivers are held weakly, so the signal has a name of
    its own for each workload and the handlers are among the names to keep them alive.
    """
    dispatcher = importlib.import_module("pydispatch.dispatcher")
    kept = list(handlers)
    signal = f"{EVENT}_{id(kept)}"
    for handler in kept:
        dispatcher.connect(handler, signal=signal)
    statement = f"dispatcher.send({signal!r}, payload=payload)"
    return Workload(statement, {"dispatcher": dispatcher, "payload": PAYLOAD, "kept": kept})


CONTENDERS = (
    Contender(INLINE, prepare_inline),
    Contender(OURS, prepare_ours, "agent-event-bus"),
    Contender(PLAIN, prepare_plain),
    Contender("eventkit", prepare_eventkit, "eventkit"),
    Contender("pyee", prepare_pyee, "pyee"),
    Contender("psygnal", prepare_psygnal, "psygnal"),
    Contender("blinker", prepare_blinker, "blinker"),
    Contender("pymitter", prepare_pymitter, "pymitter"),
    Contender("PyDispatcher", prepare_pydispatcher, "PyDispatcher"),
)


# The measurement ----------------------------------------------------------------------------------


def trivial_handlers(count: int) -> list[Handler]:
    """Return `count` distinct functions that do nothing.

    Distinct, because a bus may refuse or merge a handler that it already has.
    """

    def make() -> Handler:
        def handler(payload: object) -> None:
            pass

        return handler

    return [make() for _ in range(count)]


def reaches_every_handler(contender: Contender, count: int) -> bool:
    """Return whether one emission calls each of `count` handlers once, with the payload."""
    calls: list[tuple[int, object]] = []

    def make(index: int) -> Handler:
        def handler(payload: object) -> None:
            calls.append((index, payload))

        return handler

    workload = contender.prepare([make(index) for index in range(count)])
    workload.timer().timeit(1)
    expected = list(range(count))
    return sorted(index for index, _ in calls) == expected and all(
        payload is PAYLOAD for _, payload in calls
    )


def why_unusable(contender: Contender, counts: Iterable[int]) -> str | None:
    """Return why the contender cannot be measured here, or None when it can."""
    try:
        for count in counts:
            if not reaches_every_handler(contender, count):
                return "does not deliver"
    except ModuleNotFoundError:
        return "not installed"
    except Exception as exc:
        return f"fails here ({type(exc).__name__}: {exc})"
    return None


def calibrated(timer: timeit.Timer, seconds: float) -> int:
    """Return how many calls of the statement take about `seconds`."""
    number = 100
    while True:
        taken = timer.timeit(number)
        if taken >= seconds / 4:
            return max(1, round(number * seconds / taken))
        number *= 4


def measure(
    contenders: Sequence[Contender], count: int, *, rounds: int, seconds: float
) -> dict[str, Cell]:
    """Time the contenders with `count` handlers each.

    `rounds` is how often each takes its turn, and `seconds` how long a turn is. Returns the cells
    by the contender's label; the inline loop has to be among the contenders.
    """
    empty = ""
    timers = {empty: Workload("pass", {}).timer()}
    for contender in contenders:
        timers[contender.label] = contender.prepare(trivial_handlers(count)).timer()
    numbers = {label: calibrated(timer, seconds) for label, timer in timers.items()}

    cells = {contender.label: Cell() for contender in contenders}
    turns = list(timers)
    order = random.Random(count)
    for _ in range(rounds):
        order.shuffle(turns)
        times = {label: timers[label].timeit(numbers[label]) / numbers[label] for label in turns}
        for label, cell in cells.items():
            cell.samples.append((times[label] - times[empty]) * 1e9)
        for cell in cells.values():
            cell.ratios.append(cell.samples[-1] / cells[INLINE].samples[-1])
    return cells


# The report ---------------------------------------------------------------------------------------


def heading(count: int) -> str:
    """Return the head of the column for `count` handlers."""
    return "1 handler" if count == 1 else f"{count} handlers"


def table(
    columns: dict[int, dict[str, Cell]], unusable: dict[str, str], contenders: Sequence[Contender]
) -> str:
    """Return the results as a Markdown table, a contender a row."""
    rows = [["emit, ns per call (ratio to inline)", *(heading(count) for count in columns)]]
    for contender in contenders:
        if contender.label in unusable:
            reason = unusable[contender.label].partition(" (")[0]
            rows.append([contender.title(), *(reason for _ in columns)])
            continue
        cells = [cells[contender.label] for cells in columns.values()]
        texts = [f"{cell.median:.0f} ± {cell.spread:.0f} ({cell.ratio:.2f})" for cell in cells]
        rows.append([contender.title(), *texts])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| "
        + " | ".join(
            text.rjust(width) if index else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths))
        )
        + " |"
        for row in rows
    )


def as_json(
    columns: dict[int, dict[str, Cell]], unusable: dict[str, str], contenders: Sequence[Contender]
) -> dict[str, Any]:
    """Return everything that was measured, every sample of it, as JSON objects."""
    titles = {contender.label: contender.title() for contender in contenders}
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "compiler": platform.python_compiler(),
        "platform": f"{platform.system()} {platform.machine()}",
        "unusable": unusable,
        "results": [
            {
                "contender": label,
                "title": titles[label],
                "handlers": count,
                "median_ns": cell.median,
                "interquartile_range_ns": cell.spread,
                "ratio_to_inline": cell.ratio,
                "samples_ns": cell.samples,
            }
            for count, cells in columns.items()
            for label, cell in cells.items()
        ],
    }


def complaints(columns: dict[int, dict[str, Cell]], limit: float) -> list[str]:
    """Return, a sentence each, where agent_event_bus is not as fast as it has to be.

    It has to stay within `limit` times the inline loop and ahead of every other bus.
    """
    found = []
    for count, cells in columns.items():
        if OURS not in cells:
            return [f"{OURS} could not be measured"]
        ours = cells[OURS].ratio
        if ours > limit:
            found.append(
                f"{heading(count)}: {OURS} takes {ours:.2f} times the {INLINE}, limit {limit:.2f}"
            )
        for label, cell in cells.items():
            if label not in (INLINE, OURS) and cell.ratio < ours:
                found.append(
                    f"{heading(count)}: {label} is faster than {OURS},"
                    f" {cell.ratio:.2f} against {ours:.2f} times the {INLINE}"
                )
    return found


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def not_negative(text: str) -> int:
    """Parse a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emit",
        description="Print what one emit costs, beside an inline loop and other in-process buses.",
    )
    parser.add_argument(
        "--repeat", type=positive, default=25, metavar="N", help="rounds (default: 25)"
    )
    parser.add_argument(
        "--turn",
        type=positive,
        default=20,
        metavar="MS",
        help="how long a row is timed in each round, in milliseconds (default: 20)",
    )
    parser.add_argument(
        "--handlers",
        type=not_negative,
        nargs="+",
        default=[0, 1, 10],
        metavar="N",
        help="numbers of handlers, a column each (default: 0 1 10)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample to FILE")
    parser.add_argument(
        "--check",
        type=float,
        metavar="RATIO",
        help=f"exit with status 1 when {OURS} takes more than RATIO times the inline loop,"
        " or any other bus is faster than it, in any column",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and return the exit status."""
    options = parse(arguments)
    unusable: dict[str, str] = {}
    for contender in CONTENDERS:
        reason = why_unusable(contender, options.handlers)
        if reason is not None:
            unusable[contender.label] = reason
    usable = [contender for contender in CONTENDERS if contender.label not in unusable]
    columns = {
        count: measure(usable, count, rounds=options.repeat, seconds=options.turn / 1000)
        for count in dict.fromkeys(options.handlers)
    }

    print(
        f"{platform.python_implementation()} {platform.python_version()},"
        f" {platform.system()} {platform.machine()}:"
        f" median ± interquartile range of {options.repeat} rounds, timing loop taken off\n"
    )
    print(table(columns, unusable, CONTENDERS))
    for label, reason in unusable.items():
        if reason not in ("not installed", "does not deliver"):
            print(f"\n{label} {reason}")
    if options.json is not None:
        text = json.dumps(as_json(columns, unusable, CONTENDERS), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.check is None:
        return 0
    faults = complaints(columns, options.check)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
