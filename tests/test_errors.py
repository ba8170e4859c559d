"""Errors of handlers: isolated, logged, handed to on_error; a broken reporter hurts nobody."""

from __future__ import annotations

import builtins
import functools
import logging
import sys
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from helpers import ListHandler, failing, note, recorder

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class HandlerError(Exception):
    """What handlers raise in these tests."""


class BadTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no str")

    __repr__ = __str__


class BadTextTypeError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class BadEqualityError(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class Interruption(BaseException):
    """Neither an Exception nor one of Python's own exits."""


async def run(bus: EventBus, way: str, name: str = "a", payload: object = None) -> int:
    """Emit by either way; both report in the same words."""
    return bus.emit(name, payload) if way == "emit" else await bus.emit_async(name, payload)


class TestTheRecord:
    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_it_has_the_documented_text_and_attributes(
        self, bus: EventBus, records: Records, way: str
    ) -> None:
        error = HandlerError("it broke")

        @bus.on("tool.start")
        def tracker(payload: object) -> None:
            raise error

        assert await run(bus, way, "tool.start") == 1
        (record,) = records
        assert record.getMessage() == (
            f"Handler '{tracker.__qualname__}' raised on event 'tool.start': it broke"
        )
        assert record.levelno == logging.ERROR
        assert record.name == "agent_event_bus"
        assert vars(record)["event_name"] == "tool.start"
        assert vars(record)["handler_name"] == tracker.__qualname__

    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_an_async_handler_is_reported_in_the_same_words(
        self, bus: EventBus, records: Records, way: str
    ) -> None:
        @bus.on("a")
        async def tracker(payload: object) -> None:
            raise HandlerError("it broke")

        assert await run(bus, way) == 1
        await bus.drain()
        (record,) = records
        assert record.getMessage() == (
            f"Handler '{tracker.__qualname__}' raised on event 'a': it broke"
        )
        assert record.levelno == logging.ERROR
        assert vars(record)["handler_name"] == tracker.__qualname__
        assert record.exc_info is not None

    def test_it_carries_the_exception_and_its_traceback(
        self, bus: EventBus, records: Records
    ) -> None:
        error = HandlerError("it broke")
        bus.on("a", failing(error))
        bus.emit("a")
        exc_info = records[0].exc_info
        assert exc_info is not None
        kind, value, traceback = exc_info
        assert kind is HandlerError
        assert value is error
        assert traceback is not None
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        assert traceback.tb_frame.f_code.co_name == "boom"

    def test_there_is_one_for_every_failure(self, bus: EventBus, records: Records) -> None:
        for number in range(3):
            bus.on("a", failing(HandlerError(number)))
        bus.emit("a")
        bus.emit("a")
        texts = [record.getMessage().rsplit(": ", 1)[1] for record in records]
        assert texts == ["0", "1", "2", "0", "1", "2"]

    def test_success_is_not_logged(self, bus: EventBus, records: Records) -> None:
        bus.on("a", print)
        bus.emit("a")
        assert records == []

    def test_the_payload_is_never_logged(
        self, bus: EventBus, records: Records, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Secret:
            def __repr__(self) -> str:
                raise AssertionError("the payload must not be shown")

            __str__ = __repr__

        bus.on("a", failing(HandlerError("it broke")))
        bus.emit("a", Secret())
        assert len(records) == 1
        assert "Secret" not in caplog.text

    def test_percent_signs_in_names_and_errors_do_no_harm(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("100%s", failing(HandlerError("50%d %(x)s {}")))
        bus.emit("100%s")
        assert records[0].getMessage().endswith("raised on event '100%s': 50%d %(x)s {}")

    def test_nobody_listening_to_the_log_changes_nothing(
        self, bus: EventBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        log: list[Any] = []
        caplog.set_level(logging.CRITICAL + 1, logger="agent_event_bus")
        bus.on("a", failing(HandlerError()))
        bus.on("a", recorder(log, "after"))
        assert bus.emit("a") == 2
        assert log == [("after", None)]

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (HandlerError(), ""),
            (HandlerError("x", 1), "('x', 1)"),
            (KeyError("key"), "'key'"),
            (BadTextError(), "BadTextError"),
            (BadTextTypeError(), "BadTextTypeError"),
            (BadEqualityError("odd"), "odd"),
            (RecursionError("own fault"), "own fault"),
            (StopIteration(1), "1"),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_the_error_is_shown_by_its_text_or_by_its_type(
        self,
        bus: EventBus,
        records: Records,
        monkeypatch: pytest.MonkeyPatch,
        way: str,
        error: Exception,
        text: str,
    ) -> None:
        # pytest's own handler formats the traceback, which asks the error for its truth.
        monkeypatch.setattr(logging.getLogger("agent_event_bus"), "propagate", False)
        log: list[Any] = []
        handler = failing(error)
        bus.on("a", handler)
        bus.on("a", recorder(log, "after"))
        assert await run(bus, way) == 2
        assert log == [("after", None)]
        assert [record.getMessage() for record in records] == [
            f"Handler '{handler.__qualname__}' raised on event 'a': {text}"
        ]


class NoName:
    """A handler with a name that cannot be read, in several ways."""

    def __call__(self, payload: object) -> None:
        raise HandlerError("bad")


class NameRaises(NoName):
    def __getattribute__(self, name: str) -> Any:
        if name in ("__qualname__", "__name__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class NameIsNotText(NoName):
    def __init__(self) -> None:
        self.__dict__["__qualname__"] = self.__dict__["__name__"] = 5


class EverythingRaises(NoName):
    def _refuse(self, *args: object) -> Any:
        raise RuntimeError("refused")

    __repr__ = __str__ = __eq__ = __ne__ = __hash__ = __bool__ = _refuse
    __len__ = __iter__ = __getattr__ = __format__ = __dir__ = _refuse


class TestBrokenHandlers:
    @pytest.mark.parametrize("kind", [NoName, NameRaises, NameIsNotText, EverythingRaises])
    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_without_a_usable_name_the_type_is_named(
        self, bus: EventBus, records: Records, way: str, kind: type[NoName]
    ) -> None:
        log: list[Any] = []
        handler: Any = kind()
        subscription = bus.subscribe("a", handler)
        bus.on("a", recorder(log, "after"))
        assert await run(bus, way) == 2
        assert log == [("after", None)]
        assert records[0].getMessage() == (f"Handler '{kind.__name__}' raised on event 'a': bad")
        assert vars(records[0])["handler_name"] == kind.__name__
        assert kind.__name__ in repr(subscription)
        assert subscription.failures == 1
        assert bus.off("a", handler) == 1

    def test_a_partial_is_named_by_the_function_it_wraps(
        self, bus: EventBus, records: Records
    ) -> None:
        handler = failing(HandlerError("bad"))
        bus.on("a", functools.partial(handler))
        bus.emit("a")
        assert records[0].getMessage() == (
            f"Handler '{handler.__qualname__}' raised on event 'a': bad"
        )

    def test_a_bound_method_is_named_by_class_and_method(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("a", NoName().__call__)
        bus.emit("a")
        assert records[0].getMessage() == "Handler 'NoName.__call__' raised on event 'a': bad"

    def test_a_builtin_is_named_too(self, bus: EventBus, records: Records) -> None:
        bus.on("a", len)
        bus.emit("a", 5)
        assert records[0].getMessage().startswith("Handler 'len' raised on event 'a': ")


class TestLoggerOption:
    def test_a_logger_of_the_user_gets_the_record(self, records: Records) -> None:
        own = logging.getLogger("agent_event_bus_tests.own")
        own.propagate = False
        handler = ListHandler()
        own.addHandler(handler)
        bus = EventBus(logger=own)
        bus.on("a", failing(HandlerError("bad")))
        bus.emit("a")
        assert records == []
        assert [record.getMessage().rsplit(": ", 1)[1] for record in handler.records] == ["bad"]
        assert handler.records[0].name == "agent_event_bus_tests.own"
        assert vars(handler.records[0])["event_name"] == "a"

    def test_anything_with_error_and_warning_will_do(self) -> None:
        got: list[str] = []

        class Duck:
            def error(self, message: str, *args: object, **options: Any) -> None:
                got.append(message % args if args else message)
                assert isinstance(options["exc_info"], (tuple, HandlerError))
                assert options["extra"]["event_name"] == "a"
                assert options["extra"]["handler_name"].endswith("boom")

            def warning(self, message: str, *args: object, **options: Any) -> None:
                raise AssertionError("this is no warning")

        bus_type: Any = EventBus
        bus = bus_type(logger=Duck())
        bus.on("a", failing(HandlerError("bad")))
        bus.emit("a")
        assert len(got) == 1
        assert got[0].endswith("raised on event 'a': bad")

    def test_a_logger_adapter_will_do(self, records: Records) -> None:
        adapter = logging.LoggerAdapter(logging.getLogger("agent_event_bus"), {"agent": "x"})
        bus_type: Any = EventBus
        bus = bus_type(logger=adapter)
        bus.on("a", failing(HandlerError("bad")))
        bus.emit("a")
        assert records[0].getMessage().endswith("raised on event 'a': bad")


class TestOnError:
    @pytest.mark.parametrize("is_async", [False, True])
    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_it_gets_name_handler_and_error_after_the_record(
        self, records: Records, way: str, is_async: bool
    ) -> None:
        got: list[tuple[object, object, object, int]] = []

        def on_error(name: str, handler: object, error: BaseException) -> None:
            got.append((name, handler, error, len(records)))

        error = HandlerError("bad")

        async def async_boom(payload: object) -> None:
            raise error

        handler: Any = async_boom if is_async else failing(error)
        bus = EventBus(on_error=on_error)
        bus.on("a", handler)
        await run(bus, way)
        await bus.drain()
        ((name, seen_handler, seen_error, logged),) = got
        assert name == "a"
        assert seen_handler is handler
        assert seen_error is error
        assert logged == 1

    def test_it_is_not_called_for_success(self) -> None:
        bus = EventBus(on_error=lambda *args: pytest.fail("nothing failed"))
        bus.on("a", print)
        assert bus.emit("a") == 1

    def test_its_own_failure_is_unraisable_and_goes_nowhere_else(
        self, records: Records, unraisable: list[Any]
    ) -> None:
        calls: list[object] = []
        log: list[str] = []
        broken = HandlerError("on_error broke")

        def on_error(name: str, handler: object, error: BaseException) -> None:
            calls.append(error)
            raise broken

        bus = EventBus(on_error=on_error)
        bus.on("a", failing(HandlerError("bad")))
        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 2
        assert unraisable == [broken]
        assert (len(calls), len(records)) == (1, 1)
        assert log == ["after"]

    def test_it_may_emit_on_the_same_bus(self) -> None:
        log: list[Any] = []
        bus = EventBus(on_error=lambda name, handler, error: bus.emit("error", name))
        bus.on("error", recorder(log, "error"))
        bus.on("a", failing(HandlerError("bad")))
        bus.emit("a")
        assert log == [("error", "a")]


class TestBrokenLogging:
    @pytest.fixture
    def broken(self) -> Iterator[logging.Logger]:
        """A logger whose only handler raises."""

        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise OSError("disk full")

        logger = logging.getLogger("agent_event_bus_tests.broken")
        logger.propagate = False
        handler = Broken()
        logger.addHandler(handler)
        yield logger
        logger.removeHandler(handler)

    async def test_it_never_reaches_the_caller(
        self, broken: logging.Logger, unraisable: list[Any]
    ) -> None:
        log: list[str] = []
        told: list[object] = []
        bus = EventBus(logger=broken, on_error=lambda *args: told.append(args))
        bus.on("a", failing(HandlerError("bad")))
        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 2
        assert await bus.emit_async("a") == 2
        assert log == ["after", "after"]
        assert len(told) == 2

    def test_a_logger_that_raises_is_survived(self, unraisable: list[Any]) -> None:
        class Broken:
            def error(self, *args: object, **options: object) -> None:
                raise RuntimeError("no logging today")

            warning = error

        bus_type: Any = EventBus
        bus = bus_type(logger=Broken())
        log: list[str] = []
        bus.on("a", failing(HandlerError("bad")))
        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 2
        assert log == ["after"]

    def test_a_filter_that_raises_is_survived(self, unraisable: list[Any]) -> None:
        logger = logging.getLogger("agent_event_bus_tests.filtered")

        def broken_filter(record: logging.LogRecord) -> bool:
            raise RuntimeError("no filtering today")

        logger.addFilter(broken_filter)
        bus = EventBus(logger=logger)
        bus.on("a", failing(HandlerError("bad")))
        assert bus.emit("a") == 1


INTERRUPTIONS: list[Callable[[], BaseException]] = [
    KeyboardInterrupt,
    lambda: SystemExit(3),
    GeneratorExit,
    Interruption,
]


class TestWhatIsNotAnException:
    @pytest.mark.parametrize("make", INTERRUPTIONS, ids=lambda make: type(make()).__name__)
    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_it_propagates_and_stops_the_emission(
        self, records: Records, way: str, make: Callable[[], BaseException]
    ) -> None:
        error = make()
        log: list[str] = []
        bus = EventBus(on_error=lambda *args: log.append("on_error"))
        subscription = bus.subscribe("a", failing(error))
        bus.on("a", note(log, "after"))
        with pytest.raises(type(error)) as caught:
            await run(bus, way)
        assert caught.value is error
        assert log == []
        assert records == []
        assert (subscription.calls, subscription.failures) == (1, 0)

    def test_the_bus_works_on_afterwards(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.once("a", failing(KeyboardInterrupt()))
        bus.on("a", note(log, "after"))
        with pytest.raises(KeyboardInterrupt):
            bus.emit("a")
        assert bus.emit("a") == 1
        assert log == ["after"]

    def test_it_passes_through_nested_emissions(self, bus: EventBus, records: Records) -> None:
        bus.on("outer", lambda payload: bus.emit("inner"))
        bus.on("inner", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            bus.emit("outer")
        assert records == []


def test_a_chained_error_keeps_its_cause(bus: EventBus, records: Records) -> None:
    def handler(payload: object) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise HandlerError("second") from error

    bus.on("a", handler)
    bus.emit("a")
    exc_info = records[0].exc_info
    assert exc_info is not None
    assert exc_info[1] is not None
    assert isinstance(exc_info[1].__cause__, KeyError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in 3.11")
def test_an_exception_group_is_one_failure(bus: EventBus, records: Records) -> None:
    if sys.version_info >= (3, 11):
        group = vars(builtins)["ExceptionGroup"]
        bus.on("a", failing(group("several", [HandlerError("x"), HandlerError("y")])))
        assert bus.emit("a") == 1
        assert len(records) == 1
