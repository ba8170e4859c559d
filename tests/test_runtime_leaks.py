"""agent_event_bus.runtime: a bus that is used for long leaves nothing behind."""

from __future__ import annotations

import asyncio
import weakref

from helpers import is_gone, run_isolated, turns

from agent_event_bus.runtime import AgentEvent, EventBus, EventType


def test_a_hundred_thousand_publications_and_subscriptions_leave_nothing() -> None:
    assert run_isolated("runtime_leaks.py", "100000") == "ok\n"


def test_a_bus_that_is_dropped_is_gone_with_its_handlers() -> None:
    class Handler:
        def __init__(self) -> None:
            self.bus = EventBus()  # a cycle
            self.bus.subscribe(EventType, self.handle)

        def handle(self, event: AgentEvent) -> None: ...

    handler = Handler()
    asyncio.run(handler.bus.emit_node_stalled("inbox", "n"))
    gone, bus = weakref.ref(handler), weakref.ref(handler.bus)
    del handler
    assert is_gone(gone)
    assert is_gone(bus)


async def test_an_unsubscribed_handler_is_let_go() -> None:
    class Handler:
        async def __call__(self, event: AgentEvent) -> None:
            await turns()

    bus, handler = EventBus(max_history=0), Handler()
    number = bus.subscribe(EventType, handler)
    assert await bus.emit_node_stalled("inbox", "n") == 1
    gone = weakref.ref(handler)
    bus.unsubscribe(number)
    del handler
    assert is_gone(gone)


async def test_an_event_is_let_go_when_the_history_is_past_it() -> None:
    class Data(dict[str, object]):
        pass

    bus = EventBus(max_history=2)
    data = Data()
    gone = weakref.ref(data)
    await bus.publish(AgentEvent(EventType.CUSTOM, "inbox", data=data))
    del data
    assert not is_gone(gone)
    for _ in range(2):
        await bus.emit_node_stalled("inbox", "n")
    assert is_gone(gone)
