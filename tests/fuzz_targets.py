"""What tests/fuzz.py runs inputs with, and how it makes a corpus of the best of them."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path
from typing import Any

import hostile_of_bytes
from programs_of_bytes import program_of
from worlds import ModelWorld, RealWorld, compare

gc.collect()
gc.freeze()  # so that looking for garbage takes little time

Run = tuple[int, "set[Any]"]


class CountingWorld(RealWorld):
    """The world of the real bus, which counts the operations."""

    operations = 0

    def perform(self, op: Any) -> None:
        self.operations += 1
        super().perform(op)

    def act(self, op: Any) -> Any:
        self.operations += op[0].endswith("_async")
        return super().act(op)


def model(data: bytes) -> Run:
    """Run the program that `data` is on the bus and on its model, and compare them."""
    program = program_of(data)
    real, modelled = CountingWorld(program.scripts), ModelWorld(program.scripts)
    compare(program, real, modelled)
    return real.operations, done(modelled)


hostile = hostile_of_bytes.hostile


def done(world: ModelWorld) -> set[Any]:
    """What has happened: which kinds of entries there are in the log, and which follow which."""
    kinds = [kind(entry) for entry in world.log]
    found: set[Any] = {*kinds, *zip(kinds, kinds[1:])}
    found.update(
        ("late", entry[0] if isinstance(entry, tuple) else "report") for entry in world.late
    )
    stats = world.bus
    found.add(("subscriptions", len(stats), sum(sub.failures > 0 for sub in stats.subs)))
    return found


def kind(value: Any, depth: int = 2) -> Any:
    """Return of what kind a value of a log is: without its numbers, and without what is deep."""
    if isinstance(value, str):
        return value.split()[0] if value else ""
    if isinstance(value, (tuple, list)):
        return tuple(kind(item, depth - 1) for item in value[:4]) if depth else len(value) > 0
    return value if value is None or isinstance(value, bool) else type(value).__name__


def shown(data: bytes) -> str:
    """Return a program in a form that can be read."""
    program = program_of(data)
    lines = [f"handler {number}: {script}" for number, script in enumerate(program.scripts)]
    lines += [f"before: {op}" for op in program.subscriptions]
    lines += [f"{'in a loop' if in_loop else 'step'}: {op}" for op, in_loop in program.steps]
    return "\n".join(lines)


def reduce(inputs: Path, corpus: Path, name: str, count: int) -> None:
    """Make a corpus of the inputs that have done most, each as short as it can be for that."""
    run = globals()[name]
    candidates = {data: run(data)[1] for data in (file.read_bytes() for file in inputs.iterdir())}
    corpus.mkdir(parents=True, exist_ok=True)
    for file in corpus.glob("reached-*"):
        file.unlink()
    seen: set[Any] = set()
    for file in corpus.iterdir():
        seen |= run(file.read_bytes())[1]
    for _ in range(min(count, len(candidates))):
        best = max(candidates, key=lambda data: (len(candidates[data] - seen), -len(data)))
        new = candidates.pop(best) - seen
        if not new:
            break
        for length in (32, 8, 2, 1):
            at = 0
            while at < len(best):
                shorter = best[:at] + best[at + length :]
                if new <= run(shorter)[1]:
                    best = shorter
                else:
                    at += length
        seen |= run(best)[1]
        (corpus / f"reached-{hashlib.sha1(best).hexdigest()[:12]}").write_bytes(best)
