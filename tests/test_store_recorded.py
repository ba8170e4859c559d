"""The recorded runs: through a bus into a store, and out of it, compared event by event."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest
from recorded import RECORDED, recorded_events

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore

Pair = tuple[str, Any]
MODES: tuple[Literal["batch", "each"], ...] = ("batch", "each")
SAMPLE = 16
"""Of so many events one, of all runs, where each event waits for the disk."""


def collector(bus: EventBus) -> list[Pair]:
    """Return a list that gets name and payload of every event of a bus."""
    got: list[Pair] = []
    bus.on("*", lambda name, payload: got.append((name, payload)))
    return got


async def recorded(
    path: Path, mode: Literal["batch", "each"], step: int | None = None
) -> tuple[EventStore, list[Pair]]:
    """Emit the runs on a bus that a store records; with "each" a sample of their events.

    Args:
        path: Of the store.
        mode: Its ``sync``.
        step: Of so many events one is emitted.

    Returns:
        The store, and what was emitted.
    """
    events = list(recorded_events()[:: step or (SAMPLE if mode == "each" else 1)])
    store = EventStore(path, sync=mode)
    bus = EventBus()
    store.attach(bus)
    for index, (name, payload) in enumerate(events):
        if index % 2:
            bus.emit(name, payload)
        else:
            await bus.emit_async(name, payload)
    if mode == "batch":
        assert store.flush()
    return store, events


@pytest.mark.parametrize("mode", MODES)
async def test_they_come_back_equal_in_order_with_their_runs(
    tmp_path: Path, mode: Literal["batch", "each"]
) -> None:
    store, events = await recorded(tmp_path / "log.db", mode)
    with store:
        found = list(store.read())
        assert [(event.name, event.payload) for event in found] == events
        assert [event.seq for event in found] == list(range(1, len(events) + 1))
        assert [event.run_id for event in found] == [payload["run_id"] for _, payload in events]
        assert {event.form for event in found} == {"value"}
        assert store.verify() == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_replay_to_another_bus_is_equal_to_what_was_emitted(
    tmp_path: Path, mode: Literal["batch", "each"]
) -> None:
    store, events = await recorded(tmp_path / "log.db", mode)
    with store:
        other = EventBus()
        got = collector(other)
        store.attach(other)  # which records nothing of the replay
        assert await store.replay(other) == len(events)
        assert got == events
        assert store.stats()["last_seq"] == len(events)


async def test_tasks_that_append_them_get_numbers_under_which_they_come_back(
    tmp_path: Path,
) -> None:
    events = list(recorded_events())
    with EventStore(tmp_path / "log.db") as store:
        numbers = await asyncio.gather(
            *[
                store.append_async(name, payload, run_id=payload["run_id"])
                for name, payload in events
            ]
        )
        assert numbers == list(range(1, len(events) + 1))
        assert [(event.name, event.payload) for event in store.read()] == events


@pytest.mark.parametrize("mode", MODES)
async def test_a_consumer_that_stops_and_comes_back_gets_each_event_once(
    tmp_path: Path, mode: Literal["batch", "each"]
) -> None:
    path = tmp_path / "log.db"
    # Each acknowledgement waits for the disk.
    store, events = await recorded(path, mode, 4 * SAMPLE)
    half = len(events) // 2
    with store:
        bus = EventBus()
        got = collector(bus)

        @bus.on("*", isolate=False)
        def stop(name: str, payload: object) -> None:
            if len(got) > half:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            await store.replay(bus, consumer="mailer", auto_ack=True)
        assert got.pop() == events[half]  # this one has not been acknowledged
    with EventStore(path) as store:
        again = EventBus()
        rest = collector(again)
        assert await store.replay(again, consumer="mailer", auto_ack=True) == len(events) - half
        assert got + rest == events
        assert list(store.pending("mailer")) == []
        assert await store.replay(again, consumer="mailer") == 0


async def test_a_run_and_a_kind_of_event_can_be_replayed_alone(tmp_path: Path) -> None:
    store, events = await recorded(tmp_path / "log.db", "batch")
    run = events[len(events) // 2][1]["run_id"]
    with store:
        bus = EventBus()
        got = collector(bus)
        await store.replay(bus, key="tool.*", run_id=run)
        expected = [(n, p) for n, p in events if p["run_id"] == run and n.startswith("tool.")]
        assert got == expected
        assert expected


def test_the_file_of_the_runs_is_imported_as_it_is_and_exported_again(tmp_path: Path) -> None:
    events = list(recorded_events())
    with EventStore(tmp_path / "log.db") as store, EventStore(tmp_path / "other.db") as other:
        assert store.import_jsonl(RECORDED) == len(events)
        assert [(event.name, event.payload) for event in store.read()] == events
        assert store.export_jsonl(tmp_path / "log.jsonl") == len(events)
        assert other.import_jsonl(tmp_path / "log.jsonl") == len(events)
        assert list(other.read()) == list(store.read())
        assert other.verify() == []
