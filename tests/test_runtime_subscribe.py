"""agent_event_bus.runtime: subscribing, filters, and ending a subscription."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_event_bus.runtime import AgentEvent, EventBus, EventHandler, EventType, Subscription

FILTERS = {
    "filter_stream": "stream_id",
    "filter_node": "node_id",
    "filter_execution": "execution_id",
    "filter_graph": "graph_id",
}
each_filter = pytest.mark.parametrize(("option", "field"), FILTERS.items())


def event(kind: EventType = EventType.CUSTOM, /, **fields: Any) -> AgentEvent:
    """Return an event, of the stream "inbox" unless it is given another one."""
    return AgentEvent(kind, **{"stream_id": "inbox", **fields})


def fields(values: Iterable[str]) -> dict[str, Any]:
    """Return stream, node, execution and graph, by the names that an event has for them."""
    return dict(zip(FILTERS.values(), values))


@pytest.fixture
def bus() -> EventBus:
    """A fresh runtime bus."""
    return EventBus()


@pytest.fixture
def got() -> list[AgentEvent]:
    """Somewhere to put events."""
    return []


class TestTypes:
    async def test_a_handler_gets_the_very_events_of_its_types(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        bus.subscribe([EventType.CUSTOM, EventType.NODE_RETRY], got.append)
        events = [event(kind) for kind in EventType]
        called = [await bus.publish(each) for each in events]
        wanted = [each for each in events if each.type in ("custom", "node_retry")]
        assert [id(each) for each in got] == [id(each) for each in wanted]
        assert sum(called) == 2

    @pytest.mark.parametrize(
        "types",
        [
            [EventType.CUSTOM],
            (EventType.CUSTOM,),
            {EventType.CUSTOM},
            frozenset({EventType.CUSTOM}),
            iter([EventType.CUSTOM]),
            EventType.CUSTOM,
            "custom",
            ["custom"],
            [EventType.CUSTOM, "custom"],
        ],
        ids=lambda types: type(types).__name__,
    )
    async def test_types_are_given_in_any_iterable_or_alone_or_as_strings(
        self, bus: EventBus, got: list[AgentEvent], types: Any
    ) -> None:
        bus.subscribe(types, got.append)
        assert await bus.publish(event(EventType.NODE_RETRY)) == 0
        assert await bus.publish(event()) == len(got) == 1
        assert bus.get_subscriptions()[0].event_types == {EventType.CUSTOM}

    async def test_the_enumeration_itself_is_all_types(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        bus.subscribe(EventType, got.append)
        for kind in EventType:
            assert await bus.publish(event(kind)) == 1
        assert [each.type for each in got] == list(EventType)

    @pytest.mark.parametrize("types", [[], (), set(), iter([])], ids=lambda t: type(t).__name__)
    def test_no_type_is_refused(self, bus: EventBus, types: Any) -> None:
        with pytest.raises(ValueError, match="at least one event type"):
            bus.subscribe(types, print)

    @pytest.mark.parametrize("types", ["nonsense", ["custom", "custom.*"], "*", "", [None]])
    def test_what_is_no_type_is_refused_and_nothing_subscribed(
        self, bus: EventBus, types: Any
    ) -> None:
        with pytest.raises(ValueError, match="is not a valid EventType"):
            bus.subscribe(types, print)
        assert bus.get_stats()["subscriptions"] == 0

    def test_what_cannot_be_iterated_is_refused(self, bus: EventBus) -> None:
        with pytest.raises(TypeError):
            bus.subscribe(5, print)  # type: ignore[arg-type]


class TestHandlers:
    async def test_async_and_sync_handlers_share_the_bus(self, bus: EventBus) -> None:
        log: list[str] = []

        async def asynchronous(event: AgentEvent) -> None:
            await asyncio.sleep(0)
            log.append("async")

        def synchronous(event: AgentEvent) -> None:
            log.append("sync")

        handlers: list[EventHandler] = [asynchronous, synchronous]
        for handler in handlers:
            bus.subscribe("custom", handler)
        assert await bus.publish(event()) == 2
        assert log == ["sync", "async"]

    async def test_a_handler_may_be_subscribed_twice(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        first = bus.subscribe("custom", got.append)
        bus.subscribe("custom", got.append)
        assert await bus.publish(event()) == 2
        assert bus.unsubscribe(first)
        assert await bus.publish(event()) == 1

    def test_what_cannot_be_called_is_refused(self, bus: EventBus) -> None:
        async def generator(event: AgentEvent) -> Any:
            yield event

        for handler in (None, "print", generator):
            with pytest.raises(TypeError):
                bus.subscribe("custom", handler)  # type: ignore[arg-type]
        assert bus.get_subscriptions() == []


class TestFilters:
    @each_filter
    async def test_a_filter_lets_one_value_through(
        self, bus: EventBus, got: list[AgentEvent], option: str, field: str
    ) -> None:
        bus.subscribe("custom", got.append, **{option: "a"})
        values = ["a", "b", "", "A", "aa"] + ([] if field == "stream_id" else [None])
        for value in values:
            await bus.publish(event(**{field: value}))
        assert [getattr(each, field) for each in got] == ["a"]

    @each_filter
    @pytest.mark.parametrize("nothing", [None, ""])
    async def test_none_and_an_empty_string_are_no_filter(
        self, bus: EventBus, got: list[AgentEvent], option: str, field: str, nothing: Any
    ) -> None:
        bus.subscribe("custom", got.append, **{option: nothing})
        for value in ("a", "") if field == "stream_id" else ("a", "", None):
            await bus.publish(event(**{field: value}))
        assert len(got) == (2 if field == "stream_id" else 3)
        assert getattr(bus.get_subscriptions()[0], option) is None

    async def test_all_filters_must_match(self, bus: EventBus) -> None:
        combinations = list(itertools.product("ab", repeat=4))
        for values in combinations:
            bus.subscribe("custom", lambda event: None, *values)
        for values in combinations:
            assert await bus.publish(event(**fields(values))) == 1

    async def test_filters_are_given_by_position_in_the_order_stream_node_execution_graph(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        bus.subscribe("custom", got.append, "s", "n", "e", "g")
        matching = fields("sneg")
        assert await bus.publish(event(**matching)) == 1
        for field in matching:
            assert await bus.publish(event(**{**matching, field: "other"})) == 0

    async def test_filters_run_no_python_code(self, bus: EventBus) -> None:
        def python_calls(published: AgentEvent) -> list[str]:
            names: list[str] = []
            publication = bus.publish(published)
            sys.setprofile(
                lambda frame, what, arg: (
                    names.append(frame.f_code.co_name) if what == "call" else None
                )
            )
            try:
                publication.send(None)
            except StopIteration:
                pass
            finally:
                sys.setprofile(None)
            return names

        bus.subscribe("custom", lambda event: None, "other", "n", "e", "g")
        assert python_calls(event()) == ["publish"]
        bus.subscribe("custom", lambda event: None, "inbox")
        assert python_calls(event()) == ["publish", "<lambda>"]

    async def test_the_fields_of_a_subclass_and_those_of_data_do_not_disturb_them(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        @dataclass
        class Priced(AgentEvent):
            usd: float = 0.0
            keys: tuple[str, ...] = ("stream_id",)

        bus.subscribe("custom", got.append, filter_stream="inbox", filter_node="n")
        data = {"stream_id": "other", "node_id": "other"}
        priced = Priced(EventType.CUSTOM, "inbox", "n", data=data)
        assert await bus.publish(priced) == 1
        assert got[0] is priced

    async def test_a_subclass_that_is_a_mapping_is_asked_for_its_items(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        class Mapped(AgentEvent):
            def keys(self) -> Iterable[str]:
                return self.data.keys()

            def __getitem__(self, key: str) -> Any:
                return self.data[key]

        bus.subscribe("custom", got.append, filter_node="n")
        items = {"node_id": "n"}
        assert await bus.publish(Mapped(EventType.CUSTOM, "inbox", "other", data=items)) == 1
        assert await bus.publish(Mapped(EventType.CUSTOM, "inbox", "n")) == 0

    async def test_what_a_field_is_at_the_publication_counts(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        bus.subscribe("custom", got.append, filter_graph="g")
        published = event()
        assert await bus.publish(published) == 0
        published.graph_id = "g"
        assert await bus.publish(published) == 1


class TestIds:
    def test_they_count_from_one(self, bus: EventBus) -> None:
        assert [bus.subscribe("custom", print) for _ in range(3)] == ["sub_1", "sub_2", "sub_3"]

    def test_every_bus_counts_for_itself(self, bus: EventBus) -> None:
        bus.subscribe("custom", print)
        assert EventBus().subscribe("custom", print) == "sub_1"

    def test_they_are_never_used_again(self, bus: EventBus) -> None:
        seen = set()
        for _ in range(100):
            number = bus.subscribe("custom", print)
            assert bus.unsubscribe(number)
            seen.add(number)
        assert len(seen) == 100

    def test_threads_get_different_ones(self, bus: EventBus) -> None:
        found: list[str] = []

        def work() -> None:
            for _ in range(200):
                number = bus.subscribe("custom", print)
                found.append(number)
                if len(found) % 2:
                    assert bus.unsubscribe(number)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == len(found) == 800


class TestUnsubscribe:
    async def test_it_ends_one_subscription_and_says_so(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        number = bus.subscribe(EventType, got.append)
        bus.subscribe("custom", got.append)
        assert bus.unsubscribe(number) is True
        assert await bus.publish(event()) == 1
        assert await bus.publish(event(EventType.NODE_RETRY)) == 0

    @pytest.mark.parametrize("number", ["sub_2", "sub_0", "", "nonsense", None, 1])
    def test_one_that_there_is_not_is_no_error(self, bus: EventBus, number: Any) -> None:
        bus.subscribe("custom", print)
        assert bus.unsubscribe(number) is False
        assert len(bus.get_subscriptions()) == 1

    def test_the_second_time_there_is_nothing_to_end(self, bus: EventBus) -> None:
        number = bus.subscribe("custom", print)
        assert [bus.unsubscribe(number), bus.unsubscribe(number)] == [True, False]

    async def test_a_handler_may_subscribe_and_unsubscribe(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        def handler(event: AgentEvent) -> None:
            assert bus.unsubscribe(own)
            assert bus.unsubscribe(later)
            bus.subscribe("custom", got.append)

        own = bus.subscribe("custom", handler)
        later = bus.subscribe("custom", got.append)
        assert await bus.publish(event()) == 1
        assert got == []
        assert await bus.publish(event()) == 1
        assert len(got) == 1

    async def test_a_handler_that_runs_goes_on(self, bus: EventBus) -> None:
        gate = asyncio.Event()
        log: list[str] = []

        async def handler(event: AgentEvent) -> None:
            await gate.wait()
            log.append("done")

        number = bus.subscribe("custom", handler)
        task = asyncio.ensure_future(bus.publish(event()))
        await asyncio.sleep(0)
        assert bus.unsubscribe(number)
        gate.set()
        assert await task == 1
        assert log == ["done"]


class TestSubscription:
    def test_it_has_these_fields(self) -> None:
        names = ["id", "event_types", "handler", *FILTERS]
        assert [field.name for field in dataclasses.fields(Subscription)] == names

    def test_the_bus_lists_what_is_subscribed_in_order(self, bus: EventBus) -> None:
        first = bus.subscribe(["custom", EventType.NODE_RETRY], print, filter_node="n")
        second = bus.subscribe("custom", repr, "s", filter_execution="e", filter_graph="g")
        third = bus.subscribe("custom", repr)
        assert bus.unsubscribe(third)
        assert bus.get_subscriptions() == [
            Subscription(first, {EventType.CUSTOM, EventType.NODE_RETRY}, print, filter_node="n"),
            Subscription(second, {EventType.CUSTOM}, repr, "s", None, "e", "g"),
        ]

    async def test_changing_it_changes_nothing_in_the_bus(
        self, bus: EventBus, got: list[AgentEvent]
    ) -> None:
        bus.subscribe("custom", got.append)
        (subscription,) = bus.get_subscriptions()
        subscription.filter_stream = "other"
        subscription.event_types.clear()
        assert await bus.publish(event()) == 1


class TestTheBus:
    def test_the_page_lists_every_method_with_its_real_signature(self) -> None:
        page = (Path(__file__).parents[1] / "docs" / "runtime.md").read_text(encoding="utf-8")
        listed = re.findall(r"^\| `(?:await )?(\w+)(\(.*?\))` \|", page, re.MULTILINE)
        public = {name for name in dir(EventBus) if name[0] != "_" and name[:4] != "emit"}
        assert public <= {name for name, _ in listed}
        for name, signature in listed:
            if name in public | {"EventBus"}:
                method: Any = EventBus if name == "EventBus" else getattr(EventBus(), name)
                shown = inspect.signature(method)
                plain = [p.replace(annotation=p.empty) for p in shown.parameters.values()]
                assert str(inspect.Signature(plain)) == signature, name

    @pytest.mark.parametrize("value", [-1, -1000])
    def test_a_history_of_less_than_nothing_is_refused(self, value: int) -> None:
        with pytest.raises(ValueError, match=f"max_history must be at least 0, not {value}"):
            EventBus(max_history=value)

    @pytest.mark.parametrize("value", [0, -1])
    def test_fewer_than_one_handler_at_once_is_refused(self, value: int) -> None:
        with pytest.raises(ValueError, match="max_concurrent_handlers must be at least 1"):
            EventBus(max_concurrent_handlers=value)

    @pytest.mark.parametrize("value", [1.0, "10", True])
    def test_what_is_no_int_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="max_history must be an int"):
            EventBus(value)
        with pytest.raises(TypeError, match="max_concurrent_handlers must be an int"):
            EventBus(10, value)
