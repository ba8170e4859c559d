"""The consumer ledger: pending, acknowledging one or many, and what pruning keeps."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import soon
from stores import names, numbers

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore


def filled(path: Path, count: int = 10) -> EventStore:
    store = EventStore(path)
    for number in range(count):
        store.append("even" if number % 2 == 0 else "odd", number)
    store.flush()
    return store


def pending(store: EventStore, consumer: str = "c", **options: Any) -> list[int]:
    return [event.seq for event in store.pending(consumer, **options)]


def ledger_rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM acks").fetchone()
    connection.close()
    return int(count)


def test_a_new_consumer_has_everything_pending_in_order(path: Path) -> None:
    with filled(path) as store:
        assert pending(store) == list(range(1, 11))
        assert pending(store, after=7) == [8, 9, 10]
        assert pending(store, key="odd", limit=2) == [2, 4]


async def test_a_call_that_fails_makes_no_consumer_known(path: Path) -> None:
    with filled(path, 3) as store:
        with pytest.raises(ValueError, match="no event 4"):
            store.ack("c", 4)
        with pytest.raises(ValueError, match="no event 4"):
            store.ack_through("c", 4)
        with pytest.raises(ValueError, match="no event 4"):
            await soon(store.ack_async("c", 4))
        with pytest.raises(ValueError, match="after"):
            store.pending("c", after=-1)
        with pytest.raises(TypeError, match="class"):
            await soon(store.replay(EventBus(), consumer="c", key=EventBus))
        assert store.prune(keep_last=0) == 3  # nobody is known who has not acknowledged them


def test_one_event_is_acknowledged_out_of_order(path: Path) -> None:
    with filled(path, 5) as store:
        store.ack("c", 3)
        assert pending(store) == [1, 2, 4, 5]
        store.ack("c", 1)
        assert pending(store) == [2, 4, 5]
        store.ack("c", 1)
        store.ack("c", 3)
        assert pending(store) == [2, 4, 5]
        assert pending(store, "other") == [1, 2, 3, 4, 5]


def test_acknowledging_through_takes_all_up_to_a_number(path: Path) -> None:
    with filled(path, 6) as store:
        store.ack("c", 5)
        store.ack_through("c", 3)
        assert pending(store) == [4, 6]
        store.ack_through("c", 1)  # never goes back
        assert pending(store) == [4, 6]
        store.ack_through("c", 0)
        store.ack_through("c", 6)
        assert pending(store) == []


async def test_acknowledging_in_the_group_commit_does_the_same(path: Path) -> None:
    with filled(path, 600) as store:
        await soon(asyncio.gather(*(store.ack_async("c", n) for n in range(1, 600))))
        assert pending(store) == [600]
        # An event of the same group has its number before the acknowledgements are looked at.
        *_, number = await soon(
            asyncio.gather(
                store.ack_async("c", 601),
                store.ack_async("c", 600),
                store.ack_async("d", 5),
                store.append_async("more"),
            )
        )
        assert number == 601
        with pytest.raises(ValueError, match="no event 700"):
            await soon(store.ack_async("c", 700))
        assert pending(store) == []
        assert pending(store, "d")[:5] == [1, 2, 3, 4, 6]


def test_what_is_acknowledged_is_on_the_disk(path: Path) -> None:
    with filled(path, 3) as store, EventStore(path) as other:
        store.ack("c", 2)
        assert pending(other) == [1, 3]
        store.ack_through("c", 3)
        assert pending(other) == []


@pytest.mark.parametrize("number", [0, -1, 4, 2**62])
def test_a_number_that_no_event_has_yet_is_refused(path: Path, number: int) -> None:
    with filled(path, 3) as store:
        with pytest.raises(ValueError, match="no event"):
            store.ack("c", number)
        if number:
            with pytest.raises(ValueError, match="no event"):
                store.ack_through("c", number)
        assert pending(store) == [1, 2, 3]


@pytest.mark.parametrize("arguments", [("", 1), (5, 1), ("c", "1"), ("c", True)])
async def test_bad_arguments_are_refused(path: Path, arguments: tuple[Any, Any]) -> None:
    with filled(path, 3) as store:
        for call in (store.ack, store.ack_through):
            with pytest.raises((ValueError, TypeError)):
                call(*arguments)
        with pytest.raises((ValueError, TypeError)):
            await store.ack_async(*arguments)


def test_the_ledger_is_compacted_to_one_mark(path: Path) -> None:
    with filled(path, 50) as store:
        for number in range(50, 1, -1):
            store.ack("c", number)
        assert ledger_rows(path) == 49
        store.ack("c", 1)
        assert ledger_rows(path) == 0
        assert pending(store) == []


def test_an_event_that_was_deleted_may_be_acknowledged(path: Path) -> None:
    with filled(path, 5) as store:
        store.prune(before_seq=4)
        store.ack("c", 2)
        assert pending(store) == [4, 5]
        store.ack("c", 4)
        assert pending(store) == [5]
        assert ledger_rows(path) == 0  # the mark passes what is not there


def test_the_ledger_outlives_the_store(path: Path) -> None:
    with filled(path, 4) as store:
        store.ack("c", 1)
        store.ack("c", 3)
    with EventStore(path) as store:
        assert pending(store) == [2, 4]


def test_what_is_appended_later_is_pending_for_everybody(path: Path) -> None:
    with filled(path, 2) as store:
        store.ack_through("c", 2)
        store.append("more")
        store.flush()
        assert pending(store) == [3]


# Pruning


def test_pruning_keeps_what_a_known_consumer_has_not_acknowledged(path: Path) -> None:
    with filled(path, 6) as store:
        store.pending("slow")  # known from here on
        store.ack("slow", 2)
        assert store.prune(before_seq=100) == 1
        assert numbers(store) == [1, 3, 4, 5, 6]
        store.ack_through("slow", 4)
        assert store.prune(before_seq=100) == 3
        assert numbers(store) == [5, 6]
        store.ack_through("quick", 6)
        assert store.prune(before_seq=100) == 0


def test_pruning_takes_only_what_meets_all_conditions(path: Path) -> None:
    now = time.time()
    with EventStore(path, sync="each") as store:
        for age in (50, 40, 5, 30, 1):
            store.append("a", age, timestamp=now - age)
        with pytest.raises(ValueError, match="needs a condition"):
            store.prune()
        assert store.prune(older_than=3600) == 0
        assert store.prune(older_than=20, keep_last=3) == 2
        assert numbers(store) == [3, 4, 5]
        assert store.prune(older_than=20, before_seq=4) == 0
        assert store.prune(older_than=20) == 1
        assert numbers(store) == [3, 5]
        assert store.prune(keep_last=5) == 0
        assert store.prune(keep_last=1) == 1
        assert store.prune(keep_last=0) == 1
        assert store.prune(before_seq=10) == 0
        assert names(store) == []


def test_pruning_many_events_takes_several_transactions(path: Path) -> None:
    with filled(path, 12_000) as store:
        assert store.prune(keep_last=10) == 11_990
        assert numbers(store) == list(range(11_991, 12_001))


@pytest.mark.parametrize(
    "conditions", [{"before_seq": -1}, {"keep_last": -1}, {"older_than": -1}, {"older_than": "1"}]
)
def test_bad_conditions_are_refused(path: Path, conditions: dict[str, Any]) -> None:
    with filled(path, 1) as store:
        with pytest.raises((ValueError, TypeError), match=next(iter(conditions))):
            store.prune(**conditions)
        assert numbers(store) == [1]


def test_pruning_takes_no_time_for_numbers_that_have_no_event(path: Path) -> None:
    with filled(path, 3) as store:
        store.ack("c", 2)
        with store._database.transaction() as connection:
            connection.execute("UPDATE sqlite_sequence SET seq = 1000000000000")
        assert asyncio.run(store.append_async("far")) == 10**12 + 1
        assert store.prune(before_seq=10**13) == 1
        assert numbers(store) == [1, 3, 10**12 + 1]
