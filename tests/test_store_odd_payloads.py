"""Payloads that cannot be stored as they are, and what names classes that are not there."""

from __future__ import annotations

import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum, EnumMeta, Flag
from types import ModuleType
from typing import Any, Callable, ClassVar

import pytest
from helpers import run_isolated
from payloads import (  # noqa: F401 - one is a fixture
    Colour,
    Frozen,
    Model,
    Pair,
    Point,
    Rights,
    Struct,
    each_backend,
    same,
    there_and_back,
)

from agent_event_bus.store.encoding import REPR, VALUE, decode, encode


class TestClassesThatAreNotThere:
    STAND_INS: ClassVar[dict[str, tuple[Any, object]]] = {
        "enum": (Colour.RED, "red"),
        "enum with a tuple": (Colour.DEEP, (1, 2)),
        "flag": (Rights.READ | Rights.WRITE, 3),
        "dataclass": (Point(1, 2.0), {"x": 1, "y": 2.0}),
        "named tuple": (Pair(1), (1, "r")),
        "struct": (Struct(1, [2]), {"a": 1, "b": [2]}),
        "model": (Model(a=1, when=datetime(2024, 1, 1)), {"a": 1, "when": datetime(2024, 1, 1)}),
    }

    @pytest.mark.parametrize(("value", "stand_in"), STAND_INS.values(), ids=STAND_INS)
    @pytest.mark.parametrize(
        "there",
        ["no.module:Thing", "os:system", "os:path", "builtins:object", "nonsense", ":", "os:"],
    )
    def test_have_a_stand_in(self, value: Any, stand_in: object, there: str) -> None:
        text, _ = encode(value)
        cls = type(value)
        back = decode(text.replace(f"{cls.__module__}:{cls.__qualname__}", there))
        assert same(back, stand_in)

    def test_a_member_that_is_gone_becomes_its_value(self) -> None:
        text, _ = encode(Colour.RED)
        assert decode(text.replace('"RED"', '"GREEN"')) == "red"

    def test_a_member_whose_value_cannot_be_stored_becomes_its_name(self) -> None:
        text, form = encode(Keeper.IT)
        assert (decode(text), form) == (Keeper.IT, VALUE)
        assert decode(text.replace(":Keeper", ":Gone")) == "IT"

    def test_a_named_tuple_with_other_fields_becomes_a_tuple(self) -> None:
        text, _ = encode(Pair(1))
        assert same(decode(text.replace('"right"', '"wrong"')), (1, "r"))

    def test_a_path_of_another_system_becomes_its_pure_form(self) -> None:
        other = "PosixPath" if sys.platform == "win32" else "WindowsPath"
        back = decode(f'{{"$":"{other}","v":"a/b"}}')
        assert (type(back).__name__, back.name) == (f"Pure{other}", "b")

    def test_flags_with_a_metaclass_of_their_own_are_not_made_by_it(self) -> None:
        text, _ = encode(Rights.READ | Rights.WRITE)
        RightsMeta.made.clear()
        back = decode(text.replace(f"{Rights.__module__}:Rights", f"{__name__}:MetaRights"))
        assert (back, RightsMeta.made) == (3, [])

    def test_a_key_that_has_a_stand_in_leaves_the_pairs(self) -> None:
        text, _ = encode({Frozen(datetime(2024, 1, 1)): 1})
        back = decode(text.replace(":Frozen", ":Gone"))
        assert back == [[{"at": datetime(2024, 1, 1), "inside": ()}, 1]]

    def test_stand_ins_that_are_equal_to_other_items_leave_all_of_them(self) -> None:
        for value in ({Colour.RED, "red"}, frozenset({Colour.RED, "red"})):
            text, _ = encode(value)
            assert decode(text.replace(":Colour", ":Gone")) == ["red", "red"]
        text, _ = encode({Colour.RED: 1, "red": 2})
        assert decode(text.replace(":Colour", ":Gone")) == [["red", 1], ["red", 2]]

    @pytest.mark.parametrize("error", [AttributeError, RuntimeError])
    def test_items_whose_hash_fails_are_left_in_a_list(self, error: type[Exception]) -> None:
        Hashed.error = None
        texts = [encode(value)[0] for value in ({Hashed(1)}, {Hashed(1): 2})]
        Hashed.error = error
        first, second = map(decode, texts)
        assert [item.x for item in first] == [1]
        assert [(key.x, value) for key, value in second] == [(1, 2)]

    def test_nothing_is_imported_and_no_attribute_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        class Module(ModuleType):
            def __getattribute__(self, name: str) -> object:
                asked.append(name)
                return super().__getattribute__(name)

        monkeypatch.setitem(sys.modules, "lazy_module", Module("lazy_module"))
        for name in ("lazy_module:Thing", "this:Thing", "antigravity:x"):
            decode(f'{{"$":"dataclass","class":"{name}","v":{{"x":1}}}}')
        assert not asked
        assert "this" not in sys.modules
        assert "antigravity" not in sys.modules


class Keeper(Enum):
    IT = object()


class RightsMeta(EnumMeta):
    made: ClassVar[list[object]] = []

    def __call__(cls, *values: Any, **options: Any) -> Any:
        RightsMeta.made.append(values)
        return super().__call__(*values, **options)


class MetaRights(Flag, metaclass=RightsMeta):
    READ = 1
    WRITE = 2


@dataclass
class Hashed:
    x: int
    error: ClassVar[type[Exception] | None] = None

    def __hash__(self) -> int:
        if self.error is not None:
            raise self.error
        return 1


OddMember = Enum("OddMember", {"\ud800": 1})


class Hostile:
    """An object that does nothing right."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("no iteration")

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("no attributes")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class HostileDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no items")

    __iter__ = __len__ = keys = values = items


class HostileText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __eq__ = __hash__ = encode = __str__  # type: ignore[assignment]


class Meta(type):
    def __getattr__(cls, name: str) -> object:
        raise RuntimeError("no attributes")

    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("no instances")

    def __hash__(cls) -> int:
        raise RuntimeError("no hash")


class OfMeta(metaclass=Meta):
    pass


class BadDescriptor:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


@dataclass
class BadField:
    x: int

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError("no attributes")


def endless() -> list[object]:
    value: list[object] = [1]
    value.extend([value, (value, {"v": value})])
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


# Made in the test, because pytest would ask such objects for their repr and class itself.
HOPELESS: dict[str, Callable[[], object]] = {
    "hostile": Hostile,
    "hostile metaclass": OfMeta,
    "hostile class": BadDescriptor,
    "hostile dataclass": lambda: BadField(1),
    "endless": lambda: endless(),
    "too deep": lambda: deep(200),
    "far too deep": lambda: deep(100_000),
    "hostile value": lambda: {"a": Hostile()},
    "hostile key": lambda: {Hostile(): 1},
    "hostile dict": lambda: HostileDict(a=1),
    "hostile text": lambda: HostileText("x"),
    "exception": lambda: Exception("x"),
    "generator": lambda: iter([1]),
    "function": lambda: endless,
    "module": lambda: sys,
    "view": lambda: memoryview(b"x"),
    "lock": threading.Lock,
}


@pytest.mark.usefixtures("backend")
class TestWhatCannotBeStored:
    def test_is_its_repr_and_flagged_and_the_rest_is_there(self) -> None:
        text, form = encode({"run_id": "r", "response": object, "more": [1, iter]})
        assert form == REPR
        assert decode(text) == {
            "run_id": "r",
            "response": "<class 'object'>",
            "more": [1, "<built-in function iter>"],
        }

    @pytest.mark.parametrize(
        "odd",
        [
            type("Odd", (Point,), {"__module__": "\ud800"})(1),
            OddMember["\ud800"],
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "\ud800")),
        ],
        ids=["class", "member", "zone"],
    )
    def test_a_name_that_no_file_can_hold_leaves_the_rest_there(self, odd: object) -> None:
        text, form = encode({"run_id": "r", "odd": odd})
        back = decode(text)
        assert (back["run_id"], form) == ("r", REPR)
        assert back["odd"] == repr(odd).encode("utf-8", "backslashreplace").decode()

    @pytest.mark.parametrize("make", HOPELESS.values(), ids=HOPELESS)
    def test_never_raises(self, make: Callable[[], object]) -> None:
        text, form = encode(make())
        assert form == REPR
        decode(text)

    def test_the_value_of_a_subclass_of_a_plain_type_is_kept_and_flagged(self) -> None:
        class Text(str):
            __slots__ = ()

        counts = defaultdict(list, a=[1])
        text, form = encode([Text("x"), counts, Counter("aab"), HostileDict(a=1), HostileText("y")])
        assert form == REPR
        assert same(decode(text), ["x", {"a": [1]}, {"a": 2, "b": 1}, {"a": 1}, "y"])

    def test_a_named_tuple_with_attributes_or_too_many_items_is_flagged(self) -> None:
        class Noted(Pair):
            note = ""

        value = Noted(1)
        value.note = "x"
        assert encode(value)[1] == REPR
        text, form = encode(tuple.__new__(Pair, (1, "r", 3)))
        assert (decode(text), form) == ((1, "r", 3), REPR)

    def test_an_endless_structure_is_told_from_one_that_has_the_same_object_twice(self) -> None:
        shared = (1,)
        assert there_and_back([shared, shared, {"a": shared}]) == [(1,), (1,), {"a": (1,)}]
        text, form = encode(endless())
        assert form == REPR
        assert decode(text)[0] == 1

    def test_a_hundred_levels_come_back_and_more_are_flagged(self) -> None:
        for make in (deep, lambda levels: (deep(levels - 1),)):
            assert same(there_and_back(make(99)), make(99))
            assert encode(make(101))[1] == REPR

    def test_a_stack_that_is_almost_full_does_not_raise(self) -> None:
        forms: list[int] = []

        def sink() -> None:
            forms.append(encode({"a": (1, [2, {"b": {3}}])})[1])
            sink()

        with pytest.raises(RecursionError):
            sink()
        assert forms[0] == VALUE
        assert set(forms) <= {VALUE, REPR}

    def test_a_repr_with_lone_surrogates_can_be_written(self) -> None:
        class Odd:
            def __repr__(self) -> str:
                return "\ud800"

        text, _ = encode(Odd())
        assert decode(text) == "\\ud800"

    def test_control_c_gets_out(self) -> None:
        class Interrupted:
            def __repr__(self) -> str:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encode(Interrupted())


@pytest.mark.usefixtures("eager_switching")
def test_a_payload_that_another_thread_changes_never_raises() -> None:
    shared: dict[Any, Any] = {"a": {}, "b": [(1,)]}
    done = threading.Event()

    def change() -> None:
        number = 0
        while not done.is_set():
            number += 1
            shared["a"][f"k{number % 50}"] = (number,)
            shared["a"].pop(f"k{(number + 25) % 50}", None)
            shared[number % 7] = {number}
            shared.pop((number + 3) % 7, None)
            shared["b"] = [(1,)] * (number % 5)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(1500):
            text, _ = encode(shared)
            assert isinstance(decode(text), dict)
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        '{"$":"unknown","v":1}',
        '{"$":"tuple"}',
        '{"$":["tuple"],"v":1}',
        '{"$":"datetime","v":"never"}',
        '{"$":"bytes","v":1}',
        '{"$":"dataclass","class":"a:b","v":3}',
        '{"$":"timedelta","v":[9999999999,0,0]}',
        '{"$":"Decimal","v":"x"}',
        '{"$":"str","v":"zz"}',
    ],
)
def test_what_is_no_payload_of_the_store_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(text)


def test_without_msgspec_the_json_module_does_it_all() -> None:
    assert run_isolated("store_without_msgspec.py") == "json\n"
