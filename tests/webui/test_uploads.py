"""A file input means an uploaded file and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import InvalidRequest
from webui.mount import blocked_folders
from webui.uploads import _file_paths, uploaded_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "uploads" / "0a1b").mkdir(parents=True)
    (tmp_path / "uploads" / "0a1b" / "员工手册.pdf").write_bytes(b"%PDF")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "uploads" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "uploads" / "inside.txt").symlink_to(tmp_path / "uploads" / "0a1b" / "员工手册.pdf")
    (tmp_path / "uploads" / "out").symlink_to(tmp_path)
    return tmp_path / "uploads"


def test_an_uploaded_file_is_taken(folder: Path) -> None:
    path = folder / "0a1b" / "员工手册.pdf"
    assert uploaded_file(str(path), folder) == path.resolve()
    assert uploaded_file(f"{folder}/0a1b/../0a1b/员工手册.pdf", folder) == path.resolve()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "{folder}/../secret.txt",
        "{folder}/link.txt",
        "{folder}/inside.txt",
        "{folder}/out/secret.txt",
        "{folder}",
        "{folder}/0a1b",
        "{folder}/not-there.txt",
        "{folder}2/x",
        "file:///etc/hostname",
        "http://127.0.0.1:8000/",
        "data:text/plain,x",
        "",
        ".",
        "a\0b",
        "x" * 5_000,
    ],
)
def test_anything_else_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(InvalidRequest, match="not uploaded here"):
        uploaded_file(path.format(folder=folder), folder)


def test_paths_are_found_wherever_they_hide() -> None:
    file = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    assert list(_file_paths([["x"], {"a": [file]}])) == ["/etc/hostname"]
    assert list(_file_paths([{"path": "/etc/hostname", "url": "http://a"}])) == ["/etc/hostname"]
    assert list(_file_paths(["/etc/hostname", {"path": 3}, None, 1.5])) == []
    nested: list[object] = []
    for _ in range(50):
        nested = [nested]
    with pytest.raises(InvalidRequest):
        list(_file_paths(nested))


def test_everything_around_the_upload_folder_is_blocked(tmp_path: Path) -> None:
    spared = tmp_path / "home" / "data" / "uploads"
    spared.mkdir(parents=True)
    (tmp_path / "home" / "keys").mkdir()
    (tmp_path / "home" / "latest").symlink_to(tmp_path / "home" / "data")  # blocking it would block the way
    (tmp_path / "home" / "data" / "quartet.sqlite").touch()
    (tmp_path / "system").mkdir()
    blocked = blocked_folders([tmp_path / "home", tmp_path / "system", tmp_path / "not-there"], spared)
    assert blocked == sorted(
        str(path) for path in (tmp_path / "home/keys", tmp_path / "home/data/quartet.sqlite", tmp_path / "system")
    )
