"""The pytest plugin: what its fixtures give to tests, and which tests it fails, in inner runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"

ASYNCIO = """
import asyncio
import pytest

async def linger(payload):
    await asyncio.Event().wait()

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

STRICT = ["--strict-markers", "--strict-config", "-Werror", "-pno:cacheprovider"]

plugins = pytest.mark.parametrize("plugin", ["asyncio", "anyio"])


@pytest.fixture(autouse=True)
def only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep inner runs quick: importing the plugins of all installed packages takes a while."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, code: str, *options: str) -> pytest.RunResult:
    """Run pytest, strictly and in this process, on a file with this code."""
    pytester.makepyfile(code)
    arguments = [*STRICT, "-pagent_event_bus"]
    if "asyncio" in code:
        arguments += ["-ppytest_asyncio.plugin", "-oasyncio_default_fixture_loop_scope=function"]
    if "anyio" in code:
        arguments.append("-panyio.pytest_plugin")
    return pytester.runpytest_inprocess(*arguments, *options)


class TestEventBus:
    def test_it_is_fresh_and_the_current_and_default_bus_everywhere(
        self, pytester: pytest.Pytester
    ) -> None:
        result = run(
            pytester,
            """
            import asyncio
            import threading
            from agent_event_bus import current_bus, get_bus

            seen = []

            def test_here(event_bus):
                event_bus.on("a", print)
                get_bus("other").on("a", print)
                seen.append(event_bus)
                assert current_bus() is get_bus() is event_bus

            def test_each_test_has_another(event_bus):
                assert event_bus not in seen
                assert len(event_bus) == len(get_bus("other")) == 0

            def test_in_a_thread_and_in_tasks(event_bus):
                async def main():
                    return await asyncio.gather(asyncio.to_thread(current_bus), child())

                async def child():
                    return current_bus()

                assert asyncio.run(main()) == [event_bus] * 2
                thread = threading.Thread(target=lambda: seen.append(current_bus()))
                thread.start()
                thread.join()
                assert seen.pop() is event_bus
            """,
        )
        result.assert_outcomes(passed=3)

    @plugins
    def test_it_is_the_current_bus_of_async_tests(
        self, pytester: pytest.Pytester, plugin: str
    ) -> None:
        result = run(
            pytester,
            f"""
            {ASYNCIO.strip().replace(chr(10), chr(10) + " " * 12)}

            from agent_event_bus import current_bus

            @pytest.mark.{plugin}
            async def test_async(event_bus, recorded_events):
                event_bus.on("a", lambda payload: asyncio.sleep(0))
                await current_bus().emit_async("a", 1)
                current_bus().emit("a", 2)
                await event_bus.drain()
                assert recorded_events.payloads == [1, 2]
            """,
        )
        result.assert_outcomes(passed=1)

    def test_it_is_closed_at_the_end_and_the_registry_is_back(
        self, pytester: pytest.Pytester
    ) -> None:
        result = run(
            pytester,
            """
            from agent_event_bus import get_bus

            outside = get_bus("a bus of this test's own")
            kept = []

            def test_one(event_bus):
                kept.append(event_bus)
                assert get_bus("a bus of this test's own") is not outside

            def test_two():
                assert kept[0].closed
                assert get_bus("a bus of this test's own") is outside
            """,
        )
        result.assert_outcomes(passed=2)

    def test_its_options_are_a_fixture_to_override(self, pytester: pytest.Pytester) -> None:
        result = run(
            pytester,
            """
            import pytest

            @pytest.fixture
            def event_bus_options():
                return {"history": 10}

            def test_history(event_bus):
                event_bus.emit("a")
                assert len(event_bus.history()) == 1
            """,
        )
        result.assert_outcomes(passed=1)


class TestRecordedEvents:
    def test_it_has_everything_and_its_complaint_shows_well(
        self, pytester: pytest.Pytester
    ) -> None:
        result = run(
            pytester,
            """
            def test_difference(event_bus, recorded_events):
                event_bus.emit("tool.end", {"tool": "read", "ok": True})
                recorded_events.assert_emitted("tool.end", where={"tool": "search"})
            """,
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                ">*recorded_events.assert_emitted(*",
                "E       AssertionError: expected 'tool.end' where {'tool': 'search'} "
                "to be emitted at least once, but the one such event did not match",
                "E       these do not match, the nearest first:",
                "E         event 1 'tool.end':",
                "E             tool: expected 'search', got 'read'",
                "E       recorded 'tool.end'",
                "",
                "test_*.py:3: AssertionError",
            ],
            consecutive=True,
        )
        result.stdout.no_fnmatch_line("*_testing_recorder*")


class TestHandlerErrors:
    CODE = """
    import pytest

    def price(response):
        return response["usage"]

    def test_it(event_bus):
        event_bus.on("model_responded", price)
        event_bus.emit("model_responded", {})
    """

    def marked(self, arguments: str) -> str:
        marker = f"@pytest.mark.event_bus({arguments})"
        return self.CODE.replace("def test_it", f"{marker}\n    def test_it")

    def test_one_fails_the_test_with_its_traceback(self, pytester: pytest.Pytester) -> None:
        result = run(pytester, self.CODE)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "*_ test_it _*",
                "Handler 'price' raised on event 'model_responded': "
                "KeyError: 'usage' (test_*.py:4)",
                "Traceback (most recent call last):",
                '  File "*.py", line 4, in price',
                '    return response["usage"]',
            ],
            consecutive=True,
        )
        result.stdout.no_fnmatch_line("*pytest_plugin*")

    def test_in_a_test_that_fails_it_is_told_as_well(self, pytester: pytest.Pytester) -> None:
        result = run(pytester, self.CODE + "    assert event_bus is None\n")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "E  *assert <EventBus* is None",
                "*Captured event bus call*",
                "Handler 'price' raised on event 'model_responded': KeyError: 'usage' *",
            ]
        )

    def test_one_after_the_test_is_an_error(self, pytester: pytest.Pytester) -> None:
        result = run(
            pytester,
            """
            import pytest

            @pytest.fixture
            def agent(event_bus):
                yield
                event_bus.on("stop", lambda payload: payload.stop())
                event_bus.emit("stop")

            def test_it(agent):
                pass
            """,
        )
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*Handler '*lambda*' raised on event 'stop': AttributeError*"])

    @pytest.mark.parametrize(
        ("setting", "marker", "outcome"),
        [
            ("true", "", "failed"),
            ("false", "", "passed"),
            ("true", "fail_on_handler_error=False", "passed"),
            ("false", "fail_on_handler_error=True", "failed"),
            ("false", "fail_on_leak=True", "passed"),
        ],
    )
    def test_a_setting_decides_and_a_marker_before_it(
        self, pytester: pytest.Pytester, setting: str, marker: str, outcome: str
    ) -> None:
        result = run(pytester, self.marked(marker), f"-oevent_bus_fail_on_handler_error={setting}")
        result.assert_outcomes(**{outcome: 1})

    def test_the_marker_nearest_to_the_test_decides(self, pytester: pytest.Pytester) -> None:
        off = "pytestmark = pytest.mark.event_bus(fail_on_handler_error=False)"
        code = self.marked("fail_on_handler_error=True").replace(
            "def price", f"{off}\n\n    def price"
        )
        run(pytester, code).assert_outcomes(failed=1)

    @pytest.mark.parametrize("argument", ["fail_on_error=True", "True"])
    def test_a_marker_with_another_argument_is_an_error(
        self, pytester: pytest.Pytester, argument: str
    ) -> None:
        result = run(pytester, self.marked(argument))
        result.assert_outcomes(errors=1)
        name = argument.partition("=")[0]
        result.stdout.fnmatch_lines(
            [f"the marker event_bus takes fail_on_handler_error and fail_on_leak, not {name}"]
        )

    @pytest.mark.parametrize("name", ["fail_on_handler_error", "fail_on_leak"])
    def test_a_marker_with_a_value_that_is_no_bool_is_an_error(
        self, pytester: pytest.Pytester, name: str
    ) -> None:
        result = run(pytester, self.marked(f"{name}='false'"))
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            [f"the marker event_bus takes True or False for {name}, not 'false'"]
        )

    def test_caplog_and_on_error_work_as_ever(self, pytester: pytest.Pytester) -> None:
        result = run(
            pytester,
            """
            import pytest

            seen = []

            @pytest.fixture
            def event_bus_options():
                return {"on_error": lambda *args: seen.append(args[0])}

            @pytest.mark.event_bus(fail_on_handler_error=False)
            def test_it(event_bus, caplog):
                event_bus.on("a", lambda payload: 1 / 0)
                event_bus.emit("a")
                assert "division by zero" in caplog.text
                assert seen == ["a"]
            """,
        )
        result.assert_outcomes(passed=1)


class TestLeaks:
    @plugins
    @pytest.mark.parametrize("began", [True, False])
    def test_a_pending_delivery_fails_an_async_test(
        self, pytester: pytest.Pytester, plugin: str, began: bool
    ) -> None:
        code = f"""{ASYNCIO}
@pytest.mark.{plugin}
async def test_it(event_bus):
    event_bus.on("a", linger)
    event_bus.emit("a")
    if {began}:
        await asyncio.sleep(0)
"""
        result = run(pytester, code)
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(
            [
                "*ERROR at teardown of test_it*",
                "left pending on <EventBus 'default': 1 subscription>, "
                "and cancelled when its event loop ended:",
                "  a -> linger",
                "await bus.drain() before the test ends, or bus.aclose()",
            ],
            consecutive=True,
        )

    @plugins
    @pytest.mark.parametrize("end", ["await event_bus.drain()", "await event_bus.aclose()"])
    def test_draining_and_closing_leave_nothing(
        self, pytester: pytest.Pytester, plugin: str, end: str
    ) -> None:
        code = f"""{ASYNCIO}
@pytest.mark.{plugin}
async def test_it(event_bus):
    event_bus.on("a", {"asyncio.sleep" if "drain" in end else "linger"})
    event_bus.emit("a", 0)
    {end}
"""
        run(pytester, code).assert_outcomes(passed=1)

    @plugins
    def test_an_async_fixture_may_clean_up(self, pytester: pytest.Pytester, plugin: str) -> None:
        fixture = "pytest_asyncio.fixture" if plugin == "asyncio" else "pytest.fixture"
        code = f"""{ASYNCIO}
import pytest_asyncio

@{fixture}
async def agent(event_bus):
    event_bus.on("a", asyncio.sleep)
    yield event_bus
    await event_bus.drain()

@pytest.mark.{plugin}
async def test_it(agent):
    agent.emit("a", 0)
"""
        run(pytester, code).assert_outcomes(passed=1)

    def test_a_pending_delivery_fails_a_sync_test_and_is_cancelled(
        self, pytester: pytest.Pytester
    ) -> None:
        code = f"""{ASYNCIO}
import gc

loop = asyncio.new_event_loop()
ended = []

async def handler(payload):
    try:
        await linger(payload)
    finally:
        ended.append(payload)

def test_it(event_bus):
    event_bus.bind_loop(loop)
    event_bus.on("a", handler)
    event_bus.emit("a", 1)
    loop.run_until_complete(asyncio.sleep(0))

def test_the_next_one():
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert ended == [1]

def test_one_that_closes_its_loop(event_bus):
    loop = asyncio.new_event_loop()
    event_bus.bind_loop(loop)
    event_bus.on("b", handler)
    event_bus.emit("b", 2)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
"""
        result = run(pytester, code)
        result.assert_outcomes(passed=3, errors=2)
        result.stdout.fnmatch_lines(["left pending on <EventBus*", "  a -> handler"])
        result.stdout.fnmatch_lines(["left pending on <EventBus*", "  b -> handler"])

    def test_a_test_that_fails_is_not_blamed_for_leaks_too(self, pytester: pytest.Pytester) -> None:
        code = f"""{ASYNCIO}
@pytest.mark.asyncio
async def test_it(event_bus):
    event_bus.on("a", linger)
    event_bus.emit("a")
    raise LookupError
"""
        run(pytester, code).assert_outcomes(failed=1)

    @pytest.mark.parametrize(
        ("setting", "marker", "errors"),
        [("true", "", 1), ("false", "", 0), ("true", "fail_on_leak=False", 0)],
    )
    def test_a_setting_decides_and_a_marker_before_it(
        self, pytester: pytest.Pytester, setting: str, marker: str, errors: int
    ) -> None:
        code = f"""{ASYNCIO}
@pytest.mark.event_bus({marker})
@pytest.mark.asyncio
async def test_it(event_bus):
    event_bus.on("a", linger)
    event_bus.emit("a")
"""
        result = run(pytester, code, f"-oevent_bus_fail_on_leak={setting}")
        result.assert_outcomes(passed=1, errors=errors)


class TestWatchEventBus:
    CODE = """
    import pytest
    from agent_event_bus import EventBus

    app_bus = EventBus("app")

    def handler(payload):
        raise ValueError("x")

    @pytest.fixture(autouse=True)
    def watch(watch_event_bus):
        watch_event_bus(app_bus)
        watch_event_bus(app_bus)
    """

    def test_a_subscription_left_on_a_bus_that_outlives_the_test_is_named(
        self, pytester: pytest.Pytester
    ) -> None:
        result = run(
            pytester,
            self.CODE
            + """
    def test_leak():
        app_bus.on("a", handler)

    def test_none_is_new():
        with app_bus.subscribe("b", handler):
            pass
    """,
        )
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(
            [
                "left behind on <EventBus 'app': 1 subscription>:",
                "subscribed:",
                "  'a' -> handler (test_*.py:6)",
            ],
            consecutive=True,
        )

    def test_errors_of_its_handlers_fail_the_test_and_on_error_comes_back(
        self, pytester: pytest.Pytester
    ) -> None:
        result = run(
            pytester,
            self.CODE
            + """
    app_bus.on_error = print

    def test_error():
        assert app_bus.on_error is not print
        with app_bus.subscribe("b", handler):
            app_bus.emit("b")

    @pytest.fixture(scope="module", autouse=True)
    def last():
        yield
        assert app_bus.on_error is print
    """,
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["Handler 'handler' raised on event 'b': ValueError: x (*"])


class TestSuitesThatDoNotUseIt:
    @pytest.fixture(autouse=True)
    def all_plugins(self, only_what_is_asked_for: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")

    def test_nothing_of_the_package_is_imported(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import sys

            def test_it(request):
                assert request.config.pluginmanager.has_plugin("agent_event_bus")
                loaded = [name for name in sys.modules if name.startswith("agent_event_bus")]
                assert loaded == []
            """
        )
        pytester.runpytest_subprocess("-pno:cacheprovider").assert_outcomes(passed=1)

    def test_it_can_be_left_out(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_it(event_bus): pass")
        result = pytester.runpytest_subprocess("-pno:cacheprovider", "-pno:agent_event_bus")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*fixture 'event_bus' not found"])


class TestHelp:
    def test_the_marker_the_settings_and_the_fixtures_are_explained(
        self, pytester: pytest.Pytester
    ) -> None:
        run(pytester, "", "--markers").stdout.fnmatch_lines(
            ["@pytest.mark.event_bus(fail_on_handler_error=..., fail_on_leak=...)*"]
        )
        run(pytester, "", "--help").stdout.fnmatch_lines(
            ["*event_bus_fail_on_handler_error (bool):*", "*event_bus_fail_on_leak (bool):*"]
        )
        shown = run(pytester, "", "--fixtures").stdout.str()
        for fixture in ("event_bus", "event_bus_options", "recorded_events", "watch_event_bus"):
            assert re.search(rf"^{fixture} -- .*\n    \S", shown, re.MULTILINE), fixture


def test_a_program_may_import_the_package_and_then_run_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(event_bus): event_bus.emit('a')")
    program = pytester.makepyfile(
        program="""
        import agent_event_bus, pytest

        arguments = ["-pagent_event_bus", "-pno:cacheprovider", "-Werror"]
        raise SystemExit(pytest.main(arguments))
        """
    )
    result = pytester.runpython(program)
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_the_examples_of_the_documentation_pass(pytester: pytest.Pytester) -> None:
    text = (DOCS / "testing.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python test\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        tests = re.findall(r"^(?:async )?def test_", example, re.MULTILINE)
        run(pytester, example).assert_outcomes(passed=len(tests))
