"""The lines that are kept of an execution: the first and the last ones, within bounds, without secrets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exotrio._execution.output import MAX_BYTES, MAX_LINES, MAX_TEXT, MAX_UNFINISHED, Output
from exotrio._nodes.progress import ProgressView
from exotrio._util.redaction import Redactor

SECRET = "QWERTZUIOP"


def output(*secrets: str) -> Output:
    progress = ProgressView()
    progress.redactor = Redactor(secrets)
    made = Output(progress)
    made.is_open = True
    return made


def printed(*pieces: str, secrets: Sequence[str] = ()) -> list[str]:
    made = output(*secrets)
    for piece in pieces:
        made.print("stdout", piece)
    return [str(line["text"]) for line in made.close()]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (("a", " ", "b", "\n"), ["a b"]),
        (("a\n\nb\n",), ["a", "", "b"]),
        (("no end",), ["no end"]),
        (("a\r\n", "b\r", "\nc"), ["a", "b", "c"]),
        (("\r10 %", "\r20 %", "\r30 %", "\n"), ["30 %"]),
        (("\r10 %", "\r20 %"), ["20 %"]),
        (("\x1b[1;31mred\x1b[0m\n",), ["red"]),
        (("\ud800\n",), ["\\ud800"]),
        (("\n", ""), [""]),
    ],
    ids=repr,
)
def test_printed_text_becomes_lines(pieces: Sequence[str], lines: list[str]) -> None:
    assert printed(*pieces) == lines


def test_the_first_and_the_last_of_many_lines_are_kept_and_the_others_are_counted() -> None:
    lines = printed(*(f"{number}\n" for number in range(1_000)))
    half = MAX_LINES // 2
    assert lines[:half] == [str(number) for number in range(half)]
    assert lines[half] == "... 800 lines left out ..."
    assert lines[half + 1 :] == [str(number) for number in range(1_000 - half, 1_000)]


def test_long_lines_are_kept_as_far_as_they_fit() -> None:
    euros = "\N{EURO SIGN}" * 300
    lines = printed(*(f"{number} {euros}\n" for number in range(100)))
    # Of 905 bytes each, 9 have room in either half.
    kept = [int(line.split()[0]) for line in lines if line[0] != "."]
    assert kept == [*range(9), *range(91, 100)]


def test_both_ends_of_a_long_text_are_kept() -> None:
    (line,) = printed(f"begin{'x' * 10_000}end\n")
    assert line.startswith("beginx")
    assert line.endswith("xend")
    assert "... 8,008 characters or more left out ..." in line


def test_the_beginning_of_a_line_without_an_end_is_kept_and_the_next_line_is_whole() -> None:
    line, other = printed("begin", *["x" * 1_000] * 100, "\n", "other")
    assert line.startswith("beginx")
    assert (len(line) < 2_100, other) == (True, "other")


PIECES = st.lists(
    st.tuples(
        st.text(st.sampled_from("ab\n\r\N{EURO SIGN}\ud800\x1b\N{GRINNING FACE}"), max_size=30),
        st.sampled_from([1, 2, 50, 3_000]),
        st.booleans(),
    ),
    max_size=60,
)


@given(PIECES)
def test_lines_of_any_output_are_bounded_and_can_be_sent(pieces: list[tuple[str, int, bool]]) -> None:
    made = output(SECRET)
    for text, times, is_record in pieces:
        if is_record:
            made.log(logging.makeLogRecord({"msg": text * times}))
        else:
            made.print("stdout", text * times)
    lines = made.close()
    assert len(lines) <= MAX_LINES + 1
    assert sum(len(str(line["text"]).encode()) for line in lines) <= MAX_BYTES + 100
    assert made.close() == lines, "nothing comes after it"


@example(before=MAX_UNFINISHED - 5, behind=9, cuts=[], is_record=False, times=1)
@example(before=1, behind=0, cuts=[], is_record=False, times=300)
@example(before=1, behind=0, cuts=[], is_record=True, times=300)
@example(before=1, behind=1, cuts=[], is_record=True, times=300)
@given(
    before=st.integers(0, 3 * MAX_TEXT),
    behind=st.integers(0, 10 * MAX_TEXT),
    cuts=st.lists(st.one_of(st.integers(1, 13 * MAX_TEXT), st.integers(15_980, 16_020)), max_size=5),
    is_record=st.booleans(),
    times=st.integers(1, 3),
)
def test_no_part_of_a_secret_is_kept_wherever_a_text_is_cut(
    before: int, behind: int, cuts: list[int], is_record: bool, times: int
) -> None:
    text = "x" * before + (SECRET + "x" * behind) * times + SECRET
    made = output(SECRET)
    if is_record:
        made.log(logging.makeLogRecord({"msg": text, "name": SECRET}))
    else:
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
            made.print("stdout", text[begin:end])
    (line,) = made.close()
    kept = f"{line['logger']} {line['text']}"
    assert not any(SECRET[at : at + 2] in kept for at in range(len(SECRET) - 1))


def test_only_the_beginning_of_a_line_without_an_end_is_kept() -> None:
    (line,) = printed(*["x" * MAX_TEXT] * 50)
    assert f"... {MAX_UNFINISHED - MAX_TEXT:,} characters or more left out ..." in line


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    secret = "first half\nsecond half"
    assert printed(f"{secret}\n", secrets=[secret]) == ["***", "***"]
