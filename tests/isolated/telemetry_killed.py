"""Route events to a PersistenceHandler until this process is killed; print what was acknowledged.

usage: telemetry_killed.py PATH default|each|batch|unflushed [plain]

Each line is the number of the last event that must survive. In the mode "unflushed" nothing is
flushed, and a line is printed when the store has nothing uncommitted any more. With "plain" the
handler is subscribed to a bus, else to a router.
"""

from __future__ import annotations

import itertools
import sys
import threading
from typing import Any

from agent_event_bus import EventBus
from agent_event_bus.telemetry import PersistenceHandler, ProductionTelemetryRouter

path, mode = sys.argv[1:3]
options: dict[str, Any] = {
    "default": {},
    "each": {"sync": "each"},
    "batch": {"sync": "batch"},
    "unflushed": {"sync": "batch"},
}[mode]
handler = PersistenceHandler(path, **options)
emit: Any
if "plain" in sys.argv:
    bus = EventBus()
    bus.on("*", handler)
    emit = bus.emit
else:
    router = ProductionTelemetryRouter(alert_after=None)
    router.register_wildcard(handler)
    emit = router.emit
pause = threading.Event()

for number in itertools.count(1):
    emit("step", {"run_id": "killed", "number": number})
    if mode == "batch":
        if number % 7:
            continue
        assert handler.flush(30)
    elif mode == "unflushed":
        if number % 50:
            continue
        while handler.store.stats()["uncommitted"]:
            pause.wait(0.001)
    print(number, flush=True)
