"""The contents of exception groups."""

from __future__ import annotations

import trio

from exotrio._util.exceptions import first_leaf, leaves, single_leaf, without_cancelled


def group(*parts: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("group", parts)


def cancelled() -> trio.Cancelled:
    async def main() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                caught.append(error)
                raise
        return caught[0]

    caught: list[trio.Cancelled] = []
    trio.run(main)
    return caught[0]


def test_leaves_are_returned_in_order_and_each_once() -> None:
    a, b = ValueError("a"), KeyError("b")
    nested = group(group(a), group(group(b), a))
    assert leaves(nested) == [a, b]
    assert first_leaf(nested) is a
    assert leaves(a) == [a]


def test_only_a_single_leaf_stands_for_its_groups() -> None:
    a = ValueError("a")
    several = group(a, KeyError("b"))
    assert single_leaf(group(group(a))) is a
    assert single_leaf(several) is several


def test_without_cancelled_only_failures_are_left() -> None:
    error, ours = ValueError("a"), cancelled()
    assert without_cancelled(ours) is None
    assert without_cancelled(group(ours, group(ours))) is None
    assert without_cancelled(group(ours, group(error, ours))) is error
    assert without_cancelled(error) is error
    left = without_cancelled(group(error, KeyError("b"), ours))
    assert isinstance(left, ExceptionGroup)
    assert len(left.exceptions) == 2
