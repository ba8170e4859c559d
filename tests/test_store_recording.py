"""Recording a bus: what is captured, redaction, what cannot be serialised, and what is logged."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from helpers import soon
from stores import names, payloads, refusing, writing_elsewhere

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore, StoreError
from agent_event_bus.store.database import BUSY_SECONDS


def written(path: Path) -> bytes:
    """Return what is in the file of a closed store."""
    return path.read_bytes()


modes = pytest.mark.parametrize("sync", ["each", "process", "batch"])


@modes
def test_every_matching_event_is_recorded_with_its_time(path: Path, sync: Any) -> None:
    bus = EventBus(history=10)
    with EventStore(path, sync=sync) as store:
        subscription = store.attach(bus, "tool.*")
        bus.emit("tool.start", {"n": 1})
        bus.emit("llm.response", {"n": 2})
        asyncio.run(bus.emit_async("tool.end", {"n": 3}))
        assert subscription.cancel()
        bus.emit("tool.start", {"n": 4})
        store.flush()
        assert names(store) == ["tool.start", "tool.end"]
        emitted = [e.timestamp for e in reversed(bus.history("tool.*"))][:2]
        assert [event.timestamp for event in store.read()] == emitted


def test_all_events_are_recorded_unless_a_key_is_given(path: Path) -> None:
    bus = EventBus()
    with EventStore(path) as store:
        assert store.attach(bus).key == "*"
        store.attach(bus, ["a", "b"])
        bus.emit("a")
        bus.emit("c")
        store.flush()
        assert names(store) == ["a", "a", "c"]


class Found:
    """An object to publish."""

    def __init__(self, text: str) -> None:
        self.text = text


def test_published_objects_are_recorded_under_the_name_of_their_class(path: Path) -> None:
    bus = EventBus()
    with EventStore(path) as store:
        store.attach(bus, Found)
        bus.publish(Found("x"))
        store.flush()
        (event,) = store.read()
        assert (event.name, event.form) == ("Found", "repr")


def test_the_payload_is_captured_before_any_handler_can_change_it(path: Path) -> None:
    bus = EventBus()
    with EventStore(path) as store:

        @bus.on("a", priority=-(10**6))
        def change(payload: dict[str, int]) -> None:
            payload["n"] = 2

        store.attach(bus)
        bus.emit("a", {"n": 1})
        store.flush()
        assert payloads(store) == [{"n": 1}]


async def test_a_bus_that_takes_async_handlers_only_is_recorded_too(path: Path) -> None:
    bus = EventBus(async_only=True)
    with EventStore(path) as store:
        seen: list[object] = []

        @bus.on("a")
        async def change(payload: dict[str, int]) -> None:
            seen.append(payload)
            payload["n"] = 2

        store.attach(bus)
        await soon(bus.emit_async("a", {"n": 1}))
        store.flush()
        assert payloads(store) == [{"n": 1}]
        assert await soon(store.replay(bus)) == 1
        store.flush()
        assert len(names(store)) == 1
        assert len(seen) == 2


@pytest.mark.parametrize("key", ["", "a..b", 5])
@pytest.mark.parametrize("async_only", [False, True])
def test_a_bad_key_is_refused_as_the_bus_does(path: Path, key: Any, async_only: bool) -> None:
    with EventStore(path) as store, pytest.raises((ValueError, TypeError), match="key"):
        store.attach(EventBus(async_only=async_only), key)


class Odd(Mapping[str, Any]):
    """A mapping that fails."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no")

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("payload", "run_id"),
    [
        ({"run_id": "run 1"}, "run 1"),
        ({"run_id": None}, None),
        ({"run_id": 5}, "5"),
        ({"run_id": UUID(int=7)}, "00000000-0000-0000-0000-000000000007"),
        ({"run_id": True}, None),
        ({"run_id": 1.5}, None),
        ({"other": 1}, None),
        (["run_id"], None),
        (None, None),
        (Odd(), None),
    ],
)
def test_the_run_is_that_of_a_payload_which_is_a_mapping_and_has_one(
    path: Path, payload: object, run_id: str | None
) -> None:
    bus = EventBus()
    with EventStore(path) as store:
        store.attach(bus)
        bus.emit("a", payload)
        store.flush()
        assert [event.run_id for event in store.read()] == [run_id]


def test_an_object_that_does_not_say_what_it_is_is_recorded(path: Path) -> None:
    class Nameless:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise RuntimeError("no")

    bus = EventBus()
    with EventStore(path) as store:
        store.attach(bus)
        bus.emit("a", Nameless())
        store.flush()
        assert [(event.name, event.form) for event in store.read()] == [("a", "repr")]
        assert store.stats()["dropped"] == 0


def test_a_time_that_is_no_number_is_an_event_that_is_not_recorded(path: Path) -> None:
    with EventStore(path) as store:
        for timestamp in (5, -0.0, 1.5, float("nan"), "now", True):
            store.record("a", None, timestamp)  # type: ignore[arg-type]
        store.flush()
        assert [event.timestamp for event in store.read()] == [5.0, 0.0, 1.5]
        assert store.stats()["dropped"] == 3
        assert store.verify() == []


# Redaction


def redact(name: str, payload: Any) -> Any:
    return {**payload, "key": f"hidden from {name}"}


@modes
async def test_redact_decides_what_is_written(path: Path, sync: Any) -> None:
    bus = EventBus()
    with EventStore(path, sync=sync, redact=redact) as store:
        store.attach(bus)
        payload = {"key": "secret", "n": 1}
        bus.emit("a", payload)
        store.append("b", payload)
        await soon(store.append_async("c", payload))
        assert payload == {"key": "secret", "n": 1}
        assert payloads(store) == [{"key": f"hidden from {name}", "n": 1} for name in "abc"]
    assert b"secret" not in written(path)


@modes
async def test_a_payload_is_not_written_when_redact_fails(
    path: Path, sync: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str, payload: object) -> object:
        raise ValueError(f"cannot redact {payload}")

    bus = EventBus()
    with EventStore(path, sync=sync, redact=fail) as store:
        store.attach(bus)
        bus.emit("a", {"run_id": "secret run", "text": "secret"})
        store.append("b", "secret")
        await soon(store.append_async("c", "secret"))
        found = [(event.name, event.payload, event.form, event.run_id) for event in store.read()]
    assert found == [(name, None, "withheld", None) for name in "abc"]
    assert b"secret" not in written(path)
    assert "secret" not in caplog.text
    assert [record.getMessage() for record in caplog.records] == [
        f"redact failed on event '{name}', whose payload is not written: ValueError"
        for name in "abc"
    ]
    assert all(record.exc_info is None for record in caplog.records)


def test_a_redact_that_returns_an_awaitable_has_failed(path: Path) -> None:
    async def later() -> str:
        return "secret"

    with EventStore(path, sync="each", redact=lambda name, payload: later()) as store:
        store.append("a", "secret")
        assert [(event.payload, event.form) for event in store.read()] == [(None, "withheld")]


def test_an_interrupt_in_redact_reaches_the_caller_and_nothing_is_written(path: Path) -> None:
    def interrupt(name: str, payload: object) -> object:
        raise KeyboardInterrupt

    with EventStore(path, sync="each", redact=interrupt) as store:
        with pytest.raises(KeyboardInterrupt):
            store.append("a")
        assert names(store) == []


def test_a_redact_that_emits_on_the_recorded_bus_ends(path: Path) -> None:
    bus = EventBus()

    def emit(name: str, payload: object) -> object:
        if name != "redacted":
            bus.emit("redacted", payload)
        return None

    with EventStore(path, sync="each", redact=emit) as store:
        store.attach(bus)
        bus.emit("a", 1)
        assert names(store) == ["redacted", "a"]


# What cannot be serialised


class Opaque:
    def __repr__(self) -> str:
        return "<opaque secret>"


def test_what_cannot_be_serialised_is_stored_as_its_repr_with_a_flag_and_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventStore(path, sync="each") as store:
        for _ in range(3):
            store.append("a", {"n": 1, "object": Opaque()})
        events = list(store.read())
        assert [event.form for event in events] == ["repr"] * 3
        assert "<opaque secret>" in str(events[0].payload)
    (record,) = caplog.records  # once a second at most
    assert record.levelno == logging.WARNING
    assert record.name == "agent_event_bus.store"
    assert "Event 'a' has something that cannot be serialised" in record.getMessage()
    assert "secret" not in caplog.text


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("payload", [Hostile(), {1: Hostile()}, float("nan"), "\ud800", b"\xff"])
def test_no_payload_is_an_exception_in_the_agent(path: Path, payload: object) -> None:
    bus = EventBus(on_error=lambda *args: pytest.fail("a handler failed"))
    with EventStore(path, sync="each") as store:
        store.attach(bus)
        assert bus.emit("a", payload) == 1
        assert names(store) == ["a"]


# The agent notices nothing


@modes
def test_an_event_after_the_end_is_counted_and_warned_about_once(
    path: Path, sync: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    store = EventStore(path, sync=sync)
    store.attach(bus)
    store.close()
    for _ in range(3):
        assert bus.emit("a", "contents") == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "came after the store" in record.getMessage()
    assert "contents" not in caplog.text


def test_with_each_a_disk_that_refuses_is_counted_and_logged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    with EventStore(path, sync="each") as store:
        store.attach(bus)
        with refusing(path, monkeypatch):
            assert bus.emit("a", "contents") == 1
            assert bus.emit("a", "contents") == 1
        bus.emit("b")
        assert names(store) == ["b"]
        assert store.stats()["dropped"] == 2
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "Event 'a' is not recorded" in record.getMessage()
    assert "contents" not in caplog.text


def test_with_process_an_event_that_cannot_be_written_at_once_is_queued_in_its_order(
    path: Path,
) -> None:
    bus = EventBus()
    with EventStore(path, sync="process") as store:
        store.attach(bus)
        bus.emit("a", 0)
        with writing_elsewhere(path):
            began = time.monotonic()
            for number in (1, 2, 3):
                bus.emit("a", number)
            assert time.monotonic() - began < BUSY_SECONDS / 2  # which others wait for their turn
            assert store.stats()["uncommitted"] == 3
            assert payloads(store) == [0]
        assert store.flush()
        bus.emit("a", 4)
        assert payloads(store) == [0, 1, 2, 3, 4]
        assert store.stats()["dropped"] == store.stats()["uncommitted"] == 0


def test_with_process_a_disk_that_refuses_makes_events_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = EventBus()
    with EventStore(path, sync="process") as store:
        store.attach(bus)
        with refusing(path, monkeypatch):
            assert bus.emit("a", 1) == 1
            with pytest.raises(StoreError, match="locked"):
                store.append("a", 2)
        assert store.flush()
        assert payloads(store) == [1]


def test_with_process_nothing_waits_in_the_process_when_emit_returns(path: Path) -> None:
    bus = EventBus()
    with EventStore(path, sync="process") as store, EventStore(path) as other:
        store.attach(bus)
        for number in range(100):
            bus.emit("a", number)
            assert store.stats()["uncommitted"] == 0
        assert payloads(other) == [*range(100)]


def test_emitting_never_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = EventBus()
    with EventStore(path) as store:
        store.attach(bus)
        commit = threading.Event()
        write = store._writer._write
        monkeypatch.setattr(
            store._writer, "_write", lambda group: (commit.wait(20), write(group))[1]
        )
        for number in range(3000):
            bus.emit("a", number)
        assert store.flush(timeout=0.05) is False  # the disk is as slow as that
        commit.set()
        assert store.flush()
        assert payloads(store) == list(range(3000))
