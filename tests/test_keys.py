"""Which keys and names are good, what text types count as strings, and what a key delivers."""

from __future__ import annotations

import asyncio
import enum
import re
import sys
import time
from typing import Any

import pytest
from helpers import recorder

from agent_event_bus import Event, EventBus

GOOD = [
    "a",
    "tool_called",
    "tool.start",
    "a.b.c.d.e",
    " ",
    "with space",
    "a-b/c:d",
    "7",
    "naïve.ключ.鍵",
    "\N{PARTY POPPER}",
    "nul\0inside",
    "\ud800",
    "x" * 10_000,
]

# Neither a key nor an event name.
BAD = ["", ".", "..", "a.", ".a", "a..b", "foo*", "*foo", "a.b*", "a.*b", "***", "a.***"]

# Not a key because "**" may only stand last; not an event name because of its star.
BAD_KEYS = [*BAD, "**.a", "a.**.b"]

# Keys, and no event names.
PATTERNS = ["tool.*", "tool.**", "*.error", "a.*.c", "*.*"]

NOT_STRINGS: list[Any] = [5, 1.5, b"a", bytearray(b"a"), object(), ("a",), {"a": 1}]


class Hostile(str):
    """A string that refuses everything but being a string."""

    def _refuse(self, *args: object) -> Any:
        raise AssertionError("must not be asked")

    __eq__ = __ne__ = __hash__ = __str__ = __repr__ = _refuse
    __len__ = __iter__ = __contains__ = __format__ = split = find = _refuse  # type: ignore[assignment]


class Text(str, enum.Enum):
    START = "tool.start"


class Plain(enum.Enum):
    START = "tool.start"
    NUMBER = 5


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("name", GOOD, ids=ascii)
async def test_any_text_without_stars_and_empty_segments_is_a_key_and_a_name(
    bus: EventBus, name: str
) -> None:
    log: list[Any] = []
    subscription = bus.subscribe(name, recorder(log, "exact"))
    bus.on("*", recorder(log, "any"))
    assert subscription.keys == (name,)
    assert bus.has_handlers(name)
    assert bus.emit(name, 1) == 2
    assert await bus.emit_async(name, 2) == 2
    assert log == [("exact", 1), ("any", name, 1), ("exact", 2), ("any", name, 2)]


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
@pytest.mark.parametrize("method", ["on", "once", "subscribe"])
def test_malformed_keys_are_refused_with_an_error_that_names_them(
    bus: EventBus, method: str, key: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(key))) as caught:
        getattr(bus, method)(key, print)
    assert len(str(caught.value)) > len(repr(key)) + 10, "the rule is missing"
    assert len(bus) == 0


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ([""], "it is empty"),
        (["a..b", ".a", "a.", "."], "a segment between dots is empty"),
        (["**.a", "a.**.b"], "'**' must be the last segment"),
        (["foo*", "*foo", "a.*b", "a.***"], "'*' must be a whole segment"),
    ],
)
def test_the_error_of_a_malformed_key_names_the_rule_that_it_breaks(
    bus: EventBus, keys: list[str], rule: str
) -> None:
    for key in keys:
        with pytest.raises(ValueError, match=re.escape(f"bad key {key!r}: {rule}")):
            bus.on(key, print)


@pytest.mark.parametrize("key", NOT_STRINGS, ids=lambda key: type(key).__name__)
@pytest.mark.parametrize("method", ["on", "once"])
def test_keys_that_are_neither_strings_nor_classes_are_refused(
    bus: EventBus, method: str, key: Any
) -> None:
    with pytest.raises(TypeError, match="must be a str or a class") as caught:
        getattr(bus, method)(key, print)
    assert type(key).__name__ in str(caught.value)
    assert repr(key) in str(caught.value)
    assert len(bus) == 0


@pytest.mark.parametrize("method", ["on", "once", "subscribe"])
def test_none_is_not_a_key(bus: EventBus, method: str) -> None:
    with pytest.raises(TypeError):
        getattr(bus, method)(None, print)


def test_a_key_whose_repr_fails_is_still_refused_with_type_error(bus: Any) -> None:
    for method in (bus.on, bus.subscribe):
        with pytest.raises(TypeError):
            method(Unprintable(), print)
    with pytest.raises(TypeError):
        bus.emit(Unprintable())


@pytest.mark.parametrize("wildcard_present", [False, True])
@pytest.mark.parametrize("name", [*BAD_KEYS, *PATTERNS, "*", "**"], ids=ascii)
def test_emitting_or_asking_for_what_is_not_a_name_raises_value_error(
    bus: EventBus, name: str, wildcard_present: bool
) -> None:
    if wildcard_present:
        bus.on("*", lambda *args: pytest.fail("delivered"))
    for _ in range(2):  # a refused name stays refused
        for call in (bus.emit, bus.handlers, bus.has_handlers):
            with pytest.raises(ValueError, match=re.escape(repr(name))):
                call(name)


@pytest.mark.parametrize("name", [*NOT_STRINGS, None], ids=lambda name: type(name).__name__)
def test_emitting_or_asking_for_what_is_not_a_string_raises_type_error(
    bus: EventBus, name: Any
) -> None:
    for call in (bus.emit, bus.handlers, bus.has_handlers):
        with pytest.raises(TypeError):
            call(name)


@pytest.mark.parametrize(
    ("name", "error"),
    [("", ValueError), ("a..b", ValueError), ("*", ValueError), (5, TypeError), ([], TypeError)],
)
async def test_emit_async_refuses_a_bad_name_when_it_is_awaited(
    bus: EventBus, name: Any, error: type[Exception]
) -> None:
    emission = bus.emit_async(name)
    with pytest.raises(error):
        await emission


@pytest.mark.parametrize("text", [Hostile("tool.start"), Text.START], ids=["subclass", "enum"])
class TestStringSubclasses:
    def test_as_key_it_is_the_same_as_its_text(self, bus: EventBus, text: str) -> None:
        log: list[Any] = []
        subscription = bus.subscribe(text, recorder(log, "exact"))
        assert bus.emit("tool.start", 1) == 1
        assert log == [("exact", 1)]
        assert type(subscription.key) is str
        assert subscription.keys == ("tool.start",)
        assert bus.handlers(text) == (subscription,)
        assert bus.has_handlers(text)

    def test_as_name_it_is_the_same_as_its_text(self, bus: EventBus, text: str) -> None:
        log: list[Any] = []
        bus.on("tool.start", recorder(log, "exact"))
        assert bus.emit(text, 1) == 1
        assert asyncio.run(bus.emit_async(text, 2)) == 1
        assert log == [("exact", 1), ("exact", 2)]

    def test_wildcard_handlers_and_envelopes_get_an_exact_str(
        self, bus: EventBus, text: str
    ) -> None:
        names: list[object] = []
        bus.on("*", lambda name, payload: names.append(name))
        bus.on("*", lambda event: names.append(event.name), envelope=True)
        bus.emit(text)
        assert [type(name) for name in names] == [str, str]
        assert names == ["tool.start", "tool.start"]

    def test_it_removes_what_its_text_subscribed(self, bus: EventBus, text: str) -> None:
        bus.on("tool.start", print)
        assert bus.off(text, print) == 1
        bus.on("tool.start", print)
        assert bus.clear(text) == 1

    def test_it_may_stand_in_a_list_of_keys(self, bus: EventBus, text: str) -> None:
        subscription = bus.subscribe([text, "b"], print)
        assert subscription.keys == ("tool.start", "b")


def test_a_hostile_string_subclass_is_checked_by_its_text(bus: EventBus) -> None:
    with pytest.raises(ValueError, match=re.escape("'a..b'")):
        bus.on(Hostile("a..b"), print)
    with pytest.raises(ValueError, match=re.escape("'*'")):
        bus.emit(Hostile("*"))
    got: list[object] = []
    bus.on(Hostile("*"), lambda name, payload: got.append(name))
    bus.emit("x")
    assert got == ["x"]


def test_an_enum_member_with_a_string_value_is_the_same_key(bus: Any) -> None:
    log: list[Any] = []
    bus.on(Plain.START, recorder(log, "exact"))
    bus.emit("tool.start", 1)
    bus.emit(Plain.START, 2)
    assert log == [("exact", 1), ("exact", 2)]
    with pytest.raises(TypeError):
        bus.on(Plain.NUMBER, print)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="enum.StrEnum is new in 3.11")
def test_a_str_enum_member_is_the_same_key(bus: EventBus) -> None:
    if sys.version_info >= (3, 11):
        kind = enum.StrEnum("kind", {"START": "tool.start"})
        log: list[Any] = []
        bus.on(kind.START, recorder(log, "exact"))
        bus.emit("tool.start", 1)
        bus.emit(kind.START, 2)
        assert log == [("exact", 1), ("exact", 2)]


class Shape(enum.Enum):
    ONE = "tool.*"
    DEEP = "tool.**"
    ANY = "**"
    BAD = "tool*"


class Level(enum.IntEnum):
    LOW = 1


class Labelled(str, enum.Enum):
    """Its value is another string than its text."""

    START = ("tool.start", "a label")

    def __new__(cls, text: str, label: str) -> Labelled:
        self = str.__new__(cls, text)
        self._value_ = label
        return self


class TestEnums:
    @pytest.mark.parametrize(
        ("member", "key"), [(Shape.ONE, "tool.*"), (Shape.DEEP, "tool.**"), (Shape.ANY, "*")]
    )
    def test_a_member_whose_value_is_a_pattern_is_that_pattern(
        self, bus: Any, member: enum.Enum, key: str
    ) -> None:
        log: list[Any] = []
        subscription = bus.subscribe(member, recorder(log, "h"))
        assert subscription.keys == (key,)
        assert bus.emit("tool.start", 1) == 1
        assert log == [("h", "tool.start", 1)]
        with pytest.raises(ValueError, match="a pattern is not an event"):
            bus.emit(member)

    def test_off_and_clear_take_a_member_and_remove_what_its_string_subscribed(
        self, bus: Any
    ) -> None:
        for member in (Plain.START, Text.START, Shape.ONE, Shape.ANY):
            for remove in (bus.off, bus.clear):
                bus.on(member.value, print)
                bus.subscribe(["other", member], print)
                assert remove(member) == 2
                assert len(bus) == 0

    def test_a_member_is_asked_for_as_its_string(self, bus: Any) -> None:
        subscription = bus.subscribe("tool.start", print)
        assert bus.handlers(Plain.START) == (subscription,)
        assert bus.has_handlers(Plain.START)
        assert bus.emitter(Plain.START).name == "tool.start"

    @pytest.mark.parametrize("member", [Plain.START, Text.START])
    def test_every_way_to_emit_takes_a_member(self, bus: Any, member: Any) -> None:
        log: list[Any] = []
        bus.on("tool.start", recorder(log, "exact"))
        bus.once(member, recorder(log, "once"))
        bus.on("*", recorder(log, "any"))
        bus.emit(member, 1)
        asyncio.run(bus.emit_async(member, 2))
        bus.emitter(member)(3)
        bus.collect(member, 4)
        asyncio.run(bus.collect_async(member, 5))

        async def on_a_loop() -> None:
            bus.bind_loop(asyncio.get_running_loop())
            await asyncio.wrap_future(bus.emit_threadsafe(member, 6))

        asyncio.run(on_a_loop())
        assert [entry[1] for entry in log if entry[0] == "exact"] == [1, 2, 3, 4, 5, 6]
        assert [entry[1:] for entry in log if entry[0] == "any"] == [
            ("tool.start", number) for number in range(1, 7)
        ]
        assert [entry for entry in log if entry[0] == "once"] == [("once", 1)]

    @pytest.mark.parametrize("member", [Plain.START, Text.START, Shape.ONE])
    async def test_waiting_for_a_member_and_looking_back_is_for_its_string(
        self, member: Any
    ) -> None:
        bus: Any = EventBus(history=10)
        waiting = bus.wait_for([member])
        stream = bus.stream(member)
        async with bus.expect(member, timeout=5) as expected:
            bus.emit("tool.start", 1)
        assert expected.event.payload == (await waiting).payload == 1
        assert (await stream.__anext__()).payload == 1
        stream.close()
        bus.emit("other")
        assert [event.payload for event in bus.history(member)] == [1]
        assert bus.stats()["by_event"] == {"tool.start": 1, "other": 1}

    def test_an_event_is_declared_by_its_member(self) -> None:
        bus: Any = EventBus(strict=True)
        bus.define_event(Plain.START, None)
        assert bus.emit("tool.start") == bus.emit(Text.START) == 0

    @pytest.mark.parametrize("member", [Level.LOW, Plain.NUMBER])
    def test_a_member_whose_value_is_no_string_is_refused(self, bus: Any, member: Any) -> None:
        for method in (bus.on, bus.subscribe, bus.off):
            with pytest.raises(TypeError, match=r"bad key <.*must be a str or a class"):
                method(member, print)
        for ask in (bus.emit, bus.handlers, bus.emitter):
            with pytest.raises(TypeError, match="event name must be a str"):
                ask(member)
        assert len(bus) == 0

    def test_a_member_whose_value_is_malformed_is_refused_as_that_string(self, bus: Any) -> None:
        with pytest.raises(ValueError, match=re.escape("bad key 'tool*'")):
            bus.on(Shape.BAD, print)

    def test_a_member_that_is_a_string_itself_counts_by_its_text(self, bus: Any) -> None:
        assert (Labelled.START.value, str.__str__(Labelled.START)) == ("a label", "tool.start")
        subscription = bus.subscribe(Labelled.START, print)
        assert subscription.keys == ("tool.start",)
        assert bus.handlers("tool.start") == bus.handlers(Labelled.START) == (subscription,)

    def test_the_enum_itself_is_a_class(self, bus: Any) -> None:
        got: list[Any] = []
        bus.on(Plain, got.append)
        assert bus.emit(Plain.START) == 0
        assert bus.publish(Plain.START) == 1
        assert got == [Plain.START]


class TestWildcards:
    @pytest.mark.parametrize("key", ["*", "**"])
    def test_both_wildcards_match_every_event(self, bus: EventBus, key: str) -> None:
        log: list[Any] = []
        bus.on(key, recorder(log, "any"))
        for name in ("a", "tool.start", "a.b.c"):
            assert bus.emit(name, 1) == 1
        assert log == [("any", "a", 1), ("any", "tool.start", 1), ("any", "a.b.c", 1)]

    @pytest.mark.parametrize(("made", "removed"), [("*", "**"), ("**", "*"), ("**", "**")])
    def test_both_wildcards_are_one_key(self, bus: EventBus, made: str, removed: str) -> None:
        bus.on(made, print)
        assert bus.off(removed, print) == 1
        assert len(bus) == 0

    def test_a_wildcard_may_come_after_names_were_emitted(self, bus: EventBus) -> None:
        log: list[Any] = []
        assert bus.emit("a") == 0
        bus.on("*", recorder(log, "any"))
        assert bus.emit("a") == 1
        bus.off("*")
        assert bus.emit("a") == 0
        assert log == [("any", "a", None)]

    def test_one_function_under_both_kinds_of_key_is_called_in_both_forms(
        self, bus: EventBus
    ) -> None:
        log: list[Any] = []
        handler = recorder(log, "h")
        bus.on("a", handler)
        bus.on("*", handler)
        bus.emit("a", 1)
        assert log == [("h", 1), ("h", "a", 1)]


class TestSeveralKeys:
    @pytest.mark.parametrize("keys", [["a", "b"], ("a", "b")], ids=["list", "tuple"])
    def test_one_subscription_listens_to_all_of_them(self, bus: EventBus, keys: Any) -> None:
        log: list[Any] = []
        subscription = bus.subscribe(keys, recorder(log, "h"))
        assert (subscription.key, subscription.keys) == ("a", ("a", "b"))
        bus.emit("a", 1)
        bus.emit("b", 2)
        bus.emit("c", 3)
        assert log == [("h", 1), ("h", 2)]
        assert subscription.calls == 2
        subscription.cancel()
        assert bus.emit("a") == bus.emit("b") == 0

    @pytest.mark.parametrize("keys", [["a", "*"], ["*", "a"], ["**", "a", "*"]], ids=str)
    def test_exact_and_wildcard_in_one_subscription_deliver_once_in_the_exact_form(
        self, bus: EventBus, keys: list[str]
    ) -> None:
        log: list[Any] = []
        bus.subscribe(keys, recorder(log, "h"))
        assert bus.emit("a", 1) == 1
        assert bus.emit("b", 2) == 1
        assert log == [("h", 1), ("h", "b", 2)]

    def test_a_repeated_key_delivers_once(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.subscribe(["a", "a"], recorder(log, "h"))
        assert bus.emit("a", 1) == 1
        assert log == [("h", 1)]
        assert bus.off("a") == 1

    @pytest.mark.parametrize("bad", ["", "a..b", "foo*", 5, None])
    def test_one_bad_key_refuses_them_all(self, bus: Any, bad: Any) -> None:
        with pytest.raises((ValueError, TypeError)):
            bus.subscribe(["good", bad], print)
        assert len(bus) == 0
        assert not bus.has_handlers("good")

    def test_no_key_at_all_is_refused(self, bus: EventBus) -> None:
        with pytest.raises((ValueError, TypeError)):
            bus.subscribe([], print)
        with pytest.raises((ValueError, TypeError)):
            bus.subscribe((), print)
        assert len(bus) == 0

    @pytest.mark.parametrize("method", ["on", "once", "off", "clear"])
    def test_only_subscribe_takes_several(self, bus: EventBus, method: str) -> None:
        with pytest.raises(TypeError):
            getattr(bus, method)(["a", "b"])


KEYS_OF_A_B: list[list[str]] = [["a.b"], ["*"], ["a.b", "*"], ["a.*"], ["a.**", "*.b", "a.b"]]


@pytest.mark.parametrize("keys", KEYS_OF_A_B, ids=str)
def test_with_an_envelope_every_form_of_key_delivers_one_event(
    bus: EventBus, keys: list[str]
) -> None:
    got: list[Any] = []
    payload = object()
    bus.subscribe(keys, lambda *args: got.append(args), envelope=True)
    assert bus.emit("a.b", payload) == 1
    ((event,),) = got
    assert type(event) is Event
    assert event.name == "a.b"
    assert event.payload is payload


def test_a_name_is_checked_at_its_first_emission_and_not_again() -> None:
    name = "x" * 5_000_000  # each look through it takes milliseconds
    hash(name)

    def took(emit: Any) -> float:
        began = time.perf_counter()
        assert emit(name) == 1
        return time.perf_counter() - began

    first, later = [], []
    for _ in range(3):
        bus = EventBus()
        bus.on("*", lambda name, payload: None)
        first.append(took(bus.emit))
        later += [took(bus.emit) for _ in range(20)]
    # The machine does other things as well: what counts is the best of each.
    assert 20 * min(later) < min(first)
