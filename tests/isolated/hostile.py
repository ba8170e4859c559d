"""Put every deed of tests/hostile_deeds.py into every actor, in each way to emit.

Whatever it is that a stranger's method does: nothing crashes, an ordinary exception goes where the
documentation says, an interruption is not lost, the other handlers run, the bus can be used
afterwards, and nothing is left in memory.

usage: hostile.py WAY [ACTOR [DEED]]

Of all scenes of a way every fifth is played; with AEB_HOSTILE=1 in the environment, all are.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import sys
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path
from typing import Any, Callable

sys.path.append(str(Path(__file__).parents[1]))
from hostile_actors import ACTORS, FATES
from hostile_deeds import DEEDS, HARMLESS, INTERRUPTIONS, ORDINARY, RUBBISH, Scene
from hostile_parts import deeds_of

from agent_event_bus import EventBus, EventSchemaError

faulthandler.enable()
threading_excepthook = threading.excepthook
PATIENCE = float(os.environ.get("AEB_HOSTILE_PATIENCE", "30"))
STRIDE = 1 if os.environ.get("AEB_HOSTILE") == "1" else 5
# What an error is looked for behind: an error in a coroutine may be replaced by another one.
DEPTH = 5


class WrongError(AssertionError):
    """Something has become of an error that should not."""


def chain(error: BaseException | None) -> list[BaseException]:
    """The errors that an error came of, whatever its own class says of its attributes."""
    found: list[BaseException] = []
    while error is not None and len(found) < DEPTH:
        found.append(error)
        cause = BaseException.__dict__["__cause__"].__get__(error)
        context = BaseException.__dict__["__context__"].__get__(error)
        error = context if cause is None else cause
    return found


def see(scene: Scene, fate: str, error: BaseException | None) -> bool:
    """Note the fate of an error that is one of the deed's, or came of one."""
    for each in chain(error):
        if any(each is expected for expected in scene.expected):
            scene.fates.append(fate)
            return True
    return False


# ---- ways to emit --------------------------------------------------------------------------------


def in_loop(scene: Scene, main: Callable[[], Any]) -> None:
    """Run a coroutine in the loop of the scene, and then what is left in that."""
    loop = scene.loop()
    loop.set_exception_handler(
        lambda loop, context: see(scene, "task", context.get("exception")) and None
    )
    scene.prepare_loop(loop)
    try:
        loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    finally:
        scene.end()
        loop.set_task_factory(None)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
        stuck = [task for task in tasks if not task.done()]
        assert not stuck, stuck
        del tasks


def operation(scene: Scene) -> Any:
    """What is called instead of an emission, in the thread of the caller."""
    return scene.operation() if scene.operation is not None else scene.bus.emit("a", scene.payload)


def emit(scene: Scene) -> None:
    method = scene.bus.emit
    if scene.operation is not None:
        operation(scene)
    method(scene.name, scene.payload)


def emitter(scene: Scene) -> None:
    emit = scene.bus.emitter(scene.name)
    emit(scene.payload)
    if not scene.bus.closed:
        emit(scene.payload)


def collect(scene: Scene) -> None:
    for outcome in scene.bus.collect(scene.name, scene.payload):
        if see(scene, "logged", outcome.exception):  # it is told of, and that is enough
            scene.fates.append("on_error")


def emit_in_loop(scene: Scene) -> None:
    async def main() -> None:
        bus = scene.bus
        if scene.operation is not None:
            scene.operation()
        bus.emit(scene.name, scene.payload)
        assert await bus.drain(PATIENCE) == []

    in_loop(scene, main)


def emit_async(scene: Scene) -> None:
    async def main() -> None:
        bus = scene.bus
        if scene.operation is not None:
            scene.operation()
        await bus.emit_async(scene.name, scene.payload)
        assert await bus.drain(PATIENCE) == []

    in_loop(scene, main)


def collect_async(scene: Scene) -> None:
    async def main() -> None:
        bus = scene.bus
        for outcome in await bus.collect_async(scene.name, scene.payload):
            if see(scene, "logged", outcome.exception):
                scene.fates.append("on_error")
        await bus.drain(PATIENCE)

    in_loop(scene, main)


def cancelled(scene: Scene) -> None:
    """An emission whose task is cancelled when its handlers have begun."""

    async def main() -> None:
        bus = scene.bus
        task = asyncio.ensure_future(bus.emit_async(scene.name, scene.payload))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
        await bus.drain(PATIENCE)

    in_loop(scene, main)


def closed(scene: Scene) -> None:
    """Emissions of both kinds that are under way when the bus is closed."""

    async def main() -> None:
        bus = scene.bus
        bus.emit(scene.name, scene.payload)
        task = asyncio.ensure_future(bus.emit_async(scene.name, scene.payload))
        await asyncio.sleep(0)
        await bus.aclose()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]

    in_loop(scene, main)


def bound(scene: Scene) -> None:
    """emit in another thread than that of the bound loop."""

    async def main() -> None:
        bus = scene.bus
        loop = asyncio.get_running_loop()
        bus.bind_loop(loop)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                bus.emit(scene.name, scene.payload)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        await loop.run_in_executor(None, thread.join)
        assert await bus.drain(PATIENCE) == []
        bus.bind_loop(None)
        if errors:
            raise errors.pop()

    in_loop(scene, main)


def by_hand(scene: Scene) -> None:
    """Emissions whose steps are taken by hand, with what a task would never send."""

    async def main() -> None:
        bus = scene.bus
        for way in range(4):
            coro: Any = bus.emit_async(scene.name, scene.payload)
            try:
                waiter = coro.send(None)
                if way == 0:
                    coro.send(waiter)
                elif way == 1:
                    coro.throw(ZeroDivisionError)
                elif way == 2:
                    waiter.cancel()
                    coro.send(None)
                coro.close()
            except (StopIteration, ZeroDivisionError, RuntimeError):
                pass
            if bus.closed:
                break
        coro = None
        await bus.drain(PATIENCE)

    in_loop(scene, main)


WAYS: dict[str, Callable[[Scene], None]] = {
    way.__name__: way
    for way in (
        emit,
        emitter,
        collect,
        emit_in_loop,
        emit_async,
        collect_async,
        cancelled,
        closed,
        bound,
        by_hand,
    )
}
# In these an emission is ended from outside, or there are several.
ROUGH = {"cancelled", "closed", "by_hand", "emitter"}


# ---- what must hold ------------------------------------------------------------------------------


def check_fates(
    scene: Scene, way: str, actor: str, deed: str, raised: BaseException | None
) -> None:
    ordinary, interruption = FATES[actor]
    if way.startswith("collect"):  # what becomes of a handler is told in its outcome
        ordinary = {
            "logged" if fate == "raised" and "guard" in actor else fate for fate in ordinary
        }
        if actor.startswith("error."):
            interruption = {"logged"}
    fates = set(scene.fates) - {"on_error", "cancelled"}
    if raised is not None and not see(scene, "raised", raised):
        allowed = deed not in ORDINARY | HARMLESS and deed not in INTERRUPTIONS
        if not (allowed or "any" in ordinary or way in ROUGH):
            raise WrongError(f"{raised!r} came out of nowhere") from raised
    if raised is not None:
        fates = set(scene.fates) - {"on_error", "cancelled"}
        if isinstance(raised, EventSchemaError):
            fates = (fates - {"raised"}) | {"refused"}
    if deed not in ORDINARY | INTERRUPTIONS or not scene.expected:
        return
    wanted = ordinary if deed in ORDINARY else interruption
    if way in ROUGH:
        return
    if "any" in wanted or scene.operation is not None:
        assert fates or "never" in wanted, "it was lost"
    else:
        assert fates <= wanted | ({"task"} if deed in INTERRUPTIONS else set()), (fates, wanted)
        assert fates or "never" in wanted, "it was lost"
    if "logged" in fates and deed in ORDINARY:
        assert scene.fates.count("on_error") >= 1, scene.fates


def check_bystanders(scene: Scene, way: str, actor: str, deed: str) -> None:
    ordinary, _ = FATES[actor]
    if deed not in ORDINARY | HARMLESS | set(RUBBISH) or way in ROUGH:
        return
    if ordinary & {"raised", "refused", "any"}:
        return
    for label in ("first", "last", "async"):
        assert label in scene.ran, (label, scene.ran)


def check_usable(scene: Scene) -> None:
    bus = scene.ref()
    if bus is None or bus.closed:
        bus = EventBus()  # all buses share the state of the module, the last type of a loop say
    bus.clear()
    bus.bind_loop(None)
    got: list[str] = []

    async def later(payload: object) -> None:
        await asyncio.sleep(0)
        got.append("async")

    bus.subscribe("probe", lambda payload: got.append("sync"))
    bus.subscribe("probe", later)

    async def main() -> None:
        assert await bus.emit_async("probe") == 2
        assert bus.emit("probe") == 2
        assert await bus.drain(PATIENCE) == []

    asyncio.run(main())
    assert bus.emit("probe") == 2
    assert sorted(got) == ["async"] * 3 + ["sync"] * 3, got
    assert bus.pending() == []
    bus.clear()
    assert bus._subscriptions() == []


def watch(scene: Scene) -> None:
    """Note what goes to the hooks for errors that nobody can be told of."""
    sys.unraisablehook = lambda args: see(scene, "unraisable", args.exc_value) and None
    threading.excepthook = lambda args: see(scene, "task", args.exc_value) and None


def play(way: str, actor: str, deed: str) -> bool:
    """One scene; whether the deed was done in it."""
    scene = Scene(DEEDS[deed])
    refs: list[weakref.ref[Any]] = [scene.ref]
    watch(scene)
    raised: BaseException | None = None
    scene.bus.on("a", scene.bystander("first"), priority=-5)
    ACTORS[actor](scene)
    scene.bus.on("a", scene.bystander("last"), priority=9)
    scene.bus.on("a", scene.async_bystander("async"), priority=9)
    try:
        WAYS[way](scene)
    except AssertionError:
        raise
    except BaseException as error:
        raised = error
    done = scene.times > 0
    scene.end()
    gc.collect()  # a task whose exception nobody has asked for says so at its end
    check_fates(scene, way, actor, deed, raised)
    if deed != "drops":
        check_bystanders(scene, way, actor, deed)
    raised = None
    check_usable(scene)
    sys.unraisablehook = sys.__unraisablehook__
    threading.excepthook = threading_excepthook
    refs.append(weakref.ref(scene))
    scene.holder.clear()
    del scene
    deadline = time.monotonic() + PATIENCE  # threads of a pool may still be on their way out
    while any(ref() is not None for ref in refs) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0)
    for ref in refs:
        if ref() is not None:
            left = [type(each) for each in gc.get_referrers(ref())]
            raise AssertionError(f"{type(ref())} is left, held by {left}")
    return done


def main() -> None:
    way = sys.argv[1]
    actors = sys.argv[2:3] or list(ACTORS)
    asyncio.run(asyncio.sleep(0))
    check_usable(Scene(lambda scene: None))
    gc.collect()
    gc.freeze()
    n_done = n_scenes = n_failed = 0
    number = list(WAYS).index(way)
    for actor in actors:
        for deed in sys.argv[3:4] or deeds_of(actor):
            number += 1
            if len(sys.argv) == 2 and number % STRIDE:
                continue
            n_scenes += 1
            if "AEB_HOSTILE_VERBOSE" in os.environ:
                print(f"{way} / {actor} / {deed}", flush=True)
            faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
            try:
                n_done += play(way, actor, deed)
            except BaseException as error:
                n_failed += 1
                print(f"{way} / {actor} / {deed}: {type(error).__name__}: {error}")
                if len(sys.argv) > 3:
                    traceback.print_exc(file=sys.stdout)
                gc.collect()
    print(f"{n_scenes} scenes, {n_done} deeds, {n_failed} failed")
    if n_failed == 0 and n_done > 0:
        print("ok")


warnings.simplefilter("ignore")
threading.stack_size(1 << 20)
with contextlib.suppress(KeyboardInterrupt):
    main()
