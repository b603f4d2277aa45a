"""The one line that says what an error is: from the exception, and from the text that was reported of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from exotrio._execution.error_text import error_text
from exotrio._util.error_message import MAX_LINE, lines_beyond_message, message_line
from exotrio.cli.runs.result import _traceback_lines
from exotrio.cli.terminal.output import error_message


class Model(BaseModel):
    number: int


def raised(make: Callable[[], Any]) -> Exception:
    try:
        raise make()
    except Exception as error:
        return error


def chained(explicit: bool) -> Exception:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            if explicit:
                raise ValueError("second") from error
            raise ValueError("second")  # noqa: B904 - this is what is tested
    except ValueError as error:
        return error


def noted(error: Exception) -> Exception:
    error.add_note("a note\nof two lines")
    return error


def refused(make: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        make()
    return caught.value


def group() -> Exception:
    inner = raised(
        lambda: ExceptionGroup("inner", [noted(raised(lambda: ValueError("one\nand more"))), chained(True)])
    )
    return raised(lambda: ExceptionGroup("outer", [inner, TypeError("three")]))


ERRORS: dict[str, tuple[Exception, str]] = {
    "a message": (raised(lambda: ValueError("wrong")), "ValueError: wrong"),
    "no message": (raised(lambda: ValueError()), "ValueError"),
    "several lines": (raised(lambda: ValueError("wrong\nsince\nthen")), "ValueError: wrong"),
    "an empty first line": (raised(lambda: ValueError("\n\nwrong")), "ValueError: wrong"),
    "notes": (noted(raised(lambda: ValueError("wrong"))), "ValueError: wrong"),
    "a cause": (chained(True), "ValueError: second"),
    "a context": (chained(False), "ValueError: second"),
    "a traceback in the message": (
        raised(lambda: ValueError(f"remote\n{''.join(traceback.format_exception(raised(ValueError)))}")),
        "ValueError: remote",
    ),
    "a list": (
        raised(lambda: ValueError("these are missing:\n  one\n  two")),
        "ValueError: these are missing: one",
    ),
    "pydantic": (
        refused(lambda: Model(number="x")),  # type: ignore[arg-type]
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for Model number "
        "Input should be a valid integer",
    ),
    "syntax": (refused(lambda: compile("x = (", "file.py", "exec")), "SyntaxError: '(' was never closed"),
    "a group of one": (raised(lambda: ExceptionGroup("wrapped", [ValueError("wrong")])), "ValueError: wrong"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_one_line_names_an_error_by_its_message(name: str) -> None:
    error, expected = ERRORS[name]
    for text in (error_text(error), "".join(traceback.format_exception(error))):
        assert message_line(text).startswith(expected)
        assert "\n" not in message_line(text)


def test_the_leaves_of_a_group_are_named() -> None:
    leaves = "ValueError: one; ValueError: second; TypeError: three"
    for text in (error_text(group()), "".join(traceback.format_exception(group()))):
        assert message_line(text) == f"ExceptionGroup: outer (2 sub-exceptions): {leaves}"


class Counted(Exception):
    formatted = 0

    def __str__(self) -> str:
        Counted.formatted += 1
        return "counted"


def in_groups_of_ten(levels: int) -> Exception:
    if not levels:
        return Counted()
    return ExceptionGroup("ten", [in_groups_of_ten(levels - 1) for _ in range(10)])


def caused_by(cause: BaseException | None, context: BaseException | None = None) -> Exception:
    error = ValueError("wrong")
    error.__cause__, error.__suppress_context__ = cause, cause is not None
    error.__context__ = context
    return error


def many() -> Exception:
    return ExceptionGroup("outer", [Counted() for _ in range(20_000)])


@pytest.mark.parametrize(
    ("error", "line", "count"),
    [
        (many(), "ExceptionGroup: outer (20000 sub-exceptions), of which these are the first", 15),
        (in_groups_of_ten(4), "ExceptionGroup: ten (10 sub-exceptions), of which these are the first", 15),
        (ExceptionGroup("g", [caused_by(many())]), "ValueError: wrong", 0),
        (caused_by(many()), "ValueError: wrong", 0),
        (caused_by(None, many()), "ValueError: wrong", 0),
    ],
    ids=["group", "nested", "cause in a group", "cause", "context"],
)
def test_of_very_many_errors_only_the_first_are_formatted(error: Exception, line: str, count: int) -> None:
    Counted.formatted = 0
    text = error_text(raised(lambda: error), note="not to be retried")
    assert Counted.formatted <= 2 * count
    assert message_line(text).startswith(line)
    assert text.count(": counted") == count
    assert "Causes are not shown: these are more than 1000 errors." in text
    assert "not to be retried" in text
    assert "in raised" in text


def test_a_group_of_many_errors_that_is_short_enough_shows_their_causes() -> None:
    error = caused_by(None)
    error.__context__ = group = ExceptionGroup("g", [caused_by(KeyError("first")) for _ in range(400)])
    group.__context__ = error  # a cycle
    text = error_text(error)
    assert "KeyError: 'first'" in text
    assert "Causes are not shown" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, ""),
        ("", ""),
        ("cancelled", "cancelled"),
        ("first\nsecond", "first"),
        (
            "the inputs do not fit:\n  count: not a number\n  due: missing",
            "the inputs do not fit: count: not a number",
        ),
        (
            "timed out after 3 s; it then raised\nTraceback (most recent call last):\nX",
            "timed out after 3 s; it then raised",
        ),
        (
            '  File "a.py", line 1, in f\n    g()\nValueError: the end of a traceback',
            "ValueError: the end of a traceback",
        ),
        ('k()\n  File "a.py", line 1, in f\n    g()\nValueError: cut before', "ValueError: cut before"),
    ],
)
def test_a_text_that_is_not_a_whole_traceback_has_a_message_too(text: str | None, message: str) -> None:
    assert message_line(text) == message


def test_commands_show_the_message_in_one_line_and_then_the_traceback() -> None:
    text = "\n".join(
        ["Traceback (most recent call last):", *["  File x"] * 50, "ValueError: wrong", "a note"]
    )
    assert error_message(text) == "ValueError: wrong"
    assert error_message("") == "no text"
    below = _traceback_lines(text)
    assert below[0] == "Traceback (most recent call last):", "what is long keeps its beginning"
    assert below[-1] == "a note"
    assert len(below) < 50
    assert (
        _traceback_lines("Traceback (most recent call last):\n  File x\nValueError: wrong")[-1] == "  File x"
    )


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("timed out after 1 s", []),
        ("the inputs do not fit A:\n  n: no int\nnot to be retried", ["not to be retried"]),
        ("Traceback (most recent call last):\n  File x\nValueError:\n  wrong", ["Traceback", "  File x"]),
        ("", []),
    ],
)
def test_no_message_is_shown_twice(text: str, beyond: list[str]) -> None:
    lines = lines_beyond_message(text)
    assert len(lines) == len(beyond)
    assert all(line.startswith(begin) for line, begin in zip(lines, beyond, strict=True))


def test_a_line_that_is_too_long_keeps_its_beginning() -> None:
    error = ValueError("begin" + "x" * 10_000)
    line = message_line(error_text(error))
    assert line.startswith("ValueError: begin")
    assert len(line) == MAX_LINE
