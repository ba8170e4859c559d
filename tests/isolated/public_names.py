"""The public names of the package, so that none is forgotten by operations.py."""

from __future__ import annotations

import agent_event_bus
from agent_event_bus import EventBus, use_buses

# What a class has in any case, or has for the interpreter alone.
ORDINARY = {
    *(set(dir(object)) - {"__repr__", "__str__", "__init__", "__new__", "__reduce__"}),
    *("__slots__", "__module__", "__weakref__", "__dict__", "__del__", "__orig_bases__"),
    *("__annotations__", "__parameters__", "__abstractmethods__", "__static_attributes__"),
    *("__firstlineno__", "__vectorcalloffset__", "__annotations_cache__", "__annotate_func__"),
}


def public_names() -> set[str]:
    """Return the public names of the package, and those of its classes: "Class.name".

    The coroutine objects of `emit_async`, `wait_for` and handlers are public by what they can do.
    """
    bus = EventBus()
    emission, waiter = bus.emit_async("a"), bus.wait_for("a")
    classes: dict[str, type] = {"Emission": type(emission), "Waiter": type(waiter)}
    emission.close()
    waiter.close()
    found = set()
    for exported in agent_event_bus.__all__:
        value = getattr(agent_event_bus, exported)
        if isinstance(value, type):
            classes[exported] = value
        elif callable(value):
            found.add(exported)
    core = agent_event_bus._core
    classes["HandlerTask"] = core.HandlerTask
    classes["UseBuses"] = type(use_buses())
    classes["CurrentBus"] = type(bus.as_current())
    for label, cls in classes.items():
        if issubclass(cls, BaseException):
            found.add(label)
        for each in cls.__mro__:
            if not each.__module__.startswith("agent_event_bus"):
                continue
            for own in vars(each):
                private = own.startswith("_") and not own.endswith("__")
                if not private and own not in ORDINARY:
                    found.add(f"{label}.{own}")
    return found
