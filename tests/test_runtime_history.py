"""agent_event_bus.runtime: get_history and get_stats."""

from __future__ import annotations

from typing import Any

import pytest

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

KINDS = (EventType.CUSTOM, EventType.NODE_RETRY)


def numbers(events: list[AgentEvent]) -> list[int]:
    """Return the numbers that the events have in their data."""
    return [event.data["number"] for event in events]


async def filled(count: int = 24, **options: Any) -> EventBus:
    """Return a bus with so many events of two types, three streams and four executions in turn."""
    bus = EventBus(**options)
    for number in range(count):
        await bus.publish(
            AgentEvent(
                KINDS[number % 2],
                f"s{number % 3}",
                execution_id=f"e{number % 4}",
                data={"number": number},
            )
        )
    return bus


class TestHistory:
    async def test_it_is_newest_first(self) -> None:
        bus = await filled(5)
        assert numbers(bus.get_history()) == [4, 3, 2, 1, 0]

    async def test_it_has_the_very_events(self) -> None:
        bus = EventBus()
        event = AgentEvent(EventType.CUSTOM, "inbox")
        await bus.publish(event)
        assert bus.get_history()[0] is event

    async def test_the_oldest_events_give_way(self) -> None:
        bus = await filled(24, max_history=5)
        assert numbers(bus.get_history()) == [23, 22, 21, 20, 19]

    async def test_the_last_thousand_are_kept_unless_told_otherwise(self) -> None:
        bus = await filled(1002)
        assert numbers(bus.get_history(limit=None)) == list(range(1001, 1, -1))

    async def test_a_history_of_none_keeps_none_and_events_are_delivered(self) -> None:
        bus = EventBus(max_history=0)
        got: list[AgentEvent] = []
        bus.subscribe("custom", got.append)
        assert await bus.publish(AgentEvent(EventType.CUSTOM, "inbox")) == len(got) == 1
        assert bus.get_history() == []
        assert bus.get_stats()["total_events"] == 0

    @pytest.mark.parametrize("kind", [None, "", *KINDS, "node_retry", EventType.GOAL_PROGRESS])
    @pytest.mark.parametrize("stream", [None, "", "s0", "s2", "nowhere"])
    @pytest.mark.parametrize("execution", [None, "", "e1", "nowhere"])
    async def test_filters_must_all_match_and_none_and_empty_ones_are_none(
        self, kind: EventType | str | None, stream: str | None, execution: str | None
    ) -> None:
        bus = await filled()
        wanted = [
            number
            for number in reversed(range(24))
            if (not kind or KINDS[number % 2] == kind)
            and (not stream or f"s{number % 3}" == stream)
            and (not execution or f"e{number % 4}" == execution)
        ]
        assert numbers(bus.get_history(kind, stream, execution)) == wanted
        found = bus.get_history(event_type=kind, stream_id=stream, execution_id=execution, limit=2)
        assert numbers(found) == wanted[:2]

    @pytest.mark.parametrize("filters", [{}, {"stream_id": "s0"}, {"execution_id": "e0"}], ids=str)
    async def test_the_limit_counts_what_matches(self, filters: dict[str, Any]) -> None:
        bus = await filled(2400)
        everything = bus.get_history(**filters, limit=None)
        assert len(everything) > 200
        assert bus.get_history(**filters) == everything[:100]
        assert bus.get_history(**filters, limit=1) == everything[:1]
        assert bus.get_history(**filters, limit=0) == []
        assert bus.get_history(**filters, limit=10**6) == everything

    @pytest.mark.parametrize("filters", [{}, {"stream_id": "s0"}], ids=str)
    async def test_what_is_no_limit_is_refused(self, filters: dict[str, Any]) -> None:
        bus = await filled(3)
        with pytest.raises(ValueError, match="limit must be at least 0, not -1"):
            bus.get_history(**filters, limit=-1)
        limits: tuple[Any, ...] = (1.0, "1", True)
        for limit in limits:
            with pytest.raises(TypeError, match="limit must be an int"):
                bus.get_history(**filters, limit=limit)

    async def test_what_is_no_type_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'nonsense' is not a valid EventType"):
            EventBus().get_history("nonsense")

    async def test_the_list_is_the_callers(self) -> None:
        bus = await filled(3)
        bus.get_history().clear()
        assert len(bus.get_history()) == 3

    async def test_an_event_is_there_before_its_first_handler_runs(self) -> None:
        bus = EventBus()
        seen: list[bool] = []
        bus.subscribe("custom", lambda event: seen.append(bus.get_history() == [event]))
        await bus.publish(AgentEvent(EventType.CUSTOM, "inbox"))
        assert seen == [True]

    async def test_an_event_without_handlers_and_one_whose_handlers_fail_are_kept(
        self, quiet_reports: None
    ) -> None:
        bus = EventBus()
        bus.subscribe("node_retry", lambda event: 1 / 0)
        for kind in KINDS:
            await bus.publish(AgentEvent(kind, "inbox"))
        assert [event.type for event in bus.get_history()] == [*reversed(KINDS)]


class TestStats:
    def test_a_new_bus_has_nothing(self) -> None:
        empty = {"total_events": 0, "subscriptions": 0, "events_by_type": {}}
        assert EventBus().get_stats() == empty

    async def test_they_count_what_the_history_holds(self) -> None:
        bus = await filled(24, max_history=5)
        assert bus.get_stats() == {
            "total_events": 5,
            "subscriptions": 0,
            "events_by_type": {"node_retry": 3, "custom": 2},
        }

    async def test_types_are_in_the_order_in_which_they_came(self) -> None:
        bus = await filled(4)
        assert list(bus.get_stats()["events_by_type"]) == ["custom", "node_retry"]

    async def test_types_are_plain_strings(self) -> None:
        bus = await filled(2)
        assert {type(name) for name in bus.get_stats()["events_by_type"]} == {str}

    def test_they_count_subscriptions_and_those_who_wait(self) -> None:
        bus = EventBus()
        number = bus.subscribe(EventType, print)
        waiting = bus.wait_for(EventType.CUSTOM)
        assert bus.get_stats()["subscriptions"] == 2
        waiting.close()
        assert bus.get_stats()["subscriptions"] == 1
        bus.unsubscribe(number)
        assert bus.get_stats()["subscriptions"] == 0
