"""What ``exotrio.manager.store.port`` promises, kept by the store of every engine.

What only one of them does (commits in groups, sessions that break, ...) has its tests in a separate file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from exotrio import DatabaseError
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store import tallies
from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import database
from exotrio.manager.store.transaction import RowChanged, Transaction
from exotrio.manager.store.view import View
from tests.support.helpers import SettableClock
from tests.support.manager import Gate, gate, held_up
from tests.support.stores import (
    IN_THREADS,
    TEST_TIMEOUT,
    get,
    keys,
    put,
    put_and_fail,
    put_graph,
    remove,
    until,
)

COUNTERS = ("target_state", "place", "pending", "failed", "succeeded")
EVENTS = ("state", "at", "kind", "worker")
STOPS = ("namespace", "worker_id", "ended_at", "receipt")
NOVEMBER_2027_MS = 1_825_000_000_000
in_threads = pytest.mark.parametrize("engine", IN_THREADS, indirect=True)


def rows(view: View, table: str, order: str = "1, 2") -> list[tuple[Any, ...]]:
    return [tuple(row) for row in view.execute(f"SELECT * FROM {table} ORDER BY {order}")]


# -- one use case, all or nothing


async def test_a_result_is_durable_and_read_by_the_next_query(store: Store) -> None:
    assert await store.write(put, "a", value="1") == "a"
    assert await store.read(get, "a") == "1"
    assert await store.read_with_deadline(get, key="a") == "1"


async def test_a_use_case_that_raises_is_undone_alone_and_its_error_raised(store: Store) -> None:
    raised: list[str] = []

    async def fail(number: int) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await store.write(put_and_fail, f"bad {number}")
        raised.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(store.write, put, f"good {number}")
            nursery.start_soon(fail, number)
    assert await store.read(keys) == [f"good {number}" for number in range(8)]
    assert sorted(raised) == [f"bad {number}" for number in range(8)]


async def test_an_error_of_the_database_is_one_of_ours_and_leaves_a_store_that_works(store: Store) -> None:
    await store.write(put, "a")
    for wrong, message in (
        (lambda tx: put(tx, "a"), "(?i)unique"),
        (lambda tx: tx.execute("INSERT INTO absent VALUES (1)"), "absent"),
    ):
        with pytest.raises(DatabaseError, match=message):
            await store.write(wrong)
    for way in (store.read, store.read_with_deadline):
        with pytest.raises(DatabaseError, match="absent"):
            await way(lambda view: view.row("SELECT * FROM absent"))
    await store.write(put, "b")
    assert await store.read(keys) == ["a", "b"]


async def test_an_attempt_that_raises_is_undone_and_the_use_case_continues(store: Store) -> None:
    def use_case(tx: Transaction) -> None:
        put(tx, "before")
        with suppress(ZeroDivisionError), tx.attempt():
            put_and_fail(tx, "undone")
        with suppress(Exception), tx.attempt():
            put(tx, "undone, too")
            put(tx, "before")
        with tx.attempt():
            put(tx, "kept")
        put(tx, "after")

    await store.write(use_case)
    assert await store.read(keys) == ["after", "before", "kept"]


async def test_secure_delete_deletes(store: Store) -> None:
    def use_case(tx: Transaction) -> None:
        with tx.secure_delete():
            remove(tx, "a")

    await store.write(put, "a")
    await store.write(use_case)
    assert await store.read(keys) == []


# -- sets


async def test_rows_are_inserted_by_one_statement_with_a_rule_for_conflicts(store: Store) -> None:
    def insert(tx: Transaction, rows: list[tuple[int, ...]], conflict: str = "") -> None:
        tx.insert("unite_counters", COUNTERS, rows, conflict)

    def insert_new(tx: Transaction, rows: list[tuple[int, ...]]) -> int:
        return tx.insert_new("unite_counters", COUNTERS, rows)

    grow = "(target_state, place) DO UPDATE SET pending = unite_counters.pending + excluded.pending"
    await store.write(insert, [])
    await store.write(insert, [(1, 0, 5, 0, 0), (1, 1, 6, 0, 0)])
    assert await store.write(insert_new, []) == 0
    assert await store.write(insert_new, [(1, 1, 7, 0, 0), (2, 0, 8, 0, 0)]) == 1
    await store.write(insert, [(1, 0, 10, 9, 9), (3, 0, 1, 0, 0)], grow)
    with pytest.raises(DatabaseError, match=r"(?i)unique"):
        await store.write(insert, [(4, 0, 1, 0, 0), (1, 0, 1, 0, 0)])
    expected = [(1, 0, 15, 0, 0, None), (1, 1, 6, 0, 0, None), (2, 0, 8, 0, 0, None), (3, 0, 1, 0, 0, None)]
    assert await store.read(rows, "unite_counters") == expected


@pytest.mark.parametrize("count", [1, 2, 20, 145])
async def test_rows_get_ids_in_their_order(store: Store, count: int) -> None:
    def insert(tx: Transaction) -> tuple[Sequence[int], dict[str, int]]:
        tx.insert("events", EVENTS, [(1, 5, "before", None)])
        added = [(1, 5, f"{(7 * number) % count}", None) for number in range(count)]
        ids = tx.insert_numbered("events", EVENTS, added)
        return ids, dict(tx.execute("SELECT kind, id FROM events WHERE kind <> 'before' ORDER BY id"))

    ids, stored = await store.write(insert)
    assert [stored[f"{(7 * number) % count}"] for number in range(count)] == list(ids)
    assert list(ids) == sorted(ids)


@pytest.mark.parametrize("others", [1, 130])
async def test_a_numbered_row_that_exists_is_a_conflict(store: Store, others: int) -> None:
    def insert(tx: Transaction) -> None:
        tx.insert("stops", STOPS, [("n", "w", 1, "{}")])
        with pytest.raises(RowChanged):
            tx.insert_numbered("stops", STOPS, [("n", w, 1, "{}") for w in ("w", *map(str, range(others)))])
        raise LookupError("undone")

    with pytest.raises(LookupError, match="undone"):
        await store.write(insert)


async def test_columns_that_an_insert_omits_have_their_defaults_and_ids_are_assigned(store: Store) -> None:
    def insert(tx: Transaction) -> list[int]:
        tx.insert("unite_counters", ("target_state", "place"), [(1, 2)])
        tx.insert("events", EVENTS, [(1, 5, "released", None), (1, 6, "released", "w")])
        sql = "INSERT INTO events (state, at, kind, worker) VALUES (?, ?, ?, ?) RETURNING id"
        for at in (7, 8):
            row = tx.row(sql, (1, at, "released", None))
            assert row is not None
            ids.append(row["id"])
        return ids

    ids: list[int] = []
    await store.write(insert)
    assert await store.read(rows, "unite_counters") == [(1, 2, 0, 0, 0, None)]
    selected = await store.read(rows, "events", "id")
    assert [row[1:] for row in selected] == [
        (1, 5, "released", None),
        (1, 6, "released", "w"),
        (1, 7, "released", None),
        (1, 8, "released", None),
    ]
    assert [row[0] for row in selected[2:]] == ids


async def test_rows_are_updated_at_once_by_keys_that_may_be_null(store: Store) -> None:
    def insert(tx: Transaction) -> None:
        tx.insert("events", EVENTS, [(1, 1, "a", None), (2, 2, "b", "w"), (3, 3, "c", None)])

    def update(tx: Transaction) -> None:
        tx.update("events", ("state", "worker"), ("kind", "worker"), [], add=("at",))
        changed = [(1, None, "A", "new", 10), (2, "w", "B", None, 20)]
        tx.update("events", ("state", "worker"), ("kind", "worker"), changed, add=("at",))
        tx.update("events", ("state",), (), [(3, -1)], add=("at",))

    await store.write(insert)
    await store.write(update)
    selected = [row[1:] for row in await store.read(rows, "events", "state")]
    assert selected == [(1, 11, "A", "new"), (2, 22, "B", None), (3, 2, "c", None)]


@pytest.mark.parametrize("key", [(2, None), (2, "other"), (9, "w")])
async def test_updating_a_row_that_does_not_exist_is_a_conflict(
    store: Store, key: tuple[int, str | None]
) -> None:
    def insert(tx: Transaction) -> None:
        tx.insert("events", EVENTS, [(1, 1, "a", None), (2, 2, "b", "w")])

    def update(tx: Transaction) -> None:
        tx.update("events", ("state", "worker"), ("kind",), [(1, None, "A"), (*key, "B")])
        with pytest.raises(RowChanged):
            tx.check_updates()
        # Unhandled, it would have a store whose transactions run side by side try again for a while.
        raise ZeroDivisionError

    await store.write(insert)
    with pytest.raises(ZeroDivisionError):
        await store.write(update)
    assert [row[3] for row in await store.read(rows, "events", "state")] == ["a", "b"]


@pytest.mark.parametrize("count", [1, 2, 8, 20])
async def test_rows_may_have_the_same_values_in_any_columns(store: Store, count: int) -> None:
    """Such columns may be sent in another form, if the rows are many or only one."""
    states = ("state", "place", "path", "target_state")

    def insert(tx: Transaction) -> None:
        tx.insert("events", EVENTS, [(1, 5, "same", None)] * count)
        tx.insert("events", EVENTS, [(2, at, "a\0b", "w") for at in range(count)])
        tx.insert("unite_members", states, [(7, 8, b"\x00\xff", number) for number in range(count)])

    def update(tx: Transaction) -> None:
        changed = [(2, at, "w", "new", None, 3) for at in range(count)]
        tx.update("events", ("state", "at", "worker"), ("kind", "worker"), changed, add=("at",))
        tx.check_updates()

    await store.write(insert)
    await store.write(update)
    selected = [row[1:] for row in await store.read(rows, "events", "state, at")]
    assert selected == [(1, 5, "same", None)] * count + [(2, at + 3, "new", None) for at in range(count)]
    members = [tuple(row) for row in await store.read(rows, "unite_members", "target_state")]
    assert members == [(number, 8, b"\x00\xff", 7) for number in range(count)]


async def test_rows_are_selected_by_any_of_many_values(store: Store) -> None:
    texts = ["a", 'qu"ote', "it's", "back\\slash", "{1,2}", "NULL", "", "ä", "🜚", "a,b", " "]

    def find(view: View, column: str, values: list[Any]) -> list[Any]:
        selected = view.execute(
            f"SELECT {column} FROM events WHERE kind <> ? AND {view.any_of(column)} AND at < ? ORDER BY id",
            ("no", view.items(values), 1_000),
        )
        return [row[0] for row in selected]

    def insert(tx: Transaction) -> None:
        tx.insert("events", EVENTS, [(2**62 + at, at, text, None) for at, text in enumerate(texts)])

    await store.write(insert)
    assert await store.read(find, "kind", texts) == texts
    assert await store.read(find, "kind", ["it's", "absent"]) == ["it's"]
    assert await store.read(find, "state", [2**62 + 1, 2**62 + 3, 5]) == [2**62 + 1, 2**62 + 3]
    assert await store.read(find, "state", []) == []
    assert await store.read(find, "kind", []) == []


@pytest.mark.parametrize("count", [0, 1, 2, 250])
async def test_rows_are_found_for_each_of_many_values(store: Store, count: int) -> None:
    """The first two of each kind that are late enough, and the last one."""
    selects = tuple(
        f"SELECT kind, at FROM events WHERE kind = {{kind}} AND at >= {{from}} ORDER BY {order}"
        for order in ("at LIMIT {most}", "at DESC LIMIT 1")
    )
    given = [(f"it's {number}", 2, number % 10) for number in range(count)]
    events = [(1, at, kind, None) for kind, *_ in given for at in range(10)]
    await store.write(lambda tx: tx.insert("events", EVENTS, events))

    def find(view: View) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in view.for_each(selects, ("kind", "most", "from"), given)]

    expected = [(kind, at) for kind, most, begin in given for at in [*range(begin, 10)[:most], 9]]
    assert Counter(await store.read(find)) == Counter(expected)


async def test_a_row_is_read_by_name_and_by_position(store: Store) -> None:
    def read(view: View) -> None:
        sql = "SELECT key, value, 3 AS three FROM store WHERE run = 0 ORDER BY key"
        row = view.row(sql)
        assert row is not None
        assert (row["key"], row[1], row["three"], row[-1]) == ("a", "1", 3, 3)
        assert list(row) == ["a", "1", 3]
        assert [each["key"] for each in view.execute(sql)] == ["a", "b"]
        assert len(view.execute(sql).fetchall()) == 2
        assert view.row("SELECT key FROM store WHERE run = 1") is None

    await store.write(put, "a", "1")
    await store.write(put, "b", "2")
    await store.read(read)


async def test_a_statement_says_how_many_rows_it_changed(store: Store) -> None:
    def use_case(tx: Transaction) -> None:
        sql = "INSERT INTO store (run, key, value) VALUES (?, ?, ?)"
        tx.executemany(sql, [(0, f"{number}", "") for number in range(5)])
        assert tx.execute("UPDATE store SET value = ? WHERE run = 0 AND key < ?", ("x", "3")).rowcount == 3
        assert remove(tx, "absent") == 0

    await store.write(use_case)
    assert [row[2] for row in await store.read(rows, "store")] == ["x", "x", "x", "", ""]


# -- values


@pytest.mark.parametrize(
    "text", ["", " ", "ä🜚\u2028", "\\x00", "'; --", "?", "?1 $1 %s", "\ufffe", "9" * 8_000_000], ids=range(9)
)
async def test_any_text_comes_back(store: Store, text: str) -> None:
    await store.write(put, "a", text)
    assert await store.read(get, "a") == text


async def test_a_text_with_nul_is_kept_as_far_as_the_engine_can(store: Store) -> None:
    await store.write(put, "a", "b\0c")
    assert await store.read(get, "a") in ("b\0c", "b\u2400c")


async def test_numbers_of_63_bits_and_any_bytes_come_back(store: Store) -> None:
    def insert(tx: Transaction) -> None:
        columns = ("target_state", "place", "path", "state")
        tx.insert("unite_members", columns, [(2**63 - 1, 0, path, -(2**63)) for path in sorted(paths)])

    paths = [b"", b"\0", bytes(range(256)), b"\\x", b"\xff" * 100_000]
    await store.write(insert)
    selected = await store.read(rows, "unite_members", "path")
    assert [(row[0], bytes(row[2]), row[3]) for row in selected] == [
        (2**63 - 1, path, -(2**63)) for path in sorted(paths)
    ]


async def test_texts_are_sorted_and_compared_by_code_point(store: Store) -> None:
    texts = ["", " ", "-a", "A", "B", "Z", "_", "a", "a b", "a-b", "ab", "b", "z", "Ä", "ä", "\uffee", "🜚"]

    def between(view: View) -> list[str]:
        selected = view.execute(
            "SELECT key FROM store WHERE key > ? AND key < ? ORDER BY key DESC", ("B", "b")
        )
        return [row["key"] for row in selected]

    for text in reversed(texts):
        await store.write(put, text)
    assert await store.read(keys) == texts
    assert await store.read(between) == ["ab", "a-b", "a b", "a", "_", "Z"]


async def test_like_takes_capitals_for_small_letters(store: Store) -> None:
    def like(view: View, pattern: str) -> list[str]:
        selected = view.execute("SELECT key FROM store WHERE key LIKE ? ESCAPE '!' ORDER BY key", (pattern,))
        return [row["key"] for row in selected]

    for key in ("Abc", "abd", "a%", "b"):
        await store.write(put, key)
    assert await store.read(like, "AB%") == ["Abc", "abd"]
    assert await store.read(like, "a!%") == ["a%"]


async def test_ids_of_states_are_their_numbers_behind_the_stamp_of_the_database(store: Store) -> None:
    def ids(view: View) -> list[str]:
        return [view.state_id(seq) for seq in (1, 2**63 - 1)]

    first, last = await store.read(ids)
    assert await store.write(ids) == [first, last]
    assert await store.read(lambda view: [view.seq(first), view.seq(last)]) == [1, 2**63 - 1]
    other, stamp = ("0" if first[0] != "0" else "1") + first[1:], first[:8]
    assert first == f"{stamp}{1:016x}"
    tails = [
        "",
        "1",
        "0" * 15,
        "0" * 17,
        " " * 15 + "1",
        "+" + "0" * 14 + "1",
        "0_0_0_0_0_0_0_01",
        "8" + "0" * 15,
    ]
    tails += ["0" * 15 + digit for digit in ("\u0661", "A", "g")]
    for wrong in (other, *(stamp + tail for tail in tails)):
        assert await store.read(View.seq, wrong) is None, wrong


async def test_databases_in_memory_share_neither_rows_nor_the_stamp() -> None:
    async with open_store(":memory:") as one, open_store(":memory:") as other:
        await one.write(lambda tx: tx.execute("INSERT INTO meta VALUES ('key', 'one')"))
        assert await other.read(lambda view: view.row("SELECT 1 FROM meta WHERE key = 'key'")) is None
        assert await one.read(lambda view: view.seq(view.state_id(1))) == 1
        state_id = await other.read(lambda view: view.state_id(1))
        assert await one.read(lambda view: view.seq(state_id)) is None


async def test_use_cases_and_queries_know_the_time(store: Store) -> None:
    for now_ms in (await store.write(lambda tx: tx.now_ms), await store.read(lambda view: view.now_ms)):
        assert isinstance(now_ms, int)
        assert abs(now_ms - time.time() * 1_000) < 60_000


# -- many at once


async def test_numbers_of_states_are_assigned_once_although_use_cases_fail(store: Store) -> None:
    def allocate(tx: Transaction, *, fails: bool) -> None:
        numbers.extend(tx.allocate() for _ in range(3))
        if fails:
            raise ZeroDivisionError

    async def write(number: int) -> None:
        with suppress(ZeroDivisionError):
            await store.write(allocate, fails=number % 2 == 0)

    numbers: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(write, number)
    assert len(numbers) >= 60
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 0


@in_threads
async def test_a_number_that_the_database_lost_is_not_assigned_again(engine: str, db: str) -> None:
    def give(tx: Transaction) -> int:
        number = tx.allocate()
        # No row has it: as after a restored backup, or on a standby that lacks the last commits.
        if engine == "postgres":
            tx.execute("SELECT setval('states_seq_seq', 1)").fetchall()
        return number

    numbers = []
    for _ in range(4):
        async with open_store(db) as store:
            numbers.append(await store.write(give))
    assert numbers == sorted(set(numbers))


@in_threads
async def test_a_clock_that_was_set_back_does_not_bring_numbers_of_rows_back(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insert(tx: Transaction) -> int:
        number = tx.allocate()
        columns = (
            "seq",
            "run",
            "place",
            "node_id",
            "status",
            "inputs",
            "enqueue_after",
            "created_at",
            "updated_at",
        )
        tx.insert("states", columns, [(number, 1, 0, 1, "SUCCESS", "{}", 0, 0, 0)])
        return number

    numbers = []
    for now_ms in (0, NOVEMBER_2027_MS, NOVEMBER_2027_MS - 3_600_000, 0):
        clock = SettableClock(now_ms)
        monkeypatch.setattr(database, "wall_clock", clock)
        async with open_store(db, clock=clock) as store:
            numbers += [await store.write(insert), await store.write(insert)]
    assert numbers == sorted(set(numbers))


async def test_one_of_many_concurrent_use_cases_that_change_what_they_read_succeeds(store: Store) -> None:
    def take(tx: Transaction, name: str) -> str | None:
        row = tx.row("SELECT kind FROM events WHERE state = 1")
        assert row is not None
        if row["kind"] != "free":
            return None
        tx.update("events", ("state", "kind"), ("kind", "worker"), [(1, "free", "taken", name)])
        return name

    async def compete(name: str) -> None:
        winners.append(await store.write(take, name))

    winners: list[str | None] = []
    await store.write(lambda tx: tx.insert("events", EVENTS, [(1, 0, "free", None)]))
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(compete, f"{number}")
    (winner,) = [name for name in winners if name is not None]
    assert [row[4] for row in await store.read(rows, "events")] == [winner]


async def test_those_that_skip_what_is_locked_take_different_rows(store: Store) -> None:
    def take(tx: Transaction) -> None:
        locked = tx.skip_locked("store")
        row = tx.row(f"SELECT key FROM store WHERE run = 0 ORDER BY key LIMIT 1{locked}")
        if row is not None and remove(tx, row["key"]):
            taken.append(row["key"])

    taken: list[str] = []
    for number in range(20):
        await store.write(put, f"{number}")
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.write, take)
    while await store.read(keys):
        await store.write(take)
    assert sorted(taken) == sorted(map(str, range(20)))


async def test_a_use_case_that_locks_before_it_reads_sees_what_the_one_before_wrote(store: Store) -> None:
    def count_up(tx: Transaction) -> None:
        sql = "SELECT value FROM store WHERE run = 0 AND key = 'n'"
        row = tx.row(sql + tx.for_update("store"))
        assert row is not None
        # It could be lost here.
        time.sleep(0.001)
        changed = "UPDATE store SET value = ? WHERE run = 0 AND key = 'n'"
        tx.execute(changed, (str(int(row["value"]) + 1),))

    await store.write(put, "n", "0")
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.write, count_up)
    assert await store.read(get, "n") == "20"


async def test_readers_never_see_half_a_use_case(store: Store) -> None:
    def put_pair(tx: Transaction, number: int) -> None:
        put(tx, f"{number}a")
        put(tx, f"{number}b")

    def count_twice(view: View) -> tuple[int, int]:
        return len(keys(view)), len(keys(view))

    async def write(block: int) -> None:
        for number in range(15):
            await store.write(put_pair, block * 100 + number)

    async with trio.open_nursery() as nursery:
        for block in range(4):
            nursery.start_soon(write, block)
        for _ in range(40):
            first, second = await store.read(count_twice)
            assert first % 2 == 0
            assert first == second


# -- what is told after a commit


async def test_each_commit_reports_how_many_use_cases_it_answered_and_what_ended(store: Store) -> None:
    def end(tx: Transaction, node: str) -> WithEffects[None]:
        effects = Effects()
        effects.final["n", node, "SUCCESS"] += 1
        effects.ended_runs["n", node, "SUCCESS"] += 1
        return WithEffects(None, effects)

    def on_commit(writes: int, effects: Sequence[Effects]) -> None:
        trio.lowlevel.current_task()  # it is called in a Trio thread
        commits.append(writes)
        for each in effects:
            total.update(each.final)
            runs.update(each.ended_runs)

    commits: list[int] = []
    total: Counter[tuple[str, str, str]] = Counter()
    runs: Counter[tuple[str, str, str]] = Counter()
    store.on_commit = on_commit
    async with trio.open_nursery() as nursery:
        for node in ("a", "a", "b"):
            nursery.start_soon(store.write, end, node)
    with pytest.raises(ZeroDivisionError):
        await store.write(put_and_fail, "c")
    await until(lambda: sum(commits) == 4)
    assert total == runs == {("n", "a", "SUCCESS"): 2, ("n", "b", "SUCCESS"): 1}


async def test_what_is_written_grows_with_what_a_page_may_show_and_with_little_else(store: Store) -> None:
    before = store.written
    await store.write(put, "a")
    assert store.written > before
    before = store.written
    for _ in range(5):
        await store.read(keys)
        await store.write(keys)
    # A store that listens to others begins to at some time, and may have missed something until then.
    assert store.written <= before + 1


async def test_states_that_ended_are_counted_by_node_and_minute_at_the_latest_when_the_store_ends(
    db: str, engine: str
) -> None:
    minute = 30_000_000

    def end(tx: Transaction) -> WithEffects[None]:
        tally = Counter({(1, 7, "SUCCESS", 3, minute): 2, (1, 7, "ERRORED", 0, minute): 1})
        return WithEffects(None, Effects(tally=tally))

    def totals(view: View) -> dict[tuple[int, str, int], int]:
        sql = "SELECT node_id, status, bucket, count FROM trends WHERE width = 1"
        return {(row[0], row[1], row[2]): row["count"] for row in view.execute(sql)}

    async with open_store(db, clock=lambda: minute * 60_000) as store:
        await store.write(put_graph)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(store.write, end)
        if engine == "memory":
            return  # it ends with its store
    async with open_store(db) as store:
        assert await store.read(totals) == {(7, "SUCCESS", 3): 20, (7, "ERRORED", 0): 10}


async def test_a_run_may_be_uncounted_before_another_manager_has_counted_it(store: Store) -> None:
    await store.write(put_graph)
    now = await store.read(lambda view: view.now_ms)
    key = (1, tallies.RUN, "ERRORED", 3, tallies.minute_of(now))

    def ended(view: View) -> int:
        slots = tallies.in_slots(view, 15, 96, graphs=[1], runs=True).values()
        return sum(counts.statuses.total() for counts in slots)

    for count, shown in ((-1, 0), (2, 1), (-1, 0), (0, 0), (1, 1)):
        await store.write(tallies.write, Counter({key: count}))
        assert await store.read(ended) == shown


async def test_counts_of_two_minutes_are_added_in_one_slot(store: Store) -> None:
    await store.write(put_graph)
    minute = tallies.minute_of(await store.read(lambda view: view.now_ms)) // 15 * 15
    waited = {(tallies.ANY_GRAPH, 7, tallies.WAITED, 3, minute + more): 2 for more in (0, 1)}
    await store.write(tallies.write, waited | {(1, 7, "SUCCESS", 3, minute + more): 1 for more in (0, 1)})

    def sums(view: View) -> tuple[int, int]:
        (counts,) = tallies.in_slots(view, 120, 1, nodes=[7]).values()
        return counts.waited.total(), counts.statuses.total()

    assert await store.read(sums) == (4, 2)


async def test_a_store_says_that_it_can_be_written(store: Store) -> None:
    for _ in range(3):
        await store.check_writable()
    assert await store.read(keys) == []


# -- writes without a waiting caller


async def test_a_write_for_later_happens(store: Store) -> None:
    def put_later(tx: Transaction) -> None:
        put(tx, "later")
        done.append(True)

    done: list[bool] = []
    store.write_later(put_later)
    await until(lambda: done)
    with trio.fail_after(TEST_TIMEOUT):
        while await store.read(keys) != ["later"]:
            await trio.lowlevel.checkpoint()


@in_threads
async def test_a_write_for_later_happens_although_the_caller_is_cancelled(db: str) -> None:
    with trio.CancelScope() as everything:
        async with open_store(db) as store:
            everything.cancel()
            store.write_later(lambda tx: put(tx, "later"))
    async with open_store(db) as store:
        assert await store.read(keys) == ["later"]


async def test_a_write_for_later_that_can_never_succeed_is_logged_and_forgotten(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tx: Transaction) -> None:
        tries.append(True)
        put_and_fail(tx, "never")

    tries: list[bool] = []
    store.write_later(fail)
    await until(lambda: [record for record in caplog.records if record.exc_info])
    for number in range(3):
        await store.write(put, f"{number}")
    assert await store.read(keys) == ["0", "1", "2"]
    assert len(tries) == 1
    (logged,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert isinstance(logged.exc_info and logged.exc_info[1], ZeroDivisionError)


# -- queries


@in_threads
async def test_a_slow_query_sees_one_snapshot_and_delays_no_other(store: Store) -> None:
    def read_twice(view: View, held: Gate) -> None:
        seen.append(keys(view))
        held.hold()
        seen.append(keys(view))

    seen: list[list[str]] = []
    await store.write(put, "before")
    with trio.fail_after(TEST_TIMEOUT):
        async with held_up(store.read, read_twice):
            await store.write(put, "meanwhile")
            assert await store.read(keys) == ["before", "meanwhile"]
    assert seen == [["before"], ["before"]]


@in_threads
async def test_a_query_does_not_wait_for_a_use_case(store: Store) -> None:
    def put_and_hold(tx: Transaction, held: Gate) -> None:
        put(tx, "uncommitted")
        held.hold()

    await store.write(put, "committed")
    with trio.fail_after(TEST_TIMEOUT):
        async with held_up(store.write, put_and_hold):
            assert await store.read(keys) == ["committed"]
    assert await store.read(keys) == ["committed", "uncommitted"]


@in_threads
@pytest.mark.parametrize("way", ["read", "read_with_deadline"])
async def test_a_query_cannot_write(store: Store, way: str) -> None:
    await store.write(put, "a")
    with pytest.raises(DatabaseError, match=r"(?i)read-?only"):
        await getattr(store, way)(lambda view: view.execute("DELETE FROM store"))
    assert await store.read(keys) == ["a"]


async def test_a_query_that_raises_leaves_one_that_works(store: Store) -> None:
    def fail(view: View) -> None:
        keys(view)
        raise ZeroDivisionError

    for way in (store.read, store.read_with_deadline):
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await way(fail)
        assert await way(keys) == []


@in_threads
async def test_queries_with_a_deadline_delay_no_others_and_wait_for_their_turn(store: Store) -> None:
    with gate() as closed, trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            # More than are let in at once, whatever that number is.
            for _ in range(12):
                nursery.start_soon(_ignore_refused, store.read_with_deadline, closed.hold)
            await trio.to_thread.run_sync(closed.wait_entered)
            await store.write(put, "a")
            assert await store.read(keys) == ["a"]
            closed.open()


async def _ignore_refused(read: Callable[..., Any], query: Callable[[View], None]) -> None:
    with suppress(Refused):
        await read(query)


@in_threads
@pytest.mark.parametrize("way", ["read", "read_with_deadline"])
@pytest.mark.parametrize("statements", [1, 10**9])
async def test_a_query_that_is_cancelled_ends(store: Store, way: str, statements: int) -> None:
    def search(view: View) -> None:
        trio.from_thread.run_sync(begun.set)
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        sql = f"{numbers} SELECT count(*) AS n FROM n" if statements == 1 else "SELECT 1"
        for _ in range(statements):
            view.row(sql)

    begun = trio.Event()
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(getattr(store, way), search)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert await getattr(store, way)(keys) == []
