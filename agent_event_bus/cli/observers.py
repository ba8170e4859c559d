"""The observers: handlers on the bus that watch an agent without the agent knowing them.

The same ones serve the built-in agent and recorded runs. Recorded payloads come from a file, so no
field is trusted to be there or to have a certain type. One observer is broken on purpose.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from agent_event_bus import Event, EventBus, Subscription

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "EVENTS",
    "PRICES",
    "AuditLog",
    "BudgetAlert",
    "CostTracker",
    "CrashingCostTracker",
    "LatencyTracer",
    "Observers",
    "attach_observers",
    "estimate_tokens",
]

EVENTS = (
    "run.start",
    "user.message",
    "llm.request",
    "llm.response",
    "tool.start",
    "tool.end",
    "tool.error",
    "run.end",
    "budget_exceeded",
)

# A common rule of thumb for English text. The events carry no usage figures to count with.
CHARACTERS_PER_TOKEN = 4

# USD per million tokens, input and output; list prices of 2024. The scripted model costs nothing to
# run and is priced like gpt-4o to have something to show.
PRICES: dict[str, tuple[float, float]] = {
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "scripted-model": (2.50, 10.00),
}


def estimate_tokens(characters: int) -> int:
    """Return the estimated number of tokens in a text of that many characters, rounded up."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def _get(payload: Any, field_name: str) -> Any:
    return payload.get(field_name) if isinstance(payload, dict) else None


def _key(payload: Any, field_name: str) -> str:
    """Return a field as something hashable; a missing one is the empty string."""
    value = _get(payload, field_name)
    return value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    """Return the text a model would read for this value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _usd(value: Any) -> str:
    """Return an amount for the reader; what is no amount stays as it is."""
    return f"${value:.4f}" if isinstance(value, float) else _text(value) or "(unknown)"


@dataclass
class _RunCost:
    model: str = ""
    context_characters: int = 0
    usd: float = 0.0


class CostTracker:
    """Counts tokens and cost, and emits `budget_exceeded` for a run that spends too much.

    A request sends the whole conversation so far, as chat models are billed; a response is what the
    model wrote, the arguments of its tool calls included. Prompts that are in no event (the system
    prompt, tool schemas) are not counted.

    Args:
        bus: where `budget_exceeded` is emitted, for each response of a run past its budget.
        budget: USD that one run may cost; 0 for no budget.
    """

    def __init__(self, bus: EventBus, budget: float) -> None:
        self.bus = bus
        self.budget = budget
        self.input_tokens = 0
        self.output_tokens = 0
        self.usd = 0.0
        self.unpriced: Counter[str] = Counter()
        self.runs_over_budget: set[str] = set()
        self._runs: dict[str, _RunCost] = {}

    def attach(self) -> None:
        """Subscribe one method per event."""
        self.bus.on("run.start", self.on_run_start)
        self.bus.on("user.message", self.on_user_message)
        self.bus.on("llm.request", self.on_request)
        self.bus.on("llm.response", self.on_response)
        self.bus.on("tool.start", self.on_tool_start)
        self.bus.on("tool.end", self.on_tool_result)
        self.bus.on("tool.error", self.on_tool_result)
        self.bus.on("run.end", self.on_run_end)

    def on_run_start(self, payload: Any) -> None:
        """Start counting a run from nothing."""
        self._runs[_key(payload, "run_id")] = _RunCost(model=_key(payload, "model"))

    def on_user_message(self, payload: Any) -> None:
        """Add the message to what the next request sends."""
        self._run(payload).context_characters += len(_text(_get(payload, "content")))

    def on_request(self, payload: Any) -> None:
        """Charge the conversation so far as input."""
        run = self._run(payload)
        run.model = _key(payload, "model") or run.model
        self._charge(run, estimate_tokens(run.context_characters), 0)

    def on_response(self, payload: Any) -> None:
        """Charge what the model wrote, and check the budget."""
        called = _get(payload, "tool_calls")
        names = called if isinstance(called, list) else [called]
        texts = [_text(_get(payload, "content")), *map(_text, names)]
        self._charge_output(self._run(payload), sum(map(len, texts)))
        self._check_budget(payload)

    def on_tool_start(self, payload: Any) -> None:
        """Charge the arguments, which the model wrote."""
        self._charge_output(self._run(payload), len(_text(_get(payload, "args"))))

    def on_tool_result(self, payload: Any) -> None:
        """Add the result, or the error, to what the next request sends."""
        self._run(payload).context_characters += len(_text(_get(payload, "result")))

    def on_run_end(self, payload: Any) -> None:
        """Forget the run; its cost stays in the totals."""
        self._runs.pop(_key(payload, "run_id"), None)

    def _run(self, payload: Any) -> _RunCost:
        return self._runs.setdefault(_key(payload, "run_id"), _RunCost())

    def _charge_output(self, run: _RunCost, characters: int) -> None:
        run.context_characters += characters
        self._charge(run, 0, estimate_tokens(characters))

    def _charge(self, run: _RunCost, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        if run.model not in PRICES:
            self.unpriced[run.model] += input_tokens + output_tokens
            return
        input_price, output_price = PRICES[run.model]
        usd = (input_tokens * input_price + output_tokens * output_price) / 1_000_000
        run.usd += usd
        self.usd += usd

    def _check_budget(self, payload: Any) -> None:
        run = self._run(payload)
        if self.budget and run.usd > self.budget:
            run_id = _key(payload, "run_id")
            self.runs_over_budget.add(run_id)
            # A handler may emit: this runs inside the emission of llm.response.
            self.bus.emit(
                "budget_exceeded", {"run_id": run_id, "spent": run.usd, "budget": self.budget}
            )


class CrashingCostTracker:
    """Broken on purpose: it expects usage figures that the events do not carry.

    Every `llm.response` makes it raise `KeyError`. The bus reports that and goes on.
    """

    def __init__(self) -> None:
        self.total_tokens = 0

    def on_response(self, payload: Any) -> None:
        """Add up the tokens that the provider is wrongly assumed to report."""
        self.total_tokens += payload["usage"]["total_tokens"]


@dataclass
class Latency:
    """Durations of one kind of step, in seconds."""

    count: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        """The mean duration in seconds, 0 when there is none."""
        return self.total / self.count if self.count else 0.0


@dataclass
class LatencyTracer:
    """Times every model answer and every tool call. Its handlers are coroutines.

    A step lasts from its start event to its end event, by the time stamps of the two. The handlers
    hand the loop back, as one does that sends its spans over a network, and `emit_async` waits for
    them.
    """

    llm: Latency = field(default_factory=Latency)
    tool: Latency = field(default_factory=Latency)
    _open: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def attach(self, bus: EventBus) -> None:
        """Subscribe both handlers to several events each; the envelope tells which one it is."""
        bus.subscribe(("llm.request", "tool.start"), self.on_start, envelope=True)
        bus.subscribe(("llm.response", "tool.end", "tool.error"), self.on_end, envelope=True)
        bus.on("run.end", self.on_run_end)

    async def on_start(self, event: Event) -> None:
        """Note when the step began."""
        self._open[self._span(event)] = event.timestamp

    async def on_end(self, event: Event) -> None:
        """Measure the step that this event ends; an end without a start is not counted."""
        started = self._open.pop(self._span(event), None)
        if started is not None:
            kind = self.llm if event.name.startswith("llm.") else self.tool
            # The clock of the time stamps may be set back meanwhile.
            kind.add(max(0.0, event.timestamp - started))
        await asyncio.sleep(0)

    async def on_run_end(self, payload: Any) -> None:
        """Forget the steps of the run that never ended."""
        run_id = _key(payload, "run_id")
        for span in [span for span in self._open if span[0] == run_id]:
            del self._open[span]

    @staticmethod
    def _span(event: Event) -> tuple[str, str, str]:
        kind = event.name.partition(".")[0]
        return _key(event.payload, "run_id"), kind, _key(event.payload, "call_id")


class AuditLog:
    """Counts and records every event, on the key `"*"`.

    Args:
        file: where to write one JSON object a line, `{"event": NAME, "payload": {...}}`, which
            `--trace` can read back; None keeps the last 1000 events in memory.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self.entries: deque[tuple[str, Any]] = deque(maxlen=1000)

    def record(self, event_name: str, payload: Any) -> None:
        """Record one event. The payload is kept by reference when there is no file."""
        self.counts[event_name] += 1
        if self.file is None:
            self.entries.append((event_name, payload))
            return
        entry = {"event": event_name, "payload": payload}
        self.file.write(json.dumps(entry, separators=(",", ":"), default=str) + "\n")


class BudgetAlert:
    """Raises one alert however often the budget is exceeded; subscribed with `once`.

    Args:
        notify: is called with the text of the alert.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify
        self.alerts = 0

    def alert(self, payload: Any) -> None:
        """Tell that a run has spent more than its budget."""
        self.alerts += 1
        spent, budget = _usd(_get(payload, "spent")), _usd(_get(payload, "budget"))
        run_id = _key(payload, "run_id") or "(unknown)"
        self.notify(f"run {run_id} has spent {spent} of a budget of {budget}")


@dataclass(frozen=True)
class Observers:
    """The observers of one demo and their subscriptions, in the order they were made."""

    cost: CostTracker
    latency: LatencyTracer
    audit: AuditLog
    alert: BudgetAlert
    subscriptions: tuple[Subscription, ...]


def attach_observers(
    bus: EventBus,
    *,
    budget: float,
    notify: Callable[[str], None],
    audit_file: IO[str] | None = None,
    display: Callable[[str, Any], None] | None = None,
) -> Observers:
    """Subscribe every observer to `bus`.

    Args:
        bus: a bus without subscriptions of its own.
        budget: USD that one run may cost; 0 for no budget.
        notify: is called with the text of the budget alert.
        audit_file: an open text file for the audit log; None keeps it in memory.
        display: is called with every event, name and payload, after the audit log.
    """
    audit = AuditLog(audit_file)
    cost = CostTracker(bus, budget)
    latency = LatencyTracer()
    alert = BudgetAlert(notify)

    # A handler of llm.response emits budget_exceeded. What records and shows events runs before it,
    # so that they appear in the order they happened.
    bus.on("*", audit.record, priority=-20)
    if display is not None:
        bus.on("*", display, priority=-20)
    bus.on("llm.response", CrashingCostTracker().on_response, priority=-10)
    cost.attach()
    latency.attach(bus)
    bus.once("budget_exceeded", alert.alert)

    found = {each.id: each for name in EVENTS for each in bus.handlers(name)}
    subscriptions = tuple(found[number] for number in sorted(found))
    return Observers(cost, latency, audit, alert, subscriptions)
