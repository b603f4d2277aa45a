"""The Tab key: in real shells, and what each command offers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.commands import NODES, Cli
from tests.support.helpers import sql
from tests.support.terminals import Terminal

SHELLS = {
    "bash": (["--norc", "--noprofile"], 'eval "$(exotrio --completion bash)"'),
    "zsh": (["-f"], 'autoload -U compinit; compinit -D -u; eval "$(exotrio --completion zsh)"'),
    "fish": (["--no-config"], "exotrio --completion fish | source"),
}


@pytest.fixture
def cli(bare: Cli) -> Cli:
    """Commands in a folder in which the graph ``fan`` ran."""
    bare.write("nodes.py", NODES)
    bare("run", "nodes.py", code=0)
    return bare


def offered(cli: Cli, line: str) -> list[str]:
    """Return what is offered for the last word of a line, which may be empty."""
    words = line.split(" ")
    cli.set(_EXOTRIO_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    end = cli(code=0, stdin="typed on")
    assert sys.stdin.read() == "typed on", "on a terminal, nothing of it would be left for the shell"
    cli.set(_EXOTRIO_COMPLETE="")
    assert end.err == ""
    return [entry.removeprefix("plain,") for entry in end.out.split()]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_and_names(cli: Cli, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed: its completion is not tested")
    options, setup = SHELLS[shell]
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    with Terminal([program, *options], cwd=cli.folder, env=env, shows_output=True) as terminal:
        terminal.type(f"{setup}; echo set' 'up\n")
        terminal.until("set up")
        terminal.type("exotrio gr\tsh\tfa\t\x01echo is \n")
        terminal.until("is exotrio graph show fan")
        terminal.type("exit\n")


def test_commands_options_and_their_values_are_offered(bare: Cli) -> None:
    assert offered(bare, "exotrio ru") == ["run", "runs", "runtimes"]
    assert offered(bare, "exotrio runs s") == ["send", "show"]
    assert offered(bare, "exotrio --comp") == ["--completion"]
    assert offered(bare, "exotrio --completion ") == ["bash", "zsh", "fish"]
    assert offered(bare, "exotrio trigger g --run") == ["--run-key"]
    assert [each.upper() for each in offered(bare, "exotrio runs ls --status f")] == ["FAILED"]
    for command in ("run", "dev", "worker", "rehearse", "graph check", "graph apply"):
        assert offered(bare, f"exotrio {command} ev") == ["file,ev"]
    for option in ("--inputs-file", "--db", "--key-file", "--each"):
        assert offered(bare, f"exotrio trigger g {option} ") == ["file,"]


def test_names_are_offered_from_the_database(cli: Cli) -> None:
    (run,) = cli.json("runs", "ls")["runs"]
    run_id = run["run_id"]
    for line in (
        "runs show ",
        f"runs show {run_id[:2]}",
        "export ",
        "states ls --run ",
        "run nodes.py --resume ",
    ):
        assert offered(cli, f"exotrio {line}") == [run_id]
    assert offered(cli, "exotrio trigger ") == offered(cli, "exotrio states ls --graph f") == ["fan"]
    assert offered(cli, "exotrio nodes pause ") == ["Lock", "Split", "Work"]
    assert cli("limits", "set", "stripe", "--at-most", "5").code == 0
    assert offered(cli, "exotrio limits show s") == ["stripe"]
    assert offered(cli, "exotrio graph ls -n ") == ["n"]
    assert offered(cli, "exotrio trigger -n other ") == []
    shutil.copy(".exotrio/state.db", "copy.db")
    assert offered(cli, "exotrio trigger --db copy.db ") == ["fan"]
    assert not [*Path(".exotrio").glob("*.db-*")], "reading leaves nothing behind"
    for elsewhere in ("--uri http://127.0.0.1:1", "--db postgresql://h/d", "--db gone.db", "--db nodes.py"):
        assert offered(cli, f"exotrio trigger {elsewhere} ") == []
    cli.at_no_server()
    assert offered(cli, "exotrio trigger ") == []


def test_a_name_that_a_shell_would_not_read_as_one_word_is_not_offered(cli: Cli) -> None:
    """Others may have chosen it, and the shell inserts it as it is."""
    for name in ("$(touch pwned)", "a b", "*", "`x`", "x;y", "new\nline", "fine-1.2"):
        quoted = "'" + name + "'"
        sql(
            Path(".exotrio/state.db"),
            "INSERT INTO graphs (namespace, name, template, created_at, updated_at)"
            f" VALUES ('n', {quoted}, 1, 0, 0)",
        )
    assert offered(cli, "exotrio trigger ") == ["fan", "fine-1.2"]


def test_a_key_press_reads_no_values(bare: Cli) -> None:
    assert offered(bare, "exotrio trigger g -i x=@- --inputs-file - --store y=@- --sta") == ["--start-delay"]
