"""Schemas of events: what makes a checker of the ``schema`` given to ``define_event``.

A checker is called with an event's name and payload and raises ``EventSchemaError`` for a payload
that does not fit. It checks and does not convert, because handlers get the object that was
emitted: a library that would turn ``"3"`` into ``3`` is told not to, and ``"3"`` is refused where
an ``int`` is declared.

pydantic and msgspec are imported when a schema of theirs is defined, never before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import GenericAlias
from typing import Any, Callable, NamedTuple, get_origin

from agent_event_bus.errors import EventSchemaError

__all__ = ["checker_of"]

Checker = Callable[[str, object], None]


def checker_of(schema: object) -> Checker | None:
    """Return what checks payloads by a schema; None when the schema is None, for any payload.

    Raises:
        TypeError: The schema is of no kind that ``define_event`` takes, or its library refuses it.
        ImportError: The library that it needs is not installed.
    """
    if schema is None:
        return None
    # The alias Box[int] of a generic class is a schema of that class's kind.
    cls = get_origin(schema) or schema
    if isinstance(cls, type):
        if hasattr(cls, "__struct_fields__") and hasattr(cls, "__struct_config__"):
            return _StructChecker(schema, cls)
        if _is_pydantic_model(cls):
            return _PydanticChecker(schema, "a pydantic model")
        if hasattr(cls, "__dataclass_fields__"):
            return _DataclassChecker(schema, cls)
        if type(cls).__name__ == "_TypedDictMeta":
            return _PydanticChecker(schema, "a TypedDict")
    if cls is not schema or not callable(schema):
        raise TypeError(
            "schema must be a pydantic model, a dataclass, a TypedDict, a msgspec.Struct, "
            f"a callable that raises on a bad payload, or None, not {schema!r}"
        )
    return _CallableChecker(schema)


class _Fault(NamedTuple):
    """The first thing that is wrong with a payload."""

    field: str | None
    text: str
    error: Exception


class _SchemaChecker:
    """What all checkers have in common: any kind of error becomes an ``EventSchemaError``."""

    def __call__(self, name: str, payload: object) -> None:
        try:
            fault = self.fault_in(payload)
        except (RecursionError, MemoryError):
            raise  # these say nothing about the payload
        except Exception as error:
            fault = _Fault(None, _text_of(error), error)
        if fault is not None:
            raise EventSchemaError(name, fault.field, fault.text) from fault.error

    def fault_in(self, payload: object) -> _Fault | None:
        """Return what is wrong with a payload, or raise it."""
        raise TypeError(f"{type(self).__name__} checks nothing")


def _text_of(error: Exception) -> str:
    """Return what an exception says, with its type where that alone would be unclear."""
    try:
        text = str(error)
    except Exception:
        text = ""
    if not text:
        return type(error).__name__
    clear = isinstance(error, (ValueError, TypeError, AssertionError))
    return text if clear else f"{type(error).__name__}: {text}"


def _missing(what: str, library: str) -> ImportError:
    return ImportError(
        f"define_event() with {what} needs {library}: pip install 'agent-event-bus[{library}]'",
        name=library,
    )


def _unusable(schema: object, error: Exception) -> TypeError:
    return TypeError(f"schema {schema!r} cannot be used: {_text_of(error)}")


# Callables ----------------------------------------------------------------------------------------


class _CallableChecker(_SchemaChecker):
    """Checks by a call, whose result is ignored."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        import functools
        import inspect

        target: Any = function
        while isinstance(target, functools.partial):
            target = target.func
        for called in (target, type(target).__call__):
            if inspect.iscoroutinefunction(called):
                raise TypeError("schema must not be a coroutine function: nobody would await it")
            if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
                raise TypeError("schema must not be a generator function: a call would run nothing")
        self.function = function

    def fault_in(self, payload: object) -> _Fault | None:
        result = self.function(payload)
        if hasattr(result, "__await__"):
            if hasattr(result, "close"):
                result.close()  # or it would warn that it was never awaited
            raise TypeError("the schema has returned an awaitable, which nobody would await")
        return None


# pydantic -----------------------------------------------------------------------------------------


def _is_pydantic_model(cls: type) -> bool:
    """Whether a class is a model, found out without importing pydantic: its own module has."""
    return any(
        base.__name__ == "BaseModel" and base.__module__.partition(".")[0] == "pydantic"
        for base in cls.__mro__
    )


class _PydanticChecker(_SchemaChecker):
    """Checks by pydantic in strict mode, in which it does not convert."""

    def __init__(self, schema: object, what: str) -> None:
        try:
            from pydantic import ConfigDict, TypeAdapter, ValidationError
        except ImportError as error:  # or a version before 2, which has no TypeAdapter
            raise _missing(what, "pydantic") from error
        # Nobody has checked the fields of an ordinary dataclass when it was made, so it is not
        # taken on trust. Models are: how far is for their own configuration to say. The list is
        # there because none of them takes a configuration from outside, but some inherit one.
        config = ConfigDict(revalidate_instances="always")
        try:
            adapter: Any = TypeAdapter  # the schema is a type that only the caller knows
            self.single = adapter(schema)
            self.listed = adapter(GenericAlias(list, (schema,)), config=config)
        except Exception as error:
            raise _unusable(schema, error) from error
        self.library_error = ValidationError

    def fault_in(self, payload: object) -> _Fault | None:
        if isinstance(payload, Mapping) and not isinstance(payload, dict):
            payload = dict(payload)  # strict mode knows no other mapping
        try:
            self.listed.validate_python([payload], strict=True)
        except self.library_error as error:
            return self.explain(error, 1)
        return None

    def explain(self, error: Any, skip: int = 0) -> _Fault:
        """Return the first fault of a ``ValidationError``, without `skip` parts of its location."""
        first = error.errors(include_url=False)[0]
        return _Fault(".".join(map(str, first["loc"][skip:])) or None, first["msg"], error)


class _DataclassChecker(_PydanticChecker):
    """Checks a dataclass, or a mapping of its fields."""

    def __init__(self, schema: object, cls: type[Any]) -> None:
        super().__init__(schema, "a dataclass")
        self.cls = cls
        # What __init__ alone was given cannot be asked of the instance, so it cannot be made again.
        self.trusted = any(
            field._field_type.name == "_FIELD_INITVAR"
            for field in cls.__dataclass_fields__.values()
        )

    def fault_in(self, payload: object) -> _Fault | None:
        if isinstance(payload, Mapping) and not isinstance(payload, self.cls):
            # Strict mode takes instances only, but it has to let an instance fill itself.
            made: Any = self.cls.__new__(self.cls)  # type: ignore[call-overload]
            try:
                self.single.validator.validate_python(
                    dict(payload), strict=True, self_instance=made
                )
            except self.library_error as error:
                return self.explain(error)
            payload = made  # what it holds in turn is checked below
        if self.trusted and isinstance(payload, self.cls):
            return None
        return super().fault_in(payload)


# msgspec ------------------------------------------------------------------------------------------


class _StructChecker(_SchemaChecker):
    """Checks by ``msgspec.convert``: an instance, or a mapping of its fields."""

    def __init__(self, schema: object, cls: type[Any]) -> None:
        import datetime
        import decimal
        import uuid

        try:
            import msgspec
        except ImportError as error:
            raise _missing("a msgspec.Struct", "msgspec") from error
        try:
            msgspec.msgpack.Decoder(schema)  # resolves the types, as the first conversion would
        except Exception as error:
            raise _unusable(schema, error) from error
        self.schema = schema
        self.cls = cls
        self.msgspec = msgspec
        # To msgspec these are there as they are, and so no text is converted to them.
        self.native = (
            bytes,
            bytearray,
            datetime.datetime,
            datetime.date,
            datetime.time,
            datetime.timedelta,
            decimal.Decimal,
            uuid.UUID,
        )

    def fault_in(self, payload: object) -> _Fault | None:
        if not isinstance(payload, self.cls):
            fault = self.fault_of_conversion(payload, self.schema, ())
            if fault is not None:
                return fault
        # Structs do not check what they are made of, and a conversion takes instances on trust.
        for struct, path in self.structs_in(payload, (), set()):
            own = struct is payload and type(struct) is self.cls
            schema = self.schema if own else type(struct)
            fault = self.fault_of_conversion(self.fields_of(struct), schema, path)
            if fault is not None:
                return fault
        return None

    def fault_of_conversion(
        self, value: object, schema: Any, path: tuple[object, ...]
    ) -> _Fault | None:
        """Return what a conversion complains of; `path` says where in the payload the value is."""
        try:
            self.msgspec.convert(
                value,
                schema,
                strict=True,
                builtin_types=self.native,
            )
        except self.msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `")
            # `$.args[0].query`, or `key in $.args`; [...] is some element of a mapping.
            names = re.findall(r"\.([^.\[`]+)|\[(\d+|\.\.\.)\]", where)
            parts = [*path, *(name or index.replace("...", "*") for name, index in names)]
            parts += re.findall(r"(?:missing required|contains unknown) field `(.+?)`", text)
            return _Fault(".".join(map(str, parts)) or None, text, error)
        return None

    def fields_of(self, struct: Any) -> object:
        """Return what a struct would be encoded as, one level deep."""
        config = struct.__struct_config__
        given = [
            (encoded, getattr(struct, field))
            for field, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__)
        ]
        if config.array_like:
            return [*([] if config.tag is None else [config.tag]), *(value for _, value in given)]
        return {name: value for name, value in given if value is not self.msgspec.UNSET}

    def structs_in(
        self, value: Any, path: tuple[object, ...], seen: set[int]
    ) -> Iterator[tuple[Any, tuple[object, ...]]]:
        """Yield every struct in a payload, and where it is."""
        inside: Iterable[tuple[object, Any]]
        if isinstance(value, self.msgspec.Struct):
            values = [getattr(value, field) for field in value.__struct_fields__]
            inside = zip(value.__struct_encode_fields__, values)  # type: ignore[attr-defined, unused-ignore]
        elif isinstance(value, Mapping):
            inside = value.items()
        elif isinstance(value, (list, tuple, set, frozenset)):
            inside = enumerate(value)
        else:
            return
        if id(value) in seen:
            return  # it contains itself
        seen.add(id(value))
        if isinstance(value, self.msgspec.Struct):
            yield value, path
        for name, item in inside:
            yield from self.structs_in(item, (*path, name), seen)
