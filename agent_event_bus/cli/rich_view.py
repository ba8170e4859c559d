"""The coloured view; importing it raises `ImportError` when rich, the `cli` extra, is missing."""

from __future__ import annotations

from typing import IO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Table as RichTable
from rich.text import Text

from agent_event_bus.cli.view import GuardedStream, Table, View, printable

__all__ = ["RichView"]

_STYLES = {
    "run.start": "bold",
    "run.end": "bold",
    "user.message": "cyan",
    "llm.request": "bright_black",
    "llm.response": "magenta",
    "tool.start": "blue",
    "tool.end": "green",
    "tool.error": "bold yellow",
    "budget_exceeded": "yellow",
}


class RichView(View):
    """Colours, a live status line under the events, a progress bar, and tables.

    Text from events is only ever shown as `rich.text.Text`, never as markup.

    Args:
        out: where everything goes; the progress bar too, so that it and the text do not collide.
        err: not used; a terminal shows the bar.
        console: the console to draw on, one on `out` when omitted.
    """

    def __init__(
        self, out: GuardedStream, err: GuardedStream, console: Console | None = None
    ) -> None:
        super().__init__(out, err)
        self.console = console or Console(file=cast("IO[str]", out), highlight=False)
        self._status: Status | None = None
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def heading(self, text: str) -> None:
        self.console.rule(Text(printable(text), style="bold"), align="left", style="bright_black")

    def event(self, elapsed: float, name: str, detail: str) -> None:
        style = _STYLES.get(name, "")
        # A handler's name column keeps its place whatever the event is called.
        self._line(
            (f"{elapsed:7.3f}s  ", "bright_black"),
            (f"{printable(name):<15}  ", style),
            (printable(detail), "" if style != "bright_black" else style),
        )

    def crash(self, text: str, where: str) -> None:
        body = Text.assemble((printable(text), "red"))
        if where:
            body.append(f" ({printable(where)})", "bright_black")
        self._notice("✗ ERROR", "bold red", body)

    def alert(self, text: str) -> None:
        self._notice("$ BUDGET ALERT", "bold yellow", Text(printable(text), "yellow"))

    def answer(self, text: str) -> None:
        self._stop_live()
        body = Text("\n".join(printable(line) for line in text.splitlines()))
        self.console.print(Padding(Panel(body, title="Answer", border_style="green"), (1, 0, 0, 0)))

    def table(self, table: Table) -> None:
        self._stop_live()
        drawn = RichTable(
            title=Text(table.title, style="bold"),
            title_justify="left",
            box=SIMPLE_HEAD,
            show_header=any(table.heads),
            header_style="bright_black",
            pad_edge=True,
        )
        for head in table.heads:
            right = head.endswith(">")
            drawn.add_column(head.rstrip(">"), justify="right" if right else "left")
        for number, row in enumerate(table.rows):
            style = "bold red" if number in table.bad_rows else None
            drawn.add_row(*(Text(printable(cell)) for cell in row), style=style)
        self.console.print(drawn)

    def status(self, text: str) -> None:
        shown = Text(printable(text), style="bright_black")
        if self._status is None:
            self._status = self.console.status(shown, spinner="dots")
            self._status.start()
        else:
            self._status.update(shown)

    def progress(self, done: int, total: int | None, events: int) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("replaying"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[events]:,} events"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._progress.add_task("replaying", total=total, events=0)
            self._progress.start()
        self._progress.update(self._task, completed=done, events=events)

    def close(self) -> None:
        self._stop_live()

    def _stop_live(self) -> None:
        # Only one live display may be on the console, and none while a table is drawn.
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _line(self, *parts: tuple[str, str]) -> None:
        line = Text.assemble(*parts)
        self.console.print(line, no_wrap=True, overflow="ellipsis", crop=True)

    def _notice(self, label: str, style: str, body: Text) -> None:
        # Nothing is cut off a notice; it wraps within its own column.
        grid = RichTable.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=8)
        grid.add_column(width=15, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row("", Text(label, style), body)
        self.console.print(grid)
