"""How a bus may be called: parameters by position and by keyword, and their defaults."""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any, Callable

import pytest
from helpers import LoopThread

import agent_event_bus
from agent_event_bus import EventBus

OPTIONS = (
    "weak=False, where=None, envelope=False, isolate=True, timeout=None, offload=False"  # of all
)
SIGNATURES = {
    "on": f"(key, handler=None, /, *, priority=0, once=False, {OPTIONS})",
    "once": f"(key, handler=None, /, *, priority=0, {OPTIONS})",
    "subscribe": f"(key_or_keys, handler, /, *, priority=0, once=False, {OPTIONS})",
    "off": "(key=None, handler=None)",
    "clear": "(key=None)",
    "handlers": "(name)",
    "has_handlers": "(name)",
    "emit": "(name, payload=None, /)",
    "emit_async": "(name, payload=None, /)",
    "publish": "(obj, /)",
    "publish_async": "(obj, /)",
    "emitter": "(name)",
    "collect": "(name, payload=None)",
    "collect_async": "(name, payload=None)",
    "emit_threadsafe": "(name, payload=None)",
    "drain": "(timeout=None)",
    "aclose": "()",
    "history": "(key=None, limit=100)",
    "stats": "()",
    "wait_for": "(key, *, where=None, timeout=None)",
    "expect": "(key, *, where=None, timeout=None)",
    "stream": "(key, *, maxsize=1024, overflow='drop_oldest', where=None)",
    "define_event": "(name, schema)",
    "as_current": "()",
}
CONSTRUCTOR = (
    "(name=None, *, history=0, logger=None, on_error=None, loop=None, max_pending=None, "
    "max_concurrency=None, handler_timeout=None, slow_after=None, timing=False, strict=False, "
    "async_only=False)"
)

Call = Callable[[Any], object]


def told(signature: inspect.Signature, skip: int = 0) -> str:
    """A signature as text, without annotations and without the first `skip` parameters."""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters[skip:], return_annotation=signature.empty))


@pytest.mark.parametrize("method", SIGNATURES)
def test_a_method_tells_the_parameters_that_it_has(method: str) -> None:
    assert told(inspect.signature(getattr(EventBus, method)), skip=1) == SIGNATURES[method]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="native constructors do not tell before")
def test_a_bus_tells_the_options_that_it_has() -> None:
    assert told(inspect.signature(EventBus)) == CONSTRUCTOR


def test_the_defaults_of_a_bus_may_be_given_and_are_what_it_has() -> None:
    defaults = eval(f"dict{CONSTRUCTOR.replace('*, ', '')}")
    assert len(defaults) == 12
    for bus in (EventBus(), EventBus(**defaults)):
        assert (bus.name, bus.on_error, bus._loop) == (None, None, None)
        bus.on("a", lambda payload: None)  # neither strict nor async_only
        assert bus.emit("a") == 1
        assert bus.history() == []
        assert "latency" not in bus.stats()


def handler(payload: object) -> None: ...


BY_KEYWORD: dict[str, tuple[Call, object]] = {
    "off": (lambda bus: bus.off(key="a", handler=handler), 1),
    "clear": (lambda bus: bus.clear(key="a"), 1),
    "handlers": (lambda bus: len(bus.handlers(name="a")), 1),
    "has_handlers": (lambda bus: bus.has_handlers(name="a"), True),
    "emitter": (lambda bus: bus.emitter(name="a")(7), 1),
    "collect": (lambda bus: len(bus.collect(name="a", payload=7)), 1),
    "collect, payload": (lambda bus: len(bus.collect("a", payload=7)), 1),
    "collect, turned": (lambda bus: len(bus.collect(payload=7, name="a")), 1),
    "collect_async": (lambda bus: len(asyncio.run(bus.collect_async("a", payload=7))), 1),
    "history": (lambda bus: bus.history(key="a", limit=3), []),
    "drain": (lambda bus: asyncio.run(bus.drain(timeout=0)), []),
    "define_event": (lambda bus: bus.define_event(name="b", schema=None), None),
}


@pytest.mark.parametrize("call", BY_KEYWORD)
def test_what_is_not_positional_only_may_be_given_by_keyword(bus: EventBus, call: str) -> None:
    make, answer = BY_KEYWORD[call]
    bus.on("a", handler)
    bus.on("other", handler)
    assert make(bus) == answer


@pytest.mark.parametrize("call", [call for call in BY_KEYWORD if call.startswith("collect")])
def test_a_payload_that_is_given_by_keyword_arrives(bus: EventBus, call: str) -> None:
    got: list[object] = []
    bus.on("a", got.append)
    BY_KEYWORD[call][0](bus)
    assert got == [7]


def test_so_may_the_payload_of_emit_threadsafe(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    got: list[object] = []
    bus.on("a", got.append)
    assert bus.emit_threadsafe(name="a", payload=7).result(20) == 1
    assert got == [7]


POSITIONAL_ONLY: dict[str, Call] = {
    "on, key": lambda bus: bus.on(key="a"),
    "on, handler": lambda bus: bus.on("a", handler=handler),
    "once, key": lambda bus: bus.once(key="a"),
    "once, handler": lambda bus: bus.once("a", handler=handler),
    "subscribe, handler": lambda bus: bus.subscribe("a", handler=handler),
    "emit, name": lambda bus: bus.emit(name="a"),
    "emit, payload": lambda bus: bus.emit("a", payload=1),
    "emit_async, name": lambda bus: bus.emit_async(name="a"),
    "emit_async, payload": lambda bus: bus.emit_async("a", payload=1),
    "publish": lambda bus: bus.publish(obj=1),
    "publish_async": lambda bus: bus.publish_async(obj=1),
}
KEYWORD_ONLY: dict[str, Call] = {
    "EventBus": lambda bus: type(bus)("name", 10),
    "on": lambda bus: bus.on("a", handler, 1),
    "once": lambda bus: bus.once("a", handler, 1),
    "subscribe": lambda bus: bus.subscribe("a", handler, 1),
    "wait_for": lambda bus: bus.wait_for("a", None),
    "expect": lambda bus: bus.expect("a", None),
    "stream": lambda bus: bus.stream("a", 10),
    "get_bus": lambda bus: agent_event_bus.get_bus("a new one", {}),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("call", POSITIONAL_ONLY)
def test_what_is_positional_only_is_refused_by_keyword(bus: EventBus, call: str) -> None:
    with pytest.raises(TypeError, match=r"keyword|arguments given"):
        POSITIONAL_ONLY[call](bus)
    assert len(bus) == 0


@pytest.mark.parametrize("call", KEYWORD_ONLY)
def test_what_is_keyword_only_is_refused_by_position(bus: EventBus, call: str) -> None:
    with pytest.raises(TypeError, match=r"positional|arguments given"):
        KEYWORD_ONLY[call](bus)
    assert len(bus) == 0
