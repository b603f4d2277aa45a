"""What crosses from one thread to the Trio loop of another."""

from __future__ import annotations

import trio
import trio.testing

from exotrio._util.crossing import ThreadsafeEvent, call_in_loop


async def test_a_call_from_a_thread_is_made_in_the_loop() -> None:
    called: list[str] = []
    event = ThreadsafeEvent()
    event.attach()
    token = trio.lowlevel.current_trio_token()

    def in_thread() -> None:
        for _ in range(3):
            call_in_loop(token, called.append, "each")
        event.set()

    with trio.fail_after(60):
        await trio.to_thread.run_sync(in_thread)
        await event.wait()
    assert called == ["each"] * 3


async def test_calls_once_are_one_until_the_loop_gets_to_them() -> None:
    called: list[str] = []
    token = trio.lowlevel.current_trio_token()
    for _ in range(3):
        call_in_loop(token, called.append, "once", once=True)
    await trio.testing.wait_all_tasks_blocked()
    assert called == ["once"]


def test_a_call_into_a_loop_that_is_over_or_has_not_begun_does_nothing() -> None:
    async def main() -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    call_in_loop(trio.run(main), list)
    call_in_loop(None, list)
