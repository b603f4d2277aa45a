"""Whether all went well: the journal, the HTTP API, the proxy's memory and the database must agree."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from exotrio._wire.v0 import RunGraph, RunSummary
from exotrio._wire.vocabulary import RunStatus
from tests.chaos.checkpoints import broken_checkpoints
from tests.chaos.contents import State, read_contents
from tests.chaos.graph import EDGES, MAX_NOTES, STATES, VERSIONS, blocks, version_of
from tests.chaos.journal import GOES_ON, Execution, Reading
from tests.chaos.plan import STOPS, Fault, Figures, Plan, Strike
from tests.chaos.proxy import Proxy
from tests.chaos.user_assessment import assess_users
from tests.chaos.user_graphs import JOURNAL
from tests.chaos.users import Users
from tests.support.postgres import Database

OPEN = {"CREATED", "QUEUED", "EXECUTED"}
ENDED_WELL = {"SUCCESS", "PRUNED", "RETRY_CREATED"}
REPEATED = {"errored", "requeued", "handed-over"}
"""Ends of executions after which another one is what is asked for."""
BUFFERED = 16
"""Most states a worker holds ahead, the default of ``batch_size``."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the HTTP API showed in the end."""

    runs: list[RunSummary]
    graphs: dict[str, RunGraph]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All there is to go by. The processes have ended."""

    plan: Plan
    folder: Path
    canary: str
    reading: Reading
    proxy: Proxy
    strikes: list[Strike]
    undone: list[tuple[float, float]]
    """From when until when the state manager wrote what restored backups, or servers
    that took over, lack."""
    shown: Shown
    in_order: set[int]
    database: Database | None
    triggered: Mapping[str, float]
    """When it was acknowledged that a run with this id was started."""
    users: Users | None = None


def assess(evidence: Evidence) -> Figures:
    """Check every invariant and return the figures."""
    evidence.reading.update()
    contents = read_contents(evidence.folder, evidence.database)
    counts = Figures(problems=contents.problems)
    for state_id in contents.of_others:
        evidence.proxy.accepted.pop(state_id, None)
    if evidence.users is not None:
        reading = Reading(evidence.folder / JOURNAL)
        reading.update()
        for state_id, accepted in list(evidence.proxy.accepted.items()):
            # Of runs that do not exist any more.
            if any(by in reading.executions for each in accepted for by in _all_by(each.what)):
                del evidence.proxy.accepted[state_id]
    figures = _Assessor(evidence, contents.states, contents.lost_leases, counts).figures()
    if evidence.users is not None:
        of_users = assess_users(
            evidence.users,
            reading,
            evidence.proxy.beats,
            contents.lost_by_others,
            _blocked(evidence),
            evidence.plan.lease_ttl,
        )
        figures.of_users = of_users.rows()
        figures.problems += of_users.problems
    return figures


@dataclass(slots=True)
class _Assessor:
    evidence: Evidence
    states: dict[str, State]
    lost_leases: list[tuple[str, str | None]]
    counts: Figures

    def figures(self) -> Figures:
        self.counts.runs = len(self.evidence.shown.runs)
        self.counts.states = len(self.states)
        self.counts.executions = len(self.evidence.reading.executions)
        self.counts.leases_lost = len(self.lost_leases)
        # A trigger through v0 whose answer is lost may start a run, and is repeated.
        more = self.evidence.plan.v0_only and self.counts.runs > self.evidence.plan.runs
        shown = {run.run_id for run in self.evidence.shown.runs}
        gone = [at for run_id, at in self.evidence.triggered.items() if run_id not in shown]
        self.counts.gone = sum(map(self._is_undone, gone))
        if len(gone) > self.counts.gone:
            self._problem(f"{len(gone) - self.counts.gone} runs do not exist though nothing was lost then")
        if self.counts.runs != self.evidence.plan.runs and not (more or self.counts.gone):
            self._problem(f"{self.counts.runs} runs exist, not {self.evidence.plan.runs}")
        for run in self.evidence.shown.runs:
            self._check_run(run, self.evidence.shown.graphs[run.run_id])
        self._check_outcomes()
        self._check_executions()
        self._check_reports()
        self._check_checkpoints()
        self._check_limit()
        self._check_versions()
        self._check_canary()
        if self.evidence.plan.v0_only and (followed := self.evidence.proxy.followed):
            self._problem(f"a stock server would have cut requests behind an outcome: {dict(followed)}")
        self._measure_recovery()
        return self.counts

    def _problem(self, text: str) -> None:
        self.counts.problems.append(text)

    # -- every state ended, and nothing is missing or double

    def _check_run(self, run: RunSummary, shown: RunGraph) -> None:
        if run.status is not RunStatus.SUCCESS:
            self._problem(f"run {run.run_id} is {run.status}: {shown.execution_summary}")
        open_states = [node for node in shown.nodes if node.status in OPEN]
        self.counts.lost += len(open_states)
        for node in shown.nodes:
            if node.status not in OPEN | ENDED_WELL:
                self._problem(f"state {node.id} ({node.identifier}) is {node.status}: {node.error}")
            if "refused what the node returned" in (node.error or ""):
                self._problem(
                    f"a result of state {node.id} ({node.identifier}) became an error: {node.error}"
                )
            if node.id not in self.states:
                self._problem(f"state {node.id} is shown by the API and not in the database")
        counted = Counter(node.identifier for node in shown.nodes if node.status != "RETRY_CREATED")
        for identifier, expected in STATES.items():
            self.counts.lost += max(0, expected - counted[identifier])
            if counted[identifier] != expected:
                self._problem(f"run {run.run_id} has {counted[identifier]} of {expected} states {identifier}")
        # Children are outputs times next nodes, each with a separate parent.
        nodes = {node.id: node for node in shown.nodes}
        hanging: dict[tuple[str, str], list[str]] = defaultdict(list)
        for edge in shown.edges:
            child, parent = nodes[edge.target], nodes[edge.source]
            if child.status != "RETRY_CREATED":
                hanging[parent.identifier, child.identifier].append(parent.id)
        for pair, expected in EDGES.items():
            parents = hanging.pop(pair, [])
            if len(parents) != expected or (pair[0] == "fan" and len(set(parents)) != expected):
                self._problem(
                    f"run {run.run_id} has {len(parents)} edges {pair}, not {expected} from as many"
                )
        if hanging:
            self._problem(f"run {run.run_id} has edges that are not in its graph: {sorted(hanging)}")

    # -- what was acknowledged is what is stored

    def _check_outcomes(self) -> None:
        for state_id, all_accepted in self.evidence.proxy.accepted.items():
            state = self.states.get(state_id)
            accepted = [each for each in all_accepted if not self._is_undone(each.at)]
            if not accepted:
                continue
            if state is None:
                self.counts.outcomes_lost += 1
                self._problem(f"an outcome was acknowledged for state {state_id}, which does not exist")
                continue
            final = {each.what for each in accepted if not each.what.startswith("requeued")}
            if len(final) > 1:
                self._problem(f"state {state_id} ({state.key}) had {len(final)} different outcomes accepted")
            if final and not any(_is_stored(what, state) for what in final):
                self.counts.outcomes_lost += 1
                self._problem(f"state {state_id} ({state.key}, {state.status}) is not what was acknowledged")
        for state in self.states.values():
            if state.by is None or state.sibling:
                continue
            execution = self.evidence.reading.executions.get(state.by)
            if execution is None:
                self._problem(f"state {state.id} holds outputs of an unknown execution: {state.by}")
            elif execution.key != state.key:
                self.counts.wrong += 1
                self._problem(f"state {state.id} ({state.key}) holds outputs of {execution.key}")
            elif self._is_stale(execution, state):
                self.counts.stale_accepted += 1
        if self.counts.stale_accepted and not self.evidence.plan.v0_only:
            self._problem(f"{self.counts.stale_accepted} outcomes of former holders were accepted")

    def _is_undone(self, at: float) -> bool:
        """Whether what the state manager said then was undone by a restored backup or a failover."""
        return any(begin <= at <= end for begin, end in self.evidence.undone)

    def _is_stale(self, execution: Execution, state: State) -> bool:
        """Whether the outcome is not of the last one to claim the state, nor found by that one in its outbox.

        A worker that claims a state whose outcome is in its outbox delivers it, and does not run the state.
        """
        others = self.evidence.reading.by_key[state.key]
        if state.worker is not None:
            holders = {each.pid for each in others if f":{each.pid}:" in state.worker}
            return execution.pid not in holders and (bool(holders) or not self.evidence.plan.outbox)
        end = execution.ended or float("inf")
        return any(other is not execution and execution.began < other.began < end for other in others)

    # -- nothing is done again but for a reason

    def _check_executions(self) -> None:
        accepted_at = self._accepted_at()
        touched: Counter[str] = Counter()
        if self.evidence.plan.v0_only:
            # A release that is late or sent twice may take a state from its present holder: v0 has
            # no tokens. Natively no broken request is a reason to do anything again.
            for state_id, times in self.evidence.proxy.touched.items():
                if state_id in self.states:
                    touched[self.states[state_id].key] += times
            touched.update(self._timed_out())
        by_pid: dict[int, list[Execution]] = defaultdict(list)
        for execution in self.evidence.reading.executions.values():
            by_pid[execution.pid].append(execution)
        for strike in self.evidence.strikes:
            if strike.kind in STOPS:
                continue  # no reason to do anything again
            for execution in by_pid[strike.pid]:
                if execution.began <= strike.until and accepted_at.get(execution.id, strike.at) >= strike.at:
                    touched[execution.key] += 1
            if strike.kind in (Fault.ZOMBIE, Fault.GATEWAY, Fault.FAILING):
                after = (each for each in by_pid[strike.pid] if each.began > strike.until)
                touched.update(execution.key for execution in islice(after, self._held(strike)))
        for key, executions in self.evidence.reading.by_key.items():
            again = len(executions) - 1 - sum(each.end in REPEATED for each in executions)
            self.counts.duplicates += max(0, again)
            self.counts.bound += touched[key]
            if again > touched[key]:
                self.counts.unexplained += again - touched[key]
                self._problem(
                    f"{key} was executed {len(executions)} times, with {touched[key]} faults: "
                    + ", ".join(f"{each.id} {each.end or 'cut'}" for each in executions)
                )
        if self.evidence.plan.terms_only and self.lost_leases:
            self._problem(f"{len(self.lost_leases)} leases ended though workers were only asked to stop")

    def _timed_out(self) -> Counter[str]:
        """Return how often the v0 claims of each key timed out, as they do on a busy machine without a fault.

        They did if the state manager says so, and gave out the state no sooner than that again.
        """
        lost = Counter(state_id for state_id, _ in self.lost_leases)
        timed_out: Counter[str] = Counter()
        for state_id, claims in self.evidence.proxy.claimed.items():
            late = [
                later[1] - sent >= self.evidence.plan.claim_timeout for (sent, _), later in pairwise(claims)
            ]
            if state_id in self.states:
                timed_out[self.states[state_id].key] += min(sum(late), lost[state_id])
        return timed_out

    def _check_reports(self) -> None:
        """A worker that ends with 0 has reported all it finished to the state manager itself.

        But for signals of nodes that were told that their lease was lost, which are not sent.
        """
        lost = self._lost()
        undone = max(
            (strike.until for strike in self.evidence.strikes if strike.kind == Fault.RESTORE), default=0
        )
        for execution in self.evidence.reading.executions.values():
            if (
                execution.pid in self.evidence.in_order
                # Its lease may be lost without a trace in the database.
                and not (execution.end == "pruned" and execution.began <= undone)
                and execution.end in ("done", "pruned")
                and execution.id not in self.evidence.proxy.answered
                and not (execution.end == "pruned" and (execution.key, execution.pid) in lost)
            ):
                self.counts.outcomes_lost += 1
                self._problem(f"{execution.key} was {execution.end} by {execution.id} and never reported")

    def _lost(self) -> set[tuple[str, int]]:
        """What was done without a lease in the end, and by which process."""
        return {
            (self.states[state_id].key, int(worker.split(":")[-2]))
            for state_id, worker in self.lost_leases
            if state_id in self.states and worker is not None
        }

    def _held(self, strike: Strike) -> int:
        """Return how many states a worker may have had in hand that were not entered as begun yet.

        On v0 it does not learn that what it had buffered was given away meanwhile, and runs all of that.
        Natively a zombie runs those it was about to begin, at most one for each worker that ran nothing: it
        may be stopped between the last look at a lease and the node's first line. The others wait until their
        leases are renewed.
        """
        plan = self.evidence.plan
        if plan.v0_only:
            return BUFFERED + plan.workers
        # The journal may name one more than there are workers: it was stopped before it entered an end.
        return max(0, plan.workers - len(strike.running)) if strike.kind == Fault.ZOMBIE else 0

    def _accepted_at(self) -> dict[str, float]:
        """Return when the outcome of each execution was acknowledged, if it was."""
        times: dict[str, float] = {}
        for accepted in self.evidence.proxy.accepted.values():
            for each in accepted:
                for by in _all_by(each.what):
                    times.setdefault(by, each.at)
        return times

    # -- an execution goes on where those before it were

    def _check_checkpoints(self) -> None:
        """Check what executions began with. Over v0 they begin with nothing."""
        if self.evidence.plan.v0_only:
            return
        lost = self._lost()

        def is_handed_on(execution: Execution) -> bool:
            in_order = execution.pid in self.evidence.in_order and not self.evidence.undone
            return in_order and execution.end in GOES_ON

        for key, executions in self.evidence.reading.by_key.items():
            stored = [*self.evidence.proxy.stored[key], *self.evidence.reading.stored[key]]
            stored = [(at, parts) for at, parts in stored if not self._is_undone(at)]
            # A holder that lost its lease may have begun after that, with what it had been given before.
            held = [each for each in executions if (key, each.pid) not in lost]
            problems = list(broken_checkpoints(key, held, stored, is_handed_on))
            self.counts.problems += problems
            self.counts.checkpoints_lost += len(problems)
            self.counts.parts_kept += sum(execution.received or 0 for execution in executions)
        if not self.counts.parts_kept:
            self._problem("no execution began with a checkpoint: nothing is proved of them")

    # -- no more states are held than a limit says

    def _check_limit(self) -> None:
        """Check how many notes ran at once, as they entered it themselves.

        One whose lease ended may run on, and is not counted. Neither is one that was cut.
        """
        if self.evidence.plan.v0_only or self.evidence.undone:
            return
        lost, moments = self._lost(), []
        for key, executions in self.evidence.reading.by_key.items():
            if "/note/" not in key:
                continue
            for each in executions:
                if each.ended is not None and (key, each.pid) not in lost:
                    # At the same moment, those that end come first.
                    moments += [(each.began, 1, key), (each.ended, -1, key)]
        running = 0
        for at, change, key in sorted(moments):
            running += change
            self.counts.most_notes = max(self.counts.most_notes, running)
            if running > MAX_NOTES:
                self._problem(f"{running} notes ran at once when {key} began, at {at:.3f}")
        if self.counts.most_notes < MAX_NOTES:
            self._problem(
                f"at most {self.counts.most_notes} notes ran at once: nothing is proved of the limit"
            )

    # -- what is pinned to a version ran on no other

    def _check_versions(self) -> None:
        plan = self.evidence.plan
        if plan.v0_only:
            return
        pinned: Counter[str] = Counter()
        for each in self.evidence.reading.executions.values():
            version = version_of(int(each.key.partition("/")[0]), plan.runs)
            if each.version not in VERSIONS:
                self._problem(f"{each.key} ran on a runtime of no version: {each.id}")
            elif version is None:
                self.counts.unpinned[each.version] += 1
            elif each.version == version:
                pinned[version] += 1
            else:
                self.counts.elsewhere += 1
                self._problem(f"{each.key} is pinned to version {version} and ran on {each.version}")
        self.counts.pinned = pinned
        if missing := set(VERSIONS) - set(pinned):
            self._problem(f"nothing ran that is pinned to {sorted(missing)}: nothing is proved of versions")

    # -- the secret is nowhere

    def _check_canary(self) -> None:
        canary = self.evidence.canary.encode()
        for file in self.evidence.folder.rglob("*"):
            if file.is_file() and canary in file.read_bytes():
                self._problem(f"the secret stands in the clear in {file}")
        errors = [node.error or "" for shown in self.evidence.shown.graphs.values() for node in shown.nodes]
        if any(self.evidence.canary in error for error in errors):
            self._problem("the API shows the secret in an error")
        if not any("the service does not accept" in error for error in errors):
            self._problem("no node failed with the secret in its error: the canary proves nothing")

    def _measure_recovery(self) -> None:
        for strike in self.evidence.strikes:
            if strike.kind != Fault.WORKER_KILL:
                continue
            for key in strike.running:
                later = [each.began for each in self.evidence.reading.by_key[key] if each.began > strike.at]
                if later:
                    self.counts.recovery.append(min(later) - strike.at)


def _blocked(evidence: Evidence) -> list[tuple[int, float, float]]:
    """Return which processes had their event loop blocked by a step, from when until when."""
    steps = (each for each in evidence.reading.executions.values() if "/step/" in each.key)
    return [
        (each.pid, each.began, each.began + evidence.plan.long + 1)
        for each in steps
        if blocks(*each.key.split("/step/"))
    ]


def _is_stored(what: str, state: State) -> bool:
    kind, _, content = what.partition(" ")
    sent = json.loads(content)
    match kind:
        case "executed":
            return state.status == "SUCCESS" and state.outputs == (sent["outputs"] or [{}])[0]
        case "errored":
            return state.status in ("ERRORED", "RETRY_CREATED") and state.error == sent["error"]
        case "prune":
            return state.status == "PRUNED" and json.loads(state.data or "null") == sent["data"]
    return False


def _all_by(what: str) -> Iterator[str]:
    content = json.loads(what.partition(" ")[2])
    for part in (*(content.get("outputs") or ()), content.get("data") or {}):
        if "by" in part:
            yield part["by"]
