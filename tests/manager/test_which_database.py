"""Which database a state manager works on, and where its keys come from."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from exotrio import ConfigurationError
from exotrio._shared.settings import Settings, read_settings
from exotrio.manager import embedded
from exotrio.manager.database import choose_database, must_share_keys, place_of_keys
from exotrio.manager.security.encryption import find_cipher
from exotrio.manager.security.secret_files import kept_secret

URL = "postgresql://ada:p5-secret@db/name"
SHOWN = "postgresql://ada@db/name"


def test_an_argument_counts_before_the_variable_and_that_before_the_file() -> None:
    assert choose_database(None, Settings()) == Path(".exotrio/state.db")
    assert choose_database(None, Settings(database_url=URL)) == URL
    assert choose_database("x.db", Settings(database_url=URL)) == "x.db"
    assert choose_database("postgresql:///other", Settings(database_url=URL)) == "postgresql:///other"


def test_a_url_that_lacks_only_the_password_gets_it_from_the_variable() -> None:
    assert choose_database(SHOWN, Settings(database_url=URL)) == URL
    assert choose_database(f"{SHOWN}s", Settings(database_url=URL)) == f"{SHOWN}s"


@pytest.mark.parametrize(
    "text",
    [
        "mysql://u:p5-secret@h/n",
        "postgresql+psycopg://u:p5-secret@h/n",
        "sqlite:///x",
        "postgresql:/u:p5-secret@h/n",
        "postgres:n",
        "host=h dbname=n password=p5-secret",
        "dbname = n",
    ],
)
def test_a_malformed_url_is_not_taken_for_a_file_name(text: str) -> None:
    for settings, db in ((Settings(), text), (Settings(database_url=text), None)):
        with pytest.raises(ConfigurationError, match="PostgreSQL") as caught:
            choose_database(db, settings)
        assert "p5-secret" not in str(caught.value)


async def test_an_embedded_state_manager_uses_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXOTRIO_DATABASE_URL", "mysql://nowhere")
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        async with embedded():
            raise AssertionError("it works on something else")
    assert os.listdir(tmp_path) == []


def test_the_settings_do_not_show_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXOTRIO_DATABASE_URL", URL)
    settings = read_settings()
    assert settings.database_url == URL
    assert "p5-secret" not in repr(settings)


def test_generated_keys_are_next_to_the_file_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of_keys(tmp_path / "x.db") == tmp_path / "x.db"
    assert place_of_keys(":memory:") is None
    assert place_of_keys(URL) == tmp_path / ".exotrio/state.db"


@pytest.mark.parametrize(
    ("db", "host", "variable", "shared"),
    [
        ("x.db", "0.0.0.0", "", False),
        (":memory:", "0.0.0.0", "", False),
        ("postgresql:///n", "127.0.0.1", "", False),
        ("postgresql://localhost/n", "::1", "", False),
        ("postgresql:///n", "0.0.0.0", "", True),
        ("postgresql:///n", "127.0.0.1", "PGHOST=db", True),
        ("postgresql:///n", "127.0.0.1", "PGHOST=/run/postgresql,db", True),
        ("postgresql:///n", "127.0.0.1", "PGHOST=/run/postgresql", False),
        ("postgresql:///n", "127.0.0.1", "PGHOSTADDR=10.0.0.1", True),
        ("postgresql:///n", "127.0.0.1", "PGSERVICE=s", True),
        ("postgresql:///n?service=s", "127.0.0.1", "", True),
        (URL, "127.0.0.1", "", True),
    ],
)
def test_no_key_for_secrets_is_generated_where_others_need_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, db: str, host: str, variable: str, shared: bool
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(*variable.split("="))
    assert must_share_keys(db, host) is shared
    if shared:
        with pytest.raises(ConfigurationError, match="needs a key for secrets at rest") as caught:
            find_cipher(tmp_path / "state.db", Settings(), shared=True)
        assert "SECRETS_ENCRYPTION_KEY" in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def _make(db: Path) -> str:
    made = iter(range(1_000_000))
    return kept_secret(db, "api-key", lambda: f"{multiprocessing.current_process().pid}-{next(made)}")


def test_processes_that_generate_a_key_at_once_share_it(tmp_path: Path) -> None:
    places = [tmp_path / f"{number}" / "state.db" for number in range(20)]
    # Not forked: tests before this one may have left threads, and Python 3.12 warns of that.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for place in places:
            assert len(set(pool.map(_make, [place] * 8))) == 1
            assert [file.name for file in place.parent.iterdir()] == ["state.db.api-key"]
