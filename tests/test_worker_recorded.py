"""The recorded runs over the worker bus: stored, delivered again by another bus, compared equal."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers import soon
from recorded import recorded_events
from working import delivered

from agent_event_bus.worker import AgentWorker, Event, EventBus, InboundEvent, OutboundEvent


def sessions() -> dict[str, list[Event]]:
    """Return what came in and what went out in each run, in order."""
    found: dict[str, list[Event]] = defaultdict(list)
    classes = {"user.message": InboundEvent, "llm.response": OutboundEvent}
    for number, (name, payload) in enumerate(recorded_events()):
        if name in classes:
            found[payload["run_id"]].append(
                classes[name](payload["run_id"], payload, float(number))
            )
    return found


def context(folder: Path) -> Any:
    return SimpleNamespace(config=SimpleNamespace(event_path=folder))


def of(run: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in run if isinstance(event, kind)]


async def test_every_answer_is_delivered_again_as_it_was_until_it_is_acknowledged(
    tmp_path: Path,
) -> None:
    runs = sessions()
    assert len(runs) == 150
    answers = [event for run in runs.values() for event in of(run, OutboundEvent)]
    assert len(answers) > 1000

    async def publish(bus: EventBus, run: list[Event]) -> None:
        for event in run:
            await bus.publish(event)

    first = EventBus(context(tmp_path))
    await soon(asyncio.gather(*(publish(first, run) for run in runs.values())))
    got = await delivered(first)
    for session, run in runs.items():
        assert [event for event in got if event.session_id == session] == run

    # The first bus acknowledges nothing, and stands for a process that was killed.
    second = EventBus(context(tmp_path))
    again = [event for event in await delivered(second) if isinstance(event, OutboundEvent)]
    assert again == [event for event in got if isinstance(event, OutboundEvent)]
    assert len(again) == len(answers)
    assert {type(event) for event in again} == {OutboundEvent}

    assert all(await soon(asyncio.gather(*map(second.ack_async, again[::2]))))
    third = EventBus(context(tmp_path))
    left = [event for event in await delivered(third) if isinstance(event, OutboundEvent)]
    assert left == again[1::2]
    await second.stop()


async def test_an_agent_that_answers_as_recorded_is_replayed_as_it_was(tmp_path: Path) -> None:
    runs = dict(list(sessions().items())[:3])
    bus = EventBus(context(tmp_path))

    async def respond(event: InboundEvent) -> Any:
        run = runs[event.session_id]
        answers = []
        for following in run[run.index(event) + 1 :]:
            if isinstance(following, InboundEvent):
                break
            answers.append(following.content)
        for content in answers[:-1]:
            await bus.publish(OutboundEvent(event.session_id, content))
        return answers[-1]

    agent = AgentWorker(SimpleNamespace(eventbus=bus), respond)
    agent.start()
    bus.start()
    for run in runs.values():
        answered = [
            event
            for event, following in zip(run, run[1:])
            if isinstance(event, InboundEvent) and isinstance(following, OutboundEvent)
        ]
        assert answered
        for event in answered:
            await bus.publish(event)
    await soon(bus.join())
    await agent.stop()
    await bus.stop()

    again = await delivered(EventBus(context(tmp_path)))
    for session, run in runs.items():
        replayed = [event.content for event in again if event.session_id == session]
        assert replayed == [event.content for event in of(run, OutboundEvent)]
