"""Published objects: which handlers a class reaches, what they get, what the event is called."""

from __future__ import annotations

import asyncio
import collections.abc
import logging
import types
import unittest.mock
from typing import Any, Callable

import pytest
from helpers import failing, note, recorder
from publishing import Inbound, Message, Way, both, class_named

from agent_event_bus import Event, EventBus


class Urgent:
    """A class of another family."""


class UrgentInbound(Inbound, Urgent):
    """Of both families."""


class TestMatching:
    @both
    def test_a_handler_of_its_class_gets_the_very_object(self, bus: Any, way: Way) -> None:
        log: list[Any] = []
        subscription = bus.subscribe(Message, recorder(log, "h"))
        message = Message("hello")
        assert subscription.keys == (Message,)
        assert way(bus, message) == 1
        ((label, got),) = log
        assert label == "h"
        assert got is message

    @both
    def test_handlers_of_every_class_it_is_derived_from_are_called(
        self, bus: Any, way: Way
    ) -> None:
        log: list[Any] = []
        for cls in (Urgent, Message, object, UrgentInbound, Inbound):
            bus.on(cls, note(log, cls.__name__))
        assert way(bus, UrgentInbound()) == 5
        # In order of registration, as all handlers are, and not in that of the classes.
        assert log == ["Urgent", "Message", "object", "UrgentInbound", "Inbound"]

    @both
    def test_handlers_of_subclasses_and_of_other_classes_are_not(self, bus: Any, way: Way) -> None:
        for cls in (Inbound, Urgent, UrgentInbound, str, type):
            bus.on(cls, lambda obj: pytest.fail("delivered"))
        assert way(bus, Message()) == 0

    def test_a_base_that_is_reached_in_two_ways_calls_its_handler_once(self, bus: Any) -> None:
        class Left(Message): ...

        class Right(Message): ...

        class Diamond(Left, Right): ...

        log: list[Any] = []
        bus.on(Message, note(log, "once"))
        assert bus.publish(Diamond()) == 1
        assert log == ["once"]

    @pytest.mark.parametrize("obj", [1, "text", None, [], object(), Message, print, 2.5, Ellipsis])
    def test_object_gets_everything_that_is_published(self, bus: Any, obj: object) -> None:
        got: list[Any] = []
        bus.on(object, got.append)
        assert bus.publish(obj) == 1
        assert got[0] is obj

    def test_object_gets_nothing_that_is_emitted(self, bus: Any) -> None:
        bus.on(object, lambda obj: pytest.fail("delivered"))
        assert bus.emit("Message", Message()) == 0

    def test_a_class_may_be_published_and_is_of_its_metaclass(self, bus: Any) -> None:
        got: list[Any] = []
        bus.on(type, got.append)
        bus.on(Message, lambda obj: pytest.fail("delivered"))
        assert bus.publish(Message) == 1
        assert got == [Message]

    def test_virtual_bases_do_not_count(self, bus: Any) -> None:
        assert isinstance([], collections.abc.Sized)
        bus.on(collections.abc.Sized, lambda obj: pytest.fail("delivered"))
        assert bus.publish([]) == 0

    def test_what_an_object_pretends_to_be_does_not_count(self, bus: Any) -> None:
        pretender = unittest.mock.Mock(spec=Message)
        assert isinstance(pretender, Message)
        bus.on(Message, lambda obj: pytest.fail("delivered"))
        assert bus.publish(pretender) == 0

    def test_an_order_that_the_metaclass_decides_counts(self, bus: Any) -> None:
        class Meta(type):
            def mro(cls) -> list[type[Any]]:
                return [cls, Urgent, object]

        class Odd(metaclass=Meta): ...

        log: list[Any] = []
        bus.on(Urgent, note(log, "urgent"))
        assert bus.publish(Odd()) == 1
        assert log == ["urgent"]

    def test_a_hostile_metaclass_is_never_asked(self, bus: Any) -> None:
        class Hostile(type):
            def _refuse(cls, *args: object) -> Any:
                raise AssertionError("must not be asked")

            __eq__ = __hash__ = __repr__ = __str__ = _refuse
            __bool__ = __getattribute__ = __instancecheck__ = __subclasscheck__ = _refuse

        plain: Any = type.__new__(Hostile, "Plain", (), {})
        obj = object.__new__(plain)
        got: list[Any] = []
        subscription = bus.subscribe([plain, plain], lambda obj: got.append(obj))
        assert len(subscription.keys) == 1
        assert bus.publish(obj) == 1
        assert "Plain" in repr(subscription)
        assert bus.off(plain) == 1
        assert bus.publish(obj) == 0
        assert got == [obj]

    def test_changed_bases_count_from_the_next_time_on(self, bus: Any) -> None:
        class Base: ...

        class Changed(Base): ...

        log: list[Any] = []
        bus.on(Urgent, note(log, "urgent"))
        bus.on(Base, note(log, "base"))
        bus.publish(Changed())
        Changed.__bases__ = (Urgent,)
        bus.publish(Changed())
        assert log == ["base", "urgent"]

    def test_a_changed_class_of_the_object_counts(self, bus: Any) -> None:
        class First: ...

        class Second: ...

        log: list[Any] = []
        bus.on(First, note(log, "first"))
        bus.on(Second, note(log, "second"))
        obj: Any = First()
        bus.publish(obj)
        obj.__class__ = Second
        bus.publish(obj)
        assert log == ["first", "second"]


class TestName:
    @both
    def test_exact_names_patterns_and_wildcards_see_the_qualified_name(
        self, bus: Any, way: Way
    ) -> None:
        log: list[Any] = []
        bus.on("Message", recorder(log, "exact"))
        bus.on("*", recorder(log, "any"))
        bus.on("Message.*", lambda name, obj: pytest.fail("delivered"))
        bus.on("message", lambda obj: pytest.fail("delivered"))
        message = Message()
        assert way(bus, message) == 2
        assert log == [("exact", message), ("any", "Message", message)]

    def test_a_nested_class_has_the_dots_of_its_qualified_name(self, bus: Any) -> None:
        log: list[Any] = []
        for key in ("Outer.Inner", "Outer.*", "*.Inner", "Inner", "Outer"):
            bus.on(key, note(log, key))

        bus.publish(class_named("Outer.Inner")())
        assert log == ["Outer.Inner", "Outer.*", "*.Inner"]

    def test_a_class_made_in_a_function_has_the_function_in_its_name(self, bus: Any) -> None:
        def make() -> object:
            class Local: ...

            return Local()

        local = make()
        qualname = type(local).__qualname__
        assert qualname.endswith(".<locals>.make.<locals>.Local")
        log: list[Any] = []
        bus.on(qualname, note(log, "exact"))
        bus.on(qualname.replace("Local", "*"), note(log, "last segment"))
        bus.on("TestName.**", note(log, "any depth"))
        bus.on("Local", note(log, "short"))
        bus.on("*.Local", note(log, "one segment before"))
        assert bus.publish(local) == 3
        assert log == ["exact", "last segment", "any depth"]

    @both
    def test_envelopes_carry_name_and_object(self, way: Way) -> None:
        bus: Any = EventBus(history=2)
        events: list[Event] = []
        bus.on(Message, events.append, envelope=True)
        message = Message()
        before = bus.emit("something else")
        assert way(bus, message) == 1
        (event,) = events
        assert (event.name, event.seq, before) == ("Message", 2, 0)
        assert event.payload is message
        assert type(event.name) is str

    @both
    def test_history_and_stats_see_the_name(self, way: Way) -> None:
        bus: Any = EventBus(history=2)
        message = Message()
        way(bus, message)
        (event,) = bus.history("Message")
        assert event.payload is message
        assert bus.history(Message) == [event]
        assert bus.stats()["by_event"] == {"Message": 1}

    def test_a_failure_is_logged_with_the_name(
        self, bus: Any, records: list[logging.LogRecord]
    ) -> None:
        bus.on(Message, failing(ValueError("no")))
        bus.on(Message, print)
        assert bus.publish(Message()) == 2
        assert (
            records[0].getMessage()
            == "Handler 'failing.<locals>.boom' raised on event 'Message': no"
        )

    def test_it_follows_a_change_of_the_qualified_name(self, bus: Any) -> None:
        cls = class_named("Before")
        log: list[Any] = []
        bus.on("Before", note(log, "before"))
        bus.on("After", note(log, "after"))
        bus.on(cls, note(log, "class"))
        bus.publish(cls())
        cls.__qualname__ = "After"
        bus.publish(cls())
        assert log == ["before", "class", "after", "class"]

    def test_a_module_is_no_part_of_it(self, bus: Any) -> None:
        names: list[str] = []
        bus.on("*", lambda name, obj: names.append(name))
        objects: list[Any] = [1, types.SimpleNamespace(), collections.OrderedDict()]
        for obj in objects:
            bus.publish(obj)
        assert names == ["int", "SimpleNamespace", "OrderedDict"]

    def test_two_classes_of_one_name_share_the_handlers_of_the_name_alone(self, bus: Any) -> None:
        one, two = class_named("Same"), class_named("Same")
        log: list[Any] = []
        bus.on(one, note(log, "one"))
        bus.on(two, note(log, "two"))
        bus.on("Same", note(log, "name"))
        bus.publish(one())
        bus.publish(two())
        assert log == ["one", "name", "two", "name"]
        assert bus.stats()["by_event"] == {"Same": 2}

    @pytest.mark.parametrize("qualname", ["", "*", "**", "a*", "tool.*", "a..b", ".", "a."])
    @both
    def test_one_that_could_not_be_emitted_does_no_harm(self, qualname: str, way: Way) -> None:
        bus: Any = EventBus(history=1)
        cls = class_named(qualname)
        log: list[Any] = []
        bus.on(cls, recorder(log, "class"))
        bus.on("*", recorder(log, "any"))
        obj = cls()
        assert way(bus, obj) == 2
        assert log == [("class", obj), ("any", qualname, obj)]
        assert bus.history()[0].name == qualname
        with pytest.raises(ValueError, match="bad event name"):
            bus.emit(qualname)

    def test_one_that_looks_like_a_pattern_matches_as_text_and_is_not_that_key(
        self, bus: Any
    ) -> None:
        log: list[Any] = []
        bus.on("tool.*", recorder(log, "pattern"))
        obj = class_named("tool.*")()
        assert bus.publish(obj) == 1
        assert log == [("pattern", "tool.*", obj)]


class TestForms:
    @pytest.mark.parametrize("keys", [["*", Message], [Message, "**"], ["*", "Inbound"]], ids=str)
    def test_a_class_or_an_exact_name_among_the_keys_decides_the_form(
        self, bus: Any, keys: list[Any]
    ) -> None:
        log: list[Any] = []
        bus.subscribe(keys, recorder(log, "h"))
        message = Inbound()
        assert bus.publish(message) == 1
        assert log == [("h", message)]

    def test_several_keys_that_match_deliver_once(self, bus: Any) -> None:
        log: list[Any] = []
        subscription = bus.subscribe([Message, Inbound, object, "Inbound", "*"], recorder(log, "h"))
        message = Inbound()
        assert bus.publish(message) == 1
        assert log == [("h", message)]
        assert subscription.calls == 1

    def test_all_kinds_of_keys_share_one_order(self, bus: Any) -> None:
        log: list[Any] = []
        keys: list[tuple[Any, int]] = [
            ("*", 1),
            (object, 0),
            ("Inbound", 0),
            (Message, -1),
            ("**", 0),
            (Inbound, 1),
        ]
        for number, (key, priority) in enumerate(keys):
            bus.on(key, note(log, number), priority=priority)
        bus.publish(Inbound())
        assert log == [3, 1, 2, 4, 0, 5]

    def test_emitted_names_reach_no_handler_of_a_class(self, bus: Any) -> None:
        bus.on(Message, lambda obj: pytest.fail("delivered"))
        assert bus.handlers("Message") == ()
        assert not bus.has_handlers("Message")
        assert bus.emit("Message", Message()) == 0

    def test_a_name_is_not_published_but_a_str(self, bus: Any) -> None:
        log: list[Any] = []
        bus.on("tool.start", lambda payload: pytest.fail("delivered"))
        bus.on(str, log.append)
        assert bus.publish("tool.start") == 1
        assert log == ["tool.start"]

    @pytest.mark.parametrize(
        "call",
        [
            lambda bus: bus.emit(Message),
            lambda bus: bus.emitter(Message),
            lambda bus: bus.handlers(Message),
            lambda bus: bus.has_handlers(Message),
            lambda bus: bus.collect(Message),
            lambda bus: asyncio.run(bus.emit_async(Message)),
            lambda bus: asyncio.run(bus.collect_async(Message)),
        ],
    )
    def test_a_class_is_no_event_name(self, bus: Any, call: Any) -> None:
        bus.on(Message, print)
        with pytest.raises(TypeError, match="event name must be a str, not type"):
            call(bus)

    @pytest.mark.parametrize("method", ["publish", "publish_async"])
    def test_exactly_one_object_is_published(self, bus: Any, method: str) -> None:
        publish = getattr(bus, method)
        with pytest.raises(TypeError, match=rf"{method}\(\) takes one object"):
            publish()
        with pytest.raises(TypeError, match=rf"{method}\(\) takes one object"):
            publish("name", Message())
        with pytest.raises(TypeError, match="keyword"):
            publish(obj=Message())


class TestRemoving:
    def test_off_and_clear_take_a_class_and_mean_that_very_class(self, bus: Any) -> None:
        for remove in (bus.off, bus.clear):
            bus.on(Message, print)
            bus.on(Message, repr)
            kept = bus.subscribe(Inbound, print)
            assert remove(Urgent) == 0
            assert remove(Message) == 2
            assert kept.active
            bus.clear()

    def test_off_with_class_and_handler_removes_that_handler(self, bus: Any) -> None:
        log: list[Any] = []
        first, second = note(log, "first"), note(log, "second")
        bus.on(Message, first)
        bus.on(Message, second)
        assert bus.off(Message, first) == 1
        bus.publish(Message())
        assert log == ["second"]

    def test_the_name_of_a_class_is_another_key_than_the_class(self, bus: Any) -> None:
        bus.on(Message, print)
        assert bus.off("Message") == bus.clear("Message") == 0
        bus.on("Message", print)
        assert bus.off(Message) == 1
        assert bus.has_handlers("Message")

    def test_a_subscription_with_a_class_among_its_keys_goes_whole(self, bus: Any) -> None:
        bus.subscribe([Message, "a", "b.*"], print)
        assert bus.off(Message) == 1
        assert bus.emit("a") == bus.emit("b.c") == bus.publish(Message()) == 0
        assert len(bus) == 0

    @pytest.mark.parametrize("key", [Inbound, Message, object, "Inbound", "*", "Outer.*", "**"])
    def test_a_handler_may_come_and_go_between_two_publications(self, bus: Any, key: Any) -> None:
        obj: Any = class_named("Outer.Inner")() if key == "Outer.*" else Inbound()
        assert bus.publish(obj) == 0
        subscription = bus.subscribe(key, lambda *args: None)
        assert bus.publish(obj) == 1
        with bus.subscribe(["unrelated", key], lambda *args: None):
            assert bus.publish(obj) == 2
        assert bus.publish(obj) == 1
        subscription.cancel()
        assert bus.publish(obj) == 0


@pytest.mark.parametrize("key", [list[int], Callable[[int], str], collections.abc.Iterable[int]])
def test_what_only_looks_like_a_class_is_no_key(bus: Any, key: Any) -> None:
    for method in (bus.on, bus.once, bus.subscribe, bus.off, bus.clear):
        with pytest.raises(TypeError, match="must be a str or a class"):
            method(key, *([] if method == bus.clear else [print]))
    assert len(bus) == 0
