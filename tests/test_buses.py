"""Named buses, the current bus, and registries of their own for tests."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import DEADLINE, PACKAGES, is_gone, soon

import agent_event_bus
from agent_event_bus import EventBus, current_bus, get_bus, use_buses


@pytest.fixture
def fresh() -> Iterator[None]:
    """A registry for this test alone."""
    with use_buses():
        yield


@pytest.mark.usefixtures("fresh")
class TestGetBus:
    def test_the_same_name_gives_the_same_bus(self) -> None:
        assert get_bus("billing") is get_bus("billing")
        assert get_bus("billing") is not get_bus("audit")

    def test_without_a_name_it_is_the_default_bus(self) -> None:
        assert get_bus() is get_bus("default")
        assert get_bus().name == "default"

    def test_the_bus_has_its_name_and_works(self) -> None:
        got: list[Any] = []
        get_bus("billing").on("a", got.append)
        assert get_bus("billing").name == "billing"
        assert get_bus("billing").emit("a", 1) == 1
        assert got == [1]

    def test_the_first_call_gives_it_its_options(self) -> None:
        bus = get_bus("jobs", async_only=True)
        assert get_bus("jobs") is bus
        with pytest.raises(RuntimeError, match="async_only"):
            bus.emit("a")

    @pytest.mark.parametrize("options", [{"strict": True}, {"strict": False}, {"logger": None}])
    def test_options_for_a_name_that_exists_raise_and_name_it(
        self, options: dict[str, Any]
    ) -> None:
        bus = get_bus("jobs")
        with pytest.raises(ValueError, match=r"the bus 'jobs' exists already.*\(\w+\)"):
            get_bus("jobs", **options)
        assert get_bus("jobs") is bus

    @pytest.mark.parametrize("name", [None, 3, b"jobs", EventBus])
    def test_a_name_that_is_no_string_raises_type_error(self, name: Any) -> None:
        with pytest.raises(TypeError, match="name must be a str, not"):
            get_bus(name)

    def test_bad_options_raise_as_the_bus_does_and_make_none(self) -> None:
        with pytest.raises(TypeError, match="strict must be a bool"):
            get_bus("jobs", strict=1)
        with pytest.raises(TypeError, match="nonsense"):
            get_bus("jobs", nonsense=True)
        assert get_bus("jobs", strict=True) is get_bus("jobs")

    async def test_a_closed_bus_is_replaced_when_it_is_next_asked_for(self) -> None:
        old = get_bus("jobs", strict=True)
        await soon(old.aclose())
        new = get_bus("jobs")
        assert new is not old
        assert not new.closed
        assert new.emit("any name") == 0
        await soon(new.aclose())
        assert get_bus("jobs", strict=True) is get_bus("jobs")

    @pytest.mark.usefixtures("eager_switching")
    def test_threads_that_ask_at_once_get_one_bus(self) -> None:
        start = threading.Barrier(8, timeout=DEADLINE)

        def work(number: int) -> list[EventBus]:
            start.wait()
            return [get_bus(f"bus{round_}") for round_ in range(200)]

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
        for same in zip(*results):
            assert len({id(bus) for bus in same}) == 1

    def test_of_threads_that_give_options_at_once_one_succeeds(self) -> None:
        start = threading.Barrier(8, timeout=DEADLINE)

        def work(number: int) -> bool:
            start.wait()
            try:
                get_bus("jobs", handler_timeout=number + 1)
            except ValueError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(work, range(8))) == 1

    def test_the_registry_keeps_a_bus_that_nobody_else_has(self) -> None:
        get_bus("jobs").on("a", print)
        gc.collect()
        assert len(get_bus("jobs")) == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
    def test_a_child_forked_while_another_thread_makes_a_bus_can_make_one(self) -> None:
        program = """
import os, threading
from agent_event_bus import buses, get_bus
held, done = threading.Event(), threading.Event()
def hold():
    with buses._lock:
        held.set()
        done.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if get_bus("in the child").name else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
holder.join()
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split() == ["0"]


@pytest.mark.usefixtures("fresh")
class TestCurrentBus:
    def test_outside_any_block_it_is_the_default_bus(self) -> None:
        assert current_bus() is get_bus()

    def test_inside_a_block_it_is_that_bus_however_deep_the_call(self, bus: EventBus) -> None:
        def tool(depth: int) -> EventBus:
            return tool(depth - 1) if depth else current_bus()

        with bus.as_current() as given:
            assert given is bus
            assert tool(20) is bus
        assert current_bus() is get_bus()

    def test_blocks_nest_and_each_end_restores_what_was_before(self, bus: EventBus) -> None:
        inner = EventBus()
        with bus.as_current():
            with inner.as_current():
                assert current_bus() is inner
                with bus.as_current():
                    assert current_bus() is bus
                assert current_bus() is inner
            assert current_bus() is bus
        assert current_bus() is get_bus()

    def test_one_manager_can_be_used_again_and_inside_itself(self, bus: EventBus) -> None:
        scope = bus.as_current()
        other = EventBus()
        for _ in range(2):
            with scope, other.as_current(), scope:
                assert current_bus() is bus
            assert current_bus() is get_bus()

    def test_an_error_in_the_block_passes_and_ends_it(self, bus: EventBus) -> None:
        with pytest.raises(KeyError), bus.as_current():
            raise KeyError
        assert current_bus() is get_bus()

    def test_a_closed_bus_stays_current(self, bus: EventBus) -> None:
        with bus.as_current():
            asyncio.run(bus.aclose())
            assert current_bus() is bus

    def test_a_subclass_keeps_its_type(self) -> None:
        class MyBus(EventBus):
            pass

        with MyBus().as_current() as bus:
            assert type(bus) is MyBus
            assert current_bus() is bus

    async def test_tasks_inherit_it_and_have_blocks_of_their_own(self, bus: EventBus) -> None:
        own = EventBus()
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def inherits() -> EventBus:
            await go_on.wait()
            return current_bus()

        async def has_its_own() -> EventBus:
            with own.as_current():
                entered.set()
                await go_on.wait()
                return current_bus()

        with bus.as_current():
            tasks = [asyncio.ensure_future(inherits()), asyncio.ensure_future(has_its_own())]
            await soon(entered.wait())
            assert current_bus() is bus
        assert current_bus() is get_bus()
        go_on.set()
        assert await soon(asyncio.gather(*tasks)) == [bus, own]

    async def test_handlers_see_the_bus_of_the_code_that_emits(self, bus: EventBus) -> None:
        seen: list[EventBus] = []

        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            seen.append(current_bus())

        bus.on("a", handler)
        bus.on("a", lambda payload: seen.append(current_bus()))
        bus.on("a", lambda payload: seen.append(current_bus()), offload=True)
        with bus.as_current():
            await soon(bus.emit_async("a"))
        assert seen == [bus, bus, bus]

    def test_a_thread_has_it_only_with_a_copy_of_the_context(self, bus: EventBus) -> None:
        seen: list[EventBus] = []

        def look() -> None:
            seen.append(current_bus())

        with bus.as_current():
            copied = contextvars.copy_context()
            for thread in (
                threading.Thread(target=contextvars.Context().run, args=(look,)),
                threading.Thread(target=copied.run, args=(look,)),
            ):
                thread.start()
                thread.join(DEADLINE)
        assert seen == [get_bus(), bus]

    def test_leaving_it_without_having_entered_it_is_an_error(self, bus: EventBus) -> None:
        with EventBus().as_current() as current:
            with pytest.raises(RuntimeError, match="not entered in this context"):
                bus.as_current().__exit__(None, None, None)
            assert current_bus() is current

    def test_leaving_it_in_a_context_that_never_saw_it_is_an_error(self, bus: EventBus) -> None:
        scope = bus.as_current()
        with scope:
            elsewhere = contextvars.Context()
            with pytest.raises(RuntimeError, match="not entered in this context"):
                elsewhere.run(scope.__exit__, None, None, None)
            assert current_bus() is bus

    @pytest.mark.parametrize("ended", [False, True])
    def test_leaving_it_in_a_copy_of_its_context_is_an_error(
        self, bus: EventBus, ended: bool
    ) -> None:
        scope = bus.as_current()
        with scope:
            copied = contextvars.copy_context()
            if not ended:
                with pytest.raises(RuntimeError, match="entered in another context"):
                    copied.run(scope.__exit__, None, None, None)
            assert current_bus() is bus
        if ended:
            with pytest.raises(RuntimeError, match="entered in another context"):
                copied.run(scope.__exit__, None, None, None)
        assert copied.run(current_bus) is bus
        assert current_bus() is get_bus()

    def test_blocks_that_end_out_of_order_leave_the_inner_one_in_force(self) -> None:
        first, second, third = EventBus(), EventBus(), EventBus()
        scopes = [bus.as_current() for bus in (first, second, third)]
        for scope in scopes:
            scope.__enter__()
        scopes[1].__exit__(None, None, None)
        assert current_bus() is third
        scopes[2].__exit__(None, None, None)
        assert current_bus() is first
        scopes[0].__exit__(None, None, None)
        assert current_bus() is get_bus()

    def test_it_keeps_no_bus_alive_once_the_block_has_ended(self) -> None:
        bus = EventBus()
        gone = weakref.ref(bus)
        with bus.as_current():
            pass
        del bus
        assert is_gone(gone)


class TestUseBuses:
    def test_it_begins_empty_and_brings_back_what_was_before(self) -> None:
        with use_buses():
            outside = get_bus("jobs")
            with use_buses():
                inside = get_bus("jobs", strict=True)
                assert inside is not outside
                with use_buses():
                    assert get_bus("jobs") not in (inside, outside)
                assert get_bus("jobs") is inside
            assert get_bus("jobs") is outside

    def test_an_error_in_it_passes_and_ends_it(self) -> None:
        with use_buses():
            outside = get_bus()
            with pytest.raises(KeyError), use_buses():
                raise KeyError
            assert get_bus() is outside

    def test_a_current_bus_from_outside_is_not_seen_inside_and_is_back_after(
        self, bus: EventBus
    ) -> None:
        with use_buses(), bus.as_current():
            with use_buses():
                assert current_bus() is get_bus()
                with EventBus().as_current() as inside:
                    assert current_bus() is inside
                assert current_bus() is get_bus()
            assert current_bus() is bus

    def test_threads_that_are_started_inside_see_it(self) -> None:
        seen: list[EventBus] = []
        with use_buses():
            thread = threading.Thread(target=lambda: seen.append(get_bus("jobs")))
            thread.start()
            thread.join(DEADLINE)
            assert seen == [get_bus("jobs")]

    async def test_tasks_see_it(self) -> None:
        async def tool() -> EventBus:
            await asyncio.sleep(0)
            return get_bus("jobs")

        with use_buses():
            assert await soon(asyncio.ensure_future(tool())) is get_bus("jobs")

    def test_overlapping_ones_may_end_in_any_order(self) -> None:
        with use_buses():
            outside = get_bus()
            first, second = use_buses(), use_buses()
            first.__enter__()
            second.__enter__()
            inside = get_bus()
            first.__exit__(None, None, None)
            assert get_bus() is inside
            second.__exit__(None, None, None)
            assert get_bus() is outside

    def test_it_is_a_decorator_too(self) -> None:
        @use_buses()
        def test() -> EventBus:
            return get_bus("jobs", strict=True)

        assert test() is not test()

    async def test_it_decorates_coroutine_functions_until_their_end(self) -> None:
        @use_buses()
        async def test(number: int) -> tuple[int, EventBus, EventBus]:
            before = get_bus("jobs", strict=True)
            await asyncio.sleep(0)
            return number, before, get_bus("jobs")

        with use_buses():
            outside = get_bus("jobs")
            number, before, after = await soon(test(3))
            assert number == 3
            assert before is after
            assert before is not outside
            assert get_bus("jobs") is outside
        assert inspect.iscoroutinefunction(test)
        assert test.__name__ == "test"

    def test_it_decorates_nothing_that_would_run_after_its_end(self) -> None:
        def fixture() -> Iterator[None]:
            yield

        async def async_fixture() -> AsyncIterator[None]:
            yield

        class Tests: ...

        for wrong in (fixture, async_fixture, Tests):
            with pytest.raises(TypeError, match="write `with use_buses"):
                use_buses()(wrong)

    def test_one_block_is_entered_once_at_a_time(self) -> None:
        block = use_buses()
        with block:
            inside = get_bus("jobs")
            with pytest.raises(RuntimeError, match="entered already"):
                block.__enter__()
            assert get_bus("jobs") is inside
        with block:
            assert get_bus("jobs") is not inside

    def test_its_buses_are_not_closed_at_the_end(self) -> None:
        with use_buses():
            bus = get_bus("jobs")
        assert not bus.closed


def test_all_of_it_is_importable_from_the_package() -> None:
    for name in ("get_bus", "current_bus", "use_buses"):
        assert name in agent_event_bus.__all__
        assert callable(getattr(agent_event_bus, name))
