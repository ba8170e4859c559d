"""The rows that most tables have: what one writes by hand, then every bus."""

from __future__ import annotations

import functools
from typing import Any, Callable

from benchmarks.harness import Prepare, Statement
from benchmarks.peers import PEERS


def by_hand_and_peers(
    label: str,
    by_hand: Callable[..., Statement],
    of_peer: Callable[..., Statement],
    **fixed: Any,
) -> dict[str, Prepare]:
    """Return, by label, what prepares the rows of a column.

    Args:
        label: of the first row.
        by_hand: prepares the first row.
        of_peer: prepares the row of the peer that it gets as `peer`.
        fixed: keyword arguments for both.
    """
    found: dict[str, Prepare] = {label: functools.partial(by_hand, **fixed)}
    for peer in PEERS:
        found[peer.label] = functools.partial(of_peer, peer=peer, **fixed)
    return found
