"""collect and collect_async: what became of each handler."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
import weakref
from typing import Any, Callable

import pytest
from helpers import LoopThread, anote, failing, is_gone, note, soon, turns

from agent_event_bus import EventBus, Outcome

Records = list[logging.LogRecord]

SHORT = 0.05


def returns(value: Any) -> Callable[[Any], Any]:
    """Return a sync handler that returns a value."""

    def handler(payload: Any) -> Any:
        return value

    return handler


def areturns(value: Any) -> Callable[[Any], Any]:
    """Return an async handler that suspends once and returns a value."""

    async def handler(payload: Any) -> Any:
        await asyncio.sleep(0)
        return value

    return handler


async def hangs(payload: Any) -> None:
    await asyncio.Event().wait()


def collected(bus: EventBus, way: str, payload: Any = None, *, name: str = "a") -> list[Outcome]:
    """Emit an event and collect the outcomes, in one of the two ways."""
    if way == "collect":
        return bus.collect(name, payload)
    return asyncio.run(bus.collect_async(name, payload))


def statuses(outcomes: list[Outcome]) -> list[str]:
    """Return how they ended."""
    return [outcome.status for outcome in outcomes]


@pytest.mark.parametrize("way", ["collect", "collect_async"])
class TestBothWays:
    def test_every_handlers_own_result_is_there_in_the_order_they_run(
        self, bus: EventBus, way: str
    ) -> None:
        third = bus.subscribe("a", areturns("third"), priority=-1)
        second = bus.subscribe("*", lambda name, payload: (name, payload))
        fourth = bus.subscribe("a", areturns("fourth"))
        first = bus.subscribe("a", returns("first"), priority=-1)
        outcomes = collected(bus, way, 7)
        assert [o.subscription for o in outcomes] == [first, second, third, fourth]
        assert [o.value for o in outcomes] == ["first", ("a", 7), "third", "fourth"]
        assert statuses(outcomes) == ["ok"] * 4
        assert [o.exception for o in outcomes] == [None] * 4

    def test_failures_are_in_the_outcomes_and_not_logged(self, records: Records, way: str) -> None:
        seen: list[Any] = []
        bus = EventBus(on_error=lambda *args: seen.append(args))
        error = ValueError("boom")
        sync = bus.subscribe("a", failing(error))

        async def afailing(payload: Any) -> None:
            await asyncio.sleep(0)
            raise error

        later = bus.subscribe("a", afailing)
        outcomes = collected(bus, way)
        assert statuses(outcomes) == ["error", "error"]
        assert [o.exception for o in outcomes] == [error, error]
        assert [o.value for o in outcomes] == [None, None]
        assert (sync.failures, later.failures) == (1, 1)
        assert (records, seen) == ([], [])

    def test_a_timeout(self, bus: EventBus, records: Records, way: str) -> None:
        subscription = bus.subscribe("a", hangs, timeout=SHORT)
        (outcome,) = collected(bus, way)
        assert outcome.status == "timeout"
        assert isinstance(outcome.exception, TimeoutError)
        assert outcome.duration >= SHORT * 0.9
        assert (subscription.failures, records) == (1, [])

    def test_a_timeout_whose_cancellation_is_swallowed(self, bus: EventBus, way: str) -> None:
        async def stubborn(payload: Any) -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return "never mind"

        bus.on("a", stubborn, timeout=SHORT)
        (outcome,) = collected(bus, way)
        assert (outcome.status, outcome.value) == ("timeout", None)

    def test_a_cancelled_handler(self, bus: EventBus, records: Records, way: str) -> None:
        async def gives_up(payload: Any) -> None:
            await asyncio.sleep(0)
            raise asyncio.CancelledError("enough")

        bus.on("a", failing(asyncio.CancelledError()))
        bus.on("a", gives_up)
        outcomes = collected(bus, way)
        assert statuses(outcomes) == ["cancelled", "cancelled"]
        assert all(isinstance(o.exception, asyncio.CancelledError) for o in outcomes)
        assert records == []

    def test_duration_is_the_time_from_start_to_end_in_seconds(
        self, bus: EventBus, way: str
    ) -> None:
        async def slow(payload: Any) -> None:
            await asyncio.sleep(SHORT)

        bus.on("a", returns(None))
        bus.on("a", slow)
        fast, took = (outcome.duration for outcome in collected(bus, way))
        assert 0 <= fast < SHORT
        assert SHORT * 0.9 <= took < 10

    def test_the_duration_of_what_returned_an_awaitable_has_both_parts(
        self, bus: EventBus, way: str
    ) -> None:
        def slow(payload: Any) -> Any:
            time.sleep(SHORT)
            return hands_on(payload)

        async def hands_on(payload: Any) -> None:
            await asyncio.sleep(SHORT)

        bus.on("a", slow)
        (outcome,) = collected(bus, way)
        assert 2 * SHORT * 0.9 <= outcome.duration < 10

    def test_a_handler_that_is_not_called_has_no_outcome(self, bus: EventBus, way: str) -> None:
        removed = returns("removed")
        bus.on("a", lambda payload: bus.off("a", removed))
        bus.on("a", removed)
        bus.on("a", returns("no match"), where={"x": 1})
        bus.on("a", areturns("no match"), where={"x": 1})
        assert statuses(collected(bus, way, {"x": 2})) == ["ok"]

    def test_a_where_that_raises_is_an_error(
        self, bus: EventBus, records: Records, way: str
    ) -> None:
        bus.on("a", returns(1), where=lambda payload: payload["x"])
        bus.on("a", areturns(2), where=lambda payload: payload["x"])
        outcomes = collected(bus, way, {})
        assert statuses(outcomes) == ["error", "error"]
        assert all(isinstance(o.exception, KeyError) for o in outcomes)
        assert records == []

    def test_a_sync_guard_is_the_last_outcome(self, bus: EventBus, way: str) -> None:
        bus.on("a", returns(1))
        guard = bus.subscribe("a", failing(PermissionError("no")), isolate=False)
        never = bus.subscribe("a", returns(2))
        bus.on("a", areturns(3))
        outcomes = collected(bus, way)
        assert statuses(outcomes) == ["ok", "error"]
        assert outcomes[1].subscription is guard
        assert never.calls == 0

    def test_an_async_guard_cancels_what_runs(
        self, bus: EventBus, records: Records, way: str
    ) -> None:
        async def guard(payload: Any) -> None:
            await asyncio.sleep(0)
            raise PermissionError("no")

        bus.on("a", hangs)
        bus.on("a", guard, isolate=False)
        outcomes = collected(bus, way)
        assert statuses(outcomes) == ["cancelled", "error"]
        assert records == []

    def test_an_async_guard_that_fails_at_once_is_the_last_outcome(
        self, bus: EventBus, way: str
    ) -> None:
        async def guard(payload: Any) -> None:
            raise PermissionError("no")

        bus.on("a", guard, isolate=False)
        never = bus.subscribe("a", areturns(1))
        assert statuses(collected(bus, way)) == ["error"]
        assert never.calls == 0

    def test_a_guard_whose_where_raises_stops_too(self, bus: EventBus, way: str) -> None:
        bus.on("a", returns(1), isolate=False, where=lambda payload: 1 / 0)
        bus.on("a", returns(2))
        assert statuses(collected(bus, way)) == ["error"]

    def test_an_async_guard_whose_where_raises_stops_too(self, bus: EventBus, way: str) -> None:
        bus.on("a", areturns(1), isolate=False, where=lambda payload: 1 / 0)
        bus.on("a", areturns(2))
        assert statuses(collected(bus, way)) == ["error"]

    def test_handlers_before_such_a_guard_leave_nothing_behind(
        self, bus: EventBus, way: str
    ) -> None:
        def outcomes_alive() -> int:
            gc.collect()
            return sum(isinstance(obj, Outcome) for obj in gc.get_objects())

        bus.on("a", areturns(1))
        bus.on("a", areturns(2), isolate=False, where=lambda payload: 1 / 0)
        before = outcomes_alive()
        for _ in range(5):
            assert "error" in statuses(collected(bus, way))
        assert outcomes_alive() == before

    def test_a_passing_guard_is_an_outcome_like_others(self, bus: EventBus, way: str) -> None:
        bus.on("a", returns("fine"), isolate=False)
        bus.on("a", areturns("fine too"), isolate=False)
        assert [o.value for o in collected(bus, way)] == ["fine", "fine too"]

    def test_offloaded_handlers_have_their_results(self, bus: EventBus, way: str) -> None:
        bus.on("a", returns("in a thread"), offload=True)
        bus.on("a", failing(ValueError("boom")), offload=True)
        outcomes = collected(bus, way)
        assert statuses(outcomes) == ["ok", "error"]
        assert outcomes[0].value == "in a thread"

    def test_the_awaitable_of_a_sync_handler_is_one_outcome(self, bus: EventBus, way: str) -> None:
        handler = areturns("late")
        bus.on("a", lambda payload: handler(payload))
        bus.on("a", returns("sync"))
        assert [o.value for o in collected(bus, way)] == ["sync", "late"]

    def test_once_and_envelope_and_weak_work_as_ever(self, bus: EventBus, way: str) -> None:
        keep = returns("weak")
        bus.once("a", returns("once"))
        bus.on("a", lambda event: event.payload, envelope=True)
        bus.on("a", keep, weak=True)
        assert [o.value for o in collected(bus, way, 3)] == ["once", 3, "weak"]
        del keep
        assert [o.value for o in collected(bus, way, 4)] == [4]

    def test_a_base_exception_propagates(self, bus: EventBus, way: str) -> None:
        class Stop(BaseException):
            pass

        bus.on("a", failing(Stop()))
        with pytest.raises(Stop):
            collected(bus, way)
        bus.clear()

        async def stop(payload: Any) -> None:
            raise Stop

        bus.on("a", stop)
        with pytest.raises(Stop):
            collected(bus, way)

    def test_on_a_closed_bus_nothing_is_collected(
        self, bus: EventBus, records: Records, way: str
    ) -> None:
        bus.on("a", returns(1))
        asyncio.run(bus.aclose())
        assert collected(bus, way) == []
        assert collected(bus, way) == []
        assert [r.levelname for r in records] == ["WARNING"]

    def test_nobody_subscribed(self, bus: EventBus, way: str) -> None:
        assert collected(bus, way) == []

    @pytest.mark.parametrize("name", ["", "a.*", "a..b"])
    def test_a_bad_name_is_refused(self, bus: EventBus, way: str, name: str) -> None:
        with pytest.raises(ValueError, match="bad event name"):
            collected(bus, way, name=name)

    def test_it_is_an_event_like_any_other(self, bus: EventBus, way: str) -> None:
        seqs: list[int] = []
        bus.on("a", lambda event: seqs.append(event.seq), envelope=True)
        bus.emit("a")
        collected(bus, way)
        bus.emit("a")
        assert seqs == [1, 2, 3]

    def test_runaway_recursion_ends(self, bus: EventBus, way: str) -> None:
        depth: list[int] = []

        def again(payload: int) -> None:
            depth.append(payload)
            bus.collect("a", payload + 1)

        bus.on("a", again)
        (outcome,) = collected(bus, way, 0)
        assert outcome.status == "error"
        assert isinstance(outcome.exception, RecursionError)
        assert len(depth) > 10


class TestCollect:
    @pytest.mark.parametrize("offload", [False, True])
    def test_an_async_or_offloaded_handler_in_a_running_loop_is_an_error(
        self, bus: EventBus, offload: bool
    ) -> None:
        log: list[str] = []
        bus.on("a", note(log, "sync"))
        if offload:
            bus.on("a", note(log, "offloaded"), offload=True)
        else:
            bus.on("a", anote(log, "async"))

        async def main() -> None:
            with pytest.raises(RuntimeError, match="collect_async"):
                bus.collect("a")

        asyncio.run(main())
        assert log == []

    def test_sync_handlers_are_fine_in_a_running_loop(self, bus: EventBus) -> None:
        bus.on("a", returns(1))

        async def main() -> list[Outcome]:
            return bus.collect("a")

        assert [o.value for o in asyncio.run(main())] == [1]

    def test_an_awaitable_found_out_late_in_a_running_loop_is_an_error(self, bus: EventBus) -> None:
        handler = areturns(1)
        bus.on("a", lambda payload: handler(payload))

        async def main() -> None:
            with pytest.raises(RuntimeError, match="collect_async"):
                bus.collect("a")

        asyncio.run(main())

    def test_handlers_for_which_no_loop_can_be_had_have_taken_no_time(
        self, bus: EventBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_loop() -> Any:
            raise OSError("too many open files")

        bus.on("a", areturns(1))
        monkeypatch.setattr(asyncio, "new_event_loop", no_loop)
        (outcome,) = bus.collect("a")
        assert isinstance(outcome.exception, OSError)
        assert outcome.duration == 0

    def test_a_bound_loop_is_left_alone(self, bus: EventBus, other: LoopThread) -> None:
        threads: list[int] = []

        async def handler(payload: Any) -> str:
            threads.append(threading.get_ident())
            return "here"

        bus.bind_loop(other.loop)
        bus.on("a", handler)
        assert [o.value for o in bus.collect("a")] == ["here"]
        assert threads == [threading.get_ident()]

    @pytest.mark.parametrize("args", [(), ("a", 1, 2)])
    def test_wrong_numbers_of_arguments_are_refused(
        self, bus: EventBus, args: tuple[Any, ...]
    ) -> None:
        for method in (bus.collect, bus.collect_async):
            with pytest.raises(TypeError, match="takes a name and at most one payload"):
                method(*args)


class TestCollectAsync:
    def test_it_does_nothing_until_awaited_and_warns_when_dropped(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", note(log, "called"))
        dropped = [bus.collect_async("a")]
        with pytest.warns(RuntimeWarning, match="'EventBus.collect_async' .* was never awaited"):
            dropped.clear()
        assert log == []

    def test_it_is_a_coroutine_for_tasks_gather_and_wait_for(self, bus: EventBus) -> None:
        bus.on("a", areturns(1))

        async def main() -> list[Any]:
            task = asyncio.create_task(bus.collect_async("a"))
            first, second = await asyncio.gather(bus.collect_async("a"), bus.collect_async("a"))
            third = await asyncio.wait_for(bus.collect_async("a"), 10)
            return [o.value for o in (await task) + first + second + third]

        assert asyncio.run(main()) == [1, 1, 1, 1]

    def test_handlers_run_concurrently(self, bus: EventBus) -> None:
        async def main() -> list[Outcome]:
            barrier: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]

            def meets(mine: int) -> Callable[[Any], Any]:
                async def handler(payload: Any) -> int:
                    barrier[mine].set()
                    await barrier[1 - mine].wait()
                    return mine

                return handler

            bus.on("a", meets(0))
            bus.on("a", meets(1))
            return await soon(bus.collect_async("a"))

        assert [o.value for o in asyncio.run(main())] == [0, 1]

    def test_cancelling_it_cancels_the_handlers(self, bus: EventBus) -> None:
        ended: list[str] = []

        async def handler(payload: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")

        bus.on("a", handler)

        async def main() -> None:
            task = asyncio.create_task(bus.collect_async("a"))
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(task)

        asyncio.run(main())
        assert ended == ["ended"]

    def test_results_under_max_concurrency(self) -> None:
        bus = EventBus(max_concurrency=1)
        for value in range(5):
            bus.on("a", areturns(value))
        outcomes = asyncio.run(bus.collect_async("a"))
        assert [o.value for o in outcomes] == [0, 1, 2, 3, 4]

    def test_a_nested_recursion_error_of_an_async_handler_is_not_lost(
        self, bus: EventBus, records: Records
    ) -> None:
        async def too_deep(payload: Any) -> None:
            raise RecursionError("too deep")

        async def outer(payload: Any) -> None:
            await bus.collect_async("inner")

        bus.on("inner", too_deep)
        bus.on("outer", outer)
        (outcome,) = asyncio.run(bus.collect_async("outer"))
        assert outcome.status == "error"
        assert str(outcome.exception) == "too deep"
        assert records == []

    def test_a_handler_that_was_cancelled_before_it_began_has_taken_no_time(
        self, bus: EventBus
    ) -> None:
        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
            made.append(asyncio.Task(coro, loop=loop, **kwargs))
            return made[-1]

        async def cancels(payload: Any) -> None:
            made[-1].cancel()

        made: list[asyncio.Task[Any]] = []
        bus.on("a", cancels)
        bus.on("a", hangs)

        async def main() -> list[Outcome]:
            asyncio.get_running_loop().set_task_factory(factory)
            return await soon(bus.collect_async("a"))

        outcomes = asyncio.run(main())
        assert statuses(outcomes) == ["ok", "cancelled"]
        assert outcomes[1].duration == 0

    def test_a_handler_in_a_loop_with_a_task_factory(self, bus: EventBus) -> None:
        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
            return asyncio.Task(coro, loop=loop, **kwargs)

        bus.on("a", areturns(1))
        bus.on("a", hangs, timeout=SHORT)

        async def main() -> list[Outcome]:
            asyncio.get_running_loop().set_task_factory(factory)
            return await bus.collect_async("a")

        outcomes = asyncio.run(main())
        assert [(o.status, o.value) for o in outcomes] == [("ok", 1), ("timeout", None)]


class TestOutcome:
    def test_it_cannot_be_made_or_changed(self, bus: EventBus) -> None:
        bus.on("a", returns(1))
        (outcome,) = bus.collect("a")
        make: Any = Outcome
        with pytest.raises(TypeError):
            make()
        for name in ("subscription", "status", "value", "exception", "duration"):
            with pytest.raises(AttributeError):
                setattr(outcome, name, None)

    def test_its_repr_tells_handler_and_result(self, bus: EventBus) -> None:
        bus.on("a", len)
        assert [repr(o) for o in bus.collect("a", [1])] == ["<Outcome of len: ok, 1>"]
        assert repr(bus.collect("a", 1)[0]).startswith("<Outcome of len: error, TypeError(")

    def test_what_it_holds_is_released_with_it(self, bus: EventBus) -> None:
        class Result:
            pass

        bus.on("a", lambda payload: Result())
        outcomes = bus.collect("a")
        gone = weakref.ref(outcomes[0].value)
        outcomes.clear()
        assert is_gone(gone)

    def test_a_cycle_through_it_is_collected(self, bus: EventBus) -> None:
        class Box:
            outcomes: list[Outcome]

        bus.on("a", lambda payload: payload)
        box = Box()
        box.outcomes = bus.collect("a", box)
        gone = weakref.ref(box)
        del box
        gc.collect()
        assert gone() is None

    def test_its_repr_may_be_recursive(self, bus: EventBus) -> None:
        box: list[Any] = []
        bus.on("a", lambda payload: payload)
        box.append(bus.collect("a", box)[0])
        assert "<Outcome ...>" in repr(box[0])
