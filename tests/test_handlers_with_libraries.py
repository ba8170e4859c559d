"""What handlers use: asyncio's own structures, anyio, async_timeout, aiohttp, httpx, greenlets."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Callable

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import async_timeout
import greenlet
import httpx
import pytest
from aiohttp import web
from helpers import DEADLINE, anote, moments, soon, turns
from loops import on_every_loop

from agent_event_bus import EventBus

Records = list[logging.LogRecord]
# Sends a text to an address and gives the answer.
Post = Callable[[str, str], Coroutine[Any, Any, Any]]

# Seconds until a timeout that is meant to strike.
SOON = 0.01


async def enter(suspends: bool) -> None:
    """Leave the first step of the handler, if asked to.

    Libraries note the current task when one of their blocks is entered: in that step, or later.
    """
    if suspends:
        await asyncio.sleep(0)


class TestAsyncio:
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
    @moments
    @on_every_loop
    async def test_timeout_strikes_in_its_own_handler_alone(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        if sys.version_info >= (3, 11):
            log: list[str] = []

            @bus.on("a")
            async def impatient(payload: object) -> None:
                await enter(suspends)
                task = asyncio.current_task()
                assert task is not None
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(SOON):
                        await asyncio.Event().wait()
                assert task.cancelling() == 0
                async with asyncio.timeout(DEADLINE):
                    await turns()
                log.append("impatient")

            bus.on("a", anote(log, "sibling"))
            assert await soon(bus.emit_async("a")) == 2
            assert log == ["sibling", "impatient"]
            assert records == []

    @moments
    @on_every_loop
    async def test_async_timeout_strikes_in_its_own_handler_alone(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def impatient(payload: object) -> None:
            await enter(suspends)
            with pytest.raises(asyncio.TimeoutError):
                async with async_timeout.timeout(SOON):
                    await asyncio.Event().wait()
            log.append("impatient")

        bus.on("a", anote(log, "sibling"))
        assert await soon(bus.emit_async("a")) == 2
        assert log == ["sibling", "impatient"]
        assert records == []

    @moments
    @on_every_loop
    async def test_wait_for_times_out_or_gives_the_result(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[object] = []

        async def answers() -> int:
            await turns()
            return 42

        @bus.on("a")
        async def handler(payload: object) -> None:
            await enter(suspends)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), SOON)
            log.append(await asyncio.wait_for(answers(), DEADLINE))

        assert await soon(bus.emit_async("a")) == 1
        assert log == [42]
        assert records == []

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup is new in 3.11")
    @moments
    @pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
    @on_every_loop
    async def test_a_task_group_awaits_its_children_and_passes_their_errors(
        self, bus: EventBus, suspends: bool, fails: bool, records: Records
    ) -> None:
        if sys.version_info >= (3, 11):
            log: list[object] = []
            group_error: Any = vars(builtins)["ExceptionGroup"]  # no such name before 3.11

            async def child(number: int) -> int:
                await turns(number)
                if fails and number == 1:
                    raise ValueError("a child")
                await turns()
                return number

            @bus.on("a")
            async def grouped(payload: object) -> None:
                await enter(suspends)
                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(child(number)) for number in range(3)]
                    log.append([task.result() for task in tasks])
                except group_error as caught:
                    log.append([str(error) for error in caught.exceptions])

            bus.on("a", anote(log, "sibling"))
            assert await soon(bus.emit_async("a")) == 2
            assert log == ["sibling", ["a child"] if fails else [0, 1, 2]]
            assert records == []

    @moments
    @on_every_loop
    async def test_shield_lets_its_work_finish_when_the_handler_is_cancelled(
        self, bus: EventBus, suspends: bool
    ) -> None:
        log: list[str] = []
        gate = asyncio.Event()
        inner: list[asyncio.Future[None]] = []

        async def work() -> None:
            await gate.wait()
            log.append("worked")

        @bus.on("a")
        async def handler(payload: object) -> None:
            await enter(suspends)
            inner.append(asyncio.ensure_future(work()))
            try:
                await asyncio.shield(inner[0])
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        emission = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        emission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(emission)
        gate.set()
        await soon(inner[0])
        assert log == ["cancelled", "worked"]

    @moments
    @on_every_loop
    async def test_locks_queues_and_semaphores_pass_between_handlers(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[object] = []
        lock, semaphore = asyncio.Lock(), asyncio.Semaphore(1)
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        @bus.on("a")
        async def produces(payload: object) -> None:
            await enter(suspends)
            async with lock, semaphore:
                for number in range(3):
                    await queue.put(number)

        @bus.on("a")
        async def consumes(payload: object) -> None:
            await enter(suspends)
            for _ in range(3):
                log.append(await queue.get())
            async with semaphore, lock:
                log.append("both")

        assert await soon(bus.emit_async("a")) == 2
        assert log == [0, 1, 2, "both"]
        assert records == []


class TestAnyio:
    @moments
    @on_every_loop
    async def test_move_on_after_ends_its_block_and_leaves_the_handler_running(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await enter(suspends)
            with anyio.move_on_after(SOON) as scope:
                await anyio.sleep_forever()
            log.append(scope.cancelled_caught)
            with pytest.raises(TimeoutError), anyio.fail_after(SOON):
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
            log.append("went on")

        bus.on("a", anote(log, "sibling"))
        assert await soon(bus.emit_async("a")) == 2
        assert log == ["sibling", True, "went on"]
        assert records == []

    @moments
    @on_every_loop
    async def test_a_task_group_runs_its_children_and_its_scope_cancels_them(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[str] = []

        async def child(label: str) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                log.append(label)
                raise

        @bus.on("a")
        async def handler(payload: object) -> None:
            await enter(suspends)
            async with anyio.create_task_group() as group:
                group.start_soon(child, "0")
                group.start_soon(child, "1")
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            log.append("left the group")

        bus.on("a", anote(log, "sibling"))
        assert await soon(bus.emit_async("a")) == 2
        assert sorted(log[:-1]) == ["0", "1", "sibling"]
        assert log[-1] == "left the group"
        assert records == []

    @moments
    @on_every_loop
    async def test_to_thread_runs_in_a_worker_with_the_context_of_the_handler(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")
        log: list[object] = []

        def blocking() -> tuple[object, bool]:
            return variable.get(), threading.current_thread() is threading.main_thread()

        async def handler(payload: object) -> None:
            await enter(suspends)
            variable.set(len(log))
            log.append(None)
            log.append(await anyio.to_thread.run_sync(blocking))

        for _ in range(2):
            bus.subscribe("a", handler)
        assert await soon(bus.emit_async("a")) == 2
        assert {entry for entry in log if entry is not None} == {(0, False), (1, False)}
        assert records == []

    @on_every_loop
    async def test_an_emission_in_a_cancelled_scope_ends_with_its_handlers(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                log.append("settled")

        with anyio.move_on_after(SOON) as scope:
            await bus.emit_async("a")
        assert scope.cancelled_caught
        assert log == ["settled"]


class Server:
    """A web server on a free local port, which answers at ``/`` and never does at ``/never``."""

    def __init__(self) -> None:
        self.url = ""
        self.leaving = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with what was sent."""
        await asyncio.sleep(0)
        return web.json_response({"got": await request.text()})

    async def never(self, request: web.Request) -> web.Response:
        """Answer when the server goes away."""
        await self.leaving.wait()
        return web.Response()

    async def __aenter__(self) -> Server:
        app = web.Application()
        app.router.add_post("/", self.answer)
        app.router.add_get("/never", self.never)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        host, port = self.runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.leaving.set()
        await self.runner.cleanup()


async def post_with_aiohttp(url: str, text: str) -> Any:
    """Send a text and return the answer."""
    session = aiohttp.ClientSession()
    async with session, session.post(url, data=text) as response:
        return await response.json()


async def post_with_httpx(url: str, text: str) -> Any:
    """Send a text and return the answer."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.post(url, content=text)).json()


async def answers_to_three(bus: EventBus, suspends: bool, post: Post) -> list[Any]:
    """Let three handlers of one emission post its payload, "hello"; return what they got."""
    log: list[Any] = []

    async def handler(payload: str) -> None:
        await enter(suspends)
        log.append(await post(server.url, payload))

    for _ in range(3):
        bus.subscribe("a", handler)
    async with Server() as server:
        assert await soon(bus.emit_async("a", "hello")) == 3
    return log


class TestHttpClients:
    @moments
    @on_every_loop
    async def test_handlers_post_with_aiohttp_at_the_same_time(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        answers = await answers_to_three(bus, suspends, post_with_aiohttp)
        assert answers == [{"got": "hello"}] * 3
        assert records == []

    @moments
    @on_every_loop
    async def test_a_timeout_of_aiohttp_strikes_in_its_own_handler_alone(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[object] = []

        @bus.on("a")
        async def impatient(payload: object) -> None:
            await enter(suspends)
            timeout = aiohttp.ClientTimeout(total=0.05)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                with pytest.raises(asyncio.TimeoutError):
                    await session.get(f"{server.url}/never")
            log.append("timed out")

        @bus.on("a")
        async def patient(payload: object) -> None:
            log.append(await post_with_aiohttp(server.url, "patient"))

        async with Server() as server:
            assert await soon(bus.emit_async("a")) == 2
        assert log == [{"got": "patient"}, "timed out"]
        assert records == []

    @moments
    @on_every_loop
    async def test_handlers_post_with_httpx_at_the_same_time(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        answers = await answers_to_three(bus, suspends, post_with_httpx)
        assert answers == [{"got": "hello"}] * 3
        assert records == []

    @moments
    @on_every_loop
    async def test_a_timeout_of_httpx_strikes_in_its_own_handler_alone(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        log: list[object] = []

        @bus.on("a")
        async def impatient(payload: object) -> None:
            await enter(suspends)
            async with httpx.AsyncClient(trust_env=False, timeout=0.05) as client:
                with pytest.raises(httpx.TimeoutException):
                    await client.get(f"{server.url}/never")
            log.append("timed out")

        bus.on("a", anote(log, "sibling"))
        async with Server() as server:
            assert await soon(bus.emit_async("a")) == 2
        assert log == ["sibling", "timed out"]
        assert records == []

    @pytest.mark.parametrize("library", ["aiohttp", "httpx"])
    @on_every_loop
    async def test_a_request_ends_when_the_emission_is_cancelled(
        self, bus: EventBus, library: str, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                if library == "aiohttp":
                    async with aiohttp.ClientSession() as session:
                        await session.get(f"{server.url}/never")
                else:
                    async with httpx.AsyncClient(trust_env=False) as client:
                        await client.get(f"{server.url}/never")
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        async with Server() as server:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(bus.emit_async("a"), 0.1)
        assert log == ["cancelled"]
        assert records == []


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="greenlets copy stacks behind its back"
)
class TestGreenlets:
    async def test_a_handler_that_switches_away_in_its_first_step_is_counted_when_it_is_back(
        self, bus: EventBus
    ) -> None:
        here = greenlet.getcurrent()
        loop = asyncio.get_running_loop()
        names: list[str] = []
        ended: list[object] = []

        @bus.on("a", envelope=True)
        async def handler(event: object) -> None:
            here.switch()
            names.append(current_name())

        def current_name() -> str:
            task = asyncio.current_task(loop)
            assert task is not None
            return task.get_name()

        def name_from_deep_down(levels: int) -> int:
            # sorted() is there for its C frames: they lie where those of the handler were.
            if levels:
                return sorted([levels - 1], key=name_from_deep_down)[0]
            names.append(current_name())
            return 0

        def emit() -> None:
            try:
                bus.emit_async("a").send(None)
            except StopIteration as stop:
                ended.append(stop.value)

        other = greenlet.greenlet(emit)
        other.switch()
        assert ended == []
        name_from_deep_down(20)
        other.switch()
        assert ended == [1]
        assert len(names) == 2
        assert names[0] == names[1]
        assert asyncio.current_task() is not None
