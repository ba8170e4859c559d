"""Drop the modules from sys.modules and import them again; old objects must go on working."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any


def load() -> Any:
    for name in [name for name in sys.modules if name.startswith("agent_event_bus")]:
        del sys.modules[name]
    return importlib.import_module("agent_event_bus")


buses: list[Any] = []
for _ in range(5):
    module = load()
    bus = module.EventBus()
    log: list[object] = []
    bus.on("a", log.append)
    buses.append((bus, log))
    del module
    gc.collect()
for bus, log in buses:
    assert bus.emit("a", 1) == 1
    assert log == [1]
    assert isinstance(bus.subscribe("b", print, envelope=True).keys, tuple)
buses.clear()
gc.collect()
print("ok")
