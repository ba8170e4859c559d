"""Objects of strangers that do harm: handlers, what they return, and loops."""

from __future__ import annotations

import asyncio
import gc

from agent_event_bus import EventBus


def test_a_loop_whose_clock_closes_the_delivery_that_asks_it_does_no_harm(bus: EventBus) -> None:
    closed: list[str] = []

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def time(self) -> float:
            if self.armed:
                for obj in gc.get_objects():
                    if type(obj).__name__ == "HandlerTask":
                        try:
                            obj.close()
                        except ValueError as error:
                            closed.append(str(error))
            return super().time()

    loop = Loop()

    @bus.on("a", priority=-1)
    def arms(payload: object) -> None:
        loop.armed = True

    @bus.on("a", timeout=30)
    async def handler(payload: object) -> None:
        loop.armed = False

    try:
        assert loop.run_until_complete(bus.emit_async("a")) == 2
    finally:
        loop.close()
    assert closed == ["coroutine already executing"]
