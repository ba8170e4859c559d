"""A log as a file of JSON lines, and such a file, or a recorded run, into a log."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from typing import IO, Any, Callable

from agent_event_bus.store import _json
from agent_event_bus.store.database import Database, Row, insert, last_seq
from agent_event_bus.store.encoding import WITHHELD, decode, encode
from agent_event_bus.store.events import FORMS
from agent_event_bus.store.recorder import run_id_of

__all__ = ["export_jsonl", "import_jsonl"]

PAGE = 1000
"""Events that are read at a time, so that no transaction is long."""

Capture = Callable[[str, Any, "str | None", float], Row]
"""Makes what is written of name, payload, run id and timestamp; it redacts."""


# Export -------------------------------------------------------------------------------------------


def export_jsonl(database: Database, path: str | os.PathLike[str]) -> int:
    """Write every event that is committed now to a file, one JSON object a line.

    The file is whole or not there: it is written under another name, brought to the disk, and then
    takes the place of what was there before.

    Args:
        database: The store's.
        path: Where the file shall be.

    Returns:
        How many events it has.

    Raises:
        ValueError: It is the file of the store itself.
        OSError: The file cannot be written; nothing has changed then.
        StoreError: The store cannot be read.
    """
    target = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(target)
    if os.path.exists(target) and os.path.samefile(target, database.path):
        raise ValueError(f"{target!r} is the file of the store, which an export would replace")
    with database.reading() as connection:
        last = last_seq(connection)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            # Before anything is in it, which others may not be allowed to read.
            with suppress(FileNotFoundError):
                os.chmod(temporary, os.stat(target).st_mode & 0o777)
            count = _write(database, file, last)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)
    return count


def _sync_folder(folder: str) -> None:
    """Bring the new name of a file to the disk, where a folder can be opened for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(database: Database, file: IO[str], last: int) -> int:
    """Write the events up to a number and return how many they are."""
    count = after = 0
    while True:
        rows = database.query(
            "SELECT seq, name, payload, form, timestamp, run_id FROM events"
            " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (after, last, PAGE),
        )
        for seq, name, payload, form, timestamp, run_id in rows:
            # The payload stays the text that it is, so nothing of it can change.
            file.write(
                f'{{"seq":{seq},"name":{json.dumps(name)},"timestamp":{timestamp!r},'
                f'"run_id":{json.dumps(run_id)},"form":"{FORMS[form]}","payload":{payload}}}\n'
            )
        count += len(rows)
        if len(rows) < PAGE:
            return count
        after = rows[-1][0]


# Import -------------------------------------------------------------------------------------------


def import_jsonl(
    database: Database, path: str | os.PathLike[str], capture: Capture | None = None
) -> int:
    """Append the events of a file, all of them or none.

    Each line is an event of ``export_jsonl``, or one of a recorded run,
    ``{"event": NAME, "payload": ANYTHING}``, which may have a ``"timestamp"``. The events get new
    numbers, in the order of the file; the ``"seq"`` of a line is not used. Blank lines are skipped.
    The whole file is read and checked before anything is written.

    Args:
        database: The store's.
        path: Of the file.
        capture: Of a store that redacts: what it makes of each event is written.

    Returns:
        How many events were appended.

    Raises:
        ValueError: A line is malformed; the message names file and line. Nothing is written.
        OSError: The file cannot be read.
        StoreError: The store cannot be written.
    """
    name = os.fspath(path)
    rows = list(_rows(name, capture))
    if rows:
        with database.transaction() as connection:
            insert(connection, rows)
    return len(rows)


def _rows(path: str, capture: Capture | None) -> Iterator[Row]:
    now = time.time()
    # Split by bytes: a line that is no text must not hide which one it is.
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _captured(_row(line, now), capture)
            except (ValueError, RecursionError) as error:
                # The cause is left out, because it may quote the line.
                raise ValueError(f"{path}, line {number}: {_fault(error)}") from None


class _LineError(ValueError):
    """What is wrong with a line, in words that have nothing of its contents."""


def _fault(error: Exception) -> str:
    if isinstance(error, _LineError):
        return str(error)
    return "no JSON" if isinstance(error, ValueError) else "nested too deeply"


def _row(line: bytes, now: float) -> Row:
    """Return the event of a line."""
    entry = _json.standard_load(line.decode())
    if type(entry) is not dict:
        raise _LineError("no JSON object")
    if "name" in entry:
        name, run_id, timestamp = entry["name"], entry.get("run_id"), entry.get("timestamp")
        if entry.get("form") not in FORMS:
            raise _LineError('"form" is none of ' + ", ".join(FORMS))
        form = FORMS.index(entry["form"])
        text = _exported(entry)
    elif "event" in entry:
        name, timestamp = entry["event"], entry.get("timestamp", now)
        if "payload" not in entry:
            raise _LineError('it has no "payload"')
        payload = entry["payload"]
        run_id = run_id_of(payload)
        text, form = encode(payload)
    else:
        raise _LineError('it has neither "name" nor "event"')
    return _text("the name of the event", name), text, form, _seconds(timestamp), _run(run_id)


def _exported(entry: dict[str, Any]) -> str:
    """Return the text of a payload that was exported."""
    if "payload" not in entry:
        raise _LineError('it has no "payload"')
    try:
        text = _json.standard_dump(entry["payload"])
        decode(text)
    except ValueError:
        raise _LineError('"payload" is not what a store exports') from None
    return text


def _text(what: str, value: object) -> str:
    """Return text that can be in a log, and is not empty."""
    if type(value) is not str or not _is_text(value) or not value:
        raise _LineError(f"{what} is no text")
    return value


def _run(value: object) -> str | None:
    if value == "":
        return ""
    return None if value is None else _text('"run_id"', value)


def _seconds(value: object) -> float:
    """Return a timestamp."""
    if type(value) is float and isfinite(value):
        return value + 0.0  # SQLite has no -0.0
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return float(value)
    raise _LineError('"timestamp" is no number')


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _captured(row: Row, capture: Capture | None) -> Row:
    """Return an event as a store that redacts writes it."""
    name, text, form, timestamp, run_id = row
    if capture is None or form == WITHHELD:
        return row
    captured = capture(name, decode(text), run_id, timestamp)
    return (*captured[:2], max(form, captured[2]), *captured[3:])
