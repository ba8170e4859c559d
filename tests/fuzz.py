"""Fuzz the bus: bytes become programs, which must do the same on the bus and on its model.

With `--target hostile` they become sequences of operations that no model can follow, which have to
keep what tests/hostile_of_bytes.py says; with `--target both` half of the time goes into each.

    python tests/fuzz.py --seconds 600        look for new inputs that go wrong
    python tests/fuzz.py FILE...              run inputs again
    python tests/fuzz.py --show FILE...       print the programs that they are
    python tests/fuzz.py --reduce DIR         make a corpus of the best inputs in a directory

With atheris (the extra `fuzz`) inputs are chosen by what they cover of the Python code, and of the
C core if that was built for it with clang, which finds errors of memory as well:

    CC=clang AEB_SANITIZE=address,fuzzer-no-link python -m pip install -e '.[test,fuzz]'

Without atheris they are chosen by what the programs have done. All is run in a process of its own.
When that dies, hangs or finds a difference, the input is left in a file and the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import importlib.util
import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable

TESTS = Path(__file__).resolve().parent
CORPUS = TESTS / "corpus"
LONGEST = 300  # bytes in an input
HANGS = 60.0  # seconds that no input takes
# Executions, operations, the length of the current input, and that input.
HEADER = struct.Struct("=QQQ")
NO_RESULT = 3  # the exit status of a worker that has left an input


class Notes:
    """What the worker tells its parent, in memory that survives it."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), HEADER.size + LONGEST)

    def read(self) -> tuple[int, int, bytes]:
        executions, operations, length = HEADER.unpack_from(self.memory)
        return executions, operations, self.memory[HEADER.size : HEADER.size + length]

    def begin(self, data: bytes) -> None:
        executions, operations, _ = HEADER.unpack_from(self.memory)
        self.memory[HEADER.size : HEADER.size + len(data)] = data
        HEADER.pack_into(self.memory, 0, executions + 1, operations, len(data))

    def end(self, count: int) -> None:
        executions, operations, length = HEADER.unpack_from(self.memory)
        HEADER.pack_into(self.memory, 0, executions, operations + count, length)


# In the worker. What is under test is imported there alone, since atheris wants to instrument it.


def target(name: str) -> Callable[[bytes], tuple[int, set[Any]]]:
    """Return what runs an input: it returns the number of operations, and what they have done."""
    import fuzz_targets

    found: Callable[[bytes], tuple[int, set[Any]]] = getattr(fuzz_targets, name)
    return found


def noted(
    run: Callable[[bytes], tuple[int, set[Any]]], notes: Notes
) -> Callable[[bytes], set[Any]]:
    """Return the same, which takes notes, and ends the worker when an input goes wrong."""

    def run_noted(data: bytes) -> set[Any]:
        data = data[:LONGEST]
        notes.begin(data)
        try:
            operations, done = run(data)
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(NO_RESULT)
        notes.end(operations)
        return done

    return run_noted


def mutated(data: bytes, pool: list[bytes], rng: random.Random) -> bytes:
    """Change an input in a few places."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        at, length = rng.randrange(len(changed) + 1), rng.choice([1, 1, 2, 4, 16])
        way = rng.randrange(6)
        if way == 0:
            changed[at:at] = rng.randbytes(length) if hasattr(rng, "randbytes") else b"\0"
        elif way == 1:
            del changed[at : at + length]
        elif way == 2:
            other = rng.choice(pool)
            begin = rng.randrange(len(other) + 1)
            changed[at:at] = other[begin : begin + 4 * length]
        elif way == 3 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif at < len(changed):
            changed[at] = rng.randrange(256)
    return bytes(changed[:LONGEST])


def fuzz_plainly(run: Callable[[bytes], set[Any]], options: Any) -> None:
    """Mutate inputs, and keep those that do what none has done before."""
    rng = random.Random(options.seed)
    pool, seen = [b""], set[Any]()
    for file in sorted(options.corpus.glob("*")):
        pool.append(file.read_bytes())
        seen |= run(pool[-1])
    end, runs = time.monotonic() + options.seconds, 0
    while time.monotonic() < end and runs != options.runs:
        runs += 1
        data = mutated(rng.choice(pool), pool, rng)
        new = run(data) - seen
        if new:
            seen |= new
            pool.append(data)
            (options.found / hashlib.sha1(data).hexdigest()).write_bytes(data)


def fuzz_with_atheris(options: Any, notes: Notes) -> None:
    """Have libFuzzer choose the inputs. Does not return."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with atheris.instrument_imports(
        include=["agent_event_bus", "model", "model_keys"], enable_loader_override=False
    ):
        run = noted(target(options.target), notes)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={max(1, round(options.seconds))}",
            f"-runs={options.runs}",
            f"-max_len={LONGEST}",
            f"-seed={options.seed % 2**32 or 1}",
            f"-timeout={HANGS:.0f}",
            f"-artifact_prefix={options.found}{os.sep}fault-",
            "-verbosity=0",
            "-print_funcs=0",  # looking up the name of each function that is new takes long
            "-rss_limit_mb=4096",
            str(options.found),
            str(options.corpus),
        ],
        lambda data: run(data) and None,
    )
    atheris.Fuzz()


def work(options: Any) -> None:
    """Do what the parent has been asked for."""
    notes = Notes(options.notes)
    if options.files:
        run = noted(target(options.target), notes)
        for file in options.files:
            run(file.read_bytes())
            print(f"{file}: ok")
    elif options.engine == "atheris":
        fuzz_with_atheris(options, notes)
    else:
        fuzz_plainly(noted(target(options.target), notes), options)


# In the parent.


def built_for_atheris() -> bool:
    """Whether the C core counts for libFuzzer what is covered. It cannot be imported to ask it."""
    spec = importlib.util.find_spec("agent_event_bus")
    assert spec is not None
    assert spec.origin is not None
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    core = Path(spec.origin).parent / f"_core{suffix}"
    return core.exists() and b"__sanitizer_cov" in core.read_bytes()


def environment(replays: bool) -> dict[str, str]:
    """The environment of the worker.

    For each different stack that allocates the address sanitizer keeps a record for ever. Python
    has no end of them, and soon looking for the record took most of the time. So when it looks for
    inputs it notes one frame of each, which finds as much; when they are run again, it notes all.
    """
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    if built_for_atheris():
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

        env["LD_PRELOAD"] = str(Path(atheris.path()) / "asan_with_fuzzer.so")
        env["PYTHONMALLOC"] = "malloc"  # Python's own would hide overruns
        options = "detect_leaks=0:allocator_may_return_null=1"
        options += "" if replays else ":malloc_context_size=1"
        env.setdefault("ASAN_OPTIONS", options)
    return env


def keep(data: bytes, options: Any) -> Path:
    """Leave an input in a file."""
    options.faults.mkdir(parents=True, exist_ok=True)
    file: Path = options.faults / f"fault-{hashlib.sha1(data).hexdigest()[:16]}"
    file.write_bytes(data)
    return file


def supervise(options: Any, arguments: list[str]) -> int:
    """Run a worker to its end, and say how it went; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "notes"
        path.write_bytes(bytes(HEADER.size + LONGEST))
        found = options.found or Path(directory) / "found"
        found.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-X", "faulthandler", __file__, "--notes", str(path)]
        command += ["--found", str(found), *arguments]
        began, notes = time.monotonic(), Notes(path)
        worker = subprocess.Popen(command, env=environment(bool(options.files)))
        before, since, status = -1, began, None
        while status is None:
            try:
                status = worker.wait(1)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                executions = notes.read()[0]
                if executions != before:
                    before, since = executions, now
                elif now > since + HANGS + 10:
                    print("it hangs")
                    worker.kill()
            except BaseException:
                worker.kill()
                worker.wait()
                raise
        executions, operations, data = notes.read()
        seconds = time.monotonic() - began
        notes.memory.close()
    print(
        f"{options.target}, {options.engine}: {executions} executions, {operations} operations, "
        f"{seconds:.0f} s"
    )
    if status != 0:
        print(f"exit status {status}; the input is in {keep(data, options)}")
    elif executions == 0:
        print("nothing was run")
    return 0 if status == 0 and executions > 0 else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="inputs to run again")
    add(
        "--target",
        default="model",
        choices=["model", "hostile", "both"],
        help="what runs the inputs",
    )
    add("--seconds", type=float, default=60.0, help="how long to look for new inputs")
    add("--runs", type=int, default=-1, help="how many inputs to try at most")
    add("--engine", choices=["atheris", "plain"], help="atheris, if it is installed")
    add("--seed", type=int, help="of the choices; printed, and random unless it is given")
    add("--corpus", type=Path, help="inputs to begin with")
    add("--found", type=Path, help="where to leave the inputs that have done something new")
    add("--faults", type=Path, default=Path(), help="where to leave an input that goes wrong")
    add("--show", action="store_true", help="print the programs of the files, for the model")
    add("--reduce", type=Path, metavar="DIR", help="make the corpus of the best inputs in there")
    add("--count", type=int, default=40, help="of inputs in a corpus that is made")
    add("--notes", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    corpus = options.corpus
    options.corpus = corpus or CORPUS / options.target
    if options.engine is None:
        atheris = importlib.util.find_spec("atheris")
        options.engine = "plain" if atheris is None else "atheris"
    if options.notes is not None:
        work(options)
        return 0
    if options.show or options.reduce:
        import fuzz_targets

        for file in options.files:
            print(file, fuzz_targets.shown(file.read_bytes()), sep="\n")
        if options.reduce:
            fuzz_targets.reduce(options.reduce, options.corpus, options.target, options.count)
        return 0
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 2**31)
    print(f"seed {options.seed}", flush=True)
    status = 0
    targets = ["model", "hostile"] if options.target == "both" else [options.target]
    options.seconds /= len(targets)
    given = ["target", "seconds", "runs", "engine", "seed", "corpus"]
    for options.target in targets:
        options.corpus = corpus or CORPUS / options.target
        arguments = [f"--{name}={getattr(options, name)}" for name in given]
        status |= supervise(options, [*arguments, *map(str, options.files)])
    return status


if __name__ == "__main__":
    sys.exit(main())
