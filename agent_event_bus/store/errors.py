"""What the store raises when the disk or the file refuses."""

from __future__ import annotations

__all__ = ["StoreClosedError", "StoreError"]


class StoreError(RuntimeError):
    """The disk, the file or SQLite refused; the message names the file and what was said.

    Where it comes from SQLite, the ``sqlite3.Error`` is its ``__cause__``.
    """


class StoreClosedError(StoreError):
    """The store is closed."""
