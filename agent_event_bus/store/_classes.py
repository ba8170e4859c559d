"""Classes by name: finding one without importing anything, and making its instances without code.

A stored payload names the classes of its dataclasses, enums and models. What is read from a file
must not decide what code runs, so a class is used only when it is there already and is what the
file says that it is; no module is imported, no ``__init__``, no ``__getattr__`` and no property of
what the name leads to is called. Where that does not give a class, the caller has a stand-in.
"""

from __future__ import annotations

import dataclasses
import sys
import weakref
from collections.abc import Iterable, Mapping
from enum import Enum, EnumMeta, Flag, IntFlag
from functools import cached_property
from types import BuiltinFunctionType, MemberDescriptorType, ModuleType
from typing import Any

# Classes that this process has written and that no name leads to, those made in functions above
# all: the last one of each name. They come back in the process that wrote them.
_unreachable: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()

# Factories of defaults that run nothing of anybody's.
_FACTORIES = (dict, list, set, tuple, frozenset)

_namespace_of_class = type.__dict__["__dict__"].__get__
_mro_of_class = type.__dict__["__mro__"].__get__
# How enums look up a value when no class has a way of its own.
_ENUM_LOOKUPS: tuple[Any, ...] = (Flag._missing_.__func__, IntFlag._missing_.__func__)  # type: ignore[attr-defined]


def class_name(cls: type) -> tuple[str, bool]:
    """Return the name that a stored payload has for a class, and whether it leads back to it.

    A class to whose name nothing leads is remembered. One whose name leads to another class, which
    has taken its place, cannot come back.
    """
    name = f"{cls.__module__}:{cls.__qualname__}"
    found = _reached(name)
    if found is None:
        _unreachable[name] = cls
    return name, found is None or found is cls


def find_class(name: object) -> type | None:
    """Return the class of a name that ``class_name`` gave; None when there is none."""
    if not isinstance(name, str):
        return None
    return _reached(name) or _unreachable.get(name)


def _reached(name: str) -> type | None:
    """Return the class that a name leads to through modules that were imported already."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return None
    # Neither a lazily loaded module nor one with a __getattr__ gets to know of this.
    names: Mapping[str, Any] = object.__getattribute__(found, "__dict__")
    for part in qualname.split("."):
        found = names.get(part)
        if not issubclass(type(found), type):
            return None
        names = _namespace_of_class(found)
    return found  # type: ignore[no-any-return]


def attribute(cls: type, name: str) -> Any:
    """Return what a class or one of its bases has under a name, None when none has; run nothing."""
    for base in _mro_of_class(cls):
        names = _namespace_of_class(base)
        if name in names:
            return names[name]
    return None


def has_builtin_base(cls: type) -> bool:
    """Return whether instances have a value that is not in their attributes: of a list, say."""
    made_by = (_namespace_of_class(base).get("__new__") for base in _mro_of_class(cls)[:-1])
    return any(type(new) is BuiltinFunctionType for new in made_by)


# Enums --------------------------------------------------------------------------------------------


def member_of(name: object, member: object, value: object) -> Enum | None:
    """Return the member of an enum by its name, and of flags by their value; None without one.

    Args:
        name: of the class.
        member: name of the member, None for a combination of flags.
        value: of the member, which decides only for flags.
    """
    cls = find_class(name)
    if cls is None or not issubclass(cls, Enum):
        return None
    found = attribute(cls, "_member_map_").get(member) if isinstance(member, str) else None
    if isinstance(found, cls):
        return found
    if issubclass(cls, Flag) and type(value) is int and type(cls) is EnumMeta:
        missing = getattr(attribute(cls, "_missing_"), "__func__", None)
        if missing in _ENUM_LOOKUPS:
            try:
                return cls(value)
            except ValueError:
                return None  # the bits are no longer flags of this class
    return None


# Dataclasses --------------------------------------------------------------------------------------


def dataclass_fields(cls: type) -> dict[str, dataclasses.Field[Any]] | None:
    """Return the fields of a dataclass by name; None for a class that is none, or is more."""
    fields = attribute(cls, "__dataclass_fields__")
    if type(fields) is not dict or has_builtin_base(cls):
        return None
    # Those of class variables and of arguments to __init__ alone are in there too.
    real = getattr(dataclasses, "_FIELD", None)
    return {n: f for n, f in fields.items() if getattr(f, "_field_type", real) is real}


def undeclared(value: object, declared: Any) -> bool:
    """Return whether an instance has attributes of its own beside those that its class declares."""
    cls = type(value)
    if _has_other_slots(value, cls, declared):
        return True
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return False
    return any(
        name not in declared
        and name != "__orig_class__"  # of Box[int](), which sets it and is equal to Box()
        and not isinstance(attribute(cls, name), cached_property)
        for name in list(own)
    )


def _has_other_slots(value: object, cls: type, declared: Any) -> bool:
    """Return whether something is in ``__slots__`` that are not among those declared."""
    for base in _mro_of_class(cls)[:-1]:
        names = _namespace_of_class(base)
        if not names.get("__slots__"):
            continue
        for name, found in names.items():
            if type(found) is MemberDescriptorType and name not in declared:
                try:
                    found.__get__(value, cls)
                except AttributeError:
                    continue  # it was never set
                return True
    return False


def _is_computed(found: object) -> bool:
    """Return whether what a class has under a name runs code when the attribute is set."""
    return attribute(type(found), "__set__") is not None and type(found) is not MemberDescriptorType


def has_computed_fields(cls: type, fields: Iterable[str]) -> bool:
    """Return whether setting one of these fields would run code."""
    return any(_is_computed(attribute(cls, field)) for field in fields)


def new_dataclass(name: object, values: dict[str, Any]) -> Any:
    """Return an instance of a dataclass with these values of its fields; None when it has others.

    Neither ``__init__`` nor ``__post_init__`` runs. A field that was added to the class later gets
    its default.
    """
    cls = find_class(name)
    fields = dataclass_fields(cls) if cls is not None else None
    if cls is None or fields is None or not fields.keys() >= values.keys():
        return None
    for key, field in fields.items():
        if key in values:
            continue
        if field.default is not dataclasses.MISSING:
            values[key] = field.default
            continue
        factory: Any = field.default_factory
        if any(factory is known for known in _FACTORIES):
            values[key] = factory()
        elif field.init:
            return None
    if has_computed_fields(cls, values):
        return None
    try:
        made: Any = object.__new__(cls)
        for key, value in values.items():
            object.__setattr__(made, key, value)
    except (TypeError, AttributeError):
        return None  # it has become abstract, or lost the place for an attribute
    return made


# Tuples with names --------------------------------------------------------------------------------


def tuple_fields(cls: type) -> tuple[str, ...] | None:
    """Return the fields of a class of named tuples; None for any other."""
    fields = attribute(cls, "_fields")
    if not issubclass(cls, tuple) or type(fields) is not tuple:
        return None
    return fields if all(type(field) is str for field in fields) else None


def new_tuple(name: object, fields: list[str], values: list[Any]) -> tuple[Any, ...] | None:
    """Return a named tuple, without a call of its class; None when its fields are not these."""
    cls = find_class(name)
    if cls is None or not issubclass(cls, tuple):
        return None
    declared = tuple_fields(cls)
    if declared != tuple(fields) or len(values) != len(fields):
        return None
    return tuple.__new__(cls, values)


# Models -------------------------------------------------------------------------------------------


def base_of(library: str, name: str) -> type | None:
    """Return a class of a library, when something else has imported that already."""
    module = sys.modules.get(library)
    found = getattr(module, name, None)
    return found if isinstance(found, type) else None


def struct_fields(cls: type) -> tuple[str, ...] | None:
    """Return the fields of a ``msgspec.Struct``; None for any other class."""
    base = base_of("msgspec", "Struct")
    if base is None or not issubclass(cls, base):
        return None
    fields: tuple[str, ...] = cls.__struct_fields__  # type: ignore[attr-defined]
    return fields


def is_made_by_code(cls: type) -> bool:
    """Return whether an instance of a Struct cannot be made without running code of its class."""
    base = base_of("msgspec", "Struct")
    return type(cls) is not type(base) or attribute(cls, "__post_init__") is not None


def new_struct(name: object, values: dict[str, Any]) -> Any:
    """Return a ``msgspec.Struct``; None when it has other fields or a ``__post_init__``."""
    cls = find_class(name)
    fields = struct_fields(cls) if cls is not None else None
    if cls is None or fields is None or is_made_by_code(cls) or set(fields) != set(values):
        return None
    return cls(**values)


def is_model(cls: type) -> bool:
    """Return whether a class is a pydantic model, of version 2."""
    base = base_of("pydantic", "BaseModel")
    return base is not None and issubclass(cls, base) and hasattr(base, "model_construct")


def model_fields(cls: type) -> set[str]:
    """Return the names of a pydantic model's fields."""
    fields = attribute(cls, "__pydantic_fields__")
    return set(fields if fields is not None else cls.model_fields)  # type: ignore[attr-defined]


def new_model(name: object, state: dict[str, Any]) -> Any:
    """Return a pydantic model with this state, as unpickling does it; None when its fields differ.

    Nothing is validated, and no code of the class runs.
    """
    cls = find_class(name)
    if cls is None or not is_model(cls) or model_fields(cls) != set(state["__dict__"]):
        return None
    made: Any = object.__new__(cls)
    base: Any = base_of("pydantic", "BaseModel")
    base.__setstate__(made, state)
    return made
