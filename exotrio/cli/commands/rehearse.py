"""``python -m exotrio rehearse``: stop real processes at random moments, and see what is lost."""

from __future__ import annotations

import logging

import click

from exotrio.cli import completion, options
from exotrio.cli.program import run_until_stopped
from exotrio.cli.terminal.logs import configure_logs


@click.command(name="rehearse")
@options.target
@click.option(
    "--successor",
    metavar="FILE_OR_MODULE[:ATTR]",
    help="New code that takes over, as in a deploy.",
    shell_complete=completion.files,
)
@click.option("--times", metavar="N", type=click.IntRange(1), default=50, show_default=True, help="Runs.")
@click.option("--graph", metavar="NAME", help="The Graph to run, if the code has several.")
@options.run_values
@click.option(
    "--seed", type=click.IntRange(0), help="Repeat the signals and moments of an earlier rehearsal."
)
@click.option("--only", metavar="NUMBER", type=click.IntRange(1), help="Only the run with this number.")
@options.output
@click.option("-v", "--verbose", count=True, help="Show the logs of the processes.")
def command(
    target: str,
    successor: str | None,
    times: int,
    graph: str | None,
    inputs: dict[str, str],
    store: dict[str, str],
    seed: int | None,
    only: int | None,
    output: str,
    verbose: int,
) -> int:
    """Rehearse stops: run a graph again and again, and stop the process that runs it at a random moment.

    The Runtime in FILE_OR_MODULE runs in real processes, and its effects are real: point it at test systems.
    The state manager is in a temporary folder. First the graph runs undisturbed. Then each run gets a signal
    at a random moment (SIGTERM, SIGTERM twice, SIGKILL, or a SIGSTOP that lasts longer than its leases) and a
    new process after it. Each run has to end like the undisturbed one, with the same outputs; each process
    has to end in time after SIGTERM.

    With --successor, the new process runs other code, which continues what the code of FILE_OR_MODULE has
    begun. Each run has to end like an undisturbed one of the old code or of the new code; runs whose outputs
    come from both are counted. Fields of the new code that do not fit what runs in progress have are named.

    The report says how long processes took to end, what was cut off, which work was repeated, and which nodes
    ran again after a fault, so that their effects may have happened twice. Exits 1 if anything broke, with
    the command that makes that run again.

    JSON: graph, seed, seconds (of the undisturbed run), max_exit_seconds, not_compared, and trials: number,
    signal, at, exit_seconds, cut, states_repeated, seconds_repeated, cut_nodes and ran_again (class to
    number), problems. With --successor also: changed_outputs, breaking_changes (node, field, old, new, what,
    fix, certain), and in trials version (old, new, mixed, or null if something broke).
    """
    configure_logs(verbose=max(0, verbose - 1), quiet=verbose == 0)
    if not verbose:
        logging.getLogger("exotrio").setLevel(logging.CRITICAL)  # the faults make warnings
    # Imported here, since --help needs no state manager.
    from exotrio.cli.dev.announcer import FirstRun
    from exotrio.cli.rehearsal.session import Session

    values = [("-i", f"{name}={value}") for name, value in inputs.items()]
    values += [("--store", f"{name}={value}") for name, value in store.items()]
    session = Session(
        target=target,
        successor=successor,
        first_run=FirstRun(graph, inputs, store),
        times=times,
        only=only,
        seed=seed,
        form=output,
        arguments=[*(["--graph", graph] if graph else []), *(word for pair in values for word in pair)],
        verbose=verbose,
    )
    return run_until_stopped(session.main, session.stop, exiting=session.exiting)
