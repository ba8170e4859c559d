"""What the terminal shows: the interface, and the plain text that works everywhere.

The demo writes through a `View`. `PlainView` needs nothing but a text stream and is what a pipe, a
log file or a terminal without rich gets; `rich_view.RichView` is the coloured one.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TextIO

__all__ = ["GuardedStream", "PlainView", "Table", "View", "make_view", "printable"]


class Table(NamedTuple):
    """A table to show.

    Args:
        title: stands above it.
        heads: one a column; one that ends in ">" marks a column of figures, aligned right.
        rows: the cells.
        bad_rows: indexes of the rows that tell of a failure.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    bad_rows: Sequence[int] = ()


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def printable(text: str) -> str:
    """Return `text` on one line and without control characters, which could drive the terminal."""
    return _CONTROL.sub(" ", text)


class GuardedStream:
    """A text stream whose reader may go away, or whose disk may fill, without an exception.

    Handlers write to it. An exception there would be taken for a crash of the handler and reported
    where nobody reads. So the first failure is kept in `failure`, what follows is dropped, and the
    command looks at `failure` between two events. Characters that the stream cannot encode are
    written as escapes.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    @property
    def encoding(self) -> str:
        """The encoding of the stream, which rich looks at before it picks box characters."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person watches; a stream that is closed or absent has no watcher."""
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        """The descriptor of the stream, from which rich learns the size of the terminal."""
        if self.stream is None:
            raise OSError("there is no stream")
        return self.stream.fileno()

    def write(self, text: str) -> int:
        """Write `text`, or drop it after a failure."""
        if self.stream is None or self.failure is not None:
            return len(text)
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self.failure = error
        except ValueError:
            # Somebody has closed the stream: nobody wants the output.
            self.stream = None
        return len(text)

    def flush(self) -> None:
        """Flush the stream, so that what happens is seen when it happens."""
        if self.stream is None or self.failure is not None:
            return
        try:
            self.stream.flush()
        except OSError as error:
            self.failure = error
        except ValueError:
            self.stream = None


class View(ABC):
    """Where the demo shows what happens; the subclasses decide how it looks.

    Args:
        out: where the run is shown.
        err: where progress goes when it cannot be a bar.
    """

    def __init__(self, out: GuardedStream, err: GuardedStream) -> None:
        self.out = out
        self.err = err

    @abstractmethod
    def heading(self, text: str) -> None:
        """Show a line that introduces what follows."""

    @abstractmethod
    def event(self, elapsed: float, name: str, detail: str) -> None:
        """Show one event, `elapsed` seconds after the start."""

    @abstractmethod
    def crash(self, text: str, where: str) -> None:
        """Show a report that the bus logged, and where the exception came from."""

    @abstractmethod
    def alert(self, text: str) -> None:
        """Show the budget alert."""

    @abstractmethod
    def answer(self, text: str) -> None:
        """Show the agent's answer."""

    @abstractmethod
    def table(self, table: Table) -> None:
        """Show a table."""

    def status(self, text: str) -> None:  # noqa: B027 (a view may do without)
        """Replace the live line at the bottom, where there can be one."""

    def progress(self, done: int, total: int | None, events: int) -> None:  # noqa: B027 (a view may do without)
        """Show how far a trace is: bytes read, bytes in all if known, events delivered."""

    def close(self) -> None:  # noqa: B027 (a view may do without)
        """Take down what is live."""


class PlainView(View):
    """Lines of text without colour, aligned, each at once on the stream."""

    def __init__(self, out: GuardedStream, err: GuardedStream) -> None:
        super().__init__(out, err)
        # A terminal shows a line a row; a file may have longer ones, within reason.
        self._width = max(60, shutil.get_terminal_size().columns) if out.isatty() else 127
        self._quarters = 0
        self._next_time = time.monotonic() + 5.0

    def heading(self, text: str) -> None:
        self._line(printable(text))

    def event(self, elapsed: float, name: str, detail: str) -> None:
        self._line(f"{elapsed:7.3f}s  {printable(name):<15}  {self._clip(printable(detail))}")

    def crash(self, text: str, where: str) -> None:
        where = f" ({printable(where)})" if where else ""
        self._line(f"          ! ERROR          {printable(text)}{where}")

    def alert(self, text: str) -> None:
        self._line(f"          $ BUDGET ALERT   {printable(text)}")

    def answer(self, text: str) -> None:
        self._line("")
        self._line("Answer")
        for line in text.splitlines():
            for part in textwrap.wrap(printable(line), 100) or [""]:
                self._line(part)

    def table(self, table: Table) -> None:
        right = [head.endswith(">") for head in table.heads]
        lines = [[head.rstrip(">") for head in table.heads]]
        lines += [[printable(cell) for cell in row] for row in table.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        self._line("")
        self._line(table.title)
        for number, cells in enumerate(lines):
            if number == 0 and not any(cells):
                continue
            aligned = [
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(cells, widths, right)
            ]
            self._line(("  " + "  ".join(aligned)).rstrip())

    def progress(self, done: int, total: int | None, events: int) -> None:
        # Four lines for a file whose size is known, and one every five seconds for a long one.
        quarters = 4 * done // total if total else 0
        now = time.monotonic()
        if quarters <= self._quarters and now < self._next_time:
            return
        self._quarters = quarters
        self._next_time = now + 5.0
        share = f"{min(100, 100 * done // total)}%" if total else f"{done / 1e6:.1f} MB"
        self.err.write(f"  {share:>7}  {events:,} events\n")
        self.err.flush()

    def _clip(self, text: str) -> str:
        width = self._width - 27
        return text if len(text) <= width else text[: width - 3] + "..."

    def _line(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()


def make_view(*, plain: bool) -> View:
    """Return the view for this process's standard output.

    Rich is used when it is installed and a person watches: standard output is a terminal that shows
    Unicode and not a dumb one, `NO_COLOR` is not set (https://no-color.org), `plain` is false.
    """
    out, err = GuardedStream(sys.stdout), GuardedStream(sys.stderr)
    dumb = os.environ.get("TERM", "") == "dumb" or bool(os.environ.get("NO_COLOR"))
    if plain or dumb or not out.isatty() or "utf" not in out.encoding.lower():
        return PlainView(out, err)
    try:
        from agent_event_bus.cli.rich_view import RichView
    except ImportError:
        return PlainView(out, err)
    return RichView(out, err)
