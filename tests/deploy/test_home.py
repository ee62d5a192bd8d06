"""The folder of the one-machine stack is whole or refused; nothing in it is removed unless that was asked for."""

import stat
from pathlib import Path

import pytest

from deploy.local import home as homes
from deploy.local.home import Home, HomeError


def test_a_new_one_holds_secrets_that_only_the_owner_reads(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.path / "secrets.json").stat().st_mode) == 0o600
    assert len(set(home.secrets.values())) == len(home.secrets), "each password is another one"


def test_it_is_found_again(tmp_path: Path) -> None:
    assert Home.open(tmp_path / "home").secrets == Home.open(tmp_path / "home").secrets


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("version", "0", "has layout '0' and this version needs '1'"),
        ("version", None, "is not a whole folder of ours"),
        ("secrets.json", None, "is not a whole folder of ours"),
        ("secrets.json", '{"postgres": "x"', "is damaged"),
        ("secrets.json", "{}", "lacks passwords"),
    ],
)
def test_an_older_or_half_written_one_is_left_alone(
    tmp_path: Path, file: str, content: str | None, complaint: str
) -> None:
    path = Home.open(tmp_path / "home").path
    (path / "notes-of-somebody").touch()
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_text(content)
    with pytest.raises(HomeError, match=complaint) as refused:
        Home.open(path)
    assert "make reset" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (path / "notes-of-somebody").exists()


def test_only_one_stack_runs_on_it(tmp_path: Path) -> None:
    path = tmp_path / "home"
    assert homes.running(path) is None
    with homes.only_one(path):
        assert homes.running(path)
        with (
            pytest.raises(HomeError, match=r"runs already in .* \(process \d+\): `make down` stops it"),
            homes.only_one(path),
        ):
            pass
    assert homes.running(path) is None


def test_reset_removes_it_and_what_lies_outside(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    private = home.postgres()
    (private / "data").mkdir()
    homes.remove(home.path)
    assert not home.path.exists()
    assert not private.exists()


def test_reset_leaves_a_folder_alone_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(HomeError, match="holds nothing of ours"):
        homes.remove(tmp_path / "photos")
    assert (tmp_path / "photos").exists()
