"""The worker bus: a queue in front of the core's bus, and with a store one that survives a crash.

docs/worker.md describes it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from agent_event_bus import EventBus as CoreBus
from agent_event_bus.store import arguments
from agent_event_bus.worker.events import Event, OutboundEvent
from agent_event_bus.worker.outbox import Outbox, database_of
from agent_event_bus.worker.queue import Entry, EventQueue
from agent_event_bus.worker.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agent_event_bus import Subscription
    from agent_event_bus.store import EventStore

__all__ = ["EventBus"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")

GIVE_WAY_AFTER = 0.001
"""Seconds that events may follow each other before the rest of the event loop has a turn."""


class _Delivery:
    """That an event is in hand, for the code that runs on its behalf."""

    __slots__ = ("active", "bus", "outer")

    def __init__(self, bus: EventBus, outer: _Delivery | None) -> None:
        self.bus = bus
        self.outer = outer
        self.active = True


# Handlers run in copies of the context that it is set in, and so do the tasks that they make. Those
# may outlive the delivery, so it says itself whether it is over.
_delivery: ContextVar[_Delivery | None] = ContextVar("agent_event_bus.worker", default=None)


class EventBus(Worker):
    """Delivers events from a queue, one at a time and in order, each to all its handlers at once.

    Args:
        context: Shared by the program's parts. When it has a ``config.event_path`` and no ``store``
            is given, outbound events are kept there: in the file of that path if it ends in
            ``.db``, else in ``events.db`` in the folder of that path, which is made if need be.
        store: Where outbound events are kept; whoever made it closes it.
        maxsize: How many events may be queued before ``publish`` waits; 0 sets no limit.
        name: Tells the events of several buses in one store apart. No two buses may use one name in
            one store at the same time.

    Raises:
        TypeError: An argument or ``config.event_path`` is of the wrong type.
        ValueError: ``maxsize`` is negative, or ``name`` is empty or has a ``*`` or an empty
            segment.
        StoreError: The store cannot be opened.
    """

    def __init__(
        self,
        context: Any = None,
        *,
        store: EventStore | None = None,
        maxsize: int = 0,
        name: str = "worker",
    ) -> None:
        super().__init__(context)
        if isinstance(maxsize, bool) or not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be an int, not {type(maxsize).__name__}")
        if maxsize < 0:
            raise ValueError(f"maxsize must be at least 0, not {maxsize}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if "*" in name or not all(name.split(".")):
            raise ValueError(f"name must be text without '*' and without empty segments: {name!r}")
        name = str.__str__(name)  # of a member of an enum, whose format differs between versions
        self._bus = CoreBus(name, logger=self.logger)
        self._queue = EventQueue(maxsize)
        self._outbox: Outbox | None = None
        path = database_of(context) if store is None else None
        if store is not None or path is not None:
            self._outbox = Outbox(store, path, name, self.logger)
            self._outbox.introduce()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commits: set[asyncio.Task[Any]] = set()
        self._acking: set[Entry] = set()  # by commits
        self._in_hand: Entry | None = None
        self._recovered = False  # whether the run that is on has recovered
        self._stopping = False
        self._cancels = 0  # how often stop() has cancelled the run that is on
        self._runner: asyncio.Task[Any] | None = None  # the task that is in run()
        self._end: asyncio.Future[None] | None = None  # of the run that is on
        self._joining: set[asyncio.Future[None]] = set()

    # Subscribing

    def subscribe(self, event_class: type[E], handler: Callable[[E], object]) -> Subscription:
        """Have a handler called with every event of a class and its subclasses.

        Args:
            event_class: ``Event`` or a class derived from it.
            handler: A function or coroutine function of one event.

        Returns:
            The subscription of the core, which ``cancel()`` ends.

        Raises:
            TypeError: ``event_class`` is no class of events, or ``handler`` no handler.
        """
        given: object = event_class
        if not (isinstance(given, type) and issubclass(given, Event)):
            raise TypeError(f"a class of events is needed, not {given!r}")
        return self._bus.subscribe(event_class, handler)

    def unsubscribe(self, handler: Callable[..., object]) -> int:
        """Remove a handler from every class that it is subscribed to.

        Returns:
            How many subscriptions were removed.
        """
        return self._bus.off(handler=handler)

    # Publishing

    async def publish(self, event: Event) -> None:
        """Queue an event. With a store, an ``OutboundEvent`` is durable when this returns.

        It waits for room when ``maxsize`` events are queued, unless it is called by one of the
        handlers of this bus, or by a task that one has made, while the event is in hand.

        Cancelled while it waits for room, the event is not published; cancelled while the event is
        being stored, it is.

        Args:
            event: The event.

        Raises:
            TypeError: It is no event.
            NotSerializableError: It is to be stored and has something in it that cannot be.
            StoreError: It could not be stored; it is not delivered.
            RuntimeError: The bus is in use in another event loop.
        """
        if not isinstance(event, Event):
            raise TypeError(f"an Event is needed, not {type(event).__name__}")
        self._bind()
        queue = self._queue
        outbox = self._outbox if isinstance(event, OutboundEvent) else None
        try:
            await queue.reserve(self._is_delivering())
        except BaseException:
            self._tell_joining()  # it may have been the last that they wait for
            raise
        if outbox is None:
            queue.put(Entry(event))
            return

        def settle(commit: asyncio.Task[Entry]) -> None:
            # Here, because a task that is cancelled before its first step does nothing itself.
            if commit.cancelled() or commit.exception() is not None:
                queue.release()
                self._tell_joining()
            else:
                queue.put(commit.result())

        await self._see_through(outbox.append(event), settle)

    async def _see_through(
        self,
        commit: Coroutine[Any, Any, T],
        settle: Callable[[asyncio.Task[T]], None],
    ) -> None:
        """Await something that goes to the disk, and have it go on if the caller is cancelled.

        It cannot be called back, so `settle` has to learn how it ended.
        """
        task = asyncio.ensure_future(commit)
        task.add_done_callback(settle)
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._report_commit)
            raise

    def _report_commit(self, task: asyncio.Task[Any]) -> None:
        """Say that something was not stored when nobody waits for it any more."""
        if not task.cancelled() and task.exception() is not None:
            self.logger.error(
                "An event or an acknowledgement could not be stored, and who published or"
                " acknowledged it was cancelled: %s",
                task.exception(),
            )

    # Running

    async def run(self) -> None:
        """Deliver again what is not acknowledged, then what is published, until ``stop``.

        An event is over when all its handlers are; then comes the next. What a handler raises is
        logged and disturbs nobody. When it is cancelled, so are the handlers of the event in hand,
        and the next ``run`` delivers that event again.

        Raises:
            RuntimeError: It is running already, or in use in another event loop.
            StoreError: The store cannot be read.
        """
        loop = self._bind()
        if self._end is not None:
            raise RuntimeError("the bus is running already")
        self._end = end = loop.create_future()
        self._runner = asyncio.current_task()
        try:
            await self._deliver_all()
        except asyncio.CancelledError:
            if not self._cancels or self._is_cancelled_by_others():
                raise
        finally:
            if self._end is end:  # otherwise its loop was closed, and the bus has left it
                self._finish(end)

    def _finish(self, end: asyncio.Future[None]) -> None:
        """Make the bus ready for another run."""
        self._end = self._runner = None
        self._cancels = 0
        stopped, self._stopping = self._stopping, False
        if not end.get_loop().is_closed():
            end.set_result(None)
            self._tell_joining(RuntimeError("the bus has ended before its queue was empty"))
        self._recovered = False
        if stopped and self._outbox is not None:
            self._outbox.close()

    async def _deliver_all(self) -> None:
        """Recover and deliver until it is told to stop."""
        if self._outbox is not None:
            await self._recover(self._outbox)
        self._recovered = True
        self._tell_joining()
        turn = time.monotonic()  # loops may keep the time of their last turn
        while not self._stopping:
            entry = self._queue.pop()
            if entry is None:
                await self._queue.wait()
                turn = time.monotonic()
                continue
            if not entry.acked:
                await self._deliver(entry)
            self._tell_joining()
            if self._outbox is not None and self._outbox.needs_sweep():
                await self._outbox.sweep()
            if time.monotonic() - turn > GIVE_WAY_AFTER:
                # Handlers that never suspend would keep everybody else waiting.
                await asyncio.sleep(0)
                turn = time.monotonic()
        await self._commits_done()

    async def _recover(self, outbox: Outbox) -> None:
        """Queue what the store has and nobody has acknowledged."""
        found = await outbox.pending()
        # What was published meanwhile may be among it. When its commit is done it is in the queue.
        await self._commits_done()
        entries = outbox.entries_for(found, self._queue.numbers())
        if entries:
            self.logger.info("Delivering %d events again that were not acknowledged", len(entries))
            self._queue.recover(entries)

    async def _deliver(self, entry: Entry) -> None:
        """Call the handlers of an event, and wait for them."""
        delivery = _Delivery(self, _delivery.get())
        token = _delivery.set(delivery)
        entry.delivered = True
        self._in_hand = entry
        try:
            called = await self._bus.publish_async(entry.event)
        except BaseException:
            if self._in_hand is entry and not entry.acked:
                self._queue.put_back(entry)
            raise
        finally:
            delivery.active = False
            if self._in_hand is entry:
                self._in_hand = None
            with suppress(ValueError):  # in another context, when it is closed as garbage
                _delivery.reset(token)
        if not called:
            self.logger.warning("No handler is subscribed to %s", type(entry.event).__name__)

    def start(self) -> asyncio.Task[None]:
        """Begin to ``run`` in a task of the running loop; one that was started goes on.

        Returns:
            The task.

        Raises:
            RuntimeError: No event loop is running, the bus is in use in another one, or somebody
                awaits ``run`` already.
        """
        self._bind()
        if self._end is not None and not super().is_running():
            raise RuntimeError("the bus is running already")
        return super().start()

    def is_running(self) -> bool:
        """Return whether ``run`` is on, or was started and has not begun."""
        end = self._end
        return (end is not None and not end.get_loop().is_closed()) or super().is_running()

    async def stop(self, timeout: float | None = None) -> None:
        """Finish the event in hand, and end. What is queued stays queued for the next ``run``.

        A store that the bus has opened is closed; the next use opens it again. Called by a handler,
        it does not wait. To cancel who waits does not undo the stop.

        Args:
            timeout: Seconds that the event in hand has; then its handlers are cancelled, and the
                next ``run`` delivers it again. None waits as long as it takes.

        Raises:
            TypeError: ``timeout`` is no number.
            ValueError: It is negative or NaN.
            RuntimeError: The bus is in use in another event loop.
        """
        limit = None if timeout is None else arguments.seconds("timeout", timeout)
        self._bind()
        if not self.is_running():
            await self._commits_done()
            self._close_store()
            return
        self._stopping = True
        self._queue.wake()
        if self._is_delivering():
            return
        ended = self._end if self._end is not None else self._task
        assert ended is not None
        done, _ = await asyncio.wait([ended], timeout=limit)
        if not done:
            running = self._runner if self._runner is not None else self._task
            if running is not None:
                self._cancels += 1
                running.cancel()
            await asyncio.wait([ended])
            await self._commits_done()
            self._close_store()

    def _ended(self, task: asyncio.Task[None]) -> None:
        super()._ended(task)
        if self._end is None and task is self._task:
            self._stopping, self._cancels = False, 0  # of a task that never got as far as run()

    async def _commits_done(self) -> None:
        """Wait for what is on its way to the disk now."""
        if self._commits:
            await asyncio.wait(self._commits)

    def _close_store(self) -> None:
        """Close the store that the bus has opened, unless it has been started again."""
        if self._outbox is not None and not self.is_running():
            self._outbox.close()

    async def join(self) -> None:
        """Wait until the queue is empty, no event is in hand, and a bus that runs has recovered.

        Raises:
            RuntimeError: The bus ends before, or a handler of the bus calls this, which would wait
                for itself.
        """
        if self._is_delivering():
            raise RuntimeError("join() in a handler would wait for the handler itself")
        loop = self._bind()
        while not self._is_idle():
            waiter: asyncio.Future[None] = loop.create_future()
            self._joining.add(waiter)
            try:
                await waiter
            finally:
                self._joining.discard(waiter)

    def _is_idle(self) -> bool:
        recovering = self.is_running() and not self._recovered
        return not recovering and self._in_hand is None and self._queue.is_idle()

    def _tell_joining(self, error: Exception | None = None) -> None:
        """Wake those that join when there is nothing left, or when there is and this is the end."""
        if not self._joining or (error is None and not self._is_idle()):
            return
        for waiter in self._joining:
            if waiter.done():
                continue
            if self._is_idle() or error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    # Acknowledging

    def ack(self, event: Event) -> bool:
        """Forget one delivered event, durably: it is not delivered again.

        The event is the very object that was delivered, or one that is equal to it; of several the
        oldest. This waits for the disk, in any thread; ``ack_async`` does so without holding up the
        event loop.

        Args:
            event: A delivered ``OutboundEvent``.

        Returns:
            Whether there was one to forget: False for one that was not delivered yet, was
            acknowledged already, or was never stored.

        Raises:
            TypeError: It is no event.
            StoreError: It could not be made durable; the event is not forgotten.
        """
        entry = self._claim(event)
        if entry is None or self._outbox is None:
            return False
        self._outbox.acknowledge(entry)
        return True

    async def ack_async(self, event: Event) -> bool:
        """Do what ``ack`` does, together with whatever else is being stored.

        Cancelled, the acknowledgement goes on; if it fails, that is logged, and the next ``run``
        delivers the event again.

        Args:
            event: As of ``ack``.

        Returns:
            As ``ack``.

        Raises:
            TypeError, StoreError: As ``ack``.
            RuntimeError: The bus is in use in another event loop.
        """
        self._bind()
        entry = self._claim(event)
        if entry is None or self._outbox is None:
            return False
        outbox = self._outbox
        self._acking.add(entry)

        def settle(commit: asyncio.Task[None]) -> None:
            self._acking.discard(entry)
            if commit.cancelled():  # at the end of the loop, on its way or before its first step
                outbox.postpone(entry)

        await self._see_through(outbox.acknowledge_async(entry), settle)
        return True

    def _claim(self, event: Event) -> Entry | None:
        if not isinstance(event, Event):
            raise TypeError(f"an Event is needed, not {type(event).__name__}")
        return None if self._outbox is None else self._outbox.claim(event)

    # Loops and deliveries

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which must be the only one that uses the bus now."""
        loop = asyncio.get_running_loop()
        before = self._loop
        if before is not loop:
            if before is not None and before.is_closed():
                self._leave_loop()
            elif before is not None and (before.is_running() or self._has_who_waits()):
                raise RuntimeError(
                    "the bus is in use in another event loop;"
                    " asyncio.run_coroutine_threadsafe() publishes from other threads"
                )
            self._loop = loop
        return loop

    def _has_who_waits(self) -> bool:
        """Whether there are tasks that go on when the loop of the bus does, which has paused."""
        return bool(self.is_running() or self._commits or self._joining or self._queue.is_awaited())

    def _leave_loop(self) -> None:
        """Let go of all that has waited in a loop that was closed under it, and never goes on."""
        entry, self._in_hand = self._in_hand, None
        if entry is not None and not entry.acked:
            self._queue.put_back(entry)
        self._queue = self._queue.successor()
        self._commits, self._joining = set(), set()
        acking, self._acking = self._acking, set()
        if self._outbox is not None:
            for each in acking:
                self._outbox.postpone(each)
        self._end = self._runner = None
        self._recovered = self._stopping = False
        self._cancels = 0

    def _is_delivering(self) -> bool:
        """Whether the caller runs on behalf of an event that this bus has in hand."""
        delivery = _delivery.get()
        while delivery is not None:
            if delivery.bus is self and delivery.active:
                return True
            delivery = delivery.outer
        return False

    def _is_cancelled_by_others(self) -> bool:
        """Take back the cancellations that stop() has asked for, and say whether there are more."""
        uncancel = getattr(asyncio.current_task(), "uncancel", None)  # from Python 3.11 on
        if uncancel is None:
            return False
        left = 0
        for _ in range(self._cancels):
            left = uncancel()
        return left > 0
