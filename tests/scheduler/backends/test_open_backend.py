"""From what the configuration says to a backend."""

from pathlib import Path

import pytest

from headway_scheduler.backends import open_backend
from headway_scheduler.errors import CallerError


def test_a_path_is_a_file_and_two_names_of_it_are_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    names = {open_backend(folder / "headway.db").name for folder in (tmp_path, tmp_path / "link")}
    assert names == {str(tmp_path / "headway.db")}
    assert open_backend(str(tmp_path / "headway.db")).name in names
    assert [each.name for each in tmp_path.iterdir()] == ["link"]


def test_an_engine_that_is_not_there_is_named_without_the_rest_of_the_url() -> None:
    with pytest.raises(CallerError, match="there is no such database engine: use") as caught:
        open_backend("postgresql://me:secret@db1/headway")
    assert "postgresql://" in str(caught.value)
    assert "secret" not in str(caught.value)
