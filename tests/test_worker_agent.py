"""The agent worker: answers, retries, and what is left when all of them fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from helpers import soon, turns

from agent_event_bus.worker import AgentWorker, Event, EventBus, InboundEvent, OutboundEvent


@dataclass
class Voice(InboundEvent):
    """An own class, with a field that a retry must keep."""

    seconds: float = 0.0


class Desk:
    """A bus with an agent, and what goes over it."""

    def __init__(self, respond: Callable[..., Any], **options: Any) -> None:
        self.bus = EventBus()
        self.seen: list[InboundEvent] = []
        self.sent: list[OutboundEvent] = []
        self.bus.subscribe(InboundEvent, self.seen.append)
        self.bus.subscribe(OutboundEvent, self.sent.append)
        self.agent = AgentWorker(SimpleNamespace(eventbus=self.bus), respond, **options)

    async def handle(self, *events: Event) -> None:
        """Publish events and wait until nothing is left to do."""
        self.bus.start()
        for event in events:
            await self.bus.publish(event)
        await soon(self.bus.join())
        await self.bus.stop()


def failing(times: int, log: list[int]) -> Callable[[InboundEvent], Any]:
    """Make a `respond` that fails at first, and notes the retry counts that it gets."""

    async def respond(event: InboundEvent) -> str:
        log.append(event.retry_count)
        if len(log) <= times:
            raise ValueError(f"failure {len(log)}")
        return "at last"

    return respond


async def echo(event: InboundEvent) -> str:
    await asyncio.sleep(0)
    return f"you said {event.content}"


class TestAnswers:
    async def test_an_inbound_event_becomes_an_outbound_event_of_its_session(self) -> None:
        desk = Desk(echo)
        await desk.handle(InboundEvent("s1", "a"), InboundEvent("s2", "b"))
        assert [(e.session_id, e.content, e.error) for e in desk.sent] == [
            ("s1", "you said a", None),
            ("s2", "you said b", None),
        ]
        assert [type(e) for e in desk.sent] == [OutboundEvent, OutboundEvent]

    async def test_own_subclasses_of_inbound_events_are_answered_and_others_are_not(self) -> None:
        desk = Desk(echo)
        await desk.handle(Voice("s", "v", seconds=2.0), OutboundEvent("s", "o"), Event("s", "e"))
        assert [e.content for e in desk.sent] == ["o", "you said v"]

    async def test_respond_may_be_any_async_callable(self) -> None:
        class Agent:
            async def __call__(self, event: InboundEvent) -> str:
                return "called"

        desk = Desk(Agent())
        await desk.handle(InboundEvent("s", 1))
        assert [e.content for e in desk.sent] == ["called"]

    async def test_respond_may_publish_itself(self) -> None:
        async def respond(event: InboundEvent) -> str:
            await desk.bus.publish(OutboundEvent(event.session_id, "one moment"))
            return "done"

        desk = Desk(respond)
        await desk.handle(InboundEvent("s", 1))
        assert [e.content for e in desk.sent] == ["one moment", "done"]

    async def test_an_event_is_answered_before_the_next_one_is_begun(self) -> None:
        inside = 0

        async def respond(event: InboundEvent) -> str:
            nonlocal inside
            inside += 1
            assert inside == 1
            await turns()
            inside -= 1
            return "ok"

        desk = Desk(respond)
        await desk.handle(*(InboundEvent("s", n) for n in range(5)))
        assert [e.content for e in desk.sent] == ["ok"] * 5


class TestRetries:
    async def test_the_same_event_is_published_with_one_more_retry(self) -> None:
        log: list[int] = []
        desk = Desk(failing(2, log))
        event = Voice("s", "v", 5.0, seconds=2.0)
        await desk.handle(event)
        assert log == [0, 1, 2]
        assert desk.seen == [
            Voice("s", "v", 5.0, 0, 2.0),
            Voice("s", "v", 5.0, 1, 2.0),
            Voice("s", "v", 5.0, 2, 2.0),
        ]
        assert event.retry_count == 0  # a copy: others hold the event itself
        assert [(e.content, e.error) for e in desk.sent] == [("at last", None)]

    async def test_after_max_retries_an_error_goes_out(self) -> None:
        log: list[int] = []
        desk = Desk(failing(99, log))
        await desk.handle(InboundEvent("s1", "a"))
        assert log == [0, 1, 2, 3]
        assert [(e.session_id, e.content, e.error) for e in desk.sent] == [("s1", "", "failure 4")]

    @pytest.mark.parametrize("max_retries", [0, 1, 5])
    async def test_max_retries_says_how_often(self, max_retries: int) -> None:
        log: list[int] = []
        desk = Desk(failing(99, log), max_retries=max_retries)
        await desk.handle(InboundEvent("s", "a"))
        assert log == list(range(max_retries + 1))
        assert [e.error for e in desk.sent] == [f"failure {max_retries + 1}"]

    async def test_what_was_queued_meanwhile_goes_first(self) -> None:
        log: list[int] = []
        desk = Desk(failing(1, log))
        await desk.handle(InboundEvent("s", "a"), InboundEvent("s", "b"))
        assert [(e.content, e.retry_count) for e in desk.seen] == [("a", 0), ("b", 0), ("a", 1)]

    async def test_an_error_without_a_text_is_named_by_its_class(self) -> None:
        async def respond(event: InboundEvent) -> str:
            raise KeyError

        desk = Desk(respond, max_retries=0)
        await desk.handle(InboundEvent("s", "a"))
        assert [e.error for e in desk.sent] == ["KeyError"]

    async def test_so_is_one_that_does_not_tell_its_text(self) -> None:
        class Mute(Exception):  # noqa: N818
            def __str__(self) -> str:
                raise RuntimeError("no text")

        async def respond(event: InboundEvent) -> str:
            raise Mute

        desk = Desk(respond, max_retries=0)
        await desk.handle(InboundEvent("s", "a"))
        assert [e.error for e in desk.sent] == ["Mute"]

    async def test_failures_are_logged_without_the_content(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk = Desk(failing(99, []), max_retries=1)
        await desk.handle(InboundEvent("s", "a secret"))
        assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
            (
                "agent_event_bus.worker.AgentWorker",
                "WARNING",
                "respond failed with ValueError, retry 1 of 1",
            ),
            ("agent_event_bus.worker.AgentWorker", "ERROR", "respond failed after 1 retries"),
        ]
        assert "secret" not in caplog.text

    async def test_a_sync_respond_that_is_none_fails_as_others_do(self) -> None:
        desk = Desk(lambda event: "not awaitable", max_retries=1)
        await desk.handle(InboundEvent("s", "a"))
        assert [e.retry_count for e in desk.seen] == [0, 1]
        assert "await" in str(desk.sent[0].error)


class TestCancellation:
    async def test_a_respond_that_cancels_itself_has_failed(self) -> None:
        async def respond(event: InboundEvent) -> str:
            raise asyncio.CancelledError

        desk = Desk(respond, max_retries=1)
        await desk.handle(InboundEvent("s", "a"))
        assert [e.retry_count for e in desk.seen] == [0, 1]
        assert [e.error for e in desk.sent] == ["respond was cancelled"]

    async def test_one_that_is_cancelled_by_the_end_of_the_bus_is_begun_again(self) -> None:
        ended: list[str] = []
        gate = asyncio.Event()

        async def respond(event: InboundEvent) -> str:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return "answered"

        desk = Desk(respond)
        desk.bus.start()
        await desk.bus.publish(InboundEvent("s", "a"))
        await turns()
        await soon(desk.bus.stop(timeout=0))
        assert ended == ["cancelled"]
        assert desk.sent == []
        gate.set()
        await desk.handle()
        assert [(e.retry_count, e.content) for e in desk.seen] == [(0, "a"), (0, "a")]
        assert [e.content for e in desk.sent] == ["answered"]

    async def test_one_that_fails_while_it_is_cancelled_is_begun_again_too(self) -> None:
        calls: list[int] = []

        async def respond(event: InboundEvent) -> str:
            calls.append(event.retry_count)
            if len(calls) == 1:
                try:
                    await asyncio.Event().wait()
                finally:
                    raise ValueError("in the cleanup")
            return "answered"

        desk = Desk(respond)
        desk.bus.start()
        await desk.bus.publish(InboundEvent("s", "a"))
        await turns()
        await soon(desk.bus.stop(timeout=0))
        await desk.handle()
        assert calls == [0, 0]
        assert [e.content for e in desk.sent] == ["answered"]


class TestItsLife:
    async def test_it_answers_from_when_it_is_made_until_it_is_stopped(self) -> None:
        desk = Desk(echo)
        await desk.handle(InboundEvent("s", 1))
        desk.agent.start()
        await desk.handle(InboundEvent("s", 2))
        await desk.agent.stop()
        await desk.handle(InboundEvent("s", 3))
        desk.agent.start()
        await turns()
        await desk.handle(InboundEvent("s", 4))
        await desk.agent.stop()
        assert [e.content for e in desk.sent] == [f"you said {n}" for n in (1, 2, 4)]

    async def test_stopped_while_it_answers_it_lets_the_answer_go_out(self) -> None:
        gate = asyncio.Event()

        async def respond(event: InboundEvent) -> str:
            await gate.wait()
            return "answered"

        desk = Desk(respond)
        desk.agent.start()
        desk.bus.start()
        await desk.bus.publish(InboundEvent("s", 1))
        await turns()
        await soon(desk.agent.stop())
        gate.set()
        await soon(desk.bus.join())
        assert [e.content for e in desk.sent] == ["answered"]
        await desk.bus.stop()


class TestArguments:
    def test_what_is_not_callable_is_refused(self) -> None:
        with pytest.raises(TypeError, match="respond must be callable, not str"):
            Desk("respond")  # type: ignore[arg-type]

    @pytest.mark.parametrize("count", ["3", 1.5, True, None])
    def test_a_count_that_is_no_int_is_refused(self, count: Any) -> None:
        with pytest.raises(TypeError, match="max_retries must be an int"):
            Desk(echo, max_retries=count)

    def test_a_negative_count_is_refused(self) -> None:
        with pytest.raises(ValueError, match="max_retries must be at least 0"):
            Desk(echo, max_retries=-1)
