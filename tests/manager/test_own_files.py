"""Databases and keys in folders where another user may have put files first."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest
import trio

from exotrio import ConfigurationError
from exotrio.errors import DatabaseError
from exotrio.manager import open_service
from exotrio.manager.security.secret_files import kept_secret, read_secret_file
from tests.support.manager import NO_SETTINGS

OTHER_USER = 12_345


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def next_to(db: Path, suffix: str) -> Path:
    return db.with_name(db.name + suffix)


def give_away(path: Path) -> None:
    """Let a file or a link belong to another user, who does not own its folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to others")
    os.chown(path, OTHER_USER, OTHER_USER, follow_symlinks=False)


def opened(db: Path) -> None:
    async def main() -> None:
        async with open_service(db, settings=NO_SETTINGS):
            pass

    trio.run(main)


def refusal(db: Path) -> str:
    with pytest.raises(DatabaseError) as caught:
        opened(db)
    return str(caught.value)


def test_a_lock_that_is_a_link_leads_to_no_file_of_ours(db: Path) -> None:
    ours = db.with_name("precious")
    ours.write_text("precious")
    next_to(db, ".lock").symlink_to(ours)
    assert "state.db.lock is a link, which is not followed" in refusal(db)
    assert ours.read_text() == "precious"


@pytest.mark.parametrize("suffix", ["", ".lock", "-wal", "-journal"])
def test_no_file_of_another_user_is_opened_as_ours(db: Path, suffix: str) -> None:
    next_to(db, suffix).touch(mode=0o644)
    give_away(next_to(db, suffix))
    message = refusal(db)
    assert f"{db.name}{suffix} belongs to user {OTHER_USER}, who does not own its folder" in message


def test_no_link_of_another_user_is_followed_to_a_database(db: Path) -> None:
    db.symlink_to(db.with_name("elsewhere.db"))
    give_away(db)
    assert f"belongs to user {OTHER_USER}" in refusal(db)
    assert not db.with_name("elsewhere.db").exists()


def test_a_link_of_ours_is_followed_to_a_database(db: Path) -> None:
    db.symlink_to(db.with_name("elsewhere.db"))
    opened(db)
    assert db.with_name("elsewhere.db").exists()


def test_a_database_that_all_users_can_change_is_refused(db: Path) -> None:
    db.touch()
    db.chmod(0o666)
    assert "can be changed by every user" in refusal(db)


def test_a_folder_that_is_made_for_a_database_is_said(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="exotrio.database")
    mistyped = db.parent / "mistyped"
    for _ in range(2):
        opened(mistyped / "state.db")
    assert caplog.messages == [f"the folder {mistyped} did not exist, and was made"]


def test_a_pipe_does_not_block_the_start(db: Path) -> None:
    os.mkfifo(next_to(db, ".lock"))
    assert "is not a regular file" in refusal(db)


def test_a_key_that_another_user_put_next_to_the_database_is_not_ours(db: Path) -> None:
    planted = next_to(db, ".api-key")
    planted.write_text("known to another user")
    give_away(planted)
    with pytest.raises(ConfigurationError, match=f"belongs to user {OTHER_USER}"):
        kept_secret(db, "api-key", lambda: "made")


def test_a_key_next_to_the_database_must_not_be_a_link(db: Path) -> None:
    db.with_name("elsewhere").write_text("known to another user")
    next_to(db, ".api-key").symlink_to(db.with_name("elsewhere"))
    with pytest.raises(ConfigurationError, match="is a link, which is not followed"):
        kept_secret(db, "api-key", lambda: "made")


def test_a_key_file_that_is_named_may_be_a_link_as_kubernetes_makes_them(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "key").write_text("the key\n")
    (tmp_path / "key").symlink_to("..data/key")
    assert read_secret_file(tmp_path / "key") == "the key"
    give_away(tmp_path / "..data" / "key")
    with pytest.raises(ConfigurationError, match=f"belongs to user {OTHER_USER}"):
        read_secret_file(tmp_path / "key")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_warning_about_a_key_that_others_can_read_says_how_to_fix_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = tmp_path / "key"
    path.write_text("the key\n")
    path.chmod(mode)
    assert read_secret_file(path) == "the key"
    warned = [f"other users can read the key file {path}: run chmod 600 {path}"] if mode & 0o004 else []
    assert caplog.messages == warned


def test_a_folder_that_is_made_is_kept_out_of_repositories(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    opened(tmp_path / ".exotrio" / "state.db")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True)
    assert status.stdout == b""
    opened(tmp_path / "data" / "state.db")
    assert not (tmp_path / "data" / ".gitignore").exists(), "a folder of that name is a user's choice"
