"""`agent-event-bus demo --trace FILE.jsonl`: recorded runs, and input that is none."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from recorded import RECORDED

from agent_event_bus.cli import main, trace
from agent_event_bus.cli.trace import TraceError, TraceReader

TWO_RUNS = Path(__file__).parent / "data" / "two_runs.jsonl"
COMMAND = [sys.executable, "-m", "agent_event_bus", "demo"]
GOOD = '{"event":"run.start","payload":{"run_id":"a"}}'


def replay(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Replay a file with the command, from the directory of the file."""
    return subprocess.run(
        [*COMMAND, "--trace", path.name, *arguments],
        cwd=path.parent,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def cell(output: str, first: str) -> str:
    """Return what follows `first` in the last table row that begins with it."""
    rows = re.findall(rf"^  {re.escape(first)}  +(.*)$", output, re.MULTILINE)
    assert rows, f"no row {first!r} in:\n{output}"
    return re.sub(r"  +", "  ", rows[-1])


def number(output: str, first: str) -> int:
    """Return the figure that follows `first`."""
    return int(cell(output, first).split()[0].replace(",", ""))


class Count:
    """The figures of a trace, counted from its lines by the words of the documentation."""

    def __init__(self, path: Path, budget: float = 0.05) -> None:
        self.names: Counter[str] = Counter()
        self.input_tokens = self.output_tokens = self.overruns = 0
        self.usd: defaultdict[str, float] = defaultdict(float)
        prices = {"gpt-4o": (2.5e-6, 10e-6), "gpt-4o-mini": (0.15e-6, 0.6e-6)}
        sent: Counter[str] = Counter()
        models: dict[str, tuple[float, float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            recorded = json.loads(line)
            name, payload = recorded["event"], recorded["payload"]
            run = payload["run_id"]
            self.names[name] += 1
            written = 0
            if name == "run.start":
                models[run] = prices[payload["model"]]
            elif name == "llm.request":
                tokens = (sent[run] + 3) // 4
                self.input_tokens += tokens
                self.usd[run] += tokens * models[run][0]
            elif name == "llm.response":
                written = len(payload["content"] or "") + len("".join(payload["tool_calls"]))
            elif name == "tool.start":
                written = len(json.dumps(payload["args"], ensure_ascii=False))
            elif name == "user.message":
                sent[run] += len(payload["content"])
            elif name in ("tool.end", "tool.error"):
                sent[run] += len(payload["result"])
            sent[run] += written
            self.output_tokens += (written + 3) // 4
            self.usd[run] += (written + 3) // 4 * models[run][1]
            self.overruns += name == "llm.response" and self.usd[run] > budget

    def check(self, output: str) -> None:
        """Compare with the summary of the command."""
        events = sum(self.names.values())
        assert f"{events:,} replayed, {self.overruns:,} emitted by observers" in output
        table = output.partition("\nEvents\n")[2].partition("\nHandlers\n")[0]
        for name, count in self.names.items():
            assert number(table, name) == count
        assert number(table, "total") == events + self.overruns
        assert number(output, "runs") == self.names["run.start"]
        assert number(output, "tool calls") == self.names["tool.start"]
        assert number(output, "tool errors") == self.names["tool.error"]
        assert number(output, "crashes isolated") == self.names["llm.response"]
        crashes = f"{self.names['llm.response']:,}"
        crashed = cell(output, "CrashingCostTracker.on_response")
        assert crashed == f"llm.response  {crashes}  {crashes}"
        # "*" once, the cost tracker once, the tracer once but for user.message and run.start; the
        # crashing tracker; and for each overrun "*", plus one alert.
        untraced = self.names["user.message"] + self.names["run.start"]
        deliveries = 3 * events - untraced + self.names["llm.response"]
        deliveries += self.overruns + bool(self.overruns)
        assert number(output, "handler deliveries") == deliveries
        tokens = f"{self.input_tokens:,} in, {self.output_tokens:,} out"
        assert tokens in cell(output, "tokens")
        assert cell(output, "cost").startswith(f"${sum(self.usd.values()):,.4f} ")


# Traces that are in order


def test_a_small_trace_gives_the_figures_that_its_lines_give(tmp_path: Path) -> None:
    result = replay(TWO_RUNS)
    assert result.returncode == 0
    Count(TWO_RUNS).check(result.stdout)
    assert number(result.stdout, "tool errors") == 1
    assert "100%  18 events" in result.stderr


def test_all_recorded_runs_go_through_in_one_go() -> None:
    if not RECORDED.is_file():
        pytest.skip("the recorded runs are not here; AEB_TRACE may name a file of them")
    result = replay(RECORDED)
    assert result.returncode == 0
    Count(RECORDED).check(result.stdout)
    assert result.stdout.count("BUDGET ALERT") == 1
    assert "events/s" in cell(result.stdout, "events")
    # Thousands of crashes, and still a page of output.
    assert len(result.stdout.splitlines()) < 60
    assert len(result.stderr.splitlines()) < 10


def test_the_budget_alert_comes_once_for_all_runs_of_a_trace(tmp_path: Path) -> None:
    result = replay(TWO_RUNS, "--budget", "0.00001")
    Count(TWO_RUNS, budget=0.00001).check(result.stdout)
    assert number(result.stdout, "budget_exceeded") > 1
    assert result.stdout.count("BUDGET ALERT") == 1
    assert cell(result.stdout, "BudgetAlert.alert (once)") == "budget_exceeded  1  0"


def test_a_dash_reads_standard_input() -> None:
    result = subprocess.run(
        [*COMMAND, "--trace", "-"],
        input=TWO_RUNS.read_bytes(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0
    assert b"18 replayed" in result.stdout


def test_an_audit_log_of_a_trace_holds_its_very_lines(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    source.write_bytes(TWO_RUNS.read_bytes())
    assert replay(source, "--audit", "copy.jsonl").returncode == 0
    copied = (tmp_path / "copy.jsonl").read_text(encoding="utf-8").splitlines()
    original = source.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in copied] == [json.loads(line) for line in original]


def test_the_audit_log_never_replaces_the_trace(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    source.write_bytes(TWO_RUNS.read_bytes())
    result = replay(source, "--audit", os.path.join(".", "source.jsonl"))
    assert result.returncode == 2
    assert "the audit log would replace the trace" in result.stderr
    assert source.read_bytes() == TWO_RUNS.read_bytes()


def test_a_model_without_a_price_is_counted_but_not_charged(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(TWO_RUNS.read_text(encoding="utf-8").replace("gpt-4o-mini", "new-model"))
    output = replay(path).stdout
    assert "tokens of models that have no price here: new-model" in cell(output, "cost")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD + "\n",
        GOOD,
        GOOD + "\r\n\r\n",
        "\n   \n" + GOOD + "\n\n",
        '{"payload":null,"event":"x","seq":1}\n',
        '{"event":"\\ud800","payload":{"run_id":["\\u001b[31m"]}}\n',
        '{"event":"a.b.c.d","payload":{}}\n',
    ],
    ids=["BOM", "no newline", "CRLF", "blank lines", "other fields", "surrogate", "long name"],
)
def test_unusual_but_valid_lines_are_delivered(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(text.encode("utf-8"))
    assert main(["demo", "--trace", str(path), "--audit", str(tmp_path / "audit.jsonl")]) == 0
    output = capsys.readouterr().out
    assert "1 replayed" in output
    assert "\x1b" not in output


STRANGE: list[Any] = [
    None,
    {},
    {"run_id": [1], "model": 5, "content": {"a": 1}, "tool_calls": 7, "args": [], "result": 1.5},
    {"run_id": None, "model": None, "content": None, "tool_calls": None, "args": None},
    {"run_id": {"x": []}, "call_id": [[]], "content": True, "tool_calls": [[], None, {}]},
    {"run_id": "", "tool_calls": "text", "spent": "much", "budget": None},
    {"spent": 10**399, "budget": [], "turn": -1e308},
]


def test_payloads_of_any_shape_fail_no_observer_but_the_broken_ones(tmp_path: Path) -> None:
    names = [
        *("run.start", "user.message", "llm.request", "llm.response", "tool.start", "tool.end"),
        *("tool.error", "run.end", "llm.request", "something.else"),
    ]
    lines = [json.dumps({"event": n, "payload": p}) for p in STRANGE for n in names]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    result = replay(path)
    assert result.returncode == 0
    assert number(result.stdout, "crashes isolated") == len(STRANGE)
    crashed = cell(result.stdout, "CrashingCostTracker.on_response")
    assert crashed == f"llm.response  {len(STRANGE)}  {len(STRANGE)}"


def test_a_recorded_budget_event_of_any_shape_raises_an_alert(tmp_path: Path) -> None:
    for payload in STRANGE:
        path = tmp_path / "trace.jsonl"
        path.write_text(json.dumps({"event": "budget_exceeded", "payload": payload}))
        result = replay(path)
        assert result.returncode == 0
        assert result.stdout.count("BUDGET ALERT") == 1
        assert number(result.stdout, "crashes isolated") == 0


# Malformed lines

BAD_LINES = {
    "not JSON": (b"event: run.start", "not valid JSON: Expecting value (column 1)"),
    "half an object": (b'{"event": "a", "payl', "not valid JSON"),
    "two objects": (GOOD.encode() * 2, "not valid JSON: Extra data"),
    "NaN": (b'{"event":"a","payload":{"x":NaN}}', "NaN is not valid JSON"),
    "huge float": (b'{"event":"a","payload":{"x":1e999}}', "a number is too large"),
    "huge integer": (
        b'{"event":"a","payload":{"x":' + b"9" * 100_000 + b"}}",
        "a number has more than 400 digits",
    ),
    "too deep": (
        b'{"event":"a","payload":{"x":' + b"[" * 100 + b"]" * 100 + b"}}",
        "nested more than 100 levels deep",
    ),
    "far too deep": (b"[" * 200_000, "nested more than 100 levels deep"),
    "array": (b"[1, 2]", 'expected an object with "event" and "payload", got an array'),
    "null": (b"null", "got null"),
    "number": (b"7", "got a number"),
    "string": (b'"run.start"', "got a string"),
    "no event": (b'{"payload":{}}', 'the field "event" is missing'),
    "no payload": (b'{"event":"a"}', 'the field "payload" is missing'),
    "event is a number": (b'{"event":1,"payload":{}}', '"event" must be a string, got a number'),
    "event is a boolean": (b'{"event":true,"payload":{}}', "got a boolean"),
    "event is null": (b'{"event":null,"payload":{}}', '"event" must be a string, got null'),
    "event is empty": (b'{"event":"","payload":{}}', '"event" is empty'),
    "event is a pattern": (b'{"event":"tool.*","payload":{}}', 'a name has no "*"'),
    "empty segment": (b'{"event":"a..b","payload":{}}', "a name has no empty segment"),
    "payload is text": (b'{"event":"a","payload":"x"}', '"payload" must be an object or null'),
    "payload is a list": (b'{"event":"a","payload":[]}', "got an array"),
    "not UTF-8": (b'{"event":"\xff","payload":{}}', "not UTF-8 text (byte 0xff at position 11)"),
    "NUL": (b'{"event":"\0","payload":{}}', "NUL byte"),
}


@pytest.mark.parametrize(("line", "fault"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_malformed_line_is_named_with_file_and_number(
    line: bytes, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode() + b"\n")
    assert main(["demo", "--trace", str(path)]) == 2
    errors = capsys.readouterr().err
    assert f"{path}:3: " in errors
    assert fault in errors
    assert "Traceback" not in errors


def test_a_malformed_line_ends_the_command_with_code_2_and_one_line_of_error(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{GOOD}\n{{broken\n")
    result = replay(path)
    assert result.returncode == 2
    assert "Traceback" not in result.stdout + result.stderr
    [error] = [line for line in result.stderr.splitlines() if line.startswith("agent-event-bus")]
    assert error.startswith("agent-event-bus: trace.jsonl:2: not valid JSON")
    assert "--skip-bad" in error


def test_a_last_line_that_is_cut_off_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{GOOD}\n{GOOD[:20]}")
    assert main(["demo", "--trace", str(path)]) == 2
    assert "the last line is cut off" in capsys.readouterr().err


def test_skip_bad_skips_and_counts_every_malformed_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    bad = b"\n".join(line for line, _ in BAD_LINES.values())
    path.write_bytes(GOOD.encode() + b"\n" + bad + b"\n" + GOOD.encode() + b"\n" + b'{"event":')
    result = replay(path, "--skip-bad")
    assert result.returncode == 0
    assert number(result.stdout, "bad lines skipped") == len(BAD_LINES) + 1
    assert "2 replayed" in cell(result.stdout, "events")
    skipped = [line for line in result.stderr.splitlines() if "skipped" in line]
    assert skipped[0].startswith("agent-event-bus: skipped trace.jsonl:2: not valid JSON")
    assert len(skipped) == 3


def test_skip_bad_counts_none_in_a_trace_that_is_in_order() -> None:
    assert number(replay(TWO_RUNS, "--skip-bad").stdout, "bad lines skipped") == 0


def test_exactly_as_deep_as_allowed_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"event":"a","payload":{"x":' + "[" * 98 + "]" * 98 + "}}")
    assert main(["demo", "--trace", str(path), "--audit", str(tmp_path / "audit.jsonl")]) == 0


def test_a_line_that_is_too_long_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_LINE_BYTES", 100)
    long = '{"event":"a","payload":{"x":"' + "y" * 1000 + '"}}'
    reader = TraceReader(io.BytesIO(f"{GOOD}\n{long}\n{GOOD}\n".encode()), "t", skip_bad=True)
    assert [name for name, _ in reader] == ["run.start", "run.start"]
    assert (reader.line, reader.bad_lines) == (3, 1)
    with pytest.raises(TraceError, match=r"t:2: the line is longer than"):
        list(TraceReader(io.BytesIO(f"{GOOD}\n{long}\n".encode()), "t"))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_endless_binary_file_is_refused_at_its_beginning(skip_bad: bool) -> None:
    with open("/dev/zero", "rb") as stream, pytest.raises(TraceError, match="binary file"):
        list(TraceReader(stream, "zero", skip_bad=skip_bad))


# Files that are no traces


@pytest.mark.parametrize("skip", [[], ["--skip-bad"]], ids=["strict", "--skip-bad"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "trace.jsonl: No such file or directory"),
        (b"", "trace.jsonl: no event in the file"),
        (b"\n  \n\n", "trace.jsonl: no event in the file (3 lines)"),
        (bytes(range(256)) * 100, "trace.jsonl:1: NUL byte, this is a binary file"),
        (GOOD.encode("utf-16"), "trace.jsonl:1: NUL byte, this is a binary file"),
        (b"\0" * 100_000, "trace.jsonl:1: NUL byte, this is a binary file"),
    ],
    ids=["missing", "empty", "blank", "binary", "UTF-16", "zeros"],
)
def test_what_is_no_trace_is_refused_with_code_2(
    content: bytes | None, fault: str, skip: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    if content is not None:
        path.write_bytes(content)
    result = replay(path, *skip)
    assert result.returncode == 2
    assert fault in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_an_image_is_refused_with_and_without_skip_bad(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)))
    assert "image.png:1: not UTF-8 text (byte 0x89 at position 1)" in replay(path).stderr
    skipping = replay(path, "--skip-bad")
    assert skipping.returncode == 2
    assert "image.png:3: NUL byte, this is a binary file" in skipping.stderr


def test_a_text_without_a_single_event_is_refused_with_skip_bad_too(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\ntwo\n")
    result = replay(path, "--skip-bad")
    assert result.returncode == 2
    assert "notes.txt: no event in the file (2 lines, 2 malformed lines)" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows words it as a lack of permission")
def test_a_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--trace", str(tmp_path)]) == 2
    assert f"{tmp_path}: Is a directory" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    # Not with chmod: a privileged user may read every file.
    monkeypatch.setattr(trace, "open", refuse, raising=False)
    path = tmp_path / "trace.jsonl"
    path.write_text(GOOD)
    assert main(["demo", "--trace", str(path)]) == 2
    assert f"{path}: Permission denied" in capsys.readouterr().err


class FailingStream(io.BytesIO):
    """A file on a disk that fails at the second line."""

    def readline(self, size: int | None = -1) -> bytes:
        """Return the first line, then fail."""
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().readline(size)


def test_a_read_error_names_the_line() -> None:
    reader = TraceReader(FailingStream(f"{GOOD}\n{GOOD}\n".encode()), "t", skip_bad=True)
    with pytest.raises(TraceError, match="t:2: Input/output error"):
        list(reader)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.usefixtures("control_c")
def test_ctrl_c_while_waiting_for_input_ends_with_code_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--trace", "-", "--audit", str(tmp_path / "audit.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    response = '{"event":"llm.response","payload":{}}\n'
    process.stdin.write(response)
    process.stdin.flush()
    while "raised on event" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "agent-event-bus: interrupted\n"
    assert (tmp_path / "audit.jsonl").read_text(encoding="utf-8") == response
