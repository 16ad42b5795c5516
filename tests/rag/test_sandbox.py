"""The process that reads: killed in time, bound in memory, gone with its parent, and deaf to what libraries print."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rag.errors import UnreadableFile
from rag.readers import Limits
from rag.sandbox import read_confined
from tests import documents

ROOT = Path(__file__).resolve().parents[2]


def ignore(done: int, total: int) -> None:
    pass


def reading_processes() -> set[int]:
    """Ids of the readers this process has started."""
    return {child.pid for child in psutil.Process().children(recursive=True) if "rag.readers" in child.cmdline()}


@pytest.fixture(scope="module")
def long_pdf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes many seconds to read."""
    file = tmp_path_factory.mktemp("files") / "long.pdf"
    file.write_bytes(documents.pdf([f"Page {number}. " + "All work and no play. " * 150 for number in range(300)]))
    return file


def test_progress_is_told_page_by_page(tmp_path: Path) -> None:
    file = tmp_path / "file.pdf"
    file.write_bytes(documents.english_pdf())
    seen: list[tuple[int, int]] = []
    reading = read_confined("pdf", file, Limits(), lambda done, total: seen.append((done, total)))
    assert [*dict.fromkeys(seen)][-3:] == [(1, 3), (2, 3), (3, 3)]
    assert [section.page for section in reading.sections] == [1, 2, 3]


def test_a_reader_is_killed_when_its_time_is_over(long_pdf: Path) -> None:
    with pytest.raises(UnreadableFile, match="longer than 1 second") as caught:
        read_confined("pdf", long_pdf, Limits(wall_seconds=1.0), ignore)
    assert caught.value.reason == "too_slow"
    assert not reading_processes()


def test_a_reader_has_a_bound_of_processor_time(long_pdf: Path) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read_confined("pdf", long_pdf, Limits(cpu_seconds=1), ignore)
    assert caught.value.reason == "too_slow"


def test_a_reader_has_a_bound_of_memory(tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes(b"word " * 20_000_000)
    with pytest.raises(UnreadableFile, match="memory") as caught:
        read_confined("txt", file, Limits(memory=150 * 2**20), ignore)
    assert caught.value.reason == "unsafe"


def test_a_caller_that_fails_leaves_no_reader_behind(long_pdf: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        read_confined("pdf", long_pdf, Limits(), fail)
    assert not reading_processes()


def test_a_reader_that_says_nothing_can_be_given_up(tmp_path: Path) -> None:
    file = tmp_path / "waits.txt"
    os.mkfifo(file)  # to open it takes until somebody writes

    class NotWanted(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def told(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            assert reading_processes()
            raise NotWanted

    with pytest.raises(NotWanted):
        read_confined("txt", file, Limits(), told)
    assert seen == [(0, 0)] * 3
    assert not reading_processes()


def test_a_reader_ends_with_the_process_that_started_it(long_pdf: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rag.readers import Limits; from rag.sandbox import read_confined\n"
        "read_confined('pdf', Path(sys.argv[1]), Limits(), lambda done, total: print(done, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(long_pdf)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert b"1\n" in iter(parent.stdout.readline, b"")  # the first page; before it, that it is still at the start
        readers = psutil.Process(parent.pid).children()
        assert len(readers) == 1
        os.kill(parent.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(readers, timeout=10)
    assert gone
    assert not alive


def test_the_settings_of_the_app_are_not_handed_on(long_pdf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTET_TOKEN", "secret")
    environments: list[dict[str, str]] = []

    def look(done: int, total: int) -> None:
        environments.extend(psutil.Process(pid).environ() for pid in reading_processes())
        raise InterruptedError

    with pytest.raises(InterruptedError):
        read_confined("pdf", long_pdf, Limits(), look)
    assert len(environments) == 1
    assert "PATH" in environments[0]
    assert "secret" not in environments[0].values()


def test_reading_many_bombs_costs_this_process_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "bomb.docx"
    file.write_bytes(documents.inflating_docx())
    before = psutil.Process().memory_info().rss
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(UnreadableFile) as caught:
            read_confined("docx", file, Limits(), ignore)
        assert caught.value.reason == "unsafe"
    assert psutil.Process().memory_info().rss - before < 50 * 2**20
    assert time.monotonic() - started < 60
