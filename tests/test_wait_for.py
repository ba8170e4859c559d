"""wait_for: when it listens, what it gives, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import time
import weakref
from collections.abc import Coroutine
from decimal import Decimal
from typing import Any, Callable

import pytest
from helpers import DEADLINE, LoopThread, is_gone, note, run_isolated, soon, turns
from loops import on_every_loop

from agent_event_bus import Event, EventBus

pytestmark = pytest.mark.usefixtures("nothing_left")

Records = list[logging.LogRecord]


def timers() -> list[Any]:
    """Return the timers of the running loop that will ring; none for uvloop, which hides them."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]


class TestWhatItGives:
    @on_every_loop
    async def test_the_event_that_is_emitted_while_it_is_awaited(self, bus: EventBus) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("tool.end"))
        await turns()
        assert not waiting.done()
        payload = {"tool": "search"}
        bus.emit("tool.end", payload)
        event = await soon(waiting)
        assert isinstance(event, Event)
        assert (event.name, event.seq) == ("tool.end", 1)
        assert event.payload is payload

    @on_every_loop
    async def test_an_event_that_emit_async_delivers(self, bus: EventBus) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("a"))
        await turns()
        assert await bus.emit_async("a", 1) == 1
        assert (await soon(waiting)).payload == 1

    async def test_the_first_event_that_matches(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        for payload in range(3):
            bus.emit("a", payload)
        assert (await soon(waiting)).payload == 0

    async def test_an_event_of_any_of_several_keys(self, bus: EventBus) -> None:
        waiting = bus.wait_for(["tool.end", "tool.error"])
        bus.emit("other")
        bus.emit("tool.error", 1)
        assert (await soon(waiting)).name == "tool.error"

    async def test_any_event_with_the_wildcard(self, bus: EventBus) -> None:
        waiting = bus.wait_for("*")
        bus.emit("anything", 1)
        assert (await soon(waiting)).name == "anything"

    async def test_every_one_that_waits_gets_the_event(self, bus: EventBus) -> None:
        waiting = [bus.wait_for("a") for _ in range(3)]
        assert bus.emit("a", 1) == 3
        events = await soon(asyncio.gather(*waiting))
        assert len({id(event) for event in events}) == 1


class TestWhere:
    async def test_only_an_event_that_matches_is_given(self, bus: EventBus) -> None:
        waiting = bus.wait_for("tool.end", where={"tool": "search"})
        bus.emit("tool.end", {"tool": "read"})
        assert len(bus) == 1
        bus.emit("tool.end", {"tool": "search"})
        assert (await soon(waiting)).payload == {"tool": "search"}

    async def test_a_callable_gets_the_payload(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a", where=lambda payload: payload > 1)
        for payload in range(4):
            bus.emit("a", payload)
        assert (await soon(waiting)).payload == 2

    async def test_one_that_raises_is_a_reported_failure_and_no_match(
        self, bus: EventBus, records: Records
    ) -> None:
        waiting = bus.wait_for("a", where=lambda payload: payload["missing"])
        bus.emit("a", {})
        bus.emit("a", {"missing": True})
        assert (await soon(waiting)).payload == {"missing": True}
        assert [record.getMessage() for record in records] == [
            "Handler 'EventBus.wait_for' raised on event 'a': 'missing'"
        ]

    async def test_an_event_that_does_not_match_does_not_end_a_poll(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a", where={"n": 1}, timeout=0)
        bus.emit("a", {"n": 2})
        with pytest.raises(TimeoutError):
            await waiting

    @pytest.mark.parametrize("where", [1, "text", ["list"]])
    def test_what_is_no_condition_is_refused(self, bus: EventBus, where: Any) -> None:
        for method in (bus.wait_for, bus.expect, bus.stream):
            with pytest.raises(TypeError, match="where"):
                method("a", where=where)
        assert len(bus) == 0


class TestWhenItListens:
    async def test_from_the_call_on_not_from_the_await(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        assert len(bus) == 1
        bus.emit("a", "before the await")
        assert (await soon(waiting)).payload == "before the await"

    async def test_not_to_what_was_emitted_before_the_call(self, bus: EventBus) -> None:
        bus.emit("a", "too early")
        waiting = bus.wait_for("a")
        bus.emit("a", "in time")
        assert (await soon(waiting)).payload == "in time"

    async def test_no_longer_than_to_the_first_match(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        assert bus.emit("a") == 1
        assert len(bus) == 0
        assert bus.emit("a") == 0
        await soon(waiting)

    def test_a_call_without_any_loop_listens_too(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        bus.emit("a", 1)

        async def main() -> Event:
            return await waiting

        assert asyncio.run(main()).payload == 1

    def test_one_made_in_one_loop_may_be_awaited_in_another(self, bus: EventBus) -> None:
        async def call() -> Coroutine[Any, Any, Event]:
            return bus.wait_for("a", timeout=DEADLINE)

        async def main(waiting: Coroutine[Any, Any, Event]) -> Event:
            asyncio.get_running_loop().call_soon(bus.emit, "a", 1)
            return await waiting

        assert asyncio.run(main(asyncio.run(call()))).payload == 1


class TestWaysToAwaitIt:
    @pytest.mark.parametrize(
        "wrap",
        [
            asyncio.create_task,
            asyncio.ensure_future,
            asyncio.gather,
            lambda waiting: asyncio.wait_for(waiting, DEADLINE),
            lambda waiting: asyncio.shield(waiting),
        ],
        ids=["create_task", "ensure_future", "gather", "wait_for", "shield"],
    )
    async def test_whatever_takes_a_coroutine_takes_it(
        self, bus: EventBus, wrap: Callable[[Any], Any]
    ) -> None:
        wrapped = wrap(bus.wait_for("a"))
        asyncio.get_running_loop().call_soon(bus.emit, "a", 1)
        result = await soon(wrapped)
        event = result[0] if isinstance(result, list) else result
        assert event.payload == 1

    def test_asyncio_run_takes_it(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        bus.emit("a", 1)
        assert asyncio.run(waiting).payload == 1

    def test_a_loop_in_another_thread_takes_it(self, bus: EventBus, other: LoopThread) -> None:
        future = asyncio.run_coroutine_threadsafe(bus.wait_for("a"), other.loop)
        other.run(turns())
        bus.emit("a", 1)
        assert future.result(DEADLINE).payload == 1

    async def test_asyncio_shows_a_task_of_it_by_its_name(self, bus: EventBus) -> None:
        task = asyncio.create_task(bus.wait_for("a"))
        assert "wait_for()" in repr(task)
        task.cancel()
        await asyncio.wait([task])

    async def test_awaiting_it_again_is_refused(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        bus.emit("a", 1)
        await soon(waiting)
        with pytest.raises(RuntimeError, match="already awaited"):
            await waiting

    async def test_a_second_task_is_refused_and_does_not_disturb_the_first(
        self, bus: EventBus
    ) -> None:
        waiting = bus.wait_for("a")
        first = asyncio.ensure_future(waiting)
        await turns()
        with pytest.raises(RuntimeError, match="being awaited already"):
            await waiting
        bus.emit("a", 1)
        assert (await soon(first)).payload == 1

    async def test_a_second_task_that_is_cancelled_leaves_the_first_no_hang(
        self, bus: EventBus
    ) -> None:
        waiting = bus.wait_for("a")
        first = asyncio.ensure_future(waiting)
        await turns()
        second = asyncio.ensure_future(waiting)
        second.cancel()
        await asyncio.wait([first, second], timeout=DEADLINE)
        assert second.cancelled()
        assert isinstance(first.exception(), RuntimeError)

    async def test_its_repr_says_what_it_waits_for_and_how_that_stands(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        assert repr(waiting) == "<wait_for('a'): waiting>"
        bus.emit("a")
        assert repr(waiting) == "<wait_for('a'): arrived>"
        await soon(waiting)
        assert repr(bus.wait_for("a", timeout=1e-9)) == "<wait_for('a'): expired>"


class TestTimeout:
    @on_every_loop
    async def test_on_expiry_it_raises_and_has_unsubscribed(self, bus: EventBus) -> None:
        with pytest.raises(TimeoutError, match=r"no event has matched 'a' within 0.01 s"):
            await soon(bus.wait_for("a", timeout=0.01))
        assert len(bus) == 0

    async def test_the_error_is_that_of_asyncio_too(self, bus: EventBus) -> None:
        with pytest.raises(asyncio.TimeoutError) as raised:
            await bus.wait_for("a", timeout=0.01)
        assert isinstance(raised.value, TimeoutError)
        assert type(raised.value).__name__ == "TimeoutError"

    async def test_it_counts_from_the_call(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a", timeout=0.05)
        time.sleep(0.06)  # noqa: ASYNC251, the loop must not run meanwhile
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await waiting
        assert time.monotonic() - began < 0.05

    async def test_an_event_in_time_is_given_also_when_it_is_awaited_late(
        self, bus: EventBus
    ) -> None:
        waiting = bus.wait_for("a", timeout=0.01)
        bus.emit("a", "in time")
        await asyncio.sleep(0.02)
        assert (await waiting).payload == "in time"

    async def test_an_event_that_comes_too_late_is_not_given(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a", timeout=0.01)
        await asyncio.sleep(0.02)
        bus.emit("a", "too late")
        with pytest.raises(TimeoutError):
            await waiting

    @on_every_loop
    async def test_one_that_is_not_needed_leaves_no_timer(self, bus: EventBus) -> None:
        before = timers()
        waiting = asyncio.ensure_future(bus.wait_for("a", timeout=3600))
        await turns()
        bus.emit("a", 1)
        assert (await soon(waiting)).payload == 1
        assert timers() == before

    @pytest.mark.parametrize("timeout", [None, math.inf])
    async def test_none_and_infinity_wait_as_long_as_it_takes(
        self, bus: EventBus, timeout: float | None
    ) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("a", timeout=timeout))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        bus.emit("a")
        await soon(waiting)

    @pytest.mark.parametrize("timeout", [1, 0.5, Decimal(1), True.__index__()])
    async def test_any_real_number_is_one(self, bus: EventBus, timeout: Any) -> None:
        waiting = bus.wait_for("a", timeout=timeout)
        bus.emit("a", 1)
        assert (await waiting).payload == 1

    @pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
    def test_what_is_not_at_least_0_is_refused(self, bus: EventBus, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            _ = bus.wait_for("a", timeout=timeout)
        assert len(bus) == 0

    @pytest.mark.parametrize("timeout", [True, "1", 1j, [], object()])
    def test_what_is_no_number_is_refused(self, bus: EventBus, timeout: Any) -> None:
        with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
            _ = bus.wait_for("a", timeout=timeout)
        assert len(bus) == 0

    def test_a_number_that_no_float_can_hold_is_refused(self, bus: EventBus) -> None:
        with pytest.raises(ValueError, match="timeout is too large"):
            _ = bus.wait_for("a", timeout=10**400)
        assert len(bus) == 0


class TestPolling:
    async def test_gives_an_event_that_has_matched_since_the_call(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a", timeout=0)
        await asyncio.sleep(0.01)
        bus.emit("a", 1)
        assert (await waiting).payload == 1

    async def test_raises_at_once_when_there_is_none(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a", timeout=0)
        with pytest.raises(TimeoutError):
            waiting.send(None)
        assert len(bus) == 0


class TestEnds:
    @on_every_loop
    async def test_cancelled_it_unsubscribes(self, bus: EventBus) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("a", timeout=3600))
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(bus) == 0

    async def test_cancelled_before_its_first_step_it_unsubscribes(self, bus: EventBus) -> None:
        waiting = asyncio.create_task(bus.wait_for("a"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(bus) == 0

    async def test_a_timeout_of_the_caller_unsubscribes(self, bus: EventBus) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.wait_for("a"), 0.01)
        assert len(bus) == 0

    def test_dropped_unawaited_it_unsubscribes_without_a_warning(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        assert len(bus) == 1
        del waiting
        assert len(bus) == 0

    def test_dropped_in_a_cycle_it_unsubscribes(self, bus: EventBus) -> None:
        cycle: list[Any] = [bus.wait_for("a")]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert len(bus) == 0

    async def test_dropped_after_an_await_that_was_never_run_it_does_not_warn(
        self, bus: EventBus
    ) -> None:
        waiting = bus.wait_for("a")
        steps = waiting.__await__()
        del waiting, steps
        assert len(bus) == 0

    @pytest.mark.parametrize("started", [False, True])
    def test_closed_by_hand_it_unsubscribes(self, bus: EventBus, started: bool) -> None:
        async def main() -> None:
            waiting = bus.wait_for("a")
            if started:
                waiting.send(None)
            waiting.close()
            waiting.close()
            assert len(bus) == 0
            with pytest.raises(RuntimeError, match="already awaited"):
                waiting.send(None)

        asyncio.run(main())

    @pytest.mark.parametrize("started", [False, True])
    def test_what_is_thrown_in_comes_out_and_unsubscribes(
        self, bus: EventBus, started: bool
    ) -> None:
        async def main() -> None:
            waiting = bus.wait_for("a")
            if started:
                waiting.send(None)
            with pytest.raises(KeyError):
                waiting.throw(KeyError("thrown"))
            assert len(bus) == 0

        asyncio.run(main())

    async def test_a_task_that_waits_is_kept_alive_like_one_that_awaits_a_future(
        self, bus: EventBus
    ) -> None:
        log: list[object] = []

        async def work() -> None:
            log.append((await bus.wait_for("a")).payload)

        task = weakref.ref(asyncio.ensure_future(work()))
        await turns()
        gc.collect()
        assert task() is not None
        bus.emit("a", 1)
        await turns()
        assert log == [1]

    def test_when_its_loop_was_closed_the_next_event_lets_go_of_it(
        self, bus: EventBus, records: Records
    ) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(bus.wait_for("a", timeout=3600))
        loop.run_until_complete(turns())
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        abandoned = weakref.ref(task)
        del task
        assert bus.emit("a") == 1
        assert len(bus) == 0
        assert is_gone(abandoned)
        assert records == []

    async def test_the_event_is_released_with_it(self, bus: EventBus) -> None:
        class Payload:
            pass

        payload = Payload()
        released = weakref.ref(payload)
        waiting = bus.wait_for("a")
        bus.emit("a", payload)
        del payload
        assert released() is not None
        del waiting
        assert is_gone(released)


class TestEndOfTheBus:
    async def test_calling_it_on_a_closed_bus_raises(self, bus: EventBus) -> None:
        await bus.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            _ = bus.wait_for("a")

    @on_every_loop
    async def test_closing_the_bus_ends_the_wait(self, bus: EventBus) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("a"))
        await turns()
        await bus.aclose()
        with pytest.raises(RuntimeError, match="the bus was closed before an event"):
            await soon(waiting)
        assert len(bus) == 0

    async def test_one_that_is_awaited_after_the_bus_was_closed_raises(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        await bus.aclose()
        with pytest.raises(RuntimeError, match="the bus was closed"):
            await soon(waiting)

    async def test_what_came_before_the_bus_was_closed_is_given(self, bus: EventBus) -> None:
        waiting = bus.wait_for("a")
        bus.emit("a", 1)
        await bus.aclose()
        assert (await soon(waiting)).payload == 1

    @pytest.mark.parametrize("remove", [lambda bus: bus.clear(), lambda bus: bus.off("a")])
    async def test_removing_its_subscription_ends_the_wait(
        self, bus: EventBus, remove: Callable[[EventBus], object]
    ) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("a"))
        await turns()
        kept = bus.handlers("a")
        remove(bus)
        assert not kept[0].active
        with pytest.raises(RuntimeError, match="the subscription was removed before an event"):
            await soon(waiting)

    async def test_a_bus_that_is_dropped_ends_the_wait(self) -> None:
        bus = EventBus()
        waiting = asyncio.ensure_future(bus.wait_for("a"))
        await turns()
        del bus
        gc.collect()
        with pytest.raises(RuntimeError, match="the bus is gone"):
            await soon(waiting)


class TestThreads:
    @on_every_loop
    async def test_an_event_of_another_thread_wakes_it(self, bus: EventBus) -> None:
        waiting = asyncio.ensure_future(bus.wait_for("a"))
        await turns()
        thread = threading.Thread(target=bus.emit, args=("a", 1))
        thread.start()
        assert (await soon(waiting)).payload == 1
        thread.join(DEADLINE)

    @pytest.mark.usefixtures("eager_switching")
    async def test_one_event_of_many_threads_is_given(self, bus: EventBus) -> None:
        done = threading.Event()

        def emit_on() -> None:
            while not done.is_set():
                bus.emit("a")

        threads = [threading.Thread(target=emit_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            numbers = [(await soon(bus.wait_for("a"))).seq for _ in range(200)]
        finally:
            done.set()
            for thread in threads:
                thread.join(DEADLINE)
        assert numbers == sorted(set(numbers))


class TestEmitters:
    async def test_it_is_a_handler_in_its_turn_and_holds_nobody_up(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("a", note(log, "before"))
        waiting = bus.wait_for("a")
        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 3
        assert log == ["before", "after"]
        assert (await soon(waiting)).name == "a"
        bus.clear()

    async def test_a_handler_may_wait_for_another_event(self, bus: EventBus) -> None:
        log: list[object] = []

        @bus.once("question")
        async def ask(payload: object) -> None:
            log.append((await bus.wait_for("answer", timeout=DEADLINE)).payload)

        bus.emit("question")
        await turns()
        await bus.emit_async("answer", 42)
        assert await soon(bus.drain()) == []
        assert log == [42]


def test_without_waiting_asyncio_is_not_imported() -> None:
    assert run_isolated("no_asyncio.py").split()


@pytest.mark.parametrize(
    ("key", "error"), [("", ValueError), ("a..b", ValueError), (None, TypeError), ([], ValueError)]
)
def test_bad_keys_are_refused_at_the_call(bus: EventBus, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        _ = bus.wait_for(key)
    assert len(bus) == 0
