"""Why a node of a graph has no state in a run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from exotrio._util.words import listed
from exotrio._wire.vocabulary import ERRORED, PENDING, StateStatus
from exotrio.graph import UnitesStrategyEnum
from exotrio.manager.rules.template import Template, Unite

Counts = Mapping[int, Mapping[str, int]]
"""Place to status to number of states; what is 0 may be missing."""

MAX_NAMED = 5
_WITHOUT = ", which ended without it"


@dataclass(frozen=True, slots=True)
class Unreached:
    """Why a place has no state: ``text`` begins with what it follows or unites.

    ``is_final`` says that it gets none later, unless a failed state is retried. ``is_untaken`` says that all
    before it ended without it, since its condition was not met.
    """

    text: str
    is_final: bool
    is_untaken: bool = False


def why_unreached(template: Template, counts: Counts, *, is_cancelled: bool = False) -> dict[int, Unreached]:
    """Return why each place without states has none."""
    missing = {place.index for place in template.places if not _number(counts, place.index, None)}
    if not missing:
        return {}
    unites = {unite.place: unite for unite in chain.from_iterable(template.uniters.values())}
    alive = _alive(template, counts, unites.values())
    reasons = _Reasons(template, counts, is_cancelled)
    return {
        index: Unreached(reasons.of_united(unites[index]), index not in alive)
        if index in unites
        else reasons.of_plain(index, template.before[index], is_final=index not in alive)
        for index in sorted(missing)
    }


def _number(counts: Counts, place: int, statuses: Iterable[str] | None) -> int:
    """Return how many states a place has with these statuses, or with any but that of a replaced state."""
    numbers = counts.get(place, {})
    if statuses is None:
        statuses = numbers.keys() - {StateStatus.RETRY_CREATED}
    return sum(numbers.get(status, 0) for status in statuses)


def _alive(template: Template, counts: Counts, unites: Iterable[Unite]) -> set[int]:
    """Return the places with states that have not ended, and those that may get states because of them."""
    alive: set[int] = set()
    unites_blocked = [(unite, _is_blocked(unite, counts)) for unite in unites]
    waiting = [place.index for place in template.places if _number(counts, place.index, PENDING)]
    while waiting:
        index = waiting.pop()
        if index in alive:
            continue
        alive.add(index)
        waiting += template.places[index].next
        for unite, is_blocked in unites_blocked:
            if index == unite.target or (index in unite.region and not is_blocked):
                waiting.append(unite.place)
    return alive


def _is_blocked(unite: Unite, counts: Counts) -> bool:
    """Whether a failure keeps a united node from running. Of several groups another one may be complete."""
    return (
        unite.strategy is UnitesStrategyEnum.ALL_SUCCESS
        and _number(counts, unite.target, (StateStatus.SUCCESS,)) <= 1
        and any(_number(counts, member, ERRORED) for member in unite.region)
    )


class _Reasons:
    def __init__(self, template: Template, counts: Counts, is_cancelled: bool) -> None:
        self._places = template.places
        self._nodes = template.body.nodes
        self._counts = counts
        self._errored = "errored or cancelled" if is_cancelled else "errored"
        self._is_cancelled = is_cancelled

    def of_plain(self, index: int, before: Iterable[int], *, is_final: bool) -> Unreached:
        node = self._nodes[index]
        fates = [self._fate(each) for each in before]
        if (node.when is not None or node.otherwise) and all(fate.endswith(_WITHOUT) for fate in fates):
            names = [fate.removesuffix(_WITHOUT) for fate in fates]
            why = "another branch was taken" if node.when is None else f"{node.when} was not true"
            return Unreached(f"follows {'; and '.join(names)}, and {why}", is_final, is_untaken=True)
        return Unreached("follows " + "; and ".join(fates), is_final)

    def of_united(self, unite: Unite) -> str:
        if not _number(self._counts, unite.target, (StateStatus.SUCCESS,)):
            return f"unites {self._fate(unite.target)}"
        text = f"unites {self._name(unite.target)}"
        if self._is_cancelled:
            return f"{text}, and the run was cancelled"
        still, where = self._among(unite.waits_for, PENDING)
        broken, there = self._among(unite.region, ERRORED)
        if still and not _is_blocked(unite, self._counts):
            return f"{text}, and {still:,} of its group did not end yet ({where})"
        if broken:
            return f"{text} if all of its group succeed, of which {broken:,} failed ({there})"
        return f"{text}, and nothing reached it: {'; '.join(map(self._fate, unite.predecessors))}"

    def _among(self, places: Iterable[int], statuses: Iterable[str]) -> tuple[int, str]:
        """Return how many states of these places have these statuses, and of which places."""
        numbers = {self._name(index): _number(self._counts, index, statuses) for index in sorted(places)}
        return sum(numbers.values()), listed([name for name, number in numbers.items() if number], MAX_NAMED)

    def _fate(self, index: int) -> str:
        """Return a place and how its states ended."""
        if not _number(self._counts, index, None):
            return f"{self._name(index)}, which was not reached either"
        pending = _number(self._counts, index, PENDING)
        pruned = _number(self._counts, index, (StateStatus.PRUNED,))
        numbers = [
            (pending, "has not ended" if pending == 1 else "have not ended"),
            (_number(self._counts, index, (StateStatus.ERRORED,)), self._errored),
            (
                _number(self._counts, index, (StateStatus.NEXT_CREATED_ERROR,)),
                "could not create the next states",
            ),
            (pruned, "was pruned" if pruned == 1 else "were pruned"),
        ]
        parts = [f"{number:,} {text}" for number, text in numbers if number]
        if not parts:
            return f"{self._name(index)}{_WITHOUT}"
        return f"{self._name(index)}, of which {listed(parts)}"

    def _name(self, index: int) -> str:
        return self._places[index].identifier
