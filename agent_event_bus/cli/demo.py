"""The two ways to drive the observers: the built-in agent, and recorded runs."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import IO

from agent_event_bus import EventBus
from agent_event_bus.cli.agent import Agent
from agent_event_bus.cli.live import LiveDisplay
from agent_event_bus.cli.loop import event_loop, run
from agent_event_bus.cli.observers import Observers, attach_observers
from agent_event_bus.cli.reports import crash_reports
from agent_event_bus.cli.scripted_model import QUESTION, SYSTEM_PROMPT, ScriptedModel
from agent_event_bus.cli.summary import Outcome
from agent_event_bus.cli.tools import default_tools
from agent_event_bus.cli.trace import TraceReader
from agent_event_bus.cli.view import View

__all__ = ["OutputLostError", "check_output", "replay_trace", "run_agent"]

SHOWN_REPORTS = 3
BATCH = 64


class OutputLostError(Exception):
    """Standard output cannot be written any more.

    Args:
        cause: the error of the first write that failed.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def run_agent(
    view: View, *, delay: float, budget: float, audit_file: IO[str] | None = None
) -> Outcome:
    """Run the built-in agent with every observer attached and show it live.

    Args:
        view: where the run is shown.
        delay: seconds each answer of the model takes.
        budget: USD the run may cost before `budget_exceeded`; 0 for no budget.
        audit_file: an open text file for the audit log; None keeps it in memory.

    Raises:
        OutputLostError: the reader of standard output has gone away.
    """
    with crash_reports(view, SHOWN_REPORTS) as reports, event_loop() as loop:
        started = time.perf_counter()
        answer, observers = run(loop, _run_agent(view, delay, budget, audit_file))
        elapsed = time.perf_counter() - started
    check_output(view)
    return Outcome(observers, elapsed, reports.not_shown, answer=answer)


async def _run_agent(
    view: View, delay: float, budget: float, audit_file: IO[str] | None
) -> tuple[str | None, Observers]:
    task = asyncio.current_task()
    assert task is not None

    def figures() -> str:
        tokens = observers.cost.input_tokens + observers.cost.output_tokens
        failures = sum(each.failures for each in observers.subscriptions)
        return (
            f"about {tokens:,} tokens, ${observers.cost.usd:.4f}, "
            f"{observers.audit.counts['tool.start']} tool calls, {failures} crashes isolated"
        )

    display = LiveDisplay(view, figures=figures, stop=task.cancel)
    try:
        async with EventBus("demo") as bus:
            observers = attach_observers(
                bus,
                budget=budget,
                notify=view.alert,
                audit_file=audit_file,
                display=display.show,
            )
            agent = Agent(bus, ScriptedModel(delay), default_tools())
            answer = await agent.run("demo-1", SYSTEM_PROMPT, QUESTION)
    except asyncio.CancelledError:
        check_output(view)
        raise
    return answer, observers


def replay_trace(
    view: View, reader: TraceReader, *, budget: float, audit_file: IO[str] | None = None
) -> Outcome:
    """Emit every event of a trace on a bus with the same observers, and show the progress.

    Args:
        view: where the progress is shown.
        reader: the trace.
        budget: USD each run may cost before `budget_exceeded`; 0 for no budget.
        audit_file: an open text file for the audit log; None keeps the last events in memory.

    Raises:
        TraceError: from the reader; the events before the fault have been delivered.
        OutputLostError: the reader of standard output has gone away.
    """
    with crash_reports(view, SHOWN_REPORTS) as reports, event_loop() as loop:
        bus = EventBus("trace")
        observers = attach_observers(bus, budget=budget, notify=view.alert, audit_file=audit_file)
        started = time.perf_counter()
        # Lines are read between two runs of the loop, since a pipe or a terminal may block. Such a
        # source is delivered line by line: nobody knows when its next line comes.
        size = BATCH if reader.total_bytes else 1
        events = iter(reader)
        while True:
            batch = list(islice(events, size))
            if not batch:
                break
            run(loop, _deliver(bus, batch))
            view.progress(reader.bytes_read, reader.total_bytes, reader.events)
            check_output(view)
        run(loop, bus.drain())
        elapsed = time.perf_counter() - started
        run(loop, bus.aclose())
    return Outcome(observers, elapsed, reports.not_shown, reader=reader)


async def _deliver(bus: EventBus, batch: list[tuple[str, object]]) -> None:
    for name, payload in batch:
        await bus.emit_async(name, payload)


def check_output(view: View) -> None:
    """Raise `OutputLostError` when standard output has failed."""
    if view.out.failure is not None:
        raise OutputLostError(view.out.failure)
