"""How the suites measure: statements that take turns in one process, and what is made of the times.

- A statement runs in a loop inside a function, with its names as local variables, so reaching the
  bus, the handlers and the payload costs every row the same. A statement that awaits runs in the
  same loop inside a coroutine function.
- All rows of a column take turns in a new order each round, so that a noisy moment of the machine
  hits all of them. What an empty loop costs is measured in the same rounds and taken off.
- A ratio is made of two times of the same round; what is reported is the median of the rounds'
  ratios and their quartiles.
- The garbage collector is switched off during a turn and run before each round; what was prepared
  is frozen first, so that its size does not matter.
- Before it is timed, each statement has to prove that it reaches every handler exactly once, with
  the payload.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import statistics
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable

EVENT = "tool_called"
OTHER_EVENT = "model_responded"
"""Subscribed to in every bus that is keyed by name, so that none of them is empty."""

PAYLOAD: object = {"tool": "search"}

EMPTY = "(empty loop)"

Handler = Callable[..., Any]


class UnsupportedError(Exception):
    """A row that cannot do what a column measures; the text says why, in a few words."""


# Statements ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """One line of a table, as source text.

    Attributes:
        source: what is timed, one call or a few lines.
        names: the values of the names that it uses.
        setup, teardown: run once before and after a turn, outside the timing; they may use
            `number`, which is how often the source runs in this turn.
        awaits: whether any of them awaits and so needs an event loop.
        finish: ends, when it is awaited, what the bus keeps running in the event loop.
        payload_of: finds the payload in the last argument that a handler was given.
    """

    source: str
    names: Mapping[str, Any] = field(default_factory=dict)
    setup: str = ""
    teardown: str = ""
    awaits: bool = False
    finish: Callable[[], Coroutine[Any, Any, None]] | None = None
    payload_of: Callable[[Any], object] = lambda received: received

    def compiled(self, loop: asyncio.AbstractEventLoop) -> Callable[[int], int]:
        """Return a function that runs the source so many times and returns the nanoseconds."""

        def block(text: str, depth: int) -> str:
            return "".join(f"{'    ' * depth}{line}\n" for line in text.splitlines())

        text = (
            f"{'async ' if self.awaits else ''}def timed(number, clock, repeat, given):\n"
            + block("\n".join(f"{name} = given[{name!r}]" for name in self.names), 1)
            + block(self.setup, 1)
            + "    began = clock()\n    for _ in repeat(None, number):\n"
            + block(self.source, 2)
            + "    taken = clock() - began\n"
            + block(self.teardown, 1)
            + "    return taken\n"
        )
        namespace: dict[str, Any] = {}
        exec(compile(text, "<statement>", "exec"), namespace)
        timed = namespace["timed"]

        def turn(number: int) -> int:
            result = timed(number, time.perf_counter_ns, itertools.repeat, self.names)
            taken: int = loop.run_until_complete(result) if self.awaits else result
            return taken

        return turn


BODIES = {
    "sync": ("def", "pass"),
    "failing": ("def", "raise ValueError('a broken handler')"),
    "async": ("async def", "pass"),
    "suspending": ("async def", "await sleep(0)"),
    "waiting": (
        "async def",
        "future = get_running_loop().create_future()\n    waiting.append(future)\n    await future",
    ),
}
"""The kinds of handlers, by what they do."""


class Handlers:
    """Makes the handlers of a row: trivial ones to be timed, or ones that record their calls.

    Args:
        recording: whether they record, for the proof that all of them are reached.

    Attributes:
        calls: which handler was called with which last argument, in order, when recording.
        made: how many were made.
        waiting: the futures on which handlers of the kind "waiting" wait.
    """

    def __init__(self, *, recording: bool = False) -> None:
        self.recording = recording
        self.calls: list[tuple[int, object]] = []
        self.made = 0
        self.waiting: list[asyncio.Future[None]] = []

    def make(self, kind: str, count: int, parameters: str = "payload") -> list[Handler]:
        """Return `count` distinct functions of a kind of BODIES.

        Distinct, and with distinct names, because a bus may refuse or merge what it already has.
        """
        keyword, body = BODIES[kind]
        last = parameters.rpartition(",")[2].strip(" *")
        found: list[Handler] = []
        for index in range(self.made, self.made + count):
            record = f"    calls.append(({index}, {last}))\n" if self.recording else ""
            namespace: dict[str, Any] = {
                "calls": self.calls,
                "waiting": self.waiting,
                "sleep": asyncio.sleep,
                "get_running_loop": asyncio.get_running_loop,
            }
            text = f"{keyword} handler_{index}({parameters}):\n{record}    {body}\n"
            exec(text, namespace)
            found.append(namespace[f"handler_{index}"])
        self.made += count
        return found


def ignore(payload: object) -> None:
    """Be the handler of the events that are not measured."""


Prepare = Callable[[Handlers], Statement]
"""Makes the statement of a row, with handlers from the given maker."""


# Results ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The median of some figures and their lower and upper quartile."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Return the spread of at least one figure."""
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0])
        lower, median, upper = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass
class Column:
    """What was measured under one heading: for each row a sample a round.

    Attributes:
        heading: what was measured, in a few words.
        baseline: label of the row that the others are compared with.
        samples: by label, what each round gave, in the unit of the table.
        missing: by label, why a row could not be measured.
    """

    heading: str
    baseline: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def figure(self, label: str) -> Spread | None:
        """Return the spread of a row's samples, None for a row without any."""
        return Spread.of(self.samples[label]) if self.samples.get(label) else None

    def ratio(self, label: str, to: str | None = None) -> Spread | None:
        """Return the spread of the rounds' ratios to another row, by default the baseline.

        None when one of the two has no samples. A round in which the other row came out at
        nothing, such as memory that was there already, gives no ratio.
        """
        ours, theirs = self.samples.get(label, []), self.samples.get(to or self.baseline, [])
        ratios = [mine / other for mine, other in zip(ours, theirs) if other > 0]
        return Spread.of(ratios) if ratios else None


@dataclass
class Table:
    """A table of a suite: columns that have their rows in common.

    Attributes:
        key: identifies it among all tables.
        title: what stands above it.
        rows: the labels of the rows, in order.
        columns: what was measured.
        unit: of the samples, such as "ns".
        notes: by label, what the reader of a row has to know.
        absolute: whether the figures themselves are shown and not their ratios, because they do not
            depend on the moment at which they were taken.
    """

    key: str
    title: str
    rows: list[str]
    columns: list[Column]
    unit: str = "ns"
    notes: dict[str, str] = field(default_factory=dict)
    absolute: bool = False

    def column(self, heading: str) -> Column:
        """Return the column with that heading."""
        return next(column for column in self.columns if column.heading == heading)


@dataclass(frozen=True)
class Target:
    """A ratio of two rows, or a figure of one, that has to be reached.

    Attributes:
        what: the target in words, with its limit.
        table, heading: where the two rows are measured.
        row, other: the ratio is that of `row` to `other`; with no `other` the row's own figure
            counts, in the unit of the table.
        limit: what the median of the ratio, or of the figure, has to keep to.
        at_least: whether the limit is the least ratio and not the greatest.
    """

    what: str
    table: str
    heading: str
    row: str
    other: str | None
    limit: float
    at_least: bool = False

    def measured(self, tables: Sequence[Table]) -> Spread | None:
        """Return the ratio or figure that was measured, None when it was not."""
        for table in tables:
            if table.key == self.table:
                column = table.column(self.heading)
                if self.other is None:
                    return column.figure(self.row)
                return column.ratio(self.row, to=self.other)
        return None

    def met(self, ratio: float) -> bool:
        """Return whether a ratio reaches the target."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass(frozen=True)
class Suite:
    """One subject: what is measured about it, and what it has to reach.

    Attributes:
        name: of the module, and of the place in the document where its tables go.
        run: measures at a pace and returns the tables.
        targets: what `--check` holds the tables to.
        default_limit, complaints: for a suite whose `--check` takes a limit: the default of it,
            and what returns a sentence for each place where the tables exceed it.
    """

    name: str
    run: Callable[[Pace], list[Table]]
    targets: tuple[Target, ...] = ()
    default_limit: float | None = None
    complaints: Callable[[Sequence[Table], float], list[str]] | None = None

    def faults(self, tables: Sequence[Table], limit: float | None = None) -> list[str]:
        """Return, a sentence each, what the tables do not reach."""
        if self.complaints is not None and self.default_limit is not None:
            return self.complaints(tables, self.default_limit if limit is None else limit)
        found: list[str] = []
        for target in self.targets:
            ratio = target.measured(tables)
            if ratio is None:
                found.append(f"{target.what}: not measured")
            elif not target.met(ratio.median):
                found.append(f"{target.what}: {ratio.median:.2f}")
        return found


# Measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        turn: how long a row is timed in each round, in seconds; one call at least.
        least, most: how many rounds there are, whatever they take, and at the most.
        budget: no round is begun later than this after the first one, in seconds, once there are
            `least` of them.
        quick: whether sizes are cut down too, so that a suite only shows that it works.
    """

    turn: float = 0.02
    least: int = 7
    most: int = 25
    budget: float = 6.0
    quick: bool = False

    def rounds(self) -> Iterator[int]:
        """Yield the number of each round that there is time for."""
        began = time.perf_counter()
        for number in range(self.most):
            if number >= self.least and time.perf_counter() - began > self.budget:
                return
            yield number

    def size(self, full: int) -> int:
        """Return a size as it is, or a hundredth of it when being quick."""
        return max(1, full // 100) if self.quick else full


QUICK = Pace(turn=0.001, least=2, most=2, budget=0.0, quick=True)


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Provide an event loop that is not running, and end what is left in it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector from running, and from looking at what exists already."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def why_unusable(prepare: Prepare, loop: asyncio.AbstractEventLoop) -> str | None:
    """Return why a row cannot be measured here, or None when it can."""
    handlers = Handlers(recording=True)
    try:
        statement = prepare(handlers)
        statement.compiled(loop)(1)
        if statement.finish is not None:
            loop.run_until_complete(statement.finish())
        if sorted(index for index, _ in handlers.calls) != list(range(handlers.made)):
            return "does not reach every handler exactly once"
        if any(statement.payload_of(last) is not PAYLOAD for _, last in handlers.calls):
            return "does not deliver the payload"
    except UnsupportedError as reason:
        return str(reason)
    except ModuleNotFoundError:
        return "not installed"
    except Exception as exc:
        return f"fails here ({type(exc).__name__}: {exc})"
    return None


def calibrated(turn: Callable[[int], int], seconds: float) -> int:
    """Return how often a statement runs in about `seconds`."""
    number = 1
    while True:
        taken = turn(number) / 1e9
        if taken >= seconds / 4:
            return max(1, round(number * seconds / taken))
        number *= 4


def measure(heading: str, rows: Mapping[str, Prepare], baseline: str, pace: Pace) -> Column:
    """Time the rows of one column.

    Args:
        heading: the heading of the column.
        rows: by label, what prepares the statement of a row.
        baseline: label of the row that the others are compared with.
        pace: how long to measure.

    Returns:
        The column, with samples in nanoseconds per run of the statement.
    """
    column = Column(heading, baseline)
    with event_loop() as loop:
        for label, prepare in rows.items():
            reason = why_unusable(prepare, loop)
            if reason is not None:
                column.missing[label] = reason
        turns = {EMPTY: Statement("pass").compiled(loop)}
        finish: list[Callable[[], Coroutine[Any, Any, None]]] = []
        for label, prepare in rows.items():
            if label not in column.missing:
                statement = prepare(Handlers())
                turns[label] = statement.compiled(loop)
                column.samples[label] = []
                if statement.finish is not None:
                    finish.append(statement.finish)
        with collector_off():
            numbers = {label: calibrated(turn, pace.turn) for label, turn in turns.items()}
            order = random.Random(heading)
            for _ in pace.rounds():
                gc.collect()
                times: dict[str, float] = {}
                for label in order.sample(list(turns), len(turns)):
                    times[label] = turns[label](numbers[label]) / numbers[label]
                for label, samples in column.samples.items():
                    samples.append(times[label] - times[EMPTY])
        for end in finish:
            loop.run_until_complete(end())
        turns.clear()
    return column
