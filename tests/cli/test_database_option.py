"""``--db`` of every command that has it: no password in arguments, nor in what is printed."""

from __future__ import annotations

import pytest

from tests.support.commands import NODES, Cli, fails

PASSWORD = "p5-secret"
COMMANDS = (
    ("server",),
    ("run", "nodes.py"),
    ("dev", "nodes.py"),
    ("runs", "cancel", "some-run", "-n", "n"),
)


@pytest.fixture
def cli(bare: Cli) -> Cli:
    bare.write("nodes.py", NODES)
    return bare


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "url", [f"postgresql://ada:{PASSWORD}@127.0.0.1:1/n", f"postgres:///n?password={PASSWORD}"]
)
def test_a_password_in_the_arguments_is_refused_and_not_printed(
    cli: Cli, command: tuple[str, ...], url: str
) -> None:
    end = cli(*command, "--db", url)
    fails(end, 2, "has a password in it", "other users", "EXOTRIO_DATABASE_URL", "PGPASSFILE")
    assert PASSWORD not in end.err
    assert [path.name for path in cli.folder.iterdir()] == ["nodes.py"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_url_of_another_kind_of_database_creates_no_file(cli: Cli, command: tuple[str, ...]) -> None:
    end = cli(*command, "--db", f"mysql://ada:{PASSWORD}@h/n", code=2)
    assert PASSWORD not in end.err
    assert [path.name for path in cli.folder.iterdir()] == ["nodes.py"]


def test_errors_about_the_target_of_a_move_name_an_argument(cli: Cli) -> None:
    command = ("migrate", "sqlite-to-postgres", "state.db")
    fails(cli(*command, f"postgresql://ada:{PASSWORD}@x@h/n"), 2, "percent-encoded", "from the arguments")
    end = cli(*command, "")
    fails(end, 2, "the name of the database is empty")
    assert "--db" not in end.err


@pytest.mark.parametrize("command", COMMANDS[:3], ids=" ".join)
def test_a_malformed_variable_is_named_and_not_shown(cli: Cli, command: tuple[str, ...]) -> None:
    cli.set(EXOTRIO_DATABASE_URL=f"postgresql://ada:{PASSWORD}@x@h/n")
    end = cli(*command)
    fails(end, 2, "percent-encoded", "variable EXOTRIO_DATABASE_URL")
    assert PASSWORD not in end.err


def test_doctor_shows_the_variable_without_its_password(cli: Cli) -> None:
    cli.at_no_server().set(EXOTRIO_DATABASE_URL=f"postgresql://ada:{PASSWORD}@h/n")
    end = cli("doctor")
    assert "postgresql://ada@h/n" in end.out
    cli.set(EXOTRIO_DATABASE_URL=f"postgresql://ada:{PASSWORD}@x@h/n", EXOTRIO_DATABSE_URL="x")
    end = cli("doctor")
    assert "EXOTRIO_DATABASE_URL: the user name or the password" in end.out
    assert "EXOTRIO_DATABSE_URL is set and not used; did you mean 'EXOTRIO_DATABASE_URL'?" in end.out
    assert PASSWORD not in end.out + end.err
