"""Payloads as they are stored: what comes back, and as what."""

from __future__ import annotations

import gc
import io
import json
import math
import pathlib
import struct
import sys
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import ClassVar, Generic, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payloads import (  # noqa: F401 - one is a fixture
    BACKENDS,
    Bits,
    Colour,
    Frozen,
    Later,
    Level,
    Model,
    Name,
    Old,
    Pair,
    Point,
    Rights,
    Slotted,
    Struct,
    each_backend,
    same,
    there_and_back,
)

from agent_event_bus.store import _json
from agent_event_bus.store.encoding import REPR, VALUE, decode, encode

SIMPLE = {
    "none": None,
    "booleans": [True, False],
    "numbers": [0, -1, 1.0, -0.0, 1e308, 5e-324, 1e16],
    "the largest ints that are plain": [2**64 - 1, -(2**63)],
    "text": ["", "ä", "😀", '"\\\x00\x1f\u2028', "$"],
    "containers": {"a": [], "b": {}, "c": [{"d": [None]}]},
    "large lists": {"a": list(range(100)), "b": [0.5] * 100, "c": ["x", 1.5] * 50},
    "tuples": (1, ("a",), ()),
    "sets": [{1, 2}, frozenset({"a"}), set(), {(1, 2)}],
    "dicts with keys that are no strings": {1: "a", None: "b", (1, 2): "c", 1.5: "e"},
    "a key of each kind": [{1: "int", "1": "text"}, {True: 1}],
    "not a number": [math.nan, math.inf, -math.inf, [math.nan] * 50],
    "a large list that has no numbers": {"a": [math.nan] * 50},
    "a large list that has some": {"a": [1, math.nan] * 50},
    "huge ints": [10**30, -(10**30), 10**5000, [10**5000] * 40],
    "thousands of digits that are no int": [
        "9" * 5000,
        {"0" * 5000: 1},
        int("1" * 5000, 16),
        "\ud800" + "1" * 5000,
        b"\xd3M4" * 1500,
        {1: "7" * 5000},
    ],
    "lone surrogates": ["\ud800", "a\udfffb", "\ud800\udc00", {"\ud800": 1}],
    "bytes": [b"", b"\x00\xff", bytearray(b"ab")],
    "decimals": [Decimal("1.50"), Decimal("-0"), Decimal("Infinity"), Decimal("1E+30")],
    "uuids": UUID("12345678123456781234567812345678"),
    "complex numbers": [complex(-0.0, 2), complex(1, math.inf)],
    "paths": [pathlib.Path("/tmp/x"), pathlib.PureWindowsPath("c:/x")],
    "paths that are no UTF-8": [pathlib.Path("a\udce4.txt"), pathlib.PureWindowsPath("\ud800")],
    "collections": [OrderedDict([("b", 1), ("a", 2)]), deque([1, 2], maxlen=3), deque()],
    "dates": [date(2024, 2, 29), date.min],
    "times": [time(1, 2, 3, 4), time(1, fold=1), time(1, tzinfo=timezone.utc)],
    "naive datetimes": [datetime(2024, 1, 1), datetime.max, datetime.min],
    "aware datetimes": [
        datetime(2024, 1, 1, tzinfo=timezone.utc),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, seconds=7))),
    ],
    "durations": [timedelta(-1, 2, 3), timedelta.max, timedelta.min],
    "enums": [Colour.RED, Colour.CRIMSON, Colour.DEEP, Name.TOOL, Level.LOW],
    "flags": [Rights.READ, Rights.READ | Rights.WRITE, Rights(0), Bits.A | Bits.B, Bits.B],
    "dataclasses": [Point(1), Frozen(datetime(2024, 1, 1), (Point(1), Point(2)))],
    "named tuples": [Pair(1), Old(1, [2])],
    "structs": Struct(1, [2]),
    "dicts that look like what is written": [
        {"$": "tuple", "v": [1]},
        {"$": "repr", "v": "x"},
        {"$": {"$": None}},
        {"a": [{"$": "enum", "class": "os:system", "name": "x", "v": 1}]},
        {"v": [1, 2], "$$": "tuple"},
    ],
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("value", SIMPLE.values(), ids=SIMPLE)
def test_it_comes_back_equal_and_of_the_same_type(value: object) -> None:
    assert same(there_and_back(value), value)


@pytest.mark.parametrize("value", SIMPLE.values(), ids=SIMPLE)
def test_either_library_reads_what_the_other_has_written(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for writer, reader in (("json", "msgspec"), ("msgspec", "json")):
        monkeypatch.setattr(_json, "dump", BACKENDS[writer][0])
        monkeypatch.setattr(_json, "load", BACKENDS[reader][1])
        assert same(there_and_back(value), value)


@pytest.mark.parametrize("value", [{"a": [1, "ä"], "b": None}, [True, {}], "x", 7])
def test_a_plain_payload_is_stored_as_the_json_that_it_is(value: object) -> None:
    assert encode(value) == (json.dumps(value, ensure_ascii=False, separators=(",", ":")), VALUE)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.text(st.characters(categories=["Cs", "Lu"]), max_size=4),
    st.binary(max_size=8),
    st.datetimes(timezones=st.none() | st.just(timezone.utc)),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.sampled_from([*Colour, *Name, Rights.READ | Rights.WRITE, Point(3)]),
)
KEYS = st.one_of(
    st.sampled_from(["$", "v", "class", "name"]),
    st.text(max_size=4),
    st.integers(),
    st.booleans(),
    st.tuples(st.integers()),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.builds(Point, st.integers(), st.floats(allow_nan=False)),
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_comes_back_from_both_libraries(value: object) -> None:
    texts = []
    before = _json.dump, _json.load
    try:
        for dump, _ in BACKENDS.values():
            _json.dump = dump
            text, form = encode(value)
            assert form == VALUE
            texts.append(text)
        for text in texts:
            for _, load in BACKENDS.values():
                _json.load = load
                assert same(decode(text), value)
    finally:
        _json.dump, _json.load = before


def test_an_int_too_long_to_be_read_comes_back_though_it_could_be_written() -> None:
    limit = getattr(sys, "set_int_max_str_digits", None)
    if limit is None:
        pytest.skip("this Python reads ints of any length")
    before = sys.get_int_max_str_digits()
    value = {"huge": 10**6000, "more": [10**6000] * 40}
    try:
        limit(0)
        text, form = encode(value)
    finally:
        limit(before)
    assert (decode(text), form) == (value, VALUE)


class TestTime:
    def test_fold_and_zone_come_back(self) -> None:
        zone = ZoneInfo("Europe/Berlin")
        value = datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=1)
        back = there_and_back(value)
        assert (back, back.fold, back.tzinfo, back.utcoffset()) == (
            value,
            1,
            zone,
            timedelta(hours=1),
        )
        naive = there_and_back(datetime(2024, 10, 27, 2, 30, fold=1))
        assert naive.fold == 1

    def test_the_name_of_an_offset_comes_back(self) -> None:
        back = there_and_back(datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2), "EET")))
        assert back.tzname() == "EET"

    def test_a_zone_that_is_not_known_here_leaves_its_offset(self) -> None:
        text, _ = encode(datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")))
        back = decode(text.replace("Europe/Berlin", "Nowhere/Land"))
        assert back.utcoffset() == timedelta(hours=2)
        assert decode(text.replace("Europe/Berlin", "../../etc/passwd")).tzinfo is not None

    def test_a_zone_of_a_class_of_its_own_leaves_its_offset_and_is_flagged(self) -> None:
        class Zone(tzinfo):
            def utcoffset(self, when: datetime | None) -> timedelta:
                return timedelta(hours=1)

            def dst(self, when: datetime | None) -> None:
                return None

            def tzname(self, when: datetime | None) -> str:
                return "X"

        value = datetime(2024, 1, 1, tzinfo=Zone())
        text, form = encode(value)
        assert form == REPR
        assert decode(text) == value

    def test_a_zone_from_a_file_is_not_taken_for_the_one_that_its_key_names(self) -> None:
        head = struct.pack(">4s16x6l", b"TZif", 0, 0, 0, 0, 1, 4)
        file = io.BytesIO(head + struct.pack(">lBB4s", -5 * 3600, 0, 0, b"EST"))
        value = datetime(2024, 1, 1, tzinfo=ZoneInfo.from_file(file, key="Europe/Berlin"))
        text, form = encode(value)
        assert (decode(text), form) == (value, REPR)

    def test_microseconds_of_an_offset_are_flagged(self) -> None:
        zone = timezone(timedelta(microseconds=1))
        assert encode(datetime(2024, 1, 1, tzinfo=zone))[1] == REPR


class TestEnums:
    def test_a_member_that_its_enum_makes_up_becomes_its_value_and_is_flagged(self) -> None:
        text, form = encode({"code": Open(7), "known": Open.ONE})
        assert (decode(text), form) == ({"code": 7, "known": Open.ONE}, REPR)

    def test_a_member_whose_value_has_the_member_in_it_comes_back_at_once(self) -> None:
        class Knot(Enum):
            TIED = list[object]()  # noqa: RUF012 - a list is meant

        Knot.TIED.value.extend([Knot.TIED, Knot.TIED])
        assert there_and_back(Knot.TIED) is Knot.TIED


class Open(Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Open:
        made = object.__new__(cls)
        made._name_, made._value_ = "MADE_UP", int(str(value))
        return made


class TestDataclasses:
    def test_fields_that_init_does_not_take_come_back_and_unset_ones_stay_unset(self) -> None:
        back = there_and_back(Later("abc"))
        assert (back.name, back.length, hasattr(back, "unset")) == ("abc", 6, False)

    def test_slots_come_back(self) -> None:
        value = Slotted(a=1, b="x")
        assert hasattr(value, "__dict__") is (sys.version_info < (3, 10))
        assert there_and_back(value) == value

    def test_a_class_that_is_gone_is_not_kept_by_what_was_stored(self) -> None:
        def store_one() -> weakref.ref[type]:
            @dataclass
            class Local:
                x: int

            encode(Local(1))
            return weakref.ref(Local)

        kept = store_one()
        gc.collect()
        assert kept() is None

    def test_a_factory_of_the_users_is_not_called_for_a_field_that_was_added(self) -> None:
        text, _ = encode(Point(1, 2.0))
        text = text.replace(f"{Point.__module__}:Point", f"{__name__}:Grown")
        assert decode(text) == {"x": 1, "y": 2.0}

    def test_what_a_slot_beside_the_fields_has_is_lost_and_flagged(self) -> None:
        value = Inherits(1)
        assert there_and_back(value) == value
        value.beside = 2  # type: ignore[attr-defined]
        text, form = encode(value)
        assert (decode(text), form) == (value, REPR)

    def test_a_deleted_field_that_is_made_again_is_flagged(self) -> None:
        value = Later("abc")
        del value.made
        text, form = encode(value)
        assert (decode(text).made, form) == ([], REPR)

    def test_one_that_is_a_collection_as_well_is_its_repr(self) -> None:
        text, form = encode({"window": Window()})
        assert (decode(text), form) == ({"window": "Window(size=3)"}, REPR)

    def test_one_whose_class_has_become_abstract_or_lost_its_places_becomes_a_dict(self) -> None:
        text, _ = encode(Point(1, 2.0))
        for name in ("Abstract", "Placeless"):
            back = decode(text.replace(":Point", f":{name}").replace("payloads:", f"{__name__}:"))
            assert back == {"x": 1, "y": 2.0}

    def test_one_whose_name_now_leads_to_another_class_is_flagged(self) -> None:
        @dataclass
        class Other:
            x: int

        Other.__module__, Other.__qualname__ = Point.__module__, Point.__qualname__
        text, form = encode(Other(1))
        assert (decode(text), form) == (Point(1), REPR)

    def test_neither_init_nor_post_init_runs_when_it_is_read(self) -> None:
        text, _ = encode(Loud(1))
        Loud.calls.clear()
        assert decode(text) == Loud(1)
        assert Loud.calls == ["post_init"]  # of the comparison above

    def test_a_class_made_in_a_function_comes_back_in_the_process_that_wrote_it(self) -> None:
        @dataclass
        class Local:
            x: int

        assert there_and_back(Local(1)) == Local(1)

    def test_attributes_that_are_no_fields_are_lost_and_flagged(self) -> None:
        value = Point(1)
        value.note = "x"  # type: ignore[attr-defined]
        text, form = encode(value)
        assert (decode(text), form) == (Point(1), REPR)

    def test_one_with_a_property_for_a_field_becomes_a_dict_and_is_flagged(self) -> None:
        text, form = encode(Computed(3))
        Computed.calls.clear()
        assert (decode(text), form, Computed.calls) == ({"x": 3}, REPR, [])

    def test_one_made_through_its_alias_comes_back(self) -> None:
        value = Box[int](1)
        assert vars(value)["__orig_class__"]
        assert there_and_back(value) == Box(1)

    def test_what_a_cached_property_has_kept_is_no_loss(self) -> None:
        value = Lazy(2)
        assert value.square == 4
        back = there_and_back(value)
        assert (back, "square" in vars(back), back.square) == (value, False, 4)

    def test_a_field_that_was_added_since_gets_its_default(self) -> None:
        text, _ = encode(Point(1, 2.0))
        assert decode(text.replace(',"y":2.0', "")) == Point(1, 0.5)

    @pytest.mark.parametrize("change", [('"x":1', '"z":1'), ('"x":1,', "")])
    def test_one_whose_fields_have_changed_becomes_a_dict(self, change: tuple[str, str]) -> None:
        text, _ = encode(Point(1, 2.0))
        assert isinstance(decode(text.replace(*change)), dict)


def _never() -> list[int]:
    raise AssertionError("code of the user's ran")


@dataclass
class Grown:
    x: int
    y: float
    more: list[int] = field(default_factory=_never)


class Slot:
    __slots__ = ("beside",)


@dataclass
class Inherits(Slot):
    x: int


@dataclass
class Window(deque):  # type: ignore[type-arg]
    size: int = 3


@dataclass
class Abstract(ABC):
    x: int
    y: float

    @abstractmethod
    def method(self) -> None: ...


@dataclass
class Placeless:
    __slots__ = ("x",)
    x: int
    y: float


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    x: T


@dataclass
class Computed:
    x: int
    calls: ClassVar[list[str]] = []


def _set_x(self: Computed, value: int) -> None:
    self.calls.append("set")
    vars(self)["x"] = value


Computed.x = property(lambda self: vars(self)["x"], _set_x)  # type: ignore[assignment]


@dataclass
class Lazy:
    x: int

    @cached_property
    def square(self) -> int:
        return self.x**2


@dataclass
class Loud:
    x: int
    calls: ClassVar[list[str]] = []

    def __post_init__(self) -> None:
        self.calls.append("post_init")


class TestModels:
    def test_a_pydantic_model_comes_back_whole_and_unvalidated(self) -> None:
        value = Model(a=1, when=datetime(2024, 1, 1), more=(1, 2))  # type: ignore[call-arg]
        value._secret = 8
        back = there_and_back(value)
        assert back == value
        assert (back.model_extra, back._secret, back.model_fields_set) == (
            {"more": (1, 2)},
            8,
            {"a", "when", "more"},
        )

    def test_a_model_without_one_of_its_fields_becomes_a_dict_and_is_flagged(self) -> None:
        text, form = encode(Model.model_construct(a=1))
        assert (decode(text), form) == ({"a": 1}, REPR)

    def test_a_struct_whose_fields_have_changed_becomes_a_dict(self) -> None:
        text, _ = encode(Struct(1, [2]))
        assert decode(text.replace('"a":1', '"z":1')) == {"z": 1, "b": [2]}
        assert decode(text.replace('"a":1,', "")) == {"b": [2]}

    def test_attributes_of_a_struct_that_are_no_fields_are_lost_and_flagged(self) -> None:
        value = Noted(1)
        assert there_and_back(value) == value
        value.note = "x"  # type: ignore[attr-defined]
        text, form = encode(value)
        assert (decode(text), form) == (Noted(1), REPR)

    def test_a_struct_with_code_of_its_own_becomes_a_dict_and_is_flagged(self) -> None:
        text, form = encode(LoudStruct(1))
        LoudStruct.calls.clear()
        assert (decode(text), form, LoudStruct.calls) == ({"a": 1}, REPR, [])


class Noted(msgspec.Struct, dict=True):
    a: int


class LoudStruct(msgspec.Struct):
    a: int
    calls: ClassVar[list[str]] = []

    def __post_init__(self) -> None:
        self.calls.append("post_init")
