"""`python app.py users` as an operator types it: on a terminal, through a pipe, with mistakes."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_server import ROOT, clean_environment

PASSWORD = "correct horse battery"


def users(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with a line on its standard input."""
    command = [sys.executable, "app.py", "users", *arguments, "--data-dir", str(folder)]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(), input=typed, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_life_of_an_account(tmp_path: Path) -> None:
    assert "no accounts" in users(tmp_path, "list").stdout
    made = users(tmp_path, "add", "Ann", "--role", "admin", typed=PASSWORD + "\n")
    assert (made.returncode, made.stdout) == (0, "Made the account of ann (admin).\n")
    assert users(tmp_path, "password", "ann", typed="another one\n").returncode == 0
    listed = users(tmp_path, "list").stdout
    assert listed.split()[:2] == ["ann", "admin"]
    assert users(tmp_path, "remove", "ann").returncode == 0
    assert "no accounts" in users(tmp_path, "list").stdout
    assert oct((tmp_path / "accounts.db").stat().st_mode)[-3:] == "600"


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (("add", "ann", "--role", "boss"), PASSWORD, "--role"),
        (("add", "ann"), PASSWORD, "--role"),
        (("add", "a b", "--role", "admin"), PASSWORD, "letters"),
        (("add", "ann", "--role", "admin"), "", "empty"),
        (("add", "ann", "--role", "admin"), "short", "8 to 1024"),
        (("add", "ann", "--role", "user"), PASSWORD, "no admin"),
        (("add", "ann", PASSWORD, "--role", "admin"), "", "unrecognized"),  # never as an argument
        (("remove", "ann"), "", "no user named “ann”"),
        (("password", "ann"), PASSWORD, "no user named “ann”"),
        (("rename", "ann"), "", "rename"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], typed: str, said: str) -> None:
    run = users(tmp_path, *arguments, typed=typed + "\n" if typed else "")
    assert run.returncode == 2
    assert run.stderr.startswith("Quartet: ")
    assert run.stderr.count("\n") == 1
    assert said in run.stderr


@pytest.mark.parametrize(("again", "code"), [(PASSWORD, 0), ("something else", 2)])
def test_on_a_terminal_it_asks_twice_and_shows_nothing(tmp_path: Path, again: str, code: int) -> None:
    command = [sys.executable, "app.py", "users", "add", "ann", "--role", "admin", "--data-dir", str(tmp_path)]
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    shown = b""
    for prompt, typed in ((b"Password for ann:", PASSWORD), (b"The same again:", again)):
        while prompt not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, typed.encode() + b"\n")
    with contextlib.suppress(OSError):  # how Linux says that nobody is at the other end
        while piece := os.read(terminal, 1000):
            shown += piece
    os.close(terminal)
    assert process.wait(30) == code, shown
    assert PASSWORD.encode() not in shown
    assert (b"Made the account" in shown) == (code == 0)
