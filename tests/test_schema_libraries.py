"""define_event with pydantic models, dataclasses, TypedDicts and msgspec Structs, the real ones.

Each kind comes as an instance where there are instances, and as a mapping. What is not exactly of
the declared types is refused, because nothing is converted on the way to the handlers.
"""

# ruff: noqa: FA100
# The libraries evaluate annotations, and Python 3.9 knows no `int | None`.

import dataclasses
import datetime
import enum
import sys
import types
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, Generic, Optional, TypeVar, Union

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions

from agent_event_bus import EventBus, EventSchemaError

T = TypeVar("T")


class Kind(enum.Enum):
    READ = "read"


# The same event in four kinds.


class Arg(pydantic.BaseModel):
    limit: int


class Model(pydantic.BaseModel):
    tool: str
    args: list[Arg] = []
    at: Optional[datetime.datetime] = None


@dataclass
class DataArg:
    limit: int


@dataclass
class Data:
    tool: str
    args: list[DataArg] = field(default_factory=list)
    at: Optional[datetime.datetime] = None


class TypedArg(typing_extensions.TypedDict):
    limit: int


class Typed(typing_extensions.TypedDict, total=False):
    tool: typing_extensions.Required[str]
    args: list[TypedArg]
    at: datetime.datetime


class StructArg(msgspec.Struct):
    limit: int


class Struct(msgspec.Struct):
    tool: str
    args: list[StructArg] = []
    at: Optional[datetime.datetime] = None


KINDS: list[Any] = [Model, Data, Typed, Struct]
kinds = pytest.mark.parametrize("schema", KINDS, ids=lambda schema: schema.__name__)


def delivers(schema: object, payload: object) -> bool:
    """Whether a bus with this schema gives its handler a payload, the very object."""
    bus = EventBus()
    got: list[Any] = []
    bus.define_event("tool.start", schema)
    bus.on("tool.start", got.append)
    return bus.emit("tool.start", payload) == 1 and got[0] is payload


def refusal(schema: object, payload: object) -> EventSchemaError:
    """Emit a payload that must be refused, and return the error."""
    bus = EventBus()
    got: list[Any] = []
    bus.define_event("tool.start", schema)
    bus.on("tool.start", got.append)
    with pytest.raises(EventSchemaError) as caught:
        bus.emit("tool.start", payload)
    assert got == []
    assert caught.value.event == "tool.start"
    assert str(caught.value).startswith("event 'tool.start': ")
    return caught.value


class TestMappings:
    @kinds
    def test_one_that_validates_is_delivered_as_it_is(self, schema: Any) -> None:
        assert delivers(schema, {"tool": "search"})
        assert delivers(schema, {"tool": "search", "args": [], "at": datetime.datetime(2026, 1, 1)})

    @kinds
    def test_any_mapping_will_do(self, schema: Any) -> None:
        assert delivers(schema, types.MappingProxyType({"tool": "search"}))

    @kinds
    def test_a_missing_field_is_named(self, schema: Any) -> None:
        error = refusal(schema, {"args": []})
        assert error.field == "tool"
        assert "required" in error.fault.lower()

    @kinds
    def test_a_wrong_type_is_named_with_its_field_and_caused_by_the_library(
        self, schema: Any
    ) -> None:
        error = refusal(schema, {"tool": 3})
        library = msgspec.ValidationError if schema is Struct else pydantic.ValidationError
        assert error.field == "tool"
        assert str(error) == f"event 'tool.start': field 'tool': {error.fault}"
        assert isinstance(error.__cause__, library)

    @pytest.mark.parametrize("schema", [Arg, DataArg, TypedArg, StructArg])
    @pytest.mark.parametrize("limit", ["3", 3.0, True, None])
    def test_what_a_library_would_convert_is_refused(self, schema: Any, limit: object) -> None:
        assert delivers(schema, {"limit": 3})
        assert refusal(schema, {"limit": limit}).field == "limit"

    @kinds
    def test_text_is_no_date(self, schema: Any) -> None:
        assert refusal(schema, {"tool": "a", "at": "2026-01-01T00:00:00"}).field == "at"

    @pytest.mark.parametrize("schema", [Model, Typed, Struct])
    def test_the_path_to_a_nested_field_is_dotted(self, schema: Any) -> None:
        payload = {"tool": "a", "args": [{"limit": 1}, {"limit": "2"}]}
        assert refusal(schema, payload).field == "args.1.limit"

    @kinds
    @pytest.mark.parametrize("payload", [None, 3, "search", ["search"], object()])
    def test_what_is_no_mapping_at_all_is_refused_as_a_whole(
        self, schema: Any, payload: object
    ) -> None:
        assert refusal(schema, payload).field is None

    @kinds
    def test_fields_that_were_not_declared_may_be_there(self, schema: Any) -> None:
        assert delivers(schema, {"tool": "search", "more": 1})


class TestInstances:
    @pytest.mark.parametrize(
        "payload",
        [
            Model(tool="a", args=[Arg(limit=1)]),
            Data("a", [DataArg(1)]),
            Struct("a", [StructArg(1)]),
        ],
        ids=lambda payload: type(payload).__name__,
    )
    def test_a_good_one_is_delivered_as_it_is(self, payload: Any) -> None:
        assert delivers(type(payload), payload)

    @pytest.mark.parametrize(
        ("payload", "where"),
        [
            (Data(3), "tool"),  # type: ignore[arg-type]
            (Data("a", [DataArg(1), DataArg("2")]), "args.1.limit"),  # type: ignore[arg-type]
            (Struct(3), "tool"),  # type: ignore[arg-type]
            (Struct("a", [StructArg(1), StructArg("2")]), "args.1.limit"),  # type: ignore[arg-type]
            (Struct("a", {}), "args"),  # type: ignore[arg-type]
        ],
    )
    def test_dataclasses_and_structs_check_nothing_when_they_are_made_so_it_is_done_here(
        self, payload: Any, where: str
    ) -> None:
        assert refusal(type(payload), payload).field == where

    def test_an_instance_of_a_model_is_trusted_as_far_as_its_own_configuration_says(self) -> None:
        class Doubted(Model, revalidate_instances="always"):
            pass

        assert delivers(Model, Model.model_construct(tool=3))
        assert refusal(Doubted, Doubted.model_construct(tool=3)).field == "tool"

    @kinds
    def test_an_instance_of_another_class_is_refused(self, schema: Any) -> None:
        for payload in (Arg(limit=1), DataArg(1), StructArg(1)):
            assert refusal(schema, payload).field is None

    def test_an_instance_of_a_subclass_is_one(self) -> None:
        class MoreModel(Model):
            cost: int

        @dataclass
        class MoreData(Data):
            cost: int = 0

        class MoreStruct(Struct):
            cost: int = 0

        assert delivers(Model, MoreModel(tool="a", cost=1))
        assert delivers(Data, MoreData("a", cost=1))
        assert delivers(Struct, MoreStruct("a", cost=1))
        assert refusal(Data, MoreData(3)).field == "tool"  # type: ignore[arg-type]
        assert refusal(Struct, MoreStruct(3)).field == "tool"  # type: ignore[arg-type]

    def test_the_class_itself_is_no_instance(self) -> None:
        for schema in (Model, Data, Struct):
            assert refusal(schema, schema).field is None


class TestPydantic:
    def test_rules_of_fields_and_validators_hold(self) -> None:
        class Limited(pydantic.BaseModel):
            limit: Annotated[int, pydantic.Field(gt=0)]

            @pydantic.field_validator("limit")
            @classmethod
            def even(cls, value: int) -> int:
                if value % 2:
                    raise ValueError("odd")
                return value

        assert delivers(Limited, {"limit": 2})
        assert refusal(Limited, {"limit": 0}).fault == "Input should be greater than 0"
        assert refusal(Limited, {"limit": 1}).fault == "Value error, odd"

    def test_a_model_may_forbid_what_it_does_not_declare(self) -> None:
        class Exact(pydantic.BaseModel, extra="forbid"):
            tool: str

        assert refusal(Exact, {"tool": "a", "more": 1}).field == "more"

    def test_a_validator_that_breaks_refuses_the_payload(self) -> None:
        class Broken(pydantic.BaseModel):
            tool: str

            @pydantic.field_validator("tool")
            @classmethod
            def look(cls, value: str) -> str:
                raise LookupError("no such tool")

        error = refusal(Broken, {"tool": "a"})
        assert error.field is None
        assert error.fault == "LookupError: no such tool"

    def test_a_generic_model_is_checked_with_its_arguments(self) -> None:
        class Box(pydantic.BaseModel, Generic[T]):
            item: T

        assert delivers(Box[int], {"item": 1})
        assert refusal(Box[int], {"item": "1"}).field == "item"

    def test_a_model_of_the_old_interface_is_refused_when_it_is_defined(self) -> None:
        # What pydantic 1 had: a class of that name, from a package of that name.
        old: Any = type("BaseModel", (), {"__module__": "pydantic.main"})
        with pytest.raises(TypeError, match="schema"):
            EventBus().define_event("a", old)

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes both from 3.12 on")
    def test_the_typed_dict_of_typing_is_refused_with_pydantics_advice(self) -> None:
        from typing import TypedDict

        old: Any = TypedDict("old", {"tool": str})
        with pytest.raises(TypeError, match=r"typing_extensions\.TypedDict"):
            EventBus().define_event("a", old)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="pydantic takes both from 3.12 on")
    def test_the_typed_dict_of_typing_will_do(self) -> None:
        from typing import TypedDict

        new: Any = TypedDict("new", {"tool": str})
        assert delivers(new, {"tool": "a"})
        assert refusal(new, {"tool": 1}).field == "tool"


@dataclass
class Positive:
    limit: int
    checks: list[int] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.checks.append(self.limit)
        if self.limit <= 0:
            raise ValueError("must be positive")


@dataclass(frozen=True)
class Frozen:
    limit: int
    doubled: int = field(init=False, default=0)


@dataclass
class Opened:
    path: str
    mode: InitVar[str]

    def __post_init__(self, mode: str) -> None:
        self.opened = mode


@dataclass
class Box(Generic[T]):
    item: T


@pydantic.dataclasses.dataclass
class Validated:
    limit: int


class TestDataclasses:
    def test_a_mapping_is_checked_by_post_init_too(self) -> None:
        assert delivers(Positive, {"limit": 1})
        assert refusal(Positive, {"limit": 0}).fault == "Value error, must be positive"

    def test_an_instance_that_has_become_bad_is_refused(self) -> None:
        payload = Positive(1)
        payload.limit = -1
        assert refusal(Positive, payload).fault == "Value error, must be positive"

    def test_the_instance_that_was_emitted_is_left_alone(self) -> None:
        payload = Positive(1)
        before = dataclasses.asdict(payload)
        assert delivers(Positive, payload)
        assert dataclasses.asdict(payload) == before == {"limit": 1, "checks": [1]}

    def test_frozen_ones_and_fields_outside_init_work(self) -> None:
        assert delivers(Frozen, Frozen(1))
        assert delivers(Frozen, {"limit": 1})
        assert refusal(Frozen, {"limit": "1"}).field == "limit"
        assert refusal(Frozen, Frozen("1")).field == "limit"  # type: ignore[arg-type]

    def test_with_arguments_that_only_init_gets_instances_are_trusted_and_mappings_checked(
        self,
    ) -> None:
        assert delivers(Opened, Opened("a", "r"))
        assert delivers(Opened, {"path": "a", "mode": "r"})
        assert refusal(Opened, {"path": "a", "mode": 1}).field == "mode"
        assert refusal(Opened, {"path": 1, "mode": "r"}).field == "path"

    def test_a_mapping_that_holds_bad_instances_is_refused(self) -> None:
        payload = {"tool": "a", "args": [DataArg("1")]}  # type: ignore[arg-type]
        assert refusal(Data, payload).field == "args.0.limit"

    def test_inside_a_payload_a_mapping_stands_for_no_dataclass(self) -> None:
        error = refusal(Data, {"tool": "a", "args": [{"limit": 1}]})
        assert error.field == "args.0"
        assert "instance of DataArg" in error.fault

    def test_a_generic_one_is_checked_with_its_arguments(self) -> None:
        assert delivers(Box[int], Box(1))
        assert refusal(Box[int], Box("1")).field == "item"
        assert refusal(Box[int], {"item": "1"}).field == "item"

    def test_pydantics_own_are_checked_when_they_are_made_and_trusted_then(self) -> None:
        assert delivers(Validated, Validated(1))
        assert delivers(Validated, {"limit": 1})
        assert refusal(Validated, {"limit": "1"}).field == "limit"

    def test_an_instance_of_a_dataclass_is_no_schema(self, bus: EventBus) -> None:
        with pytest.raises(TypeError, match="schema"):
            bus.define_event("a", DataArg(1))


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True, tag="renamed"):
    call_id: int
    parent: Optional["Renamed"] = None


class Row(msgspec.Struct, array_like=True, tag="row"):
    number: int


class Choosy(msgspec.Struct):
    kind: Kind
    extra: Any = None
    note: Union[str, msgspec.UnsetType] = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.extra == "bad":
            raise ValueError("extra is bad")


class StructBox(msgspec.Struct, Generic[T]):
    item: T


class TestMsgspec:
    def test_mappings_use_the_encoded_names(self) -> None:
        assert delivers(Renamed, {"callId": 1, "parent": {"callId": 2}})
        assert refusal(Renamed, {"call_id": 1}).field in ("call_id", "callId")
        assert refusal(Renamed, {"callId": 1, "parent": {"callId": "2"}}).field == "parent.callId"

    def test_renamed_and_tagged_instances_are_checked(self) -> None:
        assert delivers(Renamed, Renamed(1, Renamed(2)))
        bad = Renamed(1, Renamed("2"))  # type: ignore[arg-type]
        assert refusal(Renamed, bad).field == "parent.callId"

    def test_unknown_fields_are_refused_where_the_struct_forbids_them(self) -> None:
        assert refusal(Renamed, {"callId": 1, "more": 1}).field == "more"

    def test_structs_that_are_encoded_as_arrays_are_checked(self) -> None:
        assert delivers(Row, Row(1))
        assert delivers(Row, ["row", 1])
        assert refusal(Row, Row("1")).fault == (  # type: ignore[arg-type]
            "Expected `int`, got `str`"
        )
        assert refusal(Row, {"number": 1}).field is None

    def test_post_init_and_unset_fields_are_respected(self) -> None:
        assert delivers(Choosy, Choosy(Kind.READ))
        payload = Choosy(Kind.READ)
        payload.extra = "bad"
        assert refusal(Choosy, payload).fault == "extra is bad"

    def test_a_payload_that_contains_itself_is_checked_once(self) -> None:
        payload = Choosy(Kind.READ)
        payload.extra = [payload]
        assert delivers(Choosy, payload)

    def test_bad_structs_are_found_in_every_container(self) -> None:
        bad = StructArg("1")  # type: ignore[arg-type]
        for extra in ([bad], (bad,), {"x": bad}, [{"x": (bad,)}]):
            error = refusal(Choosy, {"kind": Kind.READ, "extra": extra})
            assert error.field is not None
            assert error.field.startswith("extra.")
            assert error.field.endswith(".limit")

    def test_a_generic_one_is_checked_with_its_arguments(self) -> None:
        assert delivers(StructBox[int], StructBox(1))
        assert refusal(StructBox[int], StructBox("1")).field == "item"
        assert refusal(StructBox[int], {"item": "1"}).field == "item"

    def test_a_struct_whose_types_do_not_exist_is_refused_when_it_is_defined(
        self, bus: EventBus
    ) -> None:
        broken = msgspec.defstruct("broken", [("a", "NoSuchType")])  # type: ignore[list-item, unused-ignore]
        with pytest.raises(TypeError, match="NoSuchType"):
            bus.define_event("a", broken)


class TestMissingLibraries:
    @pytest.mark.parametrize(
        ("schema", "what", "library"),
        [
            (Model, "a pydantic model", "pydantic"),
            (Data, "a dataclass", "pydantic"),
            (Typed, "a TypedDict", "pydantic"),
            (Struct, "a msgspec.Struct", "msgspec"),
        ],
    )
    def test_the_error_names_the_extra_to_install(
        self, monkeypatch: pytest.MonkeyPatch, schema: Any, what: str, library: str
    ) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        bus = EventBus(strict=True)
        with pytest.raises(ImportError) as caught:
            bus.define_event("a", schema)
        assert str(caught.value) == (
            f"define_event() with {what} needs {library}: pip install 'agent-event-bus[{library}]'"
        )
        assert caught.value.name == library
        with pytest.raises(ValueError, match="unknown event"):
            bus.emit("a")

    def test_a_pydantic_that_is_too_old_is_the_same_as_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pydantic", types.ModuleType("pydantic"))
        with pytest.raises(ImportError, match=r"agent-event-bus\[pydantic\]"):
            EventBus().define_event("a", Data)
