"""The figures at the end of a demo: events, handlers, tokens, cost, latency."""

from __future__ import annotations

from dataclasses import dataclass

from agent_event_bus import Subscription
from agent_event_bus.cli.observers import CHARACTERS_PER_TOKEN, Latency, Observers
from agent_event_bus.cli.trace import TraceReader
from agent_event_bus.cli.view import Table, View

__all__ = ["Outcome", "show_summary"]

SHOWN_EVENT_NAMES = 20


@dataclass(frozen=True)
class Outcome:
    """What a demo has come to.

    Args:
        observers: what watched it.
        elapsed: seconds from the first event to the last delivery.
        reports_not_shown: crash reports that were counted only.
        answer: the built-in agent's answer.
        reader: the trace, when the events came from one.
    """

    observers: Observers
    elapsed: float
    reports_not_shown: int
    answer: str | None = None
    reader: TraceReader | None = None

    @property
    def audit_failures(self) -> int:
        """How many events the audit log could not record."""
        record = self.observers.audit.record
        return sum(s.failures for s in self.observers.subscriptions if s.handler == record)


def show_summary(view: View, outcome: Outcome, *, budget: float, audit_path: str | None) -> None:
    """Show the answer, the tables and the figures.

    Args:
        view: where they are shown.
        outcome: what there is to tell.
        budget: USD a run might cost; 0 for no budget.
        audit_path: the file of the audit log, None when it was kept in memory.
    """
    if outcome.answer is not None:
        view.answer(outcome.answer)
    view.table(_events(outcome.observers))
    view.table(_handlers(outcome.observers))
    view.table(_figures(outcome, budget, audit_path))


def _events(observers: Observers) -> Table:
    counts = observers.audit.counts
    rows = [[name, f"{count:,}"] for name, count in counts.most_common(SHOWN_EVENT_NAMES)]
    others = len(counts) - len(rows)
    if others:
        shown = sum(count for _, count in counts.most_common(SHOWN_EVENT_NAMES))
        rows.append([f"({others:,} other names)", f"{sum(counts.values()) - shown:,}"])
    rows.append(["total", f"{sum(counts.values()):,}"])
    return Table("Events", ("event", "count>"), rows)


def _handlers(observers: Observers) -> Table:
    rows = [
        [_name_of(each), ", ".join(each.keys), f"{each.calls:,}", f"{each.failures:,}"]
        for each in observers.subscriptions
    ]
    calls = sum(each.calls for each in observers.subscriptions)
    failures = sum(each.failures for each in observers.subscriptions)
    rows.append(["total", "", f"{calls:,}", f"{failures:,}"])
    bad_rows = [n for n, each in enumerate(observers.subscriptions) if each.failures]
    heads = ("handler", "subscribed to", "calls>", "failures>")
    return Table("Handlers", heads, rows, bad_rows)


def _name_of(subscription: Subscription) -> str:
    name = getattr(subscription.handler, "__qualname__", type(subscription.handler).__qualname__)
    return f"{name} (once)" if subscription.once else name


def _figures(outcome: Outcome, budget: float, audit_path: str | None) -> Table:
    observers = outcome.observers
    counts = observers.audit.counts
    cost = observers.cost
    deliveries = sum(each.calls for each in observers.subscriptions)
    failures = sum(each.failures for each in observers.subscriptions)
    tokens = cost.input_tokens + cost.output_tokens
    rows = [
        ["runs", f"{counts['run.start']:,}"],
        ["events", _event_figure(outcome)],
        ["handler deliveries", f"{deliveries:,}"],
        ["crashes isolated", _crash_figure(failures, outcome.reports_not_shown)],
        ["tool calls", f"{counts['tool.start']:,}"],
        ["tool errors", f"{counts['tool.error']:,}"],
        [
            "tokens",
            f"{tokens:,} ({cost.input_tokens:,} in, {cost.output_tokens:,} out; "
            f"estimated, {CHARACTERS_PER_TOKEN} characters a token)",
        ],
        ["cost", _cost_figure(outcome)],
        ["budget", _budget_figure(outcome, budget)],
    ]
    if outcome.reader is None:
        rows += [
            ["model latency", _latency_figure(observers.latency.llm)],
            ["tool latency", _latency_figure(observers.latency.tool)],
        ]
    else:
        spans = observers.latency.llm.count + observers.latency.tool.count
        rows.append(["latency", f"{spans:,} steps traced; a recording has no times to measure"])
    rows.append(["audit log", _audit_figure(outcome, audit_path)])
    if outcome.reader is not None and outcome.reader.skip_bad:
        rows.append(["bad lines skipped", f"{outcome.reader.bad_lines:,}"])
    return Table("Figures", ("", ""), rows)


def _event_figure(outcome: Outcome) -> str:
    total = sum(outcome.observers.audit.counts.values())
    if outcome.reader is None:
        return f"{total:,}"
    rate = total / outcome.elapsed if outcome.elapsed > 0 else 0.0
    replayed = outcome.reader.events
    return (
        f"{replayed:,} replayed, {total - replayed:,} emitted by observers; "
        f"{outcome.elapsed:.2f} s, {rate:,.0f} events/s"
    )


def _crash_figure(failures: int, not_shown: int) -> str:
    return f"{failures:,} ({not_shown:,} reports not shown)" if not_shown else f"{failures:,}"


def _cost_figure(outcome: Outcome) -> str:
    cost = outcome.observers.cost
    text = f"${cost.usd:,.4f} (estimated from list prices)"
    models = [model or "unknown" for model, tokens in cost.unpriced.items() if tokens]
    if models:
        left_out = sum(cost.unpriced.values())
        shown = ", ".join(models[:3]) + (", ..." if len(models) > 3 else "")
        text += f"; without {left_out:,} tokens of models that have no price here: {shown}"
    return text


def _budget_figure(outcome: Outcome, budget: float) -> str:
    if not budget:
        return "none"
    observers = outcome.observers
    over = len(observers.cost.runs_over_budget)
    return (
        f"${budget:g} a run; runs over it: {over:,}, budget_exceeded events: "
        f"{observers.audit.counts['budget_exceeded']:,}, alerts: {observers.alert.alerts}"
    )


def _latency_figure(latency: Latency) -> str:
    return (
        f"{latency.count:,} steps, mean {latency.mean * 1000:.1f} ms, "
        f"longest {latency.longest * 1000:.1f} ms"
    )


def _audit_figure(outcome: Outcome, audit_path: str | None) -> str:
    audit = outcome.observers.audit
    if audit_path is None:
        return f"the last {len(audit.entries):,} events, in memory (--audit FILE keeps them all)"
    written = sum(audit.counts.values()) - outcome.audit_failures
    return f"{written:,} events in {audit_path}"
