"""Random programs do the same on the bus and on a plain-Python model of it (tests/model.py).

tests/worlds.py says what a program is and what of it is compared. tests/fuzz.py makes programs of
bytes, of a corpus that has been found to reach much.

AEB_MODEL_EXAMPLES sets the number of programs:

    AEB_MODEL_EXAMPLES=20000 python -m pytest -o faulthandler_timeout=0 tests/test_model.py
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import (
    BAD_KEYS,
    BAD_NAMES,
    KEYS,
    LONG,
    LOOP,
    NAMES,
    OBJECTS,
    PAYLOADS,
    ModelWorld,
    Program,
    RealWorld,
    Script,
    compare,
)

EXAMPLES = int(os.environ.get("AEB_MODEL_EXAMPLES", "150"))
BATCH = 1000  # programs a test: what hypothesis keeps of them makes each further one slower


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # so that looking for garbage takes little time
    yield
    gc.unfreeze()
    LOOP.close()


# Programs

numbers = st.integers(0, 7)
names = st.sampled_from(NAMES)
any_name = st.sampled_from(NAMES * 3 + BAD_NAMES)
any_key = st.sampled_from(KEYS * 2 + BAD_KEYS)
payloads = st.sampled_from(PAYLOADS)
objects = st.sampled_from(OBJECTS)


def ops_of(*strategies: Any) -> st.SearchStrategy[Any]:
    return st.one_of(*(st.tuples(*parts) for parts in strategies))


emissions = ops_of(
    (st.just("emit"), names, payloads),
    (st.just("emit"), any_name, payloads),
    (st.just("publish"), objects),
    (st.just("emitter"), names, payloads),
    (st.just("collect"), names, payloads),
)
async_emissions = ops_of(
    (st.just("emit_async"), names, payloads),
    (st.just("emit_async"), any_name, payloads),
    (st.just("publish_async"), objects),
    (st.just("emitter_async"), names, payloads),
    (st.just("collect_async"), names, payloads),
)
removals = ops_of(
    (st.just("cancel"), numbers),
    (st.just("off"), any_key, st.none() | numbers),
    (st.just("off"), st.none(), numbers),
    (st.just("clear"), any_key),
    (st.just("drop"), numbers),
    (st.just("look"), names),
)
conditions = (
    st.none()
    | st.sampled_from([{"n": 1}, {"n": 0, "m": 1}, {}])
    | st.tuples(st.none() | removals | emissions, st.sampled_from([True, False, "raise"]))
)
options = st.fixed_dictionaries(
    {
        "priority": st.sampled_from([0, 0, 1, -1]),
        "once": st.sampled_from([False, False, True]),
        "weak": st.sampled_from([False, True]),
        "envelope": st.sampled_from([False, False, True]),
        "isolate": st.sampled_from([True, True, False]),
        "where": st.none() | conditions,
    }
)
keys = st.sampled_from(KEYS) | st.sampled_from(KEYS) | any_key | st.lists(any_key, max_size=3)
subscribing = st.tuples(st.just("subscribe"), keys, numbers, options)
scripts = st.builds(
    Script,
    kind=st.sampled_from(["sync", "async", "late"]),
    is_method=st.booleans(),
    ops=st.lists(emissions | removals | subscribing, max_size=2).map(tuple),
    end=st.sampled_from(["ok", "ok", "ok", "boom", "cancel", "interrupt"]),
    awaits=st.none() | async_emissions,
    turns=st.sampled_from([0, LONG]),
    fails_late=st.sampled_from([False, False, True]),
)
operations = subscribing | emissions | async_emissions | removals
programs = st.builds(
    Program,
    scripts=st.lists(scripts, min_size=1, max_size=4),
    subscriptions=st.lists(subscribing, min_size=1, max_size=6),
    steps=st.lists(st.tuples(operations, st.booleans()), min_size=1, max_size=8),
)


@pytest.mark.parametrize("batch", range(1, 1 + -(-EXAMPLES // BATCH)))
@settings(
    max_examples=min(EXAMPLES, BATCH),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
)
@given(program=programs)
def test_the_bus_does_what_the_model_does(program: Program, batch: int) -> None:
    compare(program, RealWorld(program.scripts), ModelWorld(program.scripts))
