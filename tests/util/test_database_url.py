"""URLs of PostgreSQL: read as libpq reads them, shown without what is secret in them."""

from __future__ import annotations

import pytest

from exotrio import ConfigurationError
from exotrio._util.database_url import check_database, is_database_url, parse_database_url, shown_database

SECRET = "p5-w?rd:x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql:///name", "postgresql:///name"),
        ("postgresql://", "postgresql://"),
        ("postgres://db/name", "postgres://db/name"),
        ("postgresql://ada@db:5433/name", "postgresql://ada@db:5433/name"),
        (f"postgresql://ada:{SECRET}@db/name", "postgresql://ada@db/name"),
        (f"postgresql://:{SECRET}@db/name", "postgresql://db/name"),
        (
            f"postgresql://ada:{SECRET}@[::1]:5/name?sslmode=require",
            "postgresql://ada@[::1]:5/name?sslmode=require",
        ),
        (f"postgresql://db/name?password={SECRET}", "postgresql://db/name"),
        (f"postgresql://db/name?a=b&sslpassword={SECRET}&c=d", "postgresql://db/name?a=b&c=d"),
        (f"postgresql://db/name?oauth_client_secret={SECRET}", "postgresql://db/name"),
        (f"postgresql://a:{SECRET}@one,two:5433/name", "postgresql://a@one,two:5433/name"),
    ],
)
def test_a_url_is_shown_without_its_passwords(text: str, shown: str) -> None:
    url = parse_database_url(text)
    assert url.shown == shown == shown_database(text)
    assert url.text == text
    assert SECRET not in repr(url)
    assert (SECRET in url.secrets) is (SECRET in text)
    error = f'invalid value "{SECRET}" in {text}'
    assert url.redact(error) == (f'invalid value "***" in {shown}' if SECRET in text else error)


def test_a_password_is_masked_as_it_is_written_and_decoded() -> None:
    url = parse_database_url("postgresql://u:p%40%2Fss@h/n")
    assert url.redact("p%40%2Fss and p@/ss") == "*** and ***"


@pytest.mark.parametrize(
    "text", ["postgresql://u:p@ss@h/n", "postgresql://u:p/ss@h/n", "postgresql://u:p ss@h/n"]
)
def test_text_that_libpq_would_parse_as_the_host_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        parse_database_url(text, source="a test")
    assert "ss@h" not in str(caught.value)
    assert "a test" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("postgresql://localhost/n", True),
        ("postgresql://127.0.0.1:5433/n", True),
        ("postgresql://[::1]/n", True),
        ("postgresql://%2Fvar%2Frun/n", True),
        ("postgresql:///n?host=/var/run", True),
        ("postgresql:///n?host=/var/run,localhost", True),
        ("postgresql:///n?host=/var/run,db", False),
        ("postgresql:///n", True),
        ("postgresql:///n?service=s", False),
        ("postgresql://db/n", False),
        ("postgresql://localhost,db/n", False),
        ("postgresql://localhost/n?hostaddr=10.0.0.1", False),
        ("postgresql://10.0.0.1/n", False),
    ],
)
def test_a_url_names_this_machine_only_if_all_its_hosts_do(
    monkeypatch: pytest.MonkeyPatch, text: str, local: bool
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert parse_database_url(text).is_local is local


@pytest.mark.parametrize(
    ("text", "variable", "mode"),
    [
        ("postgresql://db/n", "", "prefer"),
        ("postgresql://localhost,db/n?sslmode=allow", "", "allow"),
        ("postgresql://10.0.0.1/n?sslmode=disable", "", "disable"),
        ("postgresql://db/n?sslmode=require&sslmode=prefer", "", "prefer"),
        ("postgresql://db/n?sslmode=%70refer", "PGSSLMODE=verify-full", "prefer"),
        ("postgresql://db/n", "PGSSLMODE=disable", "disable"),
        ("postgresql:///n", "PGHOST=db", "prefer"),
        ("postgresql://db/n", "PGSSLMODE=require", None),
        ("postgresql://db/n?sslmode=require", "PGSSLMODE=disable", None),
        ("postgresql://db/n?sslmode=verify-ca", "", None),
        ("postgresql://db/n?sslmode=verify-full&sslrootcert=system", "", None),
        ("postgresql://localhost/n?sslmode=disable", "", None),
        ("postgresql:///n", "", None),
        ("postgresql:///n?service=s", "", None),  # the file may say it
        ("postgresql:///n", "PGSERVICE=s", None),
    ],
)
def test_a_url_of_another_machine_that_does_not_require_tls_is_recognized(
    monkeypatch: pytest.MonkeyPatch, text: str, variable: str, mode: str | None
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(*variable.split("="))
    assert parse_database_url(text).unencrypted_sslmode == mode


def test_anything_else_is_a_file() -> None:
    for text in ("state.db", ":memory:", "./postgresql", "host.db", "/data/user=7/state.db"):
        assert not is_database_url(text)
        check_database(text)
    with pytest.raises(ConfigurationError):
        parse_database_url("mysql://u:p@h/n")
