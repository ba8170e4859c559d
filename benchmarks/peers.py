"""Adapters: how the field's in-process buses, each in its own idiom, do what the suites measure.

An adapter gives source text, which the harness times, and does what needs no timing itself. What a
bus cannot do raises `UnsupportedError` with a few words of why; the tables show it as "-".
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    EVENT,
    OTHER_EVENT,
    PAYLOAD,
    Handler,
    Statement,
    UnsupportedError,
    ignore,
)

OURS = "agent_event_bus"
PLAIN = "plain-Python bus"

ASIDE = Path(os.environ.get("AEB_BENCH_ASIDE") or Path(__file__).parent / ".aside")
"""Where aeventkit is, which installs a module of the same name as eventkit's."""

log = logging.getLogger(__name__)


class Peer:
    """A bus with `on(name, handler)` and `emit(name, payload)`; the others override what differs.

    Attributes:
        label: the row of the tables.
        distribution: what pip calls it, None for what is part of the benchmarks.
        module: what is imported.
        kind: the name of the class of its bus.
        on_failure: what it does with the exception of a handler.
        imported: what the benchmark of the import imports, when that is another module.
        any_parameters: the parameters of a handler of all events; None when there is no such thing.
        note: what the reader of its figures has to know.
        awaits_emit: whether a plain emission has to be awaited, and so needs an event loop.
        cannot_await: why no emission ends when its async handlers are done; empty when one does.
    """

    label: str
    distribution: str | None
    module: str
    imported = ""
    kind = "EventEmitter"
    on_failure: str
    any_parameters: str | None = None
    note = ""
    awaits_emit = False
    cannot_await = ""

    def load(self) -> Any:
        """Import the module and return it; ModuleNotFoundError when it is not installed."""
        return importlib.import_module(self.module)

    def path(self) -> list[str]:
        """Return directories that have to be on the module search path to import it."""
        return []

    def title(self) -> str:
        """Return the label, with the version of the distribution that is installed."""
        if self.distribution is None:
            return self.label
        places = [*self.path(), *sys.path]
        found = next(iter(metadata.distributions(name=self.distribution, path=places)), None)
        return f"{self.label} {found.version}" if found is not None else self.label

    def new(self) -> Any:
        """Return a bus with one subscription to OTHER_EVENT; only the newest one is ever used."""
        bus = self.make()
        self.on(bus, OTHER_EVENT, ignore)
        return bus

    def make(self) -> Any:
        """Return an empty bus."""
        return getattr(self.load(), self.kind)()

    def event_name(self, name: str) -> str:
        """Return a form of an event's name that the bus accepts."""
        return name

    def on(self, bus: Any, name: str, handler: Handler) -> None:
        """Subscribe a handler to the events with a name."""
        bus.on(name, handler)

    def preload(self, bus: Any, names: Sequence[str], handlers: Sequence[Handler]) -> None:
        """Subscribe many handlers, each to the name at its place, before anything is measured."""
        for name, handler in zip(names, handlers):
            self.on(bus, name, handler)

    def on_any(self, bus: Any, handler: Handler) -> None:
        """Subscribe a handler, with `any_parameters`, to all events."""
        raise UnsupportedError("has no handlers of all events")

    def with_handlers(self, handlers: Sequence[Handler]) -> Any:
        """Return a bus with these handlers of EVENT."""
        bus = self.new()
        for handler in handlers:
            self.on(bus, EVENT, handler)
        return bus

    def emission(self, bus: Any) -> Statement:
        """Return the emission of EVENT, which is known beforehand."""
        return Statement(f"bus.emit({EVENT!r}, payload)", {"bus": bus, "payload": PAYLOAD})

    def by_name(self, bus: Any, name: str) -> Statement:
        """Return the emission of an event by its name, the text of an expression."""
        return Statement(f"bus.emit({name}, payload)", {"bus": bus, "payload": PAYLOAD})

    def async_emission(self, bus: Any) -> Statement:
        """Return the emission of EVENT that is over when its async handlers are done."""
        return self.async_by_name(bus, repr(EVENT))

    def async_by_name(self, bus: Any, name: str) -> Statement:
        """Return the same for an event by its name, the text of an expression."""
        raise UnsupportedError(self.cannot_await)

    def isolated_emission(self, bus: Any) -> Statement:
        """Return an emission that a failing handler does not disturb."""
        raise UnsupportedError(self.on_failure)

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Return the subscription of a handler to EVENT and its removal."""
        source = f"bus.on({EVENT!r}, handler); bus.off({EVENT!r}, handler)"
        return Statement(source, {"bus": bus, "handler": handler})


class Ours(Peer):
    """This package."""

    label = OURS
    distribution = "agent-event-bus"
    module = "agent_event_bus"
    kind = "EventBus"
    on_failure = "logs it and goes on"
    any_parameters = "event_name, payload"

    def title(self) -> str:
        """Return the label with the version, also of a module that was built in place."""
        return f"{self.label} {self.load().__version__}"

    def on_any(self, bus: Any, handler: Handler) -> None:
        """Subscribe to "*"."""
        bus.on("*", handler)

    def async_by_name(self, bus: Any, name: str) -> Statement:
        """Await `emit_async`."""
        names = {"bus": bus, "payload": PAYLOAD}
        return Statement(f"await bus.emit_async({name}, payload)", names, awaits=True)

    def isolated_emission(self, bus: Any) -> Statement:
        """Emit: every emission is isolated."""
        return self.emission(bus)


class Plain(Peer):
    """The bus in plain Python of plain.py."""

    label = PLAIN
    distribution = None
    module = "benchmarks.plain"
    cannot_await = "has no async handlers"
    kind = "PlainBus"
    on_failure = "logs it and goes on"

    def isolated_emission(self, bus: Any) -> Statement:
        """Emit: every emission is isolated."""
        return self.emission(bus)


class Eventkit(Peer):
    """eventkit, where an event is an object of its own: a bus is a dict of them by name."""

    label = "eventkit"
    distribution = "eventkit"
    module = "eventkit"
    cannot_await = "schedules async handlers, which cannot be awaited"
    on_failure = "logs it and goes on"

    def make(self) -> dict[str, Any]:
        """Return an empty dict."""
        self.load()
        return {}

    def on(self, bus: Any, name: str, handler: Handler) -> None:
        """Add the handler to the event of that name, which is made when it is the first."""
        if name not in bus:
            bus[name] = self.load().Event(name)
        bus[name] += handler

    def event(self, bus: Any) -> Any:
        """Return the event that is emitted."""
        return bus.setdefault(EVENT, self.load().Event(EVENT))

    def emission(self, bus: Any) -> Statement:
        """Emit the object."""
        return Statement("event.emit(payload)", {"event": self.event(bus), "payload": PAYLOAD})

    def by_name(self, bus: Any, name: str) -> Statement:
        """Refuse: there are no names."""
        raise UnsupportedError("an event is an object and has no name to look up")

    def isolated_emission(self, bus: Any) -> Statement:
        """Emit: every emission is isolated."""
        return self.emission(bus)

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Add the handler and take it away again."""
        names = {"event": self.event(bus), "handler": handler}
        return Statement("event += handler; event -= handler", names)


class AEventkit(Eventkit):
    """aeventkit, a continuation of eventkit that installs a module of the same name."""

    label = "aeventkit"
    distribution = "aeventkit"
    loaded: Any = None

    def path(self) -> list[str]:
        """Return the directory where it is kept apart."""
        return [str(ASIDE)]

    def load(self) -> Any:
        """Import it from its directory, beside the eventkit that may have been imported."""
        if AEventkit.loaded is None:
            if not (ASIDE / "eventkit").is_dir():
                raise ModuleNotFoundError(f"no aeventkit in {ASIDE}")
            others = {name: sys.modules.pop(name) for name in self._modules()}
            sys.path.insert(0, str(ASIDE))
            try:
                AEventkit.loaded = importlib.import_module("eventkit")
            finally:
                sys.path.remove(str(ASIDE))
                for name in self._modules():
                    del sys.modules[name]
                sys.modules.update(others)
        return AEventkit.loaded

    def _modules(self) -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == self.module]


class Pyee(Peer):
    """pyee; the emitter of asyncio where handlers are awaited or fail."""

    label = "pyee"
    distribution = "pyee"
    module = "pyee.asyncio"
    imported = "pyee"
    kind = "AsyncIOEventEmitter"
    on_failure = 'emits "error" with it and goes on'

    def make(self) -> Any:
        """Return an emitter that logs errors, which it hands to a handler of "error"."""
        bus = super().make()
        bus.on("error", self.report)
        return bus

    def report(self, error: Exception) -> None:
        """Be the handler of "error"."""
        log.error("handler failed", exc_info=error)

    def emission(self, bus: Any) -> Statement:
        """Emit with the plain emitter, which is what one would take for sync handlers."""
        plain = importlib.import_module("pyee").EventEmitter()
        for handler in bus.listeners(EVENT):
            plain.on(EVENT, handler)
        plain.on(OTHER_EVENT, ignore)
        return super().emission(plain)

    def async_by_name(self, bus: Any, name: str) -> Statement:
        """Emit and wait for all tasks of the emitter."""
        source = f"bus.emit({name}, payload)\nawait bus.wait_for_complete()"
        return Statement(source, {"bus": bus, "payload": PAYLOAD}, awaits=True)

    def isolated_emission(self, bus: Any) -> Statement:
        """Emit with the emitter of asyncio; the plain one lets exceptions through."""
        return super().emission(bus)

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Subscribe and remove."""
        source = f"bus.on({EVENT!r}, handler); bus.remove_listener({EVENT!r}, handler)"
        return Statement(source, {"bus": bus, "handler": handler})


class Psygnal(Peer):
    """psygnal, where a signal is a descriptor on a class: a bus is a dict of such signals."""

    label = "psygnal"
    distribution = "psygnal"
    module = "psygnal"
    cannot_await = "a task of its own takes async handlers from a queue; they cannot be awaited"
    on_failure = "raises EmitLoopError; later handlers are not called"
    any_parameters = "payload"

    def make(self) -> dict[str, Any]:
        """Return an empty dict of objects with a signal each."""
        self.load()
        return {}

    def on(self, bus: Any, name: str, handler: Handler) -> None:
        """Connect the handler to the signal of that name."""
        self.signal(bus, name).connect(handler)

    def signal(self, bus: Any, name: str = EVENT) -> Any:
        """Return the signal of that name, which is made when it is the first."""
        if name != EVENT:
            return bus.setdefault(name, self.load().SignalInstance((object,)))
        if name not in bus:
            bus[name] = type("Agent", (), {EVENT: self.load().Signal(object)})()
        return getattr(bus[name], EVENT)

    def on_any(self, bus: Any, handler: Handler) -> None:
        """Connect the handler to all signals of a group, which has to be made for it."""
        if self.any_group not in bus:
            if len(bus) > 1:
                raise UnsupportedError("signals of a group are fixed beforehand")
            psygnal = self.load()
            signals = {name: psygnal.Signal(object) for name in [*bus, EVENT]}
            bus[self.any_group] = type("Events", (psygnal.SignalGroup,), signals)()
        bus[self.any_group].all.connect(handler)

    any_group = "(all)"

    def emission(self, bus: Any) -> Statement:
        """Emit a signal of an object, or of the group when there are handlers of all events."""
        self.signal(bus)
        agent = bus.get(self.any_group, bus[EVENT])
        names = {"agent": agent, "payload": PAYLOAD}
        return Statement(f"agent.{EVENT}.emit(payload)", names, payload_of=psygnal_payload)

    def by_name(self, bus: Any, name: str) -> Statement:
        """Refuse: there are no names."""
        raise UnsupportedError("signals are attributes of a class, fixed beforehand")

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Connect and disconnect."""
        source = "signal.connect(handler); signal.disconnect(handler)"
        return Statement(source, {"signal": self.signal(bus), "handler": handler})


def psygnal_payload(received: Any) -> object:
    """Return the payload of what a handler got, which in a group is an EmissionInfo."""
    return received.args[0] if hasattr(received, "args") else received


class Blinker(Peer):
    """blinker, whose handlers get the sender: here the payload is the sender.

    It holds receivers weakly by default; the harness keeps them alive. A bus is a namespace.
    """

    label = "blinker"
    distribution = "blinker"
    module = "blinker"
    kind = "Namespace"
    on_failure = "the exception reaches the emitter; later handlers are not called"
    note = "send_async awaits handlers one after another and isolates nothing"

    def make(self) -> Any:
        """Return a namespace, which is a dict and has no room for anything else."""
        return KeptAlive(super().make())

    def on(self, bus: Any, name: str, handler: Handler) -> None:
        """Connect the handler to the signal of that name."""
        bus.signals.signal(name).connect(handler)
        bus.kept.append(handler)

    def emission(self, bus: Any) -> Statement:
        """Send the signal."""
        names = {"signal": bus.signals.signal(EVENT), "payload": PAYLOAD, "kept": bus}
        return Statement("signal.send(payload)", names)

    def by_name(self, bus: Any, name: str) -> Statement:
        """Look the signal up in the namespace, which makes it when it is new."""
        names = {"signal": bus.signals.signal, "payload": PAYLOAD, "kept": bus}
        return Statement(f"signal({name}).send(payload)", names)

    def async_emission(self, bus: Any) -> Statement:
        """Send the signal to async handlers; sync ones would each have to be wrapped."""
        names = {"signal": bus.signals.signal(EVENT), "payload": PAYLOAD, "kept": bus}
        names["wrapper"] = as_async
        source = "await signal.send_async(payload, _sync_wrapper=wrapper)"
        return Statement(source, names, awaits=True)

    def async_by_name(self, bus: Any, name: str) -> Statement:
        """Look the signal up in the namespace and send it."""
        names = {"signal": bus.signals.signal, "payload": PAYLOAD, "kept": bus}
        source = f"await signal({name}).send_async(payload, _sync_wrapper=wrapper)"
        return Statement(source, {**names, "wrapper": as_async}, awaits=True)

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Connect and disconnect."""
        source = "signal.connect(handler); signal.disconnect(handler)"
        return Statement(source, {"signal": bus.signals.signal(EVENT), "handler": handler})


class KeptAlive:
    """The signals of a peer that holds its handlers weakly, and what keeps these alive."""

    def __init__(self, signals: Any) -> None:
        self.signals = signals
        self.kept: list[Handler] = []


def as_async(handler: Handler) -> Handler:
    """Return an async form of a sync handler, as blinker asks for it."""

    async def call(payload: object) -> None:
        handler(payload)

    return call


class Pymitter(Peer):
    """pymitter."""

    label = "pymitter"
    distribution = "pymitter"
    module = "pymitter"
    on_failure = "the exception reaches the emitter; later handlers are not called"
    any_parameters = "payload"
    note = "emit_async gathers the handlers and isolates nothing"

    def on_any(self, bus: Any, handler: Handler) -> None:
        """Subscribe with `on_any`; such a handler is not told the name."""
        bus.on_any(handler)

    def async_by_name(self, bus: Any, name: str) -> Statement:
        """Await `emit_async`."""
        names = {"bus": bus, "payload": PAYLOAD}
        return Statement(f"await bus.emit_async({name}, payload)", names, awaits=True)


class PyDispatcher(Peer):
    """PyDispatcher, whose dispatcher is a module and holds receivers weakly by default."""

    label = "PyDispatcher"
    distribution = "PyDispatcher"
    module = "pydispatch.dispatcher"
    cannot_await = "has no async handlers"
    on_failure = "sendRobust returns it and does not log"
    any_parameters = "payload"

    def make(self) -> Any:
        """Return the module, emptied of what an earlier use has left."""
        dispatcher = self.load()
        for registered in (dispatcher.connections, dispatcher.senders, dispatcher.sendersBack):
            registered.clear()
        return KeptAlive(dispatcher)

    def on(self, bus: Any, name: str, handler: Handler) -> None:
        """Connect the handler to the signal."""
        bus.signals.connect(handler, signal=name)
        bus.kept.append(handler)

    def on_any(self, bus: Any, handler: Handler) -> None:
        """Connect the handler to any signal; such a handler is not told the name."""
        bus.signals.connect(handler, signal=bus.signals.Any)
        bus.kept.append(handler)

    def emission(self, bus: Any) -> Statement:
        """Send the signal."""
        return self.by_name(bus, repr(EVENT))

    def by_name(self, bus: Any, name: str) -> Statement:
        """Send the signal."""
        names = {"send": bus.signals.send, "payload": PAYLOAD, "kept": bus}
        return Statement(f"send({name}, payload=payload)", names)

    def isolated_emission(self, bus: Any) -> Statement:
        """Send the signal by the other function, which catches exceptions."""
        send = importlib.import_module("pydispatch.robust").sendRobust
        names = {"send": send, "payload": PAYLOAD, "kept": bus}
        return Statement(f"send({EVENT!r}, payload=payload)", names)

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Connect and disconnect."""
        source = f"connect(handler, signal={EVENT!r}); disconnect(handler, signal={EVENT!r})"
        names = {"connect": bus.signals.connect, "disconnect": bus.signals.disconnect}
        return Statement(source, {**names, "handler": handler, "kept": bus})


class Bubus(Peer):
    """bubus, whose events are pydantic models; `dispatch` queues one and awaiting it waits for it.

    Its bus logs every event at INFO, which is off here as it is by default.
    """

    label = "bubus"
    distribution = "bubus"
    module = "bubus"
    kind = "EventBus"
    on_failure = "logs it, keeps it in the event and goes on"
    any_parameters = "event"
    note = "has no synchronous emission: dispatch is awaited, in an event loop"
    awaits_emit = True

    def event_name(self, name: str) -> str:
        """Return the name as an identifier."""
        return name.replace(".", "_")

    def preload(self, bus: Any, names: Sequence[str], handlers: Sequence[Handler]) -> None:
        """Fill the public dict; `on` looks at all earlier handlers of a name: minutes."""
        for name, handler in zip(names, handlers):
            bus.handlers[name].append(handler)

    def event_type(self) -> Any:
        """Return a model with the name of EVENT and a payload of any type."""
        return self.model(EVENT)

    def model(self, name: str) -> Any:
        """Return an event model with that name and a payload of any type."""
        members = {"__annotations__": {"payload": Any}, "payload": None, "__module__": __name__}
        return type(name, (self.load().BaseEvent,), members)

    def on_any(self, bus: Any, handler: Handler) -> None:
        """Subscribe to "*"."""
        bus.on("*", handler)

    def emission(self, bus: Any) -> Statement:
        """Dispatch an event and await it."""
        return self.dispatching(bus, self.event_type(), "payload=payload")

    def by_name(self, bus: Any, name: str) -> Statement:
        """Dispatch an event that is given a name of its own."""
        return self.dispatching(bus, self.model("Named"), f"event_type={name}, payload=payload")

    def async_by_name(self, bus: Any, name: str) -> Statement:
        """Dispatch an event that is given a name of its own, and await it."""
        return self.by_name(bus, name)

    def dispatching(self, bus: Any, model: Any, arguments: str) -> Statement:
        """Return the dispatch of an event made with these arguments."""

        async def stop() -> None:
            await bus.stop(timeout=0, clear=True)

        return Statement(
            f"await dispatch(Event({arguments}))",
            {"dispatch": bus.dispatch, "Event": model, "payload": PAYLOAD},
            awaits=True,
            finish=stop,
            payload_of=bubus_payload,
        )

    def async_emission(self, bus: Any) -> Statement:
        """Dispatch an event and await it."""
        return self.emission(bus)

    def isolated_emission(self, bus: Any) -> Statement:
        """Dispatch an event and await it: every one is isolated."""
        return self.emission(bus)

    def registration(self, bus: Any, handler: Handler) -> Statement:
        """Subscribe, and remove from the public dict, there being no method for it."""
        source = f"bus.on({EVENT!r}, handler); bus.handlers[{EVENT!r}].remove(handler)"
        return Statement(source, {"bus": bus, "handler": handler})


def bubus_payload(received: Any) -> object:
    """Return the payload of the event that a handler got."""
    return received.payload


PEERS: tuple[Peer, ...] = (
    Ours(),
    Plain(),
    Eventkit(),
    AEventkit(),
    Pyee(),
    Psygnal(),
    Blinker(),
    Pymitter(),
    PyDispatcher(),
    Bubus(),
)


def titles() -> dict[str, str]:
    """Return the title of each peer by its label."""
    return {peer.label: peer.title() for peer in PEERS}
