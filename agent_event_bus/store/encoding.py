"""Payloads as JSON text, and back.

Plain values (dicts with string keys, lists, strings, numbers, booleans, None) are stored as the
JSON that they are. What JSON lacks or would change is stored as an object with the key ``"$"``,
which says what it is, and comes back as what it was. What can be stored in neither way is stored
as its ``repr``, and the form of the payload says so. docs/store.md has the table of all kinds.

Storing a payload never raises, whatever it is; reading one imports nothing and runs no code of the
classes that it names (see ``_classes``).
"""

from __future__ import annotations

import base64
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Callable
from uuid import UUID

from agent_event_bus.store import _classes, _json
from agent_event_bus.store._json import MARK, MAX_DEPTH

__all__ = ["REPR", "VALUE", "WITHHELD", "decode", "encode"]

VALUE = 0
"""The form of a payload that comes back as it was."""
REPR = 1
"""The form of a payload in which something is its repr, or the plain value of a subclass."""
WITHHELD = 2
"""The form of a payload that was not written, because redacting it has failed."""


MODEL_STATE = {f"__pydantic_{kind}__" for kind in ("fields_set", "extra", "private")}
"""Attributes of every pydantic model, which are written apart."""

_LAST_RESORT = '{"$":"repr","v":"<an object that could not be represented>"}'


def encode(value: object) -> tuple[str, int]:
    """Return a payload as JSON text, and its form: VALUE or REPR.

    No ``Exception`` gets out, whatever the payload is and does: a ``repr`` that fails, an endless
    structure, a container that another thread changes. See "Payloads" in docs/store.md.
    """
    try:
        if _json.is_plain(value):
            text = _json.dump(value)
            if not _json.may_have_long_int(text):
                return text, VALUE
    except Exception:
        pass  # lone surrogates, huge ints, changes by another thread: told apart below
    try:
        writer = _Writer()
        return _json.dump(writer.any(value, MAX_DEPTH)), writer.form
    except Exception:
        return _LAST_RESORT, REPR  # the stack or the memory has no room left


def decode(text: str) -> Any:
    """Return the payload of a text that ``encode`` gave.

    What names a class that is not there, or is no longer what it was, becomes a stand-in: a dict of
    the fields, a tuple, or the value of the enum's member.

    Raises:
        ValueError: the text is not what ``encode`` gives.
        RecursionError: the stack has no room left.
    """
    value = _json.load(text)
    if '"$"' not in text:
        return value
    try:
        return _restored(value)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"no payload of the store: {type(error).__name__}") from error


# Writing ------------------------------------------------------------------------------------------


def _nameless(value: object) -> str:
    """Return what stands for an object that cannot be represented."""
    return f"<{type(value).__name__} object, whose repr failed>".encode(
        "utf-8", "backslashreplace"
    ).decode()


def _utf8(text: str) -> str:
    """Return a text that can be written.

    Raises:
        UnicodeEncodeError: it has a lone surrogate.
    """
    if not text.isascii():
        text.encode()
    return text


def _repr(value: object) -> str:
    """Return the repr of anything, as text that can be written."""
    try:
        text = repr(value)
        return str.__str__(text).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return _nameless(value)


class _Writer:
    """Makes of one payload what JSON has.

    Attributes:
        form: VALUE until something is found that will not come back as it is.
    """

    def __init__(self) -> None:
        self.form = VALUE
        self._open: set[int] = set()

    def any(self, value: Any, depth: int) -> object:
        """Return what is written for a value in which so many levels may follow."""
        cls = type(value)
        if cls is str:
            return self._text(value)
        if cls is int:
            return value if -(1 << 63) <= value < 1 << 64 else {MARK: "int", "v": hex(value)}
        if cls is bool or value is None:
            return value
        if id(value) in self._open or depth <= 0:
            return self._as_repr(value)
        self._open.add(id(value))
        try:
            write = _WRITERS.get(cls)
            if write is not None:
                return write(self, value, depth - 1)
            return self._of_class(value, cls, depth - 1)
        except Exception:
            return self._as_repr(value)
        finally:
            self._open.discard(id(value))

    def _as_repr(self, value: object) -> object:
        self.form = REPR
        return {MARK: "repr", "v": _repr(value)}

    def _text(self, value: str) -> object:
        try:
            return _utf8(value)
        except UnicodeEncodeError:
            return {MARK: "str", "v": value.encode("utf-8", "surrogatepass").hex()}

    def _class(self, cls: type) -> str:
        """Return the name that is written for a class."""
        name, leads_back = _classes.class_name(cls)
        if not leads_back:
            self.form = REPR
        return _utf8(name)

    def _float(self, value: float, depth: int) -> object:
        return value if value - value == 0 else {MARK: "float", "v": repr(value)}

    def _dict(self, value: dict[Any, Any], depth: int) -> object:
        # The copy is made at once, so that no other thread can change it in between.
        items = list(dict.items(value))
        if all(type(key) is str and key != MARK and self._text(key) is key for key, _ in items):
            return {key: self.any(item, depth) for key, item in items}
        return {MARK: "dict", "v": [[self.any(k, depth), self.any(v, depth)] for k, v in items]}

    def _list(self, value: Iterable[Any], depth: int) -> list[object]:
        return [self.any(item, depth) for item in list(value)]

    def _of_class(self, value: Any, cls: type, depth: int) -> object:
        """Return what is written for an instance of a class that is in no table."""
        if issubclass(cls, Enum):
            return self._member(value, cls, depth)
        fields = _classes.dataclass_fields(cls)
        if fields is not None:
            return self._dataclass(value, cls, fields, depth)
        members = _classes.struct_fields(cls)
        if members is not None:
            return self._struct(value, cls, members, depth)
        if _classes.is_model(cls):
            return self._model(value, cls, depth)
        names = _classes.tuple_fields(cls)
        if names is not None and len(names) == tuple.__len__(value):
            if _classes.undeclared(value, ()):
                self.form = REPR
            items = self._list(tuple.__iter__(value), depth)
            return {MARK: "namedtuple", "class": self._class(cls), "fields": names, "v": items}
        return self._base(value, cls, depth)

    def _base(self, value: Any, cls: type, depth: int) -> object:
        """Return the plain value of a subclass of a plain type, which is what comes back."""
        for base, plain in _BASES.items():
            if issubclass(cls, base):
                self.form = REPR
                return self.any(plain(value), depth)
        return self._as_repr(value)

    def _member(self, value: Any, cls: type, depth: int) -> object:
        name = value._name_ if cls._member_map_.get(value._name_) is value else None  # type: ignore[attr-defined]
        before, self.form = self.form, VALUE
        stand_in = self.any(value._value_, depth)
        if self.form != VALUE:
            stand_in = name  # only what a program without the class gets to see
        self.form = before
        written = {MARK: "enum", "class": self._class(cls), "name": name, "v": stand_in}
        if name is not None:
            _utf8(name)
        elif _classes.member_of(written["class"], None, stand_in) is not value:
            self.form = REPR  # made by an enum's own code, as only that could again
        return written

    def _dataclass(
        self, value: Any, cls: type, fields: Mapping[str, Field[Any]], depth: int
    ) -> object:
        values: dict[str, object] = {}
        for name, field in fields.items():
            try:
                item = getattr(value, name)
            except AttributeError:
                if field.init:
                    raise
                if field.default_factory is not MISSING:
                    self.form = REPR  # deleted, and made again when it is read
                continue  # never set, and so it will be again
            values[name] = self.any(item, depth)
        if _classes.undeclared(value, fields) or _classes.has_computed_fields(cls, fields):
            self.form = REPR
        return {MARK: "dataclass", "class": self._class(cls), "v": values}

    def _struct(self, value: Any, cls: type, fields: tuple[str, ...], depth: int) -> object:
        values = {name: self.any(getattr(value, name), depth) for name in fields}
        if _classes.is_made_by_code(cls) or _classes.undeclared(value, fields):
            self.form = REPR
        return {MARK: "struct", "class": self._class(cls), "v": values}

    def _model(self, value: Any, cls: type, depth: int) -> object:
        fields = _classes.model_fields(cls)
        own = object.__getattribute__(value, "__dict__")
        if _classes.undeclared(value, fields | MODEL_STATE) or not fields <= own.keys():
            self.form = REPR
        written: dict[str, object] = {
            MARK: "model",
            "class": self._class(cls),
            "v": {name: self.any(own[name], depth) for name in own if name in fields},
            "set": self._list(sorted(value.__pydantic_fields_set__), depth),
        }
        for key in ("extra", "private"):
            state = getattr(value, f"__pydantic_{key}__", None)
            if state is not None:
                written[key] = self.any(state, depth)
        return written


def _offset_and_zone(writer: _Writer, zone: tzinfo | None) -> dict[str, object]:
    """Return what is written of a time zone, beside the offset that is in the time itself."""
    if zone is None:
        return {}
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        if offset.microseconds:
            writer.form = REPR  # which fromisoformat may lose
        name = zone.tzname(None)
        return {} if name == timezone(offset).tzname(None) else {"name": _utf8(name)}
    if type(zone) is _classes.base_of("zoneinfo", "ZoneInfo"):
        try:
            zone.__reduce__()  # refuses a zone from a file, to which its key need not lead
            return {"zone": zone.key}  # type: ignore[attr-defined]
        except Exception:
            pass
    writer.form = REPR  # it comes back with its offset alone
    return {}


def _time(writer: _Writer, value: Any, depth: int) -> object:
    written: dict[str, object] = {MARK: type(value).__name__, "v": value.isoformat()}
    if value.fold:
        written["fold"] = 1
    written.update(_offset_and_zone(writer, value.tzinfo))
    return written


def _as(kind: str, text: Callable[[Any], object] = str) -> Callable[[_Writer, Any, int], object]:
    """Return what writes values of a type by a text, or something else that JSON has."""
    return lambda writer, value, depth: {MARK: kind, "v": text(value)}


def _path(writer: _Writer, value: PurePath, depth: int) -> object:
    # A name on the disk that is no UTF-8 has lone surrogates.
    return {MARK: type(value).__name__, "v": writer._text(str(value))}


def _items_as(kind: str) -> Callable[[_Writer, Any, int], object]:
    """Return what writes collections of a type by their items."""
    return lambda writer, value, depth: {MARK: kind, "v": writer._list(value, depth)}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _ordered(writer: _Writer, value: OrderedDict[Any, Any], depth: int) -> object:
    items = list(OrderedDict.items(value))
    pairs = [[writer.any(key, depth), writer.any(item, depth)] for key, item in items]
    return {MARK: "OrderedDict", "v": pairs}


def _deque(writer: _Writer, value: deque[Any], depth: int) -> object:
    return {MARK: "deque", "v": writer._list(value, depth), "maxlen": value.maxlen}


_WRITERS: Mapping[type, Callable[[_Writer, Any, int], object]] = {
    float: _Writer._float,
    dict: _Writer._dict,
    list: _Writer._list,
    tuple: _items_as("tuple"),
    set: _items_as("set"),
    frozenset: _items_as("frozenset"),
    deque: _deque,
    OrderedDict: _ordered,
    bytes: _as("bytes", _base64),
    bytearray: _as("bytearray", _base64),
    datetime: _time,
    time: _time,
    date: _as("date", date.isoformat),
    timedelta: _as("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: _as("Decimal"),
    UUID: _as("UUID"),
    complex: _as("complex", lambda value: [repr(value.real), repr(value.imag)]),
    PosixPath: _path,
    WindowsPath: _path,
    PurePosixPath: _path,
    PureWindowsPath: _path,
}

# What a subclass is of, and how its plain value is got at without a method of its own.
_BASES: Mapping[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


# Reading ------------------------------------------------------------------------------------------


def _restored(value: Any) -> Any:
    """Return what a value was before it was written; its containers are used again."""
    kind = type(value)
    if kind is list:
        for index, item in enumerate(value):
            if type(item) is dict or type(item) is list:
                value[index] = _restored(item)
    elif kind is dict:
        mark = value.get(MARK)
        if mark is not None:
            return _READERS[mark](value)
        for key, item in value.items():
            if type(item) is dict or type(item) is list:
                value[key] = _restored(item)
    return value


def _value(written: dict[str, Any]) -> Any:
    return _restored(written["v"])


def _read_by(make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return what reads a value by a call with what was written for it."""
    return lambda written: make(written["v"])


def _read_items(make: Callable[[list[Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return what reads a collection by its items.

    Its stand-in is the list of them, for when a stand-in among the items cannot be in such a
    collection, or is equal to another item; and when the ``__hash__`` or ``__eq__`` of an item
    fails, the only methods of its class that run.
    """

    def read(written: dict[str, Any]) -> Any:
        items = _value(written)
        try:
            made = make(items)
        except RecursionError:
            raise
        except Exception:
            return items
        return made if len(made) == len(items) else items

    return read


def _with_zone(made: Any, written: dict[str, Any]) -> Any:
    """Return a time with the rest of what was written of it."""
    if "name" in written:
        made = made.replace(tzinfo=timezone(made.utcoffset(), written["name"]))
    if "zone" in written:
        try:
            from zoneinfo import ZoneInfo

            made = made.replace(tzinfo=ZoneInfo(written["zone"]))
        except (ImportError, LookupError, OSError, ValueError):
            pass  # a zone that this machine does not know: the offset stays
    return made.replace(fold=1) if written.get("fold") else made


def _read_path(make: type[PurePath], stand_in: type[PurePath]) -> Callable[[dict[str, Any]], Any]:
    """Return what reads a path, one of another system as its pure form."""

    def read(written: dict[str, Any]) -> PurePath:
        text = _value(written)
        try:
            return make(text)
        except NotImplementedError:  # this system cannot make paths of that one
            return stand_in(text)

    return read


def _read_member(written: dict[str, Any]) -> Any:
    member = _classes.member_of(written["class"], written["name"], written["v"])
    return _value(written) if member is None else member


def _read_fields(make: Callable[[str, dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return what reads an instance by its fields, whose stand-in is the dict of them."""

    def read(written: dict[str, Any]) -> Any:
        values = {key: _restored(item) for key, item in written["v"].items()}
        made = make(written["class"], dict(values))
        return values if made is None else made

    return read


def _read_tuple(written: dict[str, Any]) -> tuple[Any, ...]:
    values = _value(written)
    made = _classes.new_tuple(written["class"], written["fields"], values)
    return tuple(values) if made is None else made


def _read_model(written: dict[str, Any]) -> Any:
    values = {key: _restored(item) for key, item in written["v"].items()}
    extra = _restored(written.get("extra"))
    state = {
        "__dict__": dict(values),
        "__pydantic_fields_set__": set(_restored(written["set"])),
        "__pydantic_extra__": extra,
        "__pydantic_private__": _restored(written.get("private")),
    }
    made = _classes.new_model(written["class"], state)
    return {**values, **(extra or {})} if made is None else made


_READERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "repr": _read_by(str),
    "str": lambda written: bytes.fromhex(written["v"]).decode("utf-8", "surrogatepass"),
    "int": lambda written: int(written["v"], 16),
    "float": _read_by(float),
    "complex": lambda written: complex(*map(float, written["v"])),
    "dict": _read_items(dict),
    "tuple": _read_items(tuple),
    "set": _read_items(set),
    "frozenset": _read_items(frozenset),
    "OrderedDict": _read_items(OrderedDict),
    "deque": lambda written: deque(_value(written), written["maxlen"]),
    "bytes": _read_by(base64.b64decode),
    "bytearray": lambda written: bytearray(base64.b64decode(written["v"])),
    "datetime": lambda written: _with_zone(datetime.fromisoformat(written["v"]), written),
    "time": lambda written: _with_zone(time.fromisoformat(written["v"]), written),
    "date": _read_by(date.fromisoformat),
    "timedelta": lambda written: timedelta(*written["v"]),
    "Decimal": _read_by(Decimal),
    "UUID": _read_by(UUID),
    "PosixPath": _read_path(PosixPath, PurePosixPath),
    "WindowsPath": _read_path(WindowsPath, PureWindowsPath),
    "PurePosixPath": _read_path(PurePosixPath, PurePosixPath),
    "PureWindowsPath": _read_path(PureWindowsPath, PureWindowsPath),
    "enum": _read_member,
    "dataclass": _read_fields(_classes.new_dataclass),
    "struct": _read_fields(_classes.new_struct),
    "model": _read_model,
    "namedtuple": _read_tuple,
}
