"""Write and read payloads where msgspec is not installed; print the library that did it."""

from __future__ import annotations

import sys

sys.modules["msgspec"] = None  # type: ignore[assignment]

from agent_event_bus.store import _json  # noqa: E402
from agent_event_bus.store.encoding import VALUE, decode, encode  # noqa: E402

for value in ({"a": [1, "\u00e4", None, 0.5]}, (1, {2: b"x"}), float("inf"), 10**5000):
    text, form = encode(value)
    assert form == VALUE, value
    assert decode(text) == value, value

assert not hasattr(_json, "msgspec_dump")
assert _json.dump is _json.standard_dump
print("json")
