"""max_concurrency: how many async handlers of a bus run at once."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from helpers import anote, soon

from agent_event_bus import EventBus


class TestTheOption:
    @pytest.mark.parametrize("value", [1, 2, 10**6, sys.maxsize, None])
    async def test_a_count_or_none_is_accepted(self, value: int | None) -> None:
        bus = EventBus(max_concurrency=value)
        log: list[int] = []
        for n in range(3):
            bus.on("a", anote(log, n))
        assert await soon(bus.emit_async("a")) == 3
        assert log == [0, 1, 2]

    @pytest.mark.parametrize("value", [True, False, 1.0, "1", [1]])
    def test_what_is_no_int_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="max_concurrency"):
            EventBus(max_concurrency=value)

    @pytest.mark.parametrize("value", [0, -1, -(10**30)])
    def test_less_than_one_is_refused(self, value: int) -> None:
        with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
            EventBus(max_concurrency=value)

    def test_more_than_there_can_be_is_refused(self) -> None:
        with pytest.raises(OverflowError, match="max_concurrency"):
            EventBus(max_concurrency=10**30)
