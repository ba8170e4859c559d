"""Workers: tasks with a name, a beginning and an end, and the one that answers events.

docs/worker.md describes them.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from agent_event_bus.worker.events import (
    Event,
    InboundEvent,
    NotSerializableError,
    OutboundEvent,
)

if TYPE_CHECKING:
    from agent_event_bus import Subscription

__all__ = ["AgentWorker", "SubscriberWorker", "Worker"]

E = TypeVar("E", bound=Event)
Respond = Callable[[InboundEvent], Awaitable[Any]]


class Worker(ABC):
    """Something that runs in a task of its own: ``run`` is what it does.

    Args:
        context: What the program's parts share, as ``self.context``. The workers of this package
            use ``context.eventbus`` and ``context.config.event_path``.

    Attributes:
        context: What was given.
        logger: The logger ``agent_event_bus.worker.CLASSNAME``.
    """

    context: Any
    logger: logging.Logger

    def __init__(self, context: Any = None) -> None:
        self.context = context
        self.logger = logging.getLogger(f"agent_event_bus.worker.{type(self).__name__}")
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def run(self) -> None:
        """Do the work; ``start`` calls it."""

    def start(self) -> asyncio.Task[None]:
        """Begin to ``run`` in a task of the running loop.

        A worker that is running already goes on; one that has ended, however it did, runs again.
        An exception that ends it is logged at ERROR.

        Returns:
            The task.

        Raises:
            RuntimeError: No event loop is running.
        """
        if self._task is None or not Worker.is_running(self):
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self.run())
            self._task.add_done_callback(self._ended)
        return self._task

    def is_running(self) -> bool:
        """Return whether it was started and has not ended."""
        task = self._task
        return task is not None and not task.done() and not task.get_loop().is_closed()

    def has_crashed(self) -> bool:
        """Return whether it has ended with an exception; to be cancelled is none."""
        return self.get_exception() is not None

    def get_exception(self) -> BaseException | None:
        """Return the exception that it has ended with, None while it runs and after another end."""
        task = self._task
        if task is None or not task.done() or task.cancelled():
            return None
        return task.exception()

    async def stop(self) -> None:
        """Cancel it, and wait until it has ended. One that is not running stays as it is.

        Called by the worker itself, it does not wait: it is cancelled at its next await. To cancel
        who waits does not undo the stop.
        """
        task = self._task
        if task is None or not Worker.is_running(self):
            return
        task.cancel()
        if task is not asyncio.current_task():
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log the exception of a task that has ended with one."""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            text = text_of(error)
            self.logger.error("Worker %r crashed: %s", type(self).__name__, text, exc_info=error)


class SubscriberWorker(Worker):
    """A worker that is idle itself, and has handlers on ``context.eventbus``.

    They are subscribed by ``subscribe`` and removed when the worker ends; one that is started again
    has them again.

    Args:
        context: Has the bus as ``eventbus``.
    """

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._handlers: list[tuple[type[Event], Callable[[Any], object]]] = []
        self._subscriptions: list[Subscription] = []

    def subscribe(self, event_class: type[E], handler: Callable[[E], object]) -> None:
        """Subscribe a handler on ``context.eventbus`` until this worker ends.

        Args:
            event_class: The class of events, whose subclasses count, too.
            handler: A function or coroutine function of one event.

        Raises:
            TypeError: What ``EventBus.subscribe`` refuses.
        """
        subscription = self.context.eventbus.subscribe(event_class, handler)
        self._handlers.append((event_class, handler))
        self._subscriptions.append(subscription)

    async def run(self) -> None:
        """Have the handlers subscribed until it is cancelled."""
        if len(self._subscriptions) < len(self._handlers):
            self._withdraw()  # what was subscribed since, so that all are in their order again
            self._subscriptions = [
                self.context.eventbus.subscribe(event_class, handler)
                for event_class, handler in self._handlers
            ]
        try:
            await asyncio.get_running_loop().create_future()  # which nothing ever completes
        finally:
            self._withdraw()

    async def stop(self) -> None:
        """Remove the handlers and end. What a handler has begun is not cancelled."""
        self._withdraw()
        await super().stop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        super()._ended(task)
        if task is self._task:
            self._withdraw()  # when it was cancelled before its first step

    def _withdraw(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.cancel()


class AgentWorker(SubscriberWorker):
    """Turns each ``InboundEvent`` into an ``OutboundEvent`` of the same session.

    It subscribes on ``context.eventbus`` when it is made.

    Args:
        context: Has the bus as ``eventbus``.
        respond: An async callable that gets the event and returns the content of the answer.
        max_retries: How often an event is tried again after ``respond`` has failed.

    Raises:
        TypeError: ``respond`` is not callable, or ``max_retries`` no int.
        ValueError: ``max_retries`` is negative.
    """

    def __init__(self, context: Any, respond: Respond, *, max_retries: int = 3) -> None:
        super().__init__(context)
        if not callable(respond):
            raise TypeError(f"respond must be callable, not {type(respond).__name__}")
        if isinstance(max_retries, bool) or not isinstance(max_retries, int):
            raise TypeError(f"max_retries must be an int, not {type(max_retries).__name__}")
        if max_retries < 0:
            raise ValueError(f"max_retries must be at least 0, not {max_retries}")
        self.max_retries = max_retries
        self._respond = respond
        self.subscribe(InboundEvent, self.handle)

    async def handle(self, event: InboundEvent) -> None:
        """Answer one event: the handler that the bus calls.

        When ``respond`` raises, a copy of the event with one more in ``retry_count`` is published,
        and after ``max_retries`` of these an ``OutboundEvent`` without content and with the error.

        Raises:
            StoreError: The answer cannot be made durable.
        """
        publish = self.context.eventbus.publish
        try:
            answer = await self._answer(event)
            await publish(OutboundEvent(event.session_id, answer))
            return
        except _Failed as failed:
            error: BaseException = failed.error
        except NotSerializableError as refused:
            error = refused
        count = event.retry_count
        if count < self.max_retries:
            self.logger.warning(
                "respond failed with %s, retry %d of %d",
                type(error).__name__,
                count + 1,
                self.max_retries,
            )
            # A copy, because other handlers hold the event itself.
            again = copy.copy(event)
            again.retry_count = count + 1
            await publish(again)
        else:
            self.logger.error("respond failed after %d retries", count, exc_info=error)
            await publish(OutboundEvent(event.session_id, "", error=text_of(error)))

    async def _answer(self, event: InboundEvent) -> Any:
        """Return what ``respond`` returns, or raise ``_Failed``.

        It runs in a task of its own: only so a cancellation that it makes itself, which is a
        failure like others, can be told from one of the bus, after which the event is delivered
        again.
        """
        task = asyncio.ensure_future(self._respond_to(event))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # which has been seen, for asyncio
            raise
        if task.cancelled():
            raise _Failed(asyncio.CancelledError("respond was cancelled"))
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, Exception):
            raise _Failed(error)
        raise error

    async def _respond_to(self, event: InboundEvent) -> Any:
        return await self._respond(event)


def text_of(error: BaseException) -> str:
    """Return the text of an exception, the name of its class when it has none or does not tell."""
    text = ""
    with suppress(Exception):  # of a __str__ that somebody has written
        text = str(error)
    return text or type(error).__name__


class _Failed(Exception):  # noqa: N818
    """``respond`` has failed, with this."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error
