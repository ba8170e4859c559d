"""isolate=False: guards, whose failure is the emitter's and stops the handlers after them."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Callable

import pytest
from helpers import DEADLINE, LoopThread, anote, deliver, failing, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]

SHORT = 0.05


def refuse(payload: Any) -> None:
    raise PermissionError("refused")


async def arefuse(payload: Any) -> None:
    raise PermissionError("refused")


async def arefuse_later(payload: Any) -> None:
    await asyncio.sleep(0)
    raise PermissionError("refused")


def waits(log: list[str]) -> Callable[[Any], Any]:
    """Return an async handler that waits for ever, and logs its cancellation."""

    async def handler(payload: Any) -> None:
        log.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append("cancelled")
            raise

    return handler


class TestSyncGuard:
    def test_its_exception_propagates_out_of_emit(self, bus: EventBus) -> None:
        error = PermissionError("refused")
        bus.on("a", failing(error), isolate=False)
        with pytest.raises(PermissionError) as caught:
            bus.emit("a")
        assert caught.value is error

    def test_its_exception_propagates_out_of_emit_async_and_an_emitter(self, bus: EventBus) -> None:
        bus.on("a", refuse, isolate=False)
        emitter = bus.emitter("a")
        with pytest.raises(PermissionError):
            emitter()
        with pytest.raises(PermissionError):
            asyncio.run(bus.emit_async("a"))
        with pytest.raises(PermissionError):
            asyncio.run(emitter.emit_async())

    def test_it_is_counted_and_not_logged(self, records: Records) -> None:
        seen: list[Any] = []
        bus = EventBus(on_error=lambda *args: seen.append(args))
        subscription = bus.subscribe("a", refuse, isolate=False)
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert (subscription.calls, subscription.failures) == (1, 1)
        assert (subscription.isolate, records, seen) == (False, [], [])

    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    def test_it_stops_every_later_handler_async_ones_included(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[str] = []
        bus.on("tool.start", note(log, "before"))
        bus.on("tool.start", refuse, isolate=False)
        bus.on("tool.start", note(log, "after"))
        bus.on("tool.start", anote(log, "async"), priority=-1)

        async def main() -> None:
            with pytest.raises(PermissionError):
                await deliver(bus, way)
            await turns()

        asyncio.run(main())
        assert log == ["before"]

    def test_one_that_passes_changes_nothing(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", note(log, "guard"), isolate=False)
        bus.on("a", note(log, "next"))
        assert bus.emit("a") == 2
        assert log == ["guard", "next"]

    def test_other_handlers_of_the_event_stay_isolated(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("a", note([], "guard"), isolate=False)
        bus.on("a", failing(ValueError("boom")))
        assert bus.emit("a") == 2
        assert [r.levelname for r in records] == ["ERROR"]

    def test_an_awaitable_of_an_earlier_handler_is_closed(self, bus: EventBus) -> None:
        handler = anote([], "late")
        bus.on("a", lambda payload: handler(payload))
        bus.on("a", refuse, isolate=False)
        with pytest.raises(PermissionError):
            bus.emit("a")  # a coroutine that nobody awaits would warn, which is an error here

    def test_a_where_that_raises_is_its_failure(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []
        guard = bus.subscribe(
            "a", note(log, "guard"), isolate=False, where=lambda payload: payload["user"]
        )
        bus.on("a", note(log, "next"))
        with pytest.raises(KeyError):
            bus.emit("a", {})
        assert (log, guard.calls, guard.failures, records) == ([], 0, 1, [])

    def test_a_where_that_says_no_leaves_it_out(self, bus: EventBus) -> None:
        bus.on("a", refuse, isolate=False, where={"tool": "delete"})
        assert bus.emit("a", {"tool": "search"}) == 0
        with pytest.raises(PermissionError):
            bus.emit("a", {"tool": "delete"})

    def test_cancelled_error_propagates(self, bus: EventBus, records: Records) -> None:
        bus.on("a", failing(asyncio.CancelledError()), isolate=False)
        with pytest.raises(asyncio.CancelledError):
            bus.emit("a")
        assert records == []

    def test_a_failed_once_guard_is_used_up(self, bus: EventBus) -> None:
        bus.once("a", refuse, isolate=False)
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert bus.emit("a") == 0

    def test_an_outer_handler_isolates_the_guard_of_a_nested_emission(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("inner", refuse, isolate=False)
        bus.on("outer", lambda payload: bus.emit("inner"))
        assert bus.emit("outer") == 1
        assert records[0].getMessage().endswith("raised on event 'outer': refused")

    def test_the_next_emission_works(self, bus: EventBus) -> None:
        attempts = iter([PermissionError("refused"), None])

        def guard(payload: Any) -> None:
            error = next(attempts)
            if error is not None:
                raise error

        bus.on("a", guard, isolate=False)
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert bus.emit("a") == 1


@pytest.mark.parametrize("guard", [arefuse, arefuse_later], ids=["at once", "later"])
class TestAsyncGuard:
    def test_its_exception_propagates_out_of_emit_async_unlogged(
        self, bus: EventBus, records: Records, guard: Any
    ) -> None:
        subscription = bus.subscribe("a", guard, isolate=False)
        with pytest.raises(PermissionError, match="refused"):
            asyncio.run(bus.emit_async("a"))
        assert (subscription.calls, subscription.failures, records) == (1, 1, [])

    def test_running_handlers_are_cancelled_and_awaited(self, bus: EventBus, guard: Any) -> None:
        log: list[str] = []
        bus.on("a", waits(log))
        bus.on("a", guard, isolate=False)

        async def main() -> None:
            with pytest.raises(PermissionError):
                await soon(bus.emit_async("a"))

        asyncio.run(main())
        assert log == ["began", "cancelled"]

    def test_without_any_loop_it_propagates_out_of_emit(
        self, bus: EventBus, records: Records, guard: Any
    ) -> None:
        log: list[str] = []
        bus.on("a", waits(log))
        bus.on("a", guard, isolate=False)
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert (log, records) == (["began", "cancelled"], [])

    def test_under_emit_in_a_loop_it_is_reported_like_any_handler(
        self, bus: EventBus, records: Records, guard: Any
    ) -> None:
        log: list[str] = []
        subscription = bus.subscribe("a", guard, isolate=False)
        bus.on("a", anote(log, "sibling"))

        async def main() -> None:
            assert bus.emit("a") == 2
            assert await soon(bus.drain()) == []

        asyncio.run(main())
        assert (log, subscription.failures) == (["sibling"], 1)
        assert [r.getMessage() for r in records] == [
            f"Handler '{guard.__qualname__}' raised on event 'a': refused"
        ]

    def test_on_a_bound_loop_too(
        self, bus: EventBus, records: Records, other: LoopThread, guard: Any
    ) -> None:
        bus.bind_loop(other.loop)
        bus.on("a", guard, isolate=False)
        assert bus.emit("a") == 1
        other.run(bus.drain())
        assert [r.levelname for r in records] == ["ERROR"]

    def test_emit_threadsafe_gives_its_exception_to_the_future(
        self, bus: EventBus, other: LoopThread, guard: Any
    ) -> None:
        bus.bind_loop(other.loop)
        bus.on("a", guard, isolate=False)
        with pytest.raises(PermissionError):
            bus.emit_threadsafe("a").result(DEADLINE)


class TestAsyncGuardInDetail:
    def test_no_further_handler_is_started_when_it_fails_at_once(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", arefuse, isolate=False)
        later = bus.subscribe("a", anote(log, "later"))
        with pytest.raises(PermissionError):
            asyncio.run(bus.emit_async("a"))
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert (log, later.calls) == ([], 0)

    def test_handlers_that_wait_for_a_permit_never_run(self) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []
        bus.on("a", arefuse_later, isolate=False)
        bus.on("a", anote(log, "queued"))
        with pytest.raises(PermissionError):
            asyncio.run(bus.emit_async("a"))
        assert log == []

    def test_its_timeout_is_its_failure(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []
        guard = bus.subscribe("a", waits(log), isolate=False, timeout=SHORT)
        bus.on("a", waits(log))
        with pytest.raises(TimeoutError, match=r"timed out after 0\.05 s"):
            asyncio.run(bus.emit_async("a"))
        assert log == ["began", "began", "cancelled", "cancelled"]
        assert (guard.failures, records) == (1, [])

    def test_one_that_swallows_the_cancellation_of_its_timeout_has_failed(
        self, bus: EventBus
    ) -> None:
        async def stubborn(payload: Any) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

        bus.on("a", stubborn, isolate=False, timeout=SHORT)
        with pytest.raises(TimeoutError):
            asyncio.run(bus.emit_async("a"))

    def test_a_cancellation_from_elsewhere_is_its_failure(
        self, bus: EventBus, records: Records
    ) -> None:
        tasks: list[Any] = []

        async def guard(payload: Any) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.Event().wait()

        bus.on("a", guard, isolate=False)

        async def main() -> None:
            emission = asyncio.ensure_future(bus.emit_async("a"))
            await turns()
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(emission)

        asyncio.run(main())
        assert records == []

    def test_a_cancellation_of_the_emission_is_not(self, bus: EventBus) -> None:
        log: list[str] = []
        guard = bus.subscribe("a", waits(log), isolate=False)

        async def main() -> None:
            emission = asyncio.ensure_future(bus.emit_async("a"))
            await turns()
            emission.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(emission)

        asyncio.run(main())
        assert (log, guard.failures) == (["began", "cancelled"], 0)

    def test_a_cancellation_while_its_siblings_clean_up_is_not_lost(self, bus: EventBus) -> None:
        log: list[str] = []

        async def main() -> None:
            cleaning_up = asyncio.Event()

            async def sibling(payload: Any) -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    log.append("cleans up")
                    cleaning_up.set()
                    await asyncio.Event().wait()
                    log.append("has cleaned up")

            async def host() -> None:
                with pytest.raises(asyncio.CancelledError) as cancelled:
                    await bus.emit_async("a")
                assert isinstance(cancelled.value.__context__, PermissionError)
                raise cancelled.value

            bus.on("a", sibling)
            bus.on("a", arefuse, isolate=False)
            task = asyncio.ensure_future(host())
            await soon(cleaning_up.wait())  # the guard has failed
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(task)

        asyncio.run(main())
        assert log == ["cleans up"]  # cancelled once more, the sibling has gone in the middle of it

    def test_of_two_that_fail_the_first_is_raised_and_the_other_reported(
        self, bus: EventBus, records: Records
    ) -> None:
        async def first(payload: Any) -> None:
            await asyncio.sleep(0)
            raise PermissionError("first")

        async def second(payload: Any) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("second") from None

        bus.on("a", second)
        bus.on("a", first, isolate=False)
        with pytest.raises(PermissionError, match="first"):
            asyncio.run(bus.emit_async("a"))
        assert [r.getMessage().rpartition(": ")[2] for r in records] == ["second"]

    def test_one_that_would_fail_in_the_same_turn_is_cancelled(
        self, bus: EventBus, records: Records
    ) -> None:
        def guard(text: str) -> Callable[[Any], Any]:
            async def handler(gate: asyncio.Event) -> None:
                await gate.wait()
                raise PermissionError(text)

            return handler

        bus.on("a", guard("one"), isolate=False)
        second = bus.subscribe("a", guard("two"), isolate=False)

        async def main() -> None:
            gate = asyncio.Event()
            emission = asyncio.ensure_future(bus.emit_async("a", gate))
            await turns()
            gate.set()
            with pytest.raises(PermissionError, match="one"):
                await soon(emission)

        asyncio.run(main())
        assert (second.failures, records) == (0, [])

    def test_its_where_that_raises_stops_the_emission(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", waits(log))
        guard = bus.subscribe(
            "a", anote(log, "guard"), isolate=False, where=lambda payload: payload["user"]
        )
        bus.on("a", anote(log, "later"))
        with pytest.raises(KeyError):
            asyncio.run(bus.emit_async("a", {}))
        assert (log, guard.failures) == (["began", "cancelled"], 1)

    def test_its_where_that_raises_under_emit_in_a_loop_is_reported(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("a", anote([], "guard"), isolate=False, where=lambda payload: payload["user"])

        async def main() -> int:
            return bus.emit("a", {})

        assert asyncio.run(main()) == 0
        assert [r.levelname for r in records] == ["ERROR"]

    def test_its_task_ends_with_its_exception(self, bus: EventBus) -> None:
        tasks: list[Any] = []

        async def guard(payload: Any) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            raise PermissionError("refused")

        bus.on("a", guard, isolate=False)

        async def main() -> None:
            with pytest.raises(PermissionError):
                await bus.emit_async("a")
            await turns()
            assert isinstance(tasks[0].exception(), PermissionError)

        asyncio.run(main())

    def test_the_awaitable_of_a_sync_guard_is_an_async_guard(self, bus: EventBus) -> None:
        bus.on("a", lambda payload: arefuse_later(payload), isolate=False)
        with pytest.raises(PermissionError):
            asyncio.run(bus.emit_async("a"))
        with pytest.raises(PermissionError):
            bus.emit("a")


class TestOffloadedGuard:
    def test_it_is_like_an_async_one(self, bus: EventBus) -> None:
        threads: list[int] = []

        def guard(payload: Any) -> None:
            threads.append(threading.get_ident())
            raise PermissionError("refused")

        bus.on("a", guard, isolate=False, offload=True)
        with pytest.raises(PermissionError):
            asyncio.run(bus.emit_async("a"))
        assert threads != [threading.get_ident()]

    def test_without_a_loop_it_stops_what_comes_after(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", refuse, isolate=False, offload=True)
        bus.on("a", note(log, "offloaded"), offload=True)
        bus.on("a", anote(log, "async"))
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert log == []


def test_a_value_that_is_no_bool_is_refused(bus: EventBus) -> None:
    isolate: Any = None
    with pytest.raises(TypeError, match="isolate must be a bool"):
        bus.on("a", print, isolate=isolate)
