"""Where memory runs out there is an error, and the bus works on: allocations fail one by one.

tests/isolated/no_memory_core.py lets those of the core fail in every operation, with a memory
allocator that is compiled for it. AEB_NO_MEMORY=long in the environment also lets all that follow
fail.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
import weakref
from typing import Any, Callable

import pytest
from helpers import run_isolated

from agent_event_bus import EventBus

LONG = os.environ.get("AEB_NO_MEMORY") == "long"
LINE = re.compile(r"(.+): (\d+) allocations, \d+ raised, \d+ reported, \d+ absorbed")

# Operations in which the core allocates nothing.
WITHOUT = {"ask_for_pending"}


class Payload:
    """Something that can be referred to weakly."""


def set_nomemory(start: int, stop: int) -> Any:
    """Let allocations fail until the hooks are removed; return the module that can do that."""
    pytest.importorskip("_testcapi", reason="this Python cannot make allocations fail")
    testcapi: Any = importlib.import_module("_testcapi")
    testcapi.set_nomemory(start, stop)
    return testcapi


@pytest.mark.parametrize("options", [{}, {"name": "a", "history": 3, "timing": True}])
def test_making_a_bus_without_memory_raises_memory_error(options: dict[str, Any]) -> None:
    number = made = 0
    while made < 8:
        testcapi = set_nomemory(number, number + 1)
        try:
            EventBus(**options)
            made += 1
        except MemoryError:
            made = 0
        finally:
            testcapi.remove_mem_hooks()
        number += 1
    assert number > 8  # so one has failed at least


def test_a_logger_is_not_blamed_for_a_lack_of_memory() -> None:
    class Logger:
        def error(self, *args: object) -> None: ...

        def warning(self, *args: object) -> None: ...

    logger: Any = Logger()
    failed = 0
    for number in range(40):
        testcapi = set_nomemory(number, number + 1)
        try:
            EventBus(logger=logger)
        except MemoryError:
            failed += 1
        finally:
            testcapi.remove_mem_hooks()
    assert failed > 4


@pytest.mark.skipif(
    sys.version_info[:2] not in ((3, 10), (3, 11)),
    reason="where an await calls next() itself, they are kept until the next emission ends",
)
def test_what_next_has_ended_keeps_neither_the_bus_nor_the_payload() -> None:
    def finished() -> tuple[weakref.ref[EventBus], weakref.ref[Payload]]:
        bus, payload = EventBus(), Payload()
        emission: Any = bus.emit_async("a", payload)
        with pytest.raises(StopIteration):
            next(emission)
        return weakref.ref(bus), weakref.ref(payload)

    references = finished()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def swept(mode: str) -> str:
    output = run_isolated("no_memory_core.py", mode, timeout=1800)
    if output.startswith("skipped"):
        pytest.skip(output.strip())
    *lines, places = output.splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, found) if match is None] == []
    counts = {match[1]: int(match[2]) for match in found if match is not None}
    operations = [label for label in counts if label.isidentifier()]
    assert len(operations) > 70
    assert {label for label in operations if counts[label] == 0} <= WITHOUT
    # How many depends on what the interpreter has in stock, but far more than these.
    assert sum(counts.values()) > 3000
    assert int(places.split()[0]) > 150
    return f"{sum(counts.values())} allocations at {places} in the core failed, each by itself"


def test_the_bus_works_on_when_any_allocation_of_the_core_has_failed(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("figures", swept("once"))


@pytest.mark.skipif(not LONG, reason="AEB_NO_MEMORY=long has all further allocations fail, too")
def test_the_bus_works_on_when_all_allocations_of_the_core_have_failed(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("figures", swept("always") + " and all that followed")
