"""Layout, drawing and formats: pure, and whatever comes from users is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exotrio._wire.runs import StateTimes
from exotrio._wire.v0 import RunSummary
from exotrio.manager.engine.mailbox import FOR_RUN
from exotrio.manager.queries.run_detail import MAX_BARS, Lane, Span, Spans
from exotrio.manager.queries.state_times import HELD, Phase, Times
from exotrio.manager.web.format import CLASS_WORDS, CLASSES, ago, run_counts, shorten
from exotrio.manager.web.page import render, style
from exotrio.manager.web.svg.bars import bar, split
from exotrio.manager.web.svg.elements import element
from exotrio.manager.web.svg.graph import Box, draw_graph
from exotrio.manager.web.svg.graph_layout import lay_out
from exotrio.manager.web.svg.timeline import draw_timeline, nice_step
from exotrio.manager.web.svg.trends import draw_counts, draw_times
from tests.support.client_double import run_summary

HOSTILE = "</text><script>alert(1)</script>\"'&"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def tags(svg: str) -> set[str]:
    return {each.tag for each in parsed(svg).iter()}


# -- elements


def test_text_and_attributes_are_escaped() -> None:
    drawn = element("text", HOSTILE, class_="x", aria_label=HOSTILE)
    assert parsed(drawn).text == HOSTILE
    assert parsed(drawn).get("aria-label") == HOSTILE


def test_markup_is_kept_and_none_is_left_out() -> None:
    assert element("g", element("rect", x=1.25, href=None)) == '<g><rect x="1.25"/></g>'


# -- the layout of graphs


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    count = draw(st.integers(1, 14))
    return {
        f"n{index}": [
            f"n{after}" for after in draw(st.sets(st.integers(index + 1, 20))) if index < after < count
        ]
        for index in range(count)
    }


@given(graphs())
@settings(max_examples=60)
def test_edges_lead_to_the_right_and_boxes_do_not_overlap(followers: dict[str, list[str]]) -> None:
    layout = lay_out(followers)
    assert set(layout.boxes) == set(followers)
    taken = [*layout.boxes.values(), *(point for points in layout.edges.values() for point in points)]
    assert len(taken) == len(set(taken)), "a box or a line lies on another"
    for (start, end), points in layout.edges.items():
        columns = [layout.boxes[start][0], *(column for column, _ in points), layout.boxes[end][0]]
        assert all(after == before + 1 for before, after in pairwise(columns))
    assert all(0 <= column < layout.columns and 0 <= row <= layout.rows for column, row in taken)


def test_unnecessary_crossings_are_avoided() -> None:
    layout = lay_out({"root": ["a", "b"], "b": ["b2"], "a": ["a2"], "a2": [], "b2": []})
    assert (layout.boxes["a"][1] < layout.boxes["b"][1]) == (layout.boxes["a2"][1] < layout.boxes["b2"][1])


def test_a_dense_graph_of_a_thousand_nodes_is_laid_out() -> None:
    names = [f"n{index}" for index in range(1_000)]
    layout = lay_out({name: names[index + 1 : index + 30] for index, name in enumerate(names)})
    assert layout.columns == 1_000


def test_a_fan_out_of_any_size_is_one_box() -> None:
    boxes = [
        Box(name="scan", node="Scan", followers=["digest"], counts={"success": 1}),
        Box(name="digest", node="Digest", counts={"success": 9_999_999, "errored": 1}, href="/x?node=digest"),
    ]
    drawn = draw_graph(boxes, title="Graph audit")
    assert len(drawn) < 5_000
    assert "10,000,000" in drawn
    # One failure of ten million is still wide enough to be seen.
    widths = [float(width) for width in re.findall(r's-errored" x="[\d.]+%" width="([\d.]+)%"', drawn)]
    assert min(widths) > 1


def test_names_of_users_do_not_become_markup() -> None:
    box = Box(name=HOSTILE, node=HOSTILE, counts={}, href="/?a=" + HOSTILE, note=HOSTILE)
    drawn = draw_graph([box], title=HOSTILE)
    assert tags(drawn) <= {"svg", "title", "g", "a", "rect", "text", "path"}


def test_a_united_node_is_marked_and_its_lines_are_dashed() -> None:
    boxes = [Box(name="a", node="A", followers=["b"]), Box(name="b", node="B", unites="a")]
    drawn = draw_graph(boxes, title="t")
    assert 'class="edge united"' in drawn
    assert 'class="gate"' in drawn


def test_a_box_shows_the_most_urgent_counts() -> None:
    def shown(**counts: int) -> list[str]:
        drawn = draw_graph([Box(name="a", node="A", counts=counts)], title="t")
        return re.findall(r'class="(?:standing[^"]*|bad)" x="12" y="68">([^<]*)<', drawn)

    assert shown() == ["not reached"]
    assert shown(success=9) == ["9 success"]
    for kind in CLASSES:
        words = CLASS_WORDS.get(kind, kind)
        assert shown(**{kind: 1}) == [f"1 {words}"], "each is named, so it was reached"
    assert shown(success=9, pruned=1) == ["1 pruned · 9 success"]
    assert shown(success=9, waiting=2, running=1, errored=3) == ["3 errored · 1 running · …"]
    assert shown(success=5, replaced=3, errored=1) == ["1 errored · 3 replaced · …"], "there are more"
    assert shown(success=1, errored=3, pruned=1) == ["3 errored · 1 pruned · …"]
    assert shown(waiting=1_000_000, running=100_000) == ["100,000 running · …"], (
        "what does not fit is left out"
    )
    ran_once = draw_graph([Box(name="a", node="A", counts={"success": 6}, further=5)], title="t")
    assert 'y="68">1 success · 6 outputs<' in ran_once
    assert re.search('class="count"[^>]*>1<', ran_once)
    stuck = draw_graph(
        [Box(name="a", node="A", counts={"waiting": 2}, note="no runtime offers this")], title="t"
    )
    assert 'class="bad" x="12" y="68">no runtime offers this<' in stuck
    assert "a (A): 2 waiting; no runtime offers this" in stuck
    assert 'class="box is-errored"' in stuck


def test_cancelled_states_are_not_drawn_as_errors() -> None:
    drawn = bar({"success": 1, "cancelled": 2})
    assert "s-errored" not in drawn
    assert "1 success, 2 errored or cancelled" in drawn


def test_a_bar_of_a_run_in_a_list_does_not_call_what_runs_waiting() -> None:
    run = RunSummary.model_validate(run_summary("PENDING", success_count=3, pending_count=2))
    assert "<title>3 success, 2 not ended</title>" in bar(run_counts(run))
    run.pruned_count = 1
    assert "<title>2 success, 1 pruned, 2 not ended</title>" in bar(run_counts(run))


def test_the_times_of_one_state_share_a_bar() -> None:
    def parts(spent: StateTimes) -> list[tuple[str, str]]:
        drawn = split(spent, "errored", "label")
        assert "<title>label</title>" in drawn
        return re.findall(r'class="s-([\w ]+)" x="[\d.]+%" width="([\d.]+)%"', drawn)

    three = StateTimes(waited_ms=1_000, buffered_ms=500, ran_ms=500, held_ms=1_000)
    assert parts(three) == [("waiting", "50.00"), ("buffered", "25.00"), ("errored", "25.00")]
    late = three.model_copy(update={"held": 4.0})
    assert parts(late) == [
        ("waiting", "20.00"),
        ("buffered", "10.00"),
        ("errored", "10.00"),
        ("reporting", "60.00"),
    ]
    assert parts(StateTimes(waited_ms=0, buffered_ms=0, ran_ms=5, held_ms=6)) == [("errored", "100.00")]
    assert parts(StateTimes(waited_ms=1_000, held_ms=1_000)) == [
        ("waiting", "50.00"),
        ("errored unreported", "50.00"),
    ]


@pytest.mark.parametrize(
    ("spent", "ended", "text"),
    [
        (StateTimes(waited_ms=1_500), False, "waited 1.5 s"),
        (StateTimes(for_event_ms=1_500), True, "waited 1.5 s for an event"),
        (
            StateTimes(waited_ms=1, buffered_ms=0, ran_ms=10_200, held_ms=30_300),
            True,
            "waited 1 ms, buffered 0 ms, ran 10.2 s, reporting 20.1 s",
        ),
        (
            StateTimes(waited_ms=10, for_event_ms=1_000, for_run_ms=500, earlier_ms=2_000),
            False,
            "waited 10 ms; before that, waited 1.0 s for an event, waited 500 ms for a run, waited, was"
            " held or delayed 2.0 s",
        ),
        (StateTimes(waited_ms=10, held_ms=2_000), False, "waited 10 ms, claimed for 2.0 s"),
        (StateTimes(waited_ms=10, held_ms=2_000), True, "waited 10 ms, from claim to end 2.0 s"),
        (
            StateTimes(waited_ms=10, buffered_ms=2_000, ran_ms=500, held_ms=2_500),
            False,
            "waited 10 ms, buffered 2.0 s, running for 500 ms",
        ),
        (
            StateTimes(waited_ms=10, buffered_ms=2_000, ran_ms=500, held_ms=2_501),
            True,
            "waited 10 ms, buffered 2.0 s, ran 500 ms",
        ),
    ],
)
def test_what_is_not_reported_is_not_called_running(spent: StateTimes, ended: bool, text: str) -> None:
    assert spent.times_text(ended=ended) == text


def test_an_empty_graph_is_drawn() -> None:
    assert tags(draw_graph([], title="nothing")) == {"svg", "title"}
    assert "track" in bar({})


# -- timelines


def span(
    index: int,
    *,
    at: Times | None = None,
    place: int = 0,
    status: str = "SUCCESS",
    state_id: str | None = None,
) -> Span:
    """A state that waits for 2 ms, is buffered for 1 ms, runs for 3 ms, and is reported 1 ms later."""
    usual = Times(waits=index, claimed=index + 2, begun=index + 3, ended=index + 6, finished=index + 7)
    return Span(place=place, status=status, at=at or usual, state_id=state_id)


def timeline(
    lanes: Sequence[tuple[str, int] | tuple[str, int, int]], spans: list[Span], *, until: int, each: int = 1
) -> str:
    return draw_timeline(
        Spans([Lane(*lane) for lane in lanes], spans, each, until),
        lambda state_id: f"/s/{state_id}",
    )


def test_waiting_buffered_and_running_are_drawn_differently() -> None:
    drawn = timeline([("a", 3)], [span(0, state_id="f" * 18 + "000001")], until=10)
    assert 'class="waits" x="0.00%" width="20.00%"' in drawn
    assert 'class="buffered" x="20.00%" width="10.00%"' in drawn
    assert 'class="s-success" x="30.00%" width="30.00%"' in drawn
    assert "a 000001: success, waited 2 ms, buffered 1 ms, ran 3 ms" in drawn
    assert f'href="/s/{"f" * 18}000001"' in drawn


def test_a_state_whose_begin_was_not_reported_is_pale_from_claim_to_outcome() -> None:
    at = Times(waits=0, claimed=2, begun=None, ended=None, finished=8)
    drawn = timeline([("a", 1)], [span(0, at=at)], until=10)
    assert 'class="s-success unreported" x="20.00%" width="60.00%"' in drawn
    assert "waited 2 ms, from claim to end 6 ms" in drawn
    at = replace(at, finished=None)
    claimed = timeline([("a", 1)], [span(0, at=at, status="QUEUED")], until=10)
    assert 'class="s-running unreported" x="20.00%" width="80.00%"' in claimed
    assert "waited 2 ms, claimed for 8 ms" in claimed


def test_a_state_that_is_claimed_and_not_begun_is_buffered() -> None:
    at = Times(waits=0, claimed=2, begun=None, ended=None, finished=None, stage="BUFFERED")
    drawn = timeline([("a", 1)], [span(0, at=at, status="QUEUED")], until=10)
    assert 'class="buffered" x="20.00%" width="80.00%"' in drawn
    assert "s-running" not in drawn
    assert "a: buffered, waited 2 ms, buffered for 8 ms" in drawn
    reports = Times(waits=0, claimed=2, begun=2, ended=4, finished=None, stage="REPORTING")
    assert "a: reporting, waited 2 ms" in timeline(
        [("a", 1)], [span(0, at=reports, status="QUEUED")], until=10
    )


def test_the_time_from_the_end_of_a_node_until_its_outcome_was_accepted_is_thin() -> None:
    at = Times(waits=0, claimed=0, begun=0, ended=2_000, finished=10_000)
    drawn = timeline([("a", 1)], [span(0, at=at)], until=10_000)
    assert 'class="s-success" x="0.00%" width="20.00%" y="0" height="7"' in drawn
    assert 'class="s-reporting" x="20.00%" width="80.00%" y="3" height="2"' in drawn
    assert "ran 2.0 s, reporting 8.0 s</title>" in drawn
    still = timeline([("a", 1)], [span(0, at=replace(at, finished=None), status="QUEUED")], until=5_000)
    assert 'class="s-reporting" x="40.00%" width="60.00%"' in still
    assert "s-reporting" not in timeline([("a", 1)], [span(0, at=replace(at, ended=9_500))], until=10_000)
    many = timeline([("a", MAX_BARS + 1)], [span(0, at=at)] * (MAX_BARS + 1), until=10_000)
    assert many.count("s-running") < 40, "what is reported does not run"


def test_the_time_before_a_state_was_given_back_is_neither_blank_nor_called_waiting() -> None:
    at = Times(waits=4, claimed=6, begun=6, ended=8, finished=8, earlier=(Phase(HELD, 1, 4),))
    drawn = timeline([("a", 1)], [span(0, at=at)], until=10)
    assert 'class="earlier" x="10.00%" width="30.00%"' in drawn
    assert 'class="waits" x="40.00%" width="20.00%"' in drawn
    assert "ran 2 ms; before that, waited, was held or delayed 3 ms</title>" in drawn
    ended = replace(at, waits=8, claimed=None, begun=None)
    drawn = timeline([("a", 1)], [span(0, at=ended, status="ERRORED")], until=10)
    assert 'class="earlier"' in drawn, "it ended before it could be claimed again"
    waits = Times(
        waits=4,
        claimed=None,
        begun=None,
        ended=None,
        finished=None,
        waits_for=FOR_RUN,
        earlier=(Phase(HELD, 1, 4),),
    )
    drawn = timeline([("a", 1)], [span(0, at=waits, status="WAITING")], until=10)
    assert 'class="earlier" x="10.00%" width="30.00%"' in drawn, "it called a graph"
    text = "has waited 6 ms for a run; before that, waited, was held or delayed 3 ms"
    assert f"<title>a: waits for event or run, {text}</title>" in drawn
    assert 'class="earlier"' not in timeline([("a", MAX_BARS)], [span(0, at=at)] * (MAX_BARS + 1), until=10)


def test_the_legend_says_what_pale_bars_are() -> None:
    runs = Times(waits=0, claimed=2, begun=None, ended=None, finished=None)
    ended, waits = replace(runs, finished=8), replace(runs, claimed=None)

    def legend(*times: Times, number: int = 1) -> str:
        spans = Spans([], [span(0, at=at) for at in times] * number, 1, 10)
        return str(
            render("run/timeline.html", picture="", spans=spans, run=SimpleNamespace(cancelled_at=None))
        )

    outcome, since_claim = "from claim to end", "pale while it runs: since its claim"
    assert (outcome in legend(runs), since_claim in legend(runs)) == (False, True)
    assert (outcome in legend(ended), since_claim in legend(ended)) == (True, False)
    assert "pale" not in legend(waits, replace(runs, stage="BUFFERED"), replace(runs, begun=3))
    given_back = replace(ended, earlier=(Phase(HELD, 0, 1),))
    assert "before it was given back" in legend(given_back)
    assert "reporting" in legend(replace(ended, begun=2, ended=3, finished=1_003))
    assert "reporting" not in legend(replace(ended, begun=2, ended=3, finished=1_002))
    assert "before it was given back" not in legend(ended)
    many = legend(runs, ended, number=MAX_BARS)
    assert (outcome in many, "pale" in many) == (True, False)


def test_a_lane_of_many_states_shows_how_many_were_buffered() -> None:
    at = Times(waits=0, claimed=0, begun=5_000, ended=10_000, finished=10_000)
    drawn = timeline([("a", 1_000)], [span(0, at=at)] * 1_000, until=10_000)
    kinds = re.findall(r'class="(buffered|s-running)" x="([\d.]+)%"', drawn)
    assert {float(x) >= 50 for kind, x in kinds if kind == "s-running"} == {True}
    assert {float(x) < 50 for kind, x in kinds if kind == "buffered"} == {True}


def test_states_that_run_at_the_same_time_lie_below_each_other() -> None:
    drawn = timeline([("a", 3)], [span(0), span(1), span(7)], until=20)
    rows = re.findall(r'class="s-success"[^>]* y="(\d+)"', drawn)
    assert rows == ["0", "9", "0"]


def test_a_lane_of_many_states_shows_amounts_and_stays_small() -> None:
    few = timeline([("a", 3)], [span(index) for index in range(MAX_BARS)], until=600)
    assert few.count("<title>") == MAX_BARS + 1
    many = timeline([("a", 3)], [span(index) for index in range(50_000)], until=50_010)
    assert len(many) < 60_000


def test_amounts_show_even_a_single_failure() -> None:
    spans = [span(index, status="ERRORED" if index == 300 else "SUCCESS") for index in range(600)]
    assert timeline([("a", 3)], spans, until=610).count("s-errored") == 1


def test_a_lane_with_one_state_shows_it_as_a_bar() -> None:
    spans = [span(0, place=0), *(span(index, place=1) for index in range(1_000))]
    drawn = timeline([("plan", 1), ("work", 1_000)], spans, until=1_010)
    assert "waited 2 ms, buffered 1 ms, ran 3 ms" in drawn


def test_states_that_never_ran_do_not_hide_one_that_did() -> None:
    siblings = [
        span(3, at=Times(waits=5, claimed=None, begun=None, ended=None, finished=5)) for _ in range(2_400)
    ]
    drawn = timeline([("scan", 2_401)], [span(0), *siblings], until=10)
    assert drawn.count('class="s-success"') == 1
    assert 'class="s-success" x="30.00%" width="30.00%"' in drawn


def test_a_lane_that_is_complete_in_a_sample_shows_bars() -> None:
    sampled = [span(index, place=1) for index in range(600)]
    drawn = timeline([("begin", 1), ("work", 1_200)], [span(0), *sampled], until=700, each=2)
    assert "begin: success, waited 2 ms, buffered 1 ms, ran 3 ms" in drawn
    assert "waited at once" in drawn


def test_breaks_of_the_axis_say_what_is_left_out_unless_their_texts_would_overlap() -> None:
    breaks = [(10, 60_000), (20, 120_000), (90, 3_600_000)]
    drawn = draw_timeline(Spans([Lane("a", 1)], [span(0)], 1, 100, breaks), lambda state_id: "")
    assert re.findall(r'class="break" x1="([^"]*)"', drawn) == ["10.00%", "20.00%", "90.00%"]
    assert re.findall(r">([^<]*left out)<", drawn) == ["1 min left out", "1 h left out"]
    assert "2 min left out: the run had ended, and was then retried" in drawn


def test_a_lane_of_a_node_that_ran_once_says_how_many_outputs_it_has() -> None:
    assert re.findall(r"> ([^<]*)</tspan>", timeline([("a", 6, 5), ("b", 6)], [span(0)], until=10)) == [
        "1 with 6 outputs",
        "6",
    ]


def test_bars_do_not_leave_the_picture() -> None:
    def odd(waits: int, *others: int | None) -> Span:
        claimed, begun, ended, finished = others
        return span(0, at=Times(waits=waits, claimed=claimed, begun=begun, ended=ended, finished=finished))

    spans = [
        odd(0, None, None, None, None),
        odd(5, None, None, None, 5),
        odd(9, 3, 2, 20, 4),
        odd(9, 12, 12, None, None),
        odd(0, 0, 0, 0, 0),
    ]
    drawn = timeline([("a", 3)], spans, until=12)
    for x, width in re.findall(r'<rect[^>]* x="([-\d.]+)%"[^>]* width="([-\d.]+)%"', drawn):
        assert float(x) >= 0
        assert 0 <= float(x) + float(width) <= 100.02


@pytest.mark.parametrize(
    ("at_least", "step"), [(0.1, 1), (3, 5), (501, 1_000), (61_000, 120_000), (2e8, 259_200_000)]
)
def test_ticks_come_at_round_times(at_least: float, step: int) -> None:
    assert nice_step(at_least) == step


@pytest.mark.parametrize("seconds", [65, 128, 260])
def test_no_tick_of_a_timeline_begins_where_it_would_leave_the_picture(seconds: int) -> None:
    labels = re.findall(r'class="tick[^"]*" x="([\d.]+)%"', timeline([("a", 1)], [], until=1000 * seconds))
    assert len(labels) >= 4
    assert all(float(x) <= 86 for x in labels)


def test_the_chart_of_an_hour_shows_single_failures() -> None:
    minutes = {"first_ms": 1_700_000_040_000, "width_ms": 60_000}
    drawn = draw_counts([0] * 57 + [9_999, 10, 4], [0] * 57 + [1, 5, 0], **minutes)
    assert drawn.count("s-success") == 3, "those that did not fail"
    assert "peak a minute: 9,998 ended well" in drawn
    down = [float(high) for high in re.findall(r's-errored"[^>]* height="([\d.]+)"', drawn)]
    assert len(down) == 2
    assert min(down) >= 3
    assert ">5 failed<" in drawn
    assert "9,999 ended, 1 of them failed" in drawn
    quiet = draw_counts([0] * 60, [0] * 60, **minutes)
    assert "no attempts ended" in quiet
    assert re.search(r">[^<]* failed<", quiet) is None


@pytest.mark.parametrize(
    ("minutes", "count", "first", "named"),
    [
        (1, 60, "22:15", "22:20 UTC"),
        (15, 96, "00:00", "23:30 UTC"),
        (120, 84, "Wed 15 Nov", "10:00 to 12:00 UTC"),
    ],
)
def test_the_chart_of_any_span_is_labelled_at_round_times(
    minutes: int, count: int, first: str, named: str
) -> None:
    width_ms = minutes * 60_000
    first_ms = 1_700_000_040_000 // width_ms * width_ms
    known = [None] * 6 + [100.0] + [None] * (count - 7)
    drawn = draw_times(known, [each and each * 50 for each in known], first_ms=first_ms, width_ms=width_ms)
    labels = re.findall(r'class="tick" x="([\d.]+)%"[^>]*>([^<]+)<', drawn)
    assert labels[0][1] == f"{first} UTC"
    assert 4 <= len(labels) <= 8
    assert all(float(x) < 92 for x, _ in labels), "none begins where it would leave the picture"
    assert f"{named}: median 100 ms, longest 5.0 s" in drawn
    assert "longest: about 5.0 s" in drawn
    assert "longest: about 0 ms" in draw_times([0.0], [0.0], first_ms=first_ms, width_ms=width_ms)


def test_the_times_below_all_charts_are_on_one_line_under_their_axis() -> None:
    slots = {"first_ms": 1_700_000_040_000, "width_ms": 60_000}
    without, failed = draw_counts([9] * 60, [0] * 60, **slots), draw_counts([9] * 60, [3] * 60, **slots)
    times = draw_times([9.0] * 60, [90.0] * 60, **slots)
    labels = [re.findall(r'class="tick" x="[^"]*" y="(\d+)"', each)[-1] for each in (without, failed, times)]
    assert len(set(labels)) == 1
    axes = [float(re.findall(r'class="axis"[^>]* y1="([\d.]+)"', each)[0]) for each in (without, times)]
    assert all(0 < int(labels[0]) - axis < 16 for axis in axes), "right below, unless bars are between them"


# -- colours

# How people without one kind of cones see a colour: Machado, Oliveira, Fernandes 2009, of linear RGB.
SIGHTS = {
    "all three": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "no green": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "no blue": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
KINDS = ("success", "running", "waiting", "errored", "replaced", "pruned")


def themes() -> dict[str, dict[str, str]]:
    """Return the colours of the style sheet: theme to name to value."""
    results = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style())
    return {
        "light": {name: colour for name, colour, _ in results},
        "dark": {name: colour for name, _, colour in results},
    }


def linear(colour: str) -> list[float]:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    red, green, blue = (min(1, max(0, part)) for part in rgb)
    x, y, z = (
        part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116
        for part in (
            (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
            0.2126 * red + 0.7152 * green + 0.0722 * blue,
            (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_of_statuses_differ_for_colour_blind_people(theme: str, sight: str) -> None:
    colours = themes()[theme]

    def seen(name: str) -> tuple[float, float, float]:
        rgb = linear(colours[name])
        return lab([sum(a * b for a, b in zip(row, rgb, strict=True)) for row in SIGHTS[sight]])

    for one, other in combinations(KINDS, 2):
        assert math.dist(seen(one), seen(other)) > 16, f"{one} and {other}"
    assert math.dist(seen("success"), seen("errored")) > 25


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_and_the_edges_of_fields_have_the_contrast_that_wcag_asks_for(theme: str) -> None:
    colours = themes()[theme]

    def contrast(one: str, other: str) -> float:
        lights = [
            0.2126 * red + 0.7152 * green + 0.0722 * blue
            for red, green, blue in (linear(colours[name]) for name in (one, other))
        ]
        return (max(lights) + 0.05) / (min(lights) + 0.05)

    grounds = ("ground", "card", "hover", "code")
    texts = ["ink", "quiet", "accent", *(f"{kind}-ink" for kind in (*KINDS, "buffered"))]
    weak = [f"{text} on {ground}" for text in texts for ground in grounds if contrast(text, ground) < 4.5]
    weak += [
        text
        for text, ground in (("accent-ink", "accent"), ("danger-ink", "errored"))
        if contrast(text, ground) < 4.5
    ]
    weak += [f"field on {ground}" for ground in ("ground", "card") if contrast("field", ground) < 3]
    assert weak == []


# -- formats


def test_times_are_shown_relative_to_now() -> None:
    assert [ago(then, 100_000) for then in (99_500, 40_000, 130_000, None)] == [
        "now",
        "1 min ago",
        "in 30 s",
        "\u2014",
    ]


def test_long_values_are_cut_and_counted() -> None:
    assert shorten("x" * 50, 10) == "xxxxxxxxxx… (40 more characters)"
