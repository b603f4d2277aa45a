"""``top``: what it shows in terminals of any size, and how it goes on and ends."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from rich.text import Text

from exotrio._wire.overview import Overview
from exotrio.cli.terminal.table import Column, table_lines
from exotrio.cli.top.live import Rate
from exotrio.cli.top.screen import Screen, screen_lines
from tests.support import stock
from tests.support.commands import Cli, fails
from tests.support.overviews import node, overview, run, runtime
from tests.support.processes import EXOTRIO, KEY, Processes, Server, server
from tests.support.terminals import Terminal

HOSTILE = "[red]\x1b[2J漢字 and a name that is longer than it should be"


def shown(overview: Overview, width: int = 100, height: int | None = None, **more: object) -> str:
    screen = Screen(overview, "http://127.0.0.1:8000", **more)  # type: ignore[arg-type]
    return "\n".join(line.plain for line in screen_lines(screen, width, height))


# -- what is shown


def test_the_figures_of_a_namespace_are_shown() -> None:
    nodes = [
        node("Scan", ended=200, waited_p95_ms=4_000, p50_ms=960, p95_ms=1_152),
        node("Legacy", ended=12, unreported=4, waited_p95_ms=50, p50_ms=960, p95_ms=1_152),
        node("Digest", waiting=1_200, eligible=700, running=3, buffered=7),
    ]
    text = shown(overview(buffered=7, nodes=nodes), 140, rate=3.25)
    now = "3 running   7 buffered   1,200 waiting   1 errored within 24 h   oldest due for 1 min 1 s (Digest)"
    assert now in text
    lately = "12 attempts ended in the last hour   1 failed (8.3 %)   now 3.2/s   5 runs ended   3 failed"
    assert lately in shown(overview(), rate=3.25)
    one = {"first_minute": 1_000, "ended": [1], "failed": [0]}
    assert "1 attempt ended in the last hour   0 failed" in shown(overview(throughput=one))
    assert re.search(r"^Digest +1,200 +700 +0 ms +7 +3 ", text, re.MULTILINE)
    assert re.search(r"^Scan +200 +~4\.0 s +~960 ms +~1\.2 s +1$", text, re.MULTILINE), "they are approximate"
    few = r"^Legacy +12 +max ~50 ms of 12 +≤960 ms +max ≤1\.2 s of 12 +1$"
    assert re.search(few, text, re.MULTILINE), "upper bounds, of too few to tell a percentile"
    assert re.search(r"^Greeter +w-1 +running +3/4 +0 +1 +2 s$", text, re.MULTILINE)
    at_risk = shown(overview(runtimes=[runtime(work_at_risk_ms=95_000)]), 140)
    assert re.search(r"^Greeter +w-1 +running +3/4 +0 +1 +1 min 35 s +2 s$", at_risk, re.MULTILINE)
    at_risk = shown(overview(runtimes=[runtime(work_at_risk_ms=0, work_at_risk_is_more=True)]), 140)
    assert re.search(r"^Greeter +w-1 +running +3/4 +0 +1 +≥0 ms +2 s$", at_risk, re.MULTILINE)
    assert re.search(
        r"^00000001 +g +running +█+░+ +41/100 +1 +1 min 30 s ago +1 min 30 s$", text, re.MULTILINE
    )
    assert text.index("Digest ") < text.index("Scan "), "what has something to do comes first"


def test_limits_are_shown_if_states_wait_for_them_or_they_stop_all() -> None:
    usual = {"updated_at": "2026-01-01T00:00:00Z", "graphs": [], "held": 5, "waiting": 0}
    free, full = (
        {**usual, "name": "free", "at_most": 9},
        {**usual, "name": "full", "at_most": 5, "waiting": 118},
    )
    assert "LIMIT" not in shown(overview(limits=[free]))
    text = shown(overview(limits=[free, full, {**usual, "name": "off", "at_most": 0, "held": 0}]))
    assert re.search(r"^full +5 at once +5 +118$", text, re.MULTILINE)
    assert re.search(r"^off +0 at once +$", text, re.MULTILINE)
    assert "free" not in text
    assert f"1,200 waiting   {full['waiting']} of them for limits   1 errored" in text
    text = shown(overview(limits=[{**full, "keyed": True, "stopping": 2}]))
    assert re.search(r"^full +5 at once for each key +5, 2 stopping +118$", text, re.MULTILINE)


def test_the_chart_of_attempts_is_next_to_their_number_or_left_out() -> None:
    wide = next(line for line in shown(overview(), width=120).splitlines() if "last hour" in line)
    assert re.search(r"1 failed \(8\.3 %\) +█▂   5 runs ended   3 failed$", wide)
    narrow = next(line for line in shown(overview(), width=85).splitlines() if "last hour" in line)
    assert narrow.endswith("1 failed (8.3 %)   5 runs ended   3 failed")


def test_unusual_nodes_and_runtimes_are_highlighted() -> None:
    text = shown(
        overview(
            waiting_is_more=True,
            nodes=[node("A", running=1), node("Lonely", waiting=2, offered_by=[])],
            runtimes=[
                runtime(live=False, heard_ms=90_000),
                runtime(asked_to_drain=True),
                runtime(live=False, phase="stopped", workers=0),
            ],
            runtime_count=7,
            v0_runtimes=2,
            runs=[run(1, cancelled_at="2026-01-01T00:00:01.000Z"), run(2, status="FAILED", total_count=0)],
        )
    )
    assert "1,200+ waiting" in text
    assert re.search(r"^Lonely .* none$", text, re.MULTILINE)
    assert re.search(r"^Greeter +w-1 +silent +3/4 +0 +1 ", text, re.MULTILINE), "none of its workers is free"
    assert text.index("Lonely") < text.index("\nA ")
    for part in ("silent", "running, draining", "stopped", "and 4 more", "cancelling", "failed"):
        assert part in text, part
    assert "2 kinds of runtimes claim through v0" in text


def test_empty_tables_say_that_they_are_empty() -> None:
    text = shown(overview(nodes=[], runtimes=[], runtime_count=0, runs=[], oldest=None))
    for part in ("no node is registered", "no runtime is known", "no run yet"):
        assert part in text


@pytest.mark.parametrize("height", [None, 1, 11, 24])
@pytest.mark.parametrize("width", [1, 20, 80, 200])
def test_it_fits_whatever_the_size_and_whatever_the_names(width: int, height: int | None) -> None:
    many = overview(
        namespace=HOSTILE,
        oldest={"node": HOSTILE, "waits_ms": 1},
        nodes=[node(f"{n} {HOSTILE}", waiting=10**9, p50_ms=1e9) for n in range(40)],
        runtimes=[runtime(worker_id=HOSTILE, runtime=HOSTILE, phase=HOSTILE) for _ in range(20)],
        runs=[run(n, graph_name=HOSTILE) for n in range(50)],
    )
    screen = Screen(many, HOSTILE, 1e6, HOSTILE, live=True)
    lines = screen_lines(screen, width, height)
    assert max(line.cell_len for line in lines) <= width
    assert height is None or len(lines) <= height
    assert not any("\x1b" in line.plain or "\n" in line.plain for line in lines)


def test_a_small_terminal_shows_a_part_of_each_table_and_how_much_that_is() -> None:
    many = overview(
        nodes=[node(f"N{n:02}", ended=1) for n in range(40)],
        runtimes=[runtime() for _ in range(2)],
        runs=[run(n) for n in range(50)],
    )
    lines = shown(many, 80, 24).splitlines()
    assert len(lines) == 24
    heads = [line for line in lines if line.startswith(("NODE", "RUNTIME", "RUN "))]
    assert [
        head.endswith(end) for head, end in zip(heads, ("6 of 40", "HEARTBEAT", "6 of 50"), strict=True)
    ] == [
        True,
        True,
        True,
    ]


def test_names_are_shortened_before_columns_are_left_out() -> None:
    columns = (Column("NAME", right=False, flexible=True), Column("A", missing=1), Column("B", missing=2))
    rows = [[Text("a-name-of-twenty-char"), Text("1"), Text("2")]]
    assert table_lines(columns, rows, 40)[1].plain == "a-name-of-twenty-char  1  2"
    assert table_lines(columns, rows, 20)[1].plain == "a-name-of-twe…  1  2"
    assert table_lines(columns, rows, 16)[1].plain == "a-name-of-tw…  1"
    assert table_lines(columns, rows, 13)[1].plain == "a-name-of-tw…"
    blanks = [[Text("a name of many words"), Text("1"), Text("2")]]
    assert [line.plain for line in table_lines(columns, blanks, 19)[1:]] == ["a name of ma…  1  2"]


def test_the_rate_is_of_the_last_seconds_also_when_the_hour_moves_on() -> None:
    rate = Rate()

    def at(first_minute: int, ended: list[int]) -> Overview:
        lately = {"first_minute": first_minute, "ended": ended, "failed": [0] * len(ended)}
        return overview(throughput=lately)

    assert rate.add(at(0, [500, 10, 0]), 0.0) is None
    assert rate.add(at(0, [500, 10, 20]), 2.0) == 10
    assert rate.add(at(1, [10, 20, 20]), 4.0) == 10, "what left the hour is not counted backwards"
    for second in range(5, 30):
        last = rate.add(at(1, [10, 20, 20]), float(second))
    assert last == 0


# -- how it is called


def test_without_a_terminal_it_is_printed_once(cli: Cli) -> None:
    run_id = cli("trigger", "fan", "--follow").out.split()[0]
    end = cli("top")
    assert (end.code, end.err) == (0, ""), end
    assert end.out.startswith("exotrio  n at http://127.0.0.1:")
    assert re.search(rf"^{run_id[:8]} +fan +success ", end.out, re.MULTILINE)
    assert re.search(r"^r +r@", end.out, re.MULTILINE)


def test_as_json_it_is_the_whole_overview(cli: Cli) -> None:
    cli("trigger", "fan", "--follow")
    shown = cli.json("top")
    assert shown["namespace"] == "n"
    assert {node["name"] for node in shown["nodes"]} >= {"Split", "Work", "Lock"}
    assert len(shown["throughput"]["ended"]) == 60
    Overview.model_validate(shown)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "x"])
def test_an_invalid_interval_is_refused(cli: Cli, interval: str) -> None:
    fails(cli("top", "--interval", interval), 2, "--interval")


def test_a_state_manager_that_speaks_only_v0_or_is_away_is_an_error(cli: Cli) -> None:
    with stock.on_a_port(stock.Stock(time.monotonic)) as uri:
        cli.set(EXOSPHERE_STATE_MANAGER_URI=uri, EXOSPHERE_API_KEY=stock.KEY)
        fails(cli("top", "--once"), 3, "/overview cannot be requested: ", "speaks only v0")
    fails(cli.at_no_server()("top"), 4, "cannot be reached")


# -- in a terminal

OPTIONS = ("--namespace", "n", "--interval", "0.1")


def end(terminal: Terminal, way: str) -> None:
    """Quit by a key or a signal, and check that the terminal is left as it was."""
    if way == "SIGTERM":
        terminal.signal(signal.SIGTERM)
    else:
        terminal.type(way)
    assert terminal.wait() == 0
    assert "\x1b[?1049l" in terminal.screen, "the screen before is back"
    assert "Traceback" not in terminal.screen


def test_it_continues_until_a_signal(running: Server, tmp_path: Path) -> None:
    command = [*EXOTRIO, "top", *OPTIONS]
    with Terminal(command, cwd=tmp_path, env=running.env, shows_output=True) as terminal:
        terminal.until("q quits")
        terminal.until("RUNTIME")
        terminal.type("x")  # not every key ends it
        terminal.forget()
        terminal.until("RUNTIME")
        end(terminal, "SIGTERM")


def test_it_fits_the_terminal_also_when_that_changes_until_ctrl_c(running: Server, tmp_path: Path) -> None:
    command = [*EXOTRIO, "top", "--namespace", "n", "--interval", "3600"]
    with Terminal(command, cwd=tmp_path, env=running.env, shows_output=True) as terminal:
        terminal.until("HEARTBEAT")
        terminal.forget()
        terminal.resize(40, 8)
        terminal.until("q quits")
        terminal.until("NODE")
        assert "HEARTBEAT" not in terminal.screen, "too low for all tables"
        terminal.forget()
        terminal.resize(80, 24)
        terminal.until("HEARTBEAT")
        end(terminal, "\x03")


def test_ctrl_z_gives_the_terminal_to_the_shell_until_it_is_continued(
    running: Server, tmp_path: Path
) -> None:
    command = [*EXOTRIO, "top", *OPTIONS]
    with Terminal(command, cwd=tmp_path, env=running.env, shows_output=True) as terminal:
        terminal.until("HEARTBEAT")
        terminal.type("\x1a")
        terminal.until_stopped()
        terminal.until("\x1b[?1049l")
        terminal.forget()
        terminal.signal(signal.SIGCONT)
        terminal.until("\x1b[?1049h")
        terminal.until("HEARTBEAT")
        end(terminal, "q")  # without Enter


def test_it_survives_a_restart_of_the_state_manager_until_q(tmp_path: Path) -> None:
    with Processes() as processes:
        with server(tmp_path) as first:
            command = [*EXOTRIO, "top", *OPTIONS]
            terminal = processes.enter_context(
                Terminal(command, cwd=tmp_path, env=first.env, shows_output=True)
            )
            terminal.until("no node is registered")
        terminal.until("not reachable since")
        terminal.until("cannot be reached: ")
        port = first.uri.rpartition(":")[2]
        again = processes.start("server", "--port", port, "--key", KEY, cwd=tmp_path)
        again.line("serving")
        terminal.forget()
        terminal.until("   now ")  # which is unknown while it is away
        end(terminal, "q")


def test_a_failing_first_update_is_an_error(tmp_path: Path) -> None:
    env = {"EXOSPHERE_STATE_MANAGER_URI": "http://127.0.0.1:1", "EXOSPHERE_API_KEY": "k"}
    command = [*EXOTRIO, "top", "--namespace", "n"]
    with Terminal(command, cwd=tmp_path, env=env, shows_output=True) as terminal:
        assert terminal.wait() == 4
        assert "error: the state manager at http://127.0.0.1:1 cannot be reached" in terminal.screen
        assert "\x1b[?1049h" not in terminal.screen
