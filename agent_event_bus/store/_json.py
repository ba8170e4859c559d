"""JSON text of plain values, through msgspec where it is installed and the json module elsewhere.

Both write what the other reads, with the same result. What each of them would quietly turn into
something else (a tuple into a list, a key that is no string into one, a NaN into null) is kept away
from them: ``is_plain`` tells what they are given as it is, and the module ``encoding`` what becomes
of the rest.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Callable

try:
    import msgspec
except ImportError:
    msgspec = None  # type: ignore[assignment,unused-ignore]

MARK = "$"
"""The key that makes a JSON object mean something else than a dict."""

MAX_DEPTH = 100
"""How deep the containers of a payload may be nested; what is deeper is stored as its repr."""

_SCALARS = frozenset({str, int, bool, type(None)})

# An int of more digits is refused by int(), and so by the json module, when it is read.
_LONG_INT = re.compile(r"[0-9]{4300}")


def is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Return whether JSON has exactly this value, with all that is in it.

    Only the types themselves count, not their subclasses. A dict that has the key MARK is not
    plain, since it would be taken for something else when it is read. No code of the value runs.

    Raises:
        RuntimeError: another thread has changed a container meanwhile.
    """
    # This runs in each emission that is recorded. For the few items that containers mostly have, a
    # loop is faster than what C does with their types; for long lists of numbers it is not.
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str or key == MARK:
                return False
        value = value.values()
    elif kind is not list:
        return kind in _SCALARS or (kind is float and isfinite(value))
    elif len(value) > 32:
        kinds = set(map(type, value))
        if kinds <= _SCALARS:
            return depth > 0
        if kinds == {float}:
            return depth > 0 and all(map(isfinite, value))
    if depth <= 0:
        return False
    for item in value:
        kind = type(item)
        if kind is str or kind in _SCALARS:
            continue
        if kind is float:
            if not isfinite(item):
                return False
        elif not is_plain(item, depth - 1):
            return False
    return True


_encoder = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
)


def _refuse(constant: str) -> None:
    """Refuse NaN and its like, which the json module would take though JSON has none."""
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def may_have_long_int(text: str) -> bool:
    """Return whether a text has an int that cannot be read; or a string with as many digits."""
    return len(text) >= 4300 and _LONG_INT.search(text) is not None


def standard_dump(value: object) -> str:
    """Return the JSON text of a plain value, by the json module.

    Raises:
        ValueError: it has a lone surrogate or a very long int in it (UnicodeEncodeError is one).
        RecursionError: the stack has no room left.
    """
    text = _encoder.encode(value)
    if not text.isascii():
        text.encode()  # as msgspec refuses lone surrogates, which no file could hold either
    return text


def standard_load(text: str) -> Any:
    """Return the value of a JSON text, by the json module.

    Raises:
        ValueError: it is no JSON.
    """
    return _decoder.decode(text)


dump: Callable[[object], str] = standard_dump
load: Callable[[str], Any] = standard_load

if msgspec is not None:
    _encode = msgspec.json.Encoder().encode
    _decode = msgspec.json.Decoder().decode

    def msgspec_dump(value: object) -> str:
        """Return the JSON text of a plain value, by msgspec.

        Raises:
            ValueError, OverflowError: as ``standard_dump``; and old releases refuse long ints.
            RecursionError: the stack has no room left.
        """
        return _encode(value).decode()

    def msgspec_load(text: str) -> Any:
        """Return the value of a JSON text, by msgspec.

        Raises:
            ValueError: it is no JSON.
        """
        try:
            return _decode(text)
        except msgspec.MsgspecError as error:  # a ValueError too, but only since 0.16
            raise ValueError(str(error)) from None

    dump, load = msgspec_dump, msgspec_load
