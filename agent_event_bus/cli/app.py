"""The command `agent-event-bus`: arguments, files, exit codes. The only part that prints."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from agent_event_bus import __version__
from agent_event_bus.cli.trace import TraceError, TraceReader, open_trace

__all__ = ["main"]

EXIT_OK = 0
EXIT_OUTPUT = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE

AGENT_BUDGET = 0.005
TRACE_BUDGET = 0.05
AGENT_DELAY = 0.25

_DEMO = """\
Runs a small tool-using agent in this process. Its loop only emits events; cost and latency
tracking, the audit log, the budget alert and this display are handlers on the bus. One of them, a
cost tracker, crashes on every model response: the bus reports it and the agent finishes.

With --trace the events come from a file instead, and the same handlers watch them.
"""

_EPILOG = """\
trace format:
  One JSON object a line, in UTF-8: {"event": NAME, "payload": {...}}. NAME is an event name (no
  "*", no empty segment), the payload an object or null. Blank lines and other fields are ignored.
  A malformed line ends the command with its number. --skip-bad skips and counts it: a line that
  is not JSON, not UTF-8, longer than 16 MiB, nested more than 100 levels deep, or without a valid
  event and payload. A file that is missing, unreadable or binary, or that holds no event at all,
  is an error in any case.

estimates:
  The events carry no usage figures. Tokens are estimated, 4 characters a token, and a request
  counts the whole conversation before it. The cost follows from list prices. A recorded
  budget_exceeded line is delivered like any other, besides those that the cost tracker emits;
  --budget 0 silences the tracker.

exit codes:
  0 done, 1 output could not be written, 2 bad arguments or input, 130 interrupted,
  141 the reader of standard output went away
"""


class _CommandError(Exception):
    """Ends the command with a message on standard error and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments without the program's name; `sys.argv[1:]` when omitted.

    Raises:
        SystemExit: from argparse, for bad arguments (code 2) and for `--help` and `--version`.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.skip_bad and arguments.trace is None:
        parser.error("--skip-bad needs --trace")
    if arguments.delay is not None and arguments.trace is not None:
        parser.error("--delay does not go with --trace")
    try:
        return _demo(arguments)
    except TraceError as error:
        hint = " (--skip-bad skips such lines)" if error.skippable else ""
        _complain(f"{error}{hint}")
        return EXIT_INPUT
    except _CommandError as error:
        _complain(str(error))
        return error.code
    except KeyboardInterrupt:
        _complain("interrupted")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agent-event-bus", description="An in-process event bus for Python agents."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="run an agent, or recorded runs, with observers that may crash",
        description=_DEMO,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--trace",
        metavar="FILE.jsonl",
        help="replay recorded runs instead of running the agent; '-' reads standard input",
    )
    demo.add_argument(
        "--skip-bad", action="store_true", help="skip and count malformed lines of the trace"
    )
    demo.add_argument(
        "--audit",
        metavar="FILE.jsonl",
        help="write every event to this file, which is replaced if it exists and can be replayed "
        "with --trace (default: keep the last 1000 in memory)",
    )
    demo.add_argument(
        "--budget",
        metavar="USD",
        type=_amount,
        help=f"what one run may cost; 0 for no budget (default: {AGENT_BUDGET:g} for the agent, "
        f"{TRACE_BUDGET:g} for a trace)",
    )
    demo.add_argument(
        "--delay",
        metavar="SECONDS",
        type=_amount,
        help=f"how long the scripted model takes to answer (default: {AGENT_DELAY:g} on a "
        "terminal, else 0)",
    )
    demo.add_argument(
        "--plain",
        action="store_true",
        help="plain text even on a terminal with rich installed; NO_COLOR does the same",
    )
    return parser


def _amount(text: str) -> float:
    """Parse a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number from 0 up")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    # Imported here: asyncio, and rich where it is used, take longer to load than --help to answer.
    from agent_event_bus.cli import demo
    from agent_event_bus.cli.summary import show_summary
    from agent_event_bus.cli.view import make_view

    budget: float | None = arguments.budget
    view = make_view(plain=arguments.plain)
    try:
        with _trace_source(arguments) as reader, _audit_file(arguments) as audit_file:
            if reader is None:
                budget = AGENT_BUDGET if budget is None else budget
                delay = arguments.delay
                if delay is None:
                    delay = AGENT_DELAY if view.out.isatty() else 0.0
                view.heading(f"agent-event-bus {__version__}: an agent and its observers")
                outcome = demo.run_agent(view, delay=delay, budget=budget, audit_file=audit_file)
            else:
                budget = TRACE_BUDGET if budget is None else budget
                view.heading(f"agent-event-bus {__version__}: replaying {reader.label}")
                outcome = demo.replay_trace(view, reader, budget=budget, audit_file=audit_file)
        show_summary(view, outcome, budget=budget, audit_path=arguments.audit)
        demo.check_output(view)
    except demo.OutputLostError as lost:
        _discard_stdout()
        return _output_lost(lost.cause)
    finally:
        view.close()
    if outcome.reader is not None:
        for sample in outcome.reader.bad_samples:
            _complain(f"skipped {sample}")
    if outcome.audit_failures:
        message = f"{arguments.audit}: {outcome.audit_failures:,} events could not be written"
        raise _CommandError(message, EXIT_OUTPUT)
    return EXIT_OK


@contextmanager
def _trace_source(arguments: argparse.Namespace) -> Iterator[TraceReader | None]:
    """Open what `--trace` names; None without it."""
    path: str | None = arguments.trace
    if path is None:
        yield None
    elif path == "-":
        stream = getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise TraceError("<stdin>: there is no standard input")
        yield TraceReader(stream, "<stdin>", skip_bad=arguments.skip_bad)
    else:
        with open_trace(path) as stream:
            yield TraceReader(stream, path, skip_bad=arguments.skip_bad)


@contextmanager
def _audit_file(arguments: argparse.Namespace) -> Iterator[IO[str] | None]:
    """Open what `--audit` names, a line at a time on the disk; None without it."""
    path: str | None = arguments.audit
    if path is None:
        yield None
        return
    # There is nothing to protect when one of them does not exist.
    with suppress(OSError, ValueError):
        if arguments.trace not in (None, "-") and os.path.samefile(path, arguments.trace):
            raise _CommandError(f"{path}: the audit log would replace the trace", EXIT_INPUT)
    try:
        file = open(path, "w", encoding="utf-8", newline="\n", buffering=1)  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _CommandError(f"{path}: {reason}", EXIT_INPUT) from None
    try:
        yield file
    finally:
        # What could not be written was already reported, event by event.
        with suppress(OSError):
            file.close()


def _output_lost(cause: OSError) -> int:
    """Return the exit code for a standard output that cannot be written."""
    if cause.errno not in (errno.EPIPE, errno.EINVAL):
        raise _CommandError(f"cannot write to standard output: {cause.strerror}", EXIT_OUTPUT)
    return EXIT_PIPE_CLOSED


def _discard_stdout() -> None:
    """Point standard output at nothing, so that the interpreter's last flush cannot fail."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _complain(message: str) -> None:
    """Write one line to standard error, if there is one."""
    from agent_event_bus.cli.view import GuardedStream, printable

    stream = GuardedStream(sys.stderr)
    stream.write(f"agent-event-bus: {printable(message)}\n")
    stream.flush()
