"""PersistenceHandler: what routers and buses emit, in a durable store, and back from there."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from helpers import (
    DEADLINE,
    ListHandler,
    anote,
    is_gone,
    note,
    run_python,
    soon,
)
from stores import writing_elsewhere

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore, StoreClosedError
from agent_event_bus.telemetry import (
    PersistenceHandler,
    ProductionTelemetryRouter,
    TelemetryRouter,
)

Emit = Callable[..., int]
Attach = Callable[[PersistenceHandler], Emit]


def on_a_router(handler: PersistenceHandler) -> Emit:
    router = TelemetryRouter()
    assert router.subscribe_all(handler) is handler
    return router.emit


def as_a_decorator(handler: PersistenceHandler) -> Emit:
    router = TelemetryRouter()
    assert router.subscribe_all("persistence")(handler) is handler
    return router.emit


def on_a_production_router(handler: PersistenceHandler) -> Emit:
    router = ProductionTelemetryRouter(alert_after=None)
    assert router.register_wildcard(handler) is handler
    return router.emit


def on_a_bus(handler: PersistenceHandler) -> Emit:
    bus = EventBus()
    assert bus.on("*", handler) is handler
    return bus.emit


attached = pytest.mark.parametrize(
    "attach", [on_a_router, as_a_decorator, on_a_production_router, on_a_bus]
)


@pytest.fixture
def handler(path: Path) -> Iterator[PersistenceHandler]:
    with PersistenceHandler(path) as handler:
        yield handler


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Everything that anything logs."""
    keeper = ListHandler()
    logging.getLogger().addHandler(keeper)
    yield keeper.records
    logging.getLogger().removeHandler(keeper)


def stored(handler: PersistenceHandler) -> list[tuple[str, Any]]:
    """Return name and payload of everything in the store."""
    assert handler.flush(DEADLINE)
    return [(event.name, event.payload) for event in handler.store.read()]


class TestRecording:
    @attached
    def test_every_event_is_recorded_in_order(
        self, handler: PersistenceHandler, attach: Attach
    ) -> None:
        emit = attach(handler)
        emit("run.start", {"task": "find the bug"})
        emit("tool.end", [1, 2.5, None, "ä"])
        emit("tool.end")
        assert stored(handler) == [
            ("run.start", {"task": "find the bug"}),
            ("tool.end", [1, 2.5, None, "ä"]),
            ("tool.end", None),
        ]

    def test_a_pattern_records_some_events(self, handler: PersistenceHandler) -> None:
        router = ProductionTelemetryRouter()
        router.register("tool.*", handler)
        router.emit("tool.end", 1)
        router.emit("run.end", 2)
        assert stored(handler) == [("tool.end", 1)]

    def test_one_shot_it_records_the_first_event(self, handler: PersistenceHandler) -> None:
        router = TelemetryRouter()
        router.subscribe_once("*", handler)
        router.emit("run.start")
        router.emit("run.end")
        assert stored(handler) == [("run.start", None)]

    def test_it_can_be_unsubscribed(self, handler: PersistenceHandler) -> None:
        router = TelemetryRouter()
        router.subscribe_all(handler)
        router.emit("run.start")
        assert router.unsubscribe("*", handler) == 1
        router.emit("run.end")
        assert stored(handler) == [("run.start", None)]

    async def test_emit_async_is_recorded_too(self, handler: PersistenceHandler) -> None:
        router = TelemetryRouter()
        router.subscribe_all(handler)
        router.subscribe("e", anote([], "async"))
        await router.emit_async("e", 1)
        assert stored(handler) == [("e", 1)]

    def test_the_run_is_that_of_the_payload(self, handler: PersistenceHandler) -> None:
        router = TelemetryRouter()
        router.subscribe_all(handler)
        for payload in ({"run_id": "r1", "n": 1}, {"run_id": "r2"}, {"n": 2}, "r1", None):
            router.emit("e", payload)
        assert handler.flush(DEADLINE)
        runs = [event.run_id for event in handler.store.read()]
        assert runs == ["r1", "r2", None, None, None]
        assert [event.payload for event in handler.store.read(run_id="r1")] == [
            {"run_id": "r1", "n": 1}
        ]

    def test_threads_may_emit(self, handler: PersistenceHandler) -> None:
        router = TelemetryRouter()
        router.subscribe_all(handler)

        def work(thread: int) -> None:
            for number in range(200):
                router.emit("e", [thread, number])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        recorded = [payload for _, payload in stored(handler)]
        assert sorted(recorded) == [
            [thread, number] for thread in range(4) for number in range(200)
        ]
        for thread_number in range(4):  # each thread's own order is kept
            own = [number for thread, number in recorded if thread == thread_number]
            assert own == [*range(200)]

    def test_it_appends_to_what_is_there(self, path: Path) -> None:
        for number in range(3):
            with PersistenceHandler(path) as handler:
                on_a_router(handler)("e", number)
        with PersistenceHandler(path) as handler:
            events = list(handler.store.read())
        assert [(event.seq, event.payload) for event in events] == [(1, 0), (2, 1), (3, 2)]

    def test_it_has_no_method_that_changes_or_removes_an_event(
        self, handler: PersistenceHandler
    ) -> None:
        public = {name for name in dir(handler) if not name.startswith("_")}
        assert public == {"FIRST", "close", "flush", "replay", "store"}


class TestCapture:
    """The payload is what it was when it was emitted."""

    @pytest.mark.parametrize("kind", [TelemetryRouter, ProductionTelemetryRouter])
    def test_on_a_router_it_runs_before_all_others(
        self, handler: PersistenceHandler, kind: type[TelemetryRouter]
    ) -> None:
        def change(*arguments: Any) -> None:
            arguments[-1]["changed"] = True

        router = kind()
        router.subscribe("e", change, priority=-(2**60))
        router.subscribe_all(change, priority=-(2**60))
        router.subscribe_once("e", change, priority=-(2**60))
        router.bus.on("*", change, priority=-(2**62))
        router.subscribe_all(handler, priority=5)
        payload = {"n": 1}
        router.emit("e", payload)
        assert payload == {"n": 1, "changed": True}
        assert stored(handler) == [("e", {"n": 1})]

    def test_on_a_bus_it_runs_first_at_the_lowest_priority(
        self, handler: PersistenceHandler
    ) -> None:
        bus = EventBus()
        bus.on("e", lambda payload: payload.clear(), priority=-(2**62))
        bus.on("*", handler, priority=handler.FIRST)
        bus.emit("e", {"n": 1})
        assert stored(handler) == [("e", {"n": 1})]

    def test_at_another_priority_on_a_bus_it_records_what_is_left(
        self, handler: PersistenceHandler
    ) -> None:
        bus = EventBus()
        bus.on("e", lambda payload: payload.clear())
        bus.on("*", handler)
        bus.emit("e", {"n": 1})
        assert stored(handler) == [("e", {})]

    def test_later_changes_are_not_recorded(self, handler: PersistenceHandler) -> None:
        emit = on_a_router(handler)
        payload = {"n": 1}
        emit("e", payload)
        payload["n"] = 2
        assert stored(handler) == [("e", {"n": 1})]

    def test_it_is_recorded_although_another_handler_fails(
        self, handler: PersistenceHandler
    ) -> None:
        router = TelemetryRouter()

        @router.subscribe("e")
        def broken(payload: object) -> None:
            raise ValueError("broken")

        @router.subscribe("e")
        def interrupts(payload: object) -> None:
            raise KeyboardInterrupt

        router.subscribe_all(handler)
        with pytest.raises(KeyboardInterrupt):
            router.emit("e", 1)
        assert stored(handler) == [("e", 1)]

    def test_the_rest_of_the_order_is_what_it_was(self, handler: PersistenceHandler) -> None:
        log: list[str] = []
        router = TelemetryRouter()
        router.subscribe_all(handler)
        router.subscribe_once("e", note(log, "once"))
        router.subscribe_all(note(log, "wildcard"))
        router.subscribe("e", note(log, "exact"))
        assert router.emit("e") == 4
        assert log == ["exact", "wildcard", "once"]


class TestTheStore:
    def test_one_that_is_given_belongs_to_its_owner(self, path: Path) -> None:
        with EventStore(path) as store:
            with PersistenceHandler(store) as handler:
                assert handler.store is store
                on_a_router(handler)("e", 1)
            handler.close()
            store.append("f", 2)
            assert store.flush(DEADLINE)
            assert [event.name for event in store.read()] == ["e", "f"]

    def test_one_that_it_has_opened_is_closed_with_it(self, path: Path) -> None:
        for given in (path, str(path)):
            handler = PersistenceHandler(given)
            handler.close()
            handler.close()
            with pytest.raises(StoreClosedError):
                list(handler.store.read())

    def test_its_end_loses_nothing(self, path: Path) -> None:
        with PersistenceHandler(path) as handler:
            emit = on_a_router(handler)
            for number in range(500):
                emit("e", number)
        with EventStore(path) as store:
            assert [event.payload for event in store.read()] == [*range(500)]

    def test_the_end_of_a_program_that_closes_nothing_loses_nothing(self, path: Path) -> None:
        code = (
            "import sys\n"
            "from agent_event_bus.telemetry import PersistenceHandler, TelemetryRouter\n"
            "router = TelemetryRouter()\n"
            "router.subscribe_all(PersistenceHandler(sys.argv[1]))\n"
            "for number in range(500):\n"
            "    router.emit('e', number)\n"
        )
        assert run_python("-c", code, str(path)) == ""
        with EventStore(path) as store:
            assert [event.payload for event in store.read()] == [*range(500)]

    def test_flush_gives_up_after_its_timeout_and_loses_nothing(
        self, handler: PersistenceHandler, path: Path
    ) -> None:
        with writing_elsewhere(path):
            on_a_router(handler)("e", 1)
            assert handler.flush(0.01) is False
        assert stored(handler) == [("e", 1)]

    def test_options_are_those_of_the_store(self, path: Path) -> None:
        def redact(name: str, payload: Any) -> Any:
            return {**payload, "key": "..."}

        with PersistenceHandler(path, sync="each", redact=redact) as handler:
            on_a_router(handler)("e", {"key": "secret", "n": 1})
            # No flush: it is durable when the emission returns.
            assert [event.payload for event in handler.store.read()] == [{"key": "...", "n": 1}]

    def test_options_and_a_store_do_not_go_together(self, path: Path) -> None:
        making: Any = PersistenceHandler
        with EventStore(path) as store, pytest.raises(TypeError, match="sync"):
            making(store, sync="each")
        with pytest.raises(TypeError, match="bogus"):
            making(path, bogus=1)

    @pytest.mark.parametrize("given", [None, 3, EventBus()])
    def test_what_is_neither_path_nor_store_is_refused(self, given: Any) -> None:
        with pytest.raises(TypeError, match="path or an EventStore"):
            PersistenceHandler(given)

    def test_two_handlers_may_share_a_store(self, path: Path) -> None:
        with EventStore(path) as store:
            on_a_router(PersistenceHandler(store))("e", 1)
            on_a_production_router(PersistenceHandler(store))("e", 2)
            assert store.flush(DEADLINE)
            assert [event.payload for event in store.read()] == [1, 2]

    def test_its_repr_names_the_file(self, handler: PersistenceHandler) -> None:
        assert repr(handler) == f"PersistenceHandler({handler.store.path!r})"

    def test_a_router_lets_go_of_it(self, path: Path) -> None:
        handler = PersistenceHandler(path)
        router = TelemetryRouter()
        router.subscribe_all(handler)
        router.emit("e")
        handler.close()
        references: list[weakref.ref[Any]] = [weakref.ref(handler), weakref.ref(router)]
        del handler, router
        assert all(is_gone(reference) for reference in references)


class TestWhereItIsRefused:
    def test_by_an_async_only_router_whose_bus_the_store_can_be_attached_to(
        self, handler: PersistenceHandler
    ) -> None:
        router = TelemetryRouter(async_only=True)
        with pytest.raises(TypeError, match="async_only"):
            router.subscribe_all(handler)
        handler.store.attach(router.bus)
        assert asyncio.run(router.emit_async("e", 1)) == 1
        assert stored(handler) == [("e", 1)]

    def test_for_a_name_by_a_router_at_the_call(self, handler: PersistenceHandler) -> None:
        router = ProductionTelemetryRouter()
        subscribe: Any
        for subscribe in (router.subscribe, router.subscribe_once, router.register):
            with pytest.raises(TypeError, match=r"patterns, such as '\*', not a name"):
                subscribe("e", handler)
            with pytest.raises(TypeError, match=r"patterns, such as '\*', not a name"):
                subscribe("e")(handler)
        assert len(router.bus) == 0


class TestFailures:
    """The disk, the payload, the end of the store: none of it reaches the agent."""

    @attached
    @pytest.mark.parametrize("sync", ["each", "batch"])
    def test_an_event_after_the_end_of_the_store_is_logged_and_raises_nothing(
        self, path: Path, attach: Attach, sync: Any, logged: list[logging.LogRecord]
    ) -> None:
        handler = PersistenceHandler(path, sync=sync)
        emit = attach(handler)
        assert emit("e", {"n": 1}) == 1
        handler.close()
        assert emit("e", {"n": "secret"}) == 1
        assert logged
        assert all(record.levelno >= logging.WARNING for record in logged)
        assert not any("secret" in logging.Formatter().format(record) for record in logged)
        with EventStore(path) as store:
            assert [event.payload for event in store.read()] == [{"n": 1}]

    def test_a_payload_that_cannot_be_encoded_is_no_error(
        self, handler: PersistenceHandler, logged: list[logging.LogRecord]
    ) -> None:
        class Odd:
            def __repr__(self) -> str:
                return "an odd one"

        log: list[str] = []
        router = TelemetryRouter()
        router.subscribe_all(handler)
        router.subscribe("e", note(log, "next"))
        assert router.emit("e", Odd()) == 2
        assert log == ["next"]
        assert handler.flush(DEADLINE)
        [event] = handler.store.read()
        assert event.form == "repr"
        assert "an odd one" in event.payload

    def test_a_redaction_that_fails_keeps_the_payload_out(
        self, path: Path, logged: list[logging.LogRecord]
    ) -> None:
        def redact(name: str, payload: Any) -> Any:
            raise LookupError(f"no rule for {payload}")

        with PersistenceHandler(path, redact=redact) as handler:
            assert on_a_router(handler)("e", "secret") == 1
            assert handler.flush(DEADLINE)
            [event] = handler.store.read()
            assert (event.form, event.payload) == ("withheld", None)
        assert not any("secret" in logging.Formatter().format(record) for record in logged)

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of file sizes")
    @pytest.mark.parametrize("sync", ["each", "batch"])
    def test_a_disk_that_refuses_raises_nothing_in_the_agent(
        self, tmp_path: Path, sync: Any, logged: list[logging.LogRecord]
    ) -> None:
        import resource

        handler = PersistenceHandler(tmp_path / "events.db", sync=sync)
        emit = on_a_router(handler)
        emit("e", "before")
        assert handler.flush(DEADLINE)
        size = (tmp_path / "events.db-wal").stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            assert emit("e", "x" * 200_000) == 1
            wait = threading.Event()
            for _ in range(2000):
                if logged:
                    break
                wait.wait(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert any(record.levelno == logging.ERROR for record in logged)
        emit("e", "after")
        handler.close()
        with EventStore(tmp_path / "events.db") as store:
            payloads = [event.payload for event in store.read()]
        assert payloads[0] == "before"
        assert payloads[-1] == "after"


class TestReplay:
    async def test_it_delivers_in_order_to_another_router(
        self, handler: PersistenceHandler
    ) -> None:
        emit = on_a_router(handler)
        given = [("a", 1), ("b.c", {"n": 2}), ("a", None)]
        for name, payload in given:
            emit(name, payload)
        handler.flush(DEADLINE)
        log: list[tuple[str, Any]] = []
        other = ProductionTelemetryRouter()
        other.register_wildcard(lambda event_name, payload: log.append((event_name, payload)))
        assert await soon(handler.replay(other)) == 3
        assert log == given

    async def test_it_takes_the_options_of_the_store(self, handler: PersistenceHandler) -> None:
        emit = on_a_router(handler)
        for number in range(4):
            emit("tool.end", {"run_id": f"r{number % 2}", "n": number})
        emit("run.end", {"run_id": "r1"})
        handler.flush(DEADLINE)
        log: list[Any] = []
        other = TelemetryRouter()
        other.subscribe_all(lambda event_name, payload: log.append(payload.get("n")))
        assert await soon(handler.replay(other, run_id="r1", key="tool.*", after=2)) == 1
        assert log == [3]

    @pytest.mark.parametrize("way", ["router", "production", "bus", "store.attach"])
    @pytest.mark.parametrize("from_store", [False, True])
    async def test_a_router_that_it_records_does_not_record_the_replay(
        self, handler: PersistenceHandler, way: str, from_store: bool
    ) -> None:
        log: list[tuple[str, Any]] = []

        def follow(event_name: str, payload: Any) -> None:
            log.append((event_name, payload))
            if event_name == "ask":
                router.emit("answer", payload)

        router: Any
        if way == "router":
            router = TelemetryRouter()
            router.subscribe_all(handler)
            router.subscribe_all(follow)
        elif way == "production":
            router = ProductionTelemetryRouter()
            router.register_wildcard(handler)
            router.register_wildcard(follow)
        else:
            router = EventBus()
            if way == "bus":
                router.on("*", handler)
            else:
                handler.store.attach(router)
            router.on("*", follow)

        router.emit("ask", 1)
        assert stored(handler) == [("ask", 1), ("answer", 1)]
        log.clear()
        replay = handler.store.replay if from_store else handler.replay
        assert await soon(replay(router)) == 2
        # What a handler emits in turn is new; what was replayed is not.
        assert log == [("ask", 1), ("answer", 1), ("answer", 1)]
        assert stored(handler) == [("ask", 1), ("answer", 1), ("answer", 1)]

    async def test_a_router_that_another_store_records_records_the_replay(
        self, handler: PersistenceHandler, tmp_path: Path
    ) -> None:
        on_a_router(handler)("e", 1)
        handler.flush(DEADLINE)
        with PersistenceHandler(tmp_path / "copy.db") as copy:
            router = TelemetryRouter()
            router.subscribe_all(copy)
            assert await soon(handler.replay(router)) == 1
            assert stored(copy) == [("e", 1)]

    async def test_a_cancelled_replay_stops(self, handler: PersistenceHandler) -> None:
        emit = on_a_router(handler)
        emit("e", 1)
        emit("e", 2)
        handler.flush(DEADLINE)
        started = asyncio.Event()
        router = TelemetryRouter()

        @router.subscribe("e")
        async def hang(payload: object) -> None:
            started.set()
            await asyncio.Event().wait()

        replay = asyncio.ensure_future(handler.replay(router))
        await soon(started.wait())
        replay.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(replay)
        assert router.stats()["emitted"] == 1
