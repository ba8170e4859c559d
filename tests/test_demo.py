"""`agent-event-bus demo`: the built-in agent, its observers, and how the terminal shows them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_event_bus.cli import main
from agent_event_bus.cli.view import GuardedStream, PlainView, Table

EXAMPLES = Path(__file__).parents[1] / "examples"
COMMAND = [sys.executable, "-m", "agent_event_bus", "demo"]
WITHOUT_RICH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rich'] = None; from agent_event_bus.cli import main; "
    "sys.exit(main(sys.argv[1:]))",
    "demo",
]


def environment(**changes: str) -> dict[str, str]:
    """Return an environment for a command whose output does not depend on who runs the tests."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "TERM")}
    return {**kept, "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color", **changes}


def run(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in another directory, as a user does who has installed the package."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(),
        encoding="utf-8",
        timeout=60,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def row(output: str, first: str) -> list[str]:
    """Return the cells after `first` of the last table row that begins with it."""
    rows = re.findall(rf"^  {re.escape(first)}  +(.*)$", output, re.MULTILINE)
    assert rows, f"no row {first!r} in:\n{output}"
    return re.split(r"  +", rows[-1].strip())


def run_in_terminal(command: list[str], cwd: Path, **changes: str) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; return its exit code and what the terminal received."""
    if sys.platform == "win32":
        pytest.skip("there are no pseudo-terminals here")
    master, slave = os.openpty()
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(COLUMNS="120", **changes),
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
    finally:
        os.close(slave)
    received = b""
    try:
        while True:
            chunk = os.read(master, 65536)
            if not chunk:
                break
            received += chunk
    except OSError:
        pass  # Linux reports the end of a terminal as EIO.
    finally:
        os.close(master)
    return process.wait(timeout=60), received.decode("utf-8").replace("\r\n", "\n")


# The run as a whole


def test_the_agent_finishes_although_a_tracker_crashes_on_every_response(tmp_path: Path) -> None:
    result = run(cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "Traceback" not in result.stdout
    report = "Handler 'CrashingCostTracker.on_response' raised on event 'llm.response': 'usage'"
    assert report in result.stdout
    assert result.stdout.index(report) < result.stdout.index("\nAnswer\n")
    assert "The Porto workshop costs 1852.20 EUR in all" in result.stdout


def test_the_summary_counts_events_and_handler_calls_and_failures(tmp_path: Path) -> None:
    output = run(cwd=tmp_path).stdout
    events = {"run.start": 1, "llm.request": 7, "llm.response": 7, "tool.start": 8, "tool.end": 7}
    for name, count in {**events, "tool.error": 1, "run.end": 1, "total": 35}.items():
        assert re.search(rf"^  {name} +{count}$", output, re.MULTILINE), name
    assert row(output, "AuditLog.record") == ["*", "35", "0"]
    assert row(output, "CrashingCostTracker.on_response") == ["llm.response", "7", "7"]
    assert row(output, "CostTracker.on_response") == ["llm.response", "7", "0"]
    assert row(output, "LatencyTracer.on_start") == ["llm.request, tool.start", "15", "0"]
    assert row(output, "crashes isolated")[0].startswith("7 ")
    assert row(output, "tool calls") == ["8"]
    assert row(output, "tool errors") == ["1"]
    assert "estimated, 4 characters a token" in row(output, "tokens")[0]
    assert "estimated" in row(output, "cost")[0]
    assert row(output, "model latency")[0].startswith("7 steps")
    assert row(output, "tool latency")[0].startswith("8 steps")


def test_crash_reports_are_shown_a_few_times_and_then_counted(tmp_path: Path) -> None:
    output = run(cwd=tmp_path).stdout
    assert output.count("raised on event") == 3
    assert output.count("further reports are counted, not shown") == 1
    assert row(output, "crashes isolated") == ["7 (4 reports not shown)"]


def test_the_budget_alert_comes_exactly_once_for_several_overruns(tmp_path: Path) -> None:
    output = run("--budget", "0.001", cwd=tmp_path).stdout
    assert output.count("BUDGET ALERT") == 1
    assert int(row(output, "budget_exceeded")[0]) > 1
    assert row(output, "BudgetAlert.alert (once)") == ["budget_exceeded", "1", "0"]


def test_without_a_budget_there_is_no_alert(tmp_path: Path) -> None:
    output = run("--budget", "0", cwd=tmp_path).stdout
    assert "BUDGET ALERT" not in output
    assert "budget_exceeded  " not in output.partition("\nHandlers\n")[0]
    assert row(output, "budget") == ["none"]


def test_events_are_shown_in_the_order_they_happen(tmp_path: Path) -> None:
    lines = run(cwd=tmp_path).stdout.splitlines()
    shown = [match.group(1) for line in lines if (match := re.match(r" +[\d.]+s  (\S+)", line))]
    assert shown[:6] == [
        "run.start",
        "user.message",
        "llm.request",
        "llm.response",
        "tool.start",
        "tool.error",
    ]
    assert shown[-3:] == ["llm.response", "budget_exceeded", "run.end"]
    assert len(shown) == 35


def test_the_audit_log_holds_every_event_and_can_be_replayed(tmp_path: Path) -> None:
    assert run("--audit", "run.jsonl", cwd=tmp_path).returncode == 0
    lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    recorded = [json.loads(line) for line in lines]
    assert len(recorded) == 35
    assert recorded[0] == {
        "event": "run.start",
        "payload": {"run_id": "demo-1", "model": "scripted-model"},
    }
    replayed = run("--trace", "run.jsonl", "--budget", "0", cwd=tmp_path)
    assert replayed.returncode == 0
    assert row(replayed.stdout, "events")[0].startswith("35 replayed, 0 emitted by observers")
    assert row(replayed.stdout, "tool errors") == ["1"]


def test_the_command_runs_in_process_and_returns_its_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo"]) == 0
    assert "The Porto workshop costs" in capsys.readouterr().out
    assert main(["demo"]) == 0


def test_the_command_line_loads_neither_asyncio_nor_rich_before_it_needs_them() -> None:
    code = (
        "import sys, agent_event_bus.cli; "
        "print(sorted({'asyncio', 'rich', 'importlib.resources'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert result.stdout.strip() == "[]"


# Ends: bad arguments, interrupts, outputs that fail


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["demo", "--budget", "-1"],
        ["demo", "--budget", "nan"],
        ["demo", "--delay", "soon"],
        ["demo", "--skip-bad"],
        ["demo", "--trace", "x.jsonl", "--delay", "1"],
    ],
)
def test_bad_arguments_end_with_code_2_and_a_message(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version_are_printed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "agent-event-bus" in capsys.readouterr().out


def test_an_audit_file_that_cannot_be_opened_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "missing" / "run.jsonl")
    assert main(["demo", "--audit", path]) == 2
    assert f"{path}: No such file or directory" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_audit_log_is_isolated_and_told_at_the_end(tmp_path: Path) -> None:
    result = run("--audit", "/dev/full", cwd=tmp_path)
    assert result.returncode == 1
    assert "The Porto workshop costs" in result.stdout
    assert "/dev/full: 35 events could not be written" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_ends_with_code_1(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = run(cwd=tmp_path, stdout=full)
    assert result.returncode == 1
    assert "cannot write to standard output: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["--delay", "30"], ["--trace", "-"]])
def test_a_closed_pipe_ends_the_command_quietly(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        lines = '{"event":"run.start","payload":null}\n' * 1000
        result = run(*arguments, cwd=tmp_path, stdout=writer, input=lines)
    finally:
        os.close(writer)
    assert result.returncode == 141
    assert result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_without_a_standard_output_the_command_still_works(tmp_path: Path) -> None:
    result = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "--audit", "run.jsonl"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert len((tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()) == 35


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.usefixtures("control_c")
def test_ctrl_c_ends_with_code_130_and_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--delay", "30"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    # The agent waits for its model once it has asked.
    while "llm.request" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "agent-event-bus: interrupted\n"


# Terminals


def test_a_terminal_gets_colours_and_tables_from_rich(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    code, output = run_in_terminal([*COMMAND, "--delay", "0.01"], tmp_path)
    assert code == 0
    assert "\x1b[" in output
    assert "╭" in output
    assert "crashes isolated" in output
    assert "raised on event" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        (WITHOUT_RICH, {}),
        ([*COMMAND, "--plain"], {}),
        (COMMAND, {"NO_COLOR": "1"}),
        (COMMAND, {"TERM": "dumb"}),
        (COMMAND, {"PYTHONIOENCODING": "ascii"}),
    ],
    ids=["without rich", "--plain", "NO_COLOR", "dumb", "ascii"],
)
def test_a_terminal_gets_plain_text_when_colour_is_unwanted_or_impossible(
    command: list[str], changes: dict[str, str], tmp_path: Path
) -> None:
    code, output = run_in_terminal([*command, "--delay", "0"], tmp_path, **changes)
    assert code == 0
    assert "\x1b" not in output
    assert output.isascii()
    assert row(output, "AuditLog.record") == ["*", "35", "0"]


def test_the_rich_view_shows_brackets_of_a_payload_as_text() -> None:
    console_module = pytest.importorskip("rich.console")
    from agent_event_bus.cli.rich_view import RichView

    buffer = io.StringIO()
    console = console_module.Console(file=buffer, force_terminal=True, width=100)
    view = RichView(GuardedStream(buffer), GuardedStream(buffer), console)
    view.status("[bold]waiting")
    view.event(0.0, "user.message", "[red]not markup[/red] \x1b[31mnor an escape")
    view.table(Table("Figures", ("name", "count>"), [["[a]", "1"]], bad_rows=[0]))
    view.close()
    assert "[red]not markup[/red]" in buffer.getvalue()
    assert "\x1b[31mnor" not in buffer.getvalue()
    assert "[a]" in buffer.getvalue()


def test_the_plain_view_escapes_what_the_stream_cannot_encode() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    view = PlainView(GuardedStream(stream), GuardedStream(None))
    view.event(0.0, "user.message", "naïve \ud800 \x07 text")
    assert b"na\\xefve \\ud800   text" in raw.getvalue()


# Examples


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: str(path.stem))
def test_every_example_runs(example: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = {
        "multi_stream_runtime": "10 events, 2 done\n"
        "the last of the inbox: {'answer': 'It is on its way.'}\n",
        "watch_an_agent": "answer: 14\ntraced: square(1), square(2), square(3)\n",
        "record_and_replay": "recorded 8 events\nsearch: 2\nread: 1\n",
        "worker_recovery": (
            "first process\nAda: It is in Porto.\nit has died with status 9\n"
            "Bo: Yes, until it is delivered.\nCy: The workshop.\nAda: You are welcome.\n"
        ),
        "durable_log": "audit: run.end \nreplayed: 5\n",
        "telemetry_router": (
            "42 tokens\n42 tokens\nthe first tool was search\nrouted 6 events\nreplayed 6 events\n"
            "run.start: 1\nmodel.responded: 2\ntool.end: 2\nrun.end: 1\n"
        ),
        # All of it is looked at in test_systems_together.py.
        "support_agent": "runtime.tool_call_started: 2\nof one run 3\n",
    }
    assert result.stdout.endswith(expected[example.stem])
