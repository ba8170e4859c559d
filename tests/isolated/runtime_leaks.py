"""A runtime bus that is used for long leaves nothing behind: no object, no memory.

usage: runtime_leaks.py COUNT    that many publications, subscriptions that end, and waits of a kind

Everything is done a while before the first measurement, and then in rounds, so that a growth is
seen as one and what comes and goes is not.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

ROUNDS = 10
# What asyncio and free lists keep comes and goes, some hundreds at most; one leaked with each of
# the rarest calls, of which there are 500 in a round of the test suite, would be thousands.
FEW_BLOCKS = 2000

bus = EventBus(max_history=100)


async def at_once(event: AgentEvent) -> None: ...


async def suspends(event: AgentEvent) -> None:
    await asyncio.sleep(0)


async def fails(event: AgentEvent) -> None:
    raise ValueError("broken")


async def nests(event: AgentEvent) -> None:
    await asyncio.ensure_future(bus.emit_node_stalled("inbox", "n"))


async def use(count: int) -> None:
    """Do everything so many times."""
    for number in range(count):
        await bus.emit_tool_call_started("inbox", "n", f"call {number}", "search", {"n": number})
        subscription = bus.subscribe(EventType, at_once, filter_node=f"node {number}")
        if number % 10 == 0:
            await bus.emit_node_loop_iteration("inbox", "n", number)
            await bus.emit_node_retry("inbox", "n", number, number)
            await bus.emit_execution_started("inbox", f"e{number}")
            waiter = bus.wait_for("custom", timeout=0)
            if number % 20 == 0:
                await bus.publish(AgentEvent(EventType.CUSTOM, "inbox"))
                await waiter
            del waiter
            bus.get_history(stream_id="inbox")
            bus.get_stats()
        assert bus.unsubscribe(subscription)


def main(count: int) -> None:
    """Measure the growth over all rounds."""
    logging.getLogger("agent_event_bus.runtime").disabled = True
    for kind, handler in (
        ("tool_call_started", at_once),
        ("node_loop_iteration", suspends),
        ("node_retry", fails),
        ("execution_started", nests),
    ):
        bus.subscribe(kind, handler)

    blocks: list[int] = []

    async def rounds() -> None:
        await use(max(1000, count // ROUNDS))
        for _ in range(ROUNDS):
            await use(count // ROUNDS)
            gc.collect()
            blocks.append(sys.getallocatedblocks())

    asyncio.run(rounds())
    grown = blocks[-1] - blocks[0]
    assert grown < FEW_BLOCKS, f"grew by {grown} memory blocks: {blocks}"
    assert len(bus.get_subscriptions()) == bus.get_stats()["subscriptions"] == 4
    print("ok")


if __name__ == "__main__":
    main(int(sys.argv[1]))
