"""Memory under stress: long chains to release, finalisers that use the bus, and none left."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest
from helpers import is_gone, run_isolated

from agent_event_bus import EventBus


@pytest.mark.parametrize("case", ["events", "handlers"])
def test_a_long_chain_is_released_without_using_up_the_stack(case: str) -> None:
    assert run_isolated("deep_release.py", case).strip() == "ok"


def test_a_finaliser_may_change_the_very_key_that_is_being_removed() -> None:
    assert run_isolated("gc_in_removal.py").strip() == "ok"


@pytest.mark.parametrize("seed", [3, 7])
def test_finalisers_may_change_the_bus_in_the_middle_of_any_change(seed: int) -> None:
    assert run_isolated("gc_stress.py", str(seed)).strip() == "ok"


@pytest.mark.parametrize("kind", ["changes", "uses"])
def test_a_bus_works_on_after_any_call_has_run_out_of_memory(kind: str) -> None:
    pytest.importorskip("_testcapi", reason="this Python cannot make allocations fail")
    assert run_isolated("no_memory.py", kind).strip() == "ok"


async def test_a_task_that_is_kept_does_not_keep_the_handlers_that_led_to_it(
    bus: EventBus,
) -> None:
    tasks: list[Any] = []

    class Link:
        """A handler that emits the next event and awaits it; the last one keeps its task."""

        def __init__(self, following: str) -> None:
            self.following = following

        async def __call__(self, payload: object) -> None:
            await asyncio.sleep(0)
            if self.following:
                await bus.emit_async(self.following)
            else:
                tasks.append(asyncio.current_task())

    def subscribe(key: str, following: str) -> weakref.ref[Link]:
        link = Link(following)
        bus.on(key, link)
        return weakref.ref(link)

    outermost = subscribe("a", "b")
    outer = subscribe("b", "c")
    # The one that made the task stays in the task's own context, before 3.11.
    subscribe("c", "d")
    subscribe("d", "")
    assert await bus.emit_async("a") == 1
    bus.clear()
    assert len(tasks) == 1
    assert is_gone(outermost)
    assert is_gone(outer)
