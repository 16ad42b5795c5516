"""A supervised child process: it starts, ends, keeps its log small, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from backends.errors import EngineFailed
from backends.process import EngineProcess, free_loopback_port

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, tmp_path: Path, **env: str) -> EngineProcess:
    return EngineProcess([sys.executable, "-u", "-c", code], env, tmp_path / "logs" / "engine.log")


async def gone(pid: int, within: float = 15.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        await asyncio.sleep(0.05)
    return False


async def printed(process: EngineProcess, text: str, within: float = 15.0) -> str:
    """The first log line with `text` in it."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        for line in process.log_tail(1000):
            if text in line:
                return line
        await asyncio.sleep(0.02)
    raise AssertionError(f"{text!r} was not printed: {process.log_tail()}")


async def test_a_process_that_ends_reports_its_exit_code_and_log(tmp_path: Path) -> None:
    process = python("import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)", tmp_path)
    await process.start()
    assert await process.wait() == 7
    assert process.log_tail() == ["one", "two"]
    assert process.log_tail(1) == ["two"]
    assert not process.running


async def test_a_progress_bar_is_one_line_in_the_tail(tmp_path: Path) -> None:
    process = python(r"print('load 10%\rload 50%\rload 100%\r\ndone')", tmp_path)
    await process.start()
    await process.wait()
    assert process.log_tail() == ["load 100%", "done"]


async def test_stop_ends_a_polite_process_at_once_and_may_be_called_twice(tmp_path: Path) -> None:
    process = python("import time; print('up'); time.sleep(600)", tmp_path)
    await process.start()
    await printed(process, "up")
    before = time.monotonic()
    await process.stop()
    await process.stop()
    assert await process.wait() == -signal.SIGTERM
    assert time.monotonic() - before < 4.0


async def test_stop_kills_a_process_that_ignores_sigterm(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
    process = python(code, tmp_path)
    await process.start()
    await printed(process, "up")
    await process.stop(grace=0.3)
    assert await process.wait() == -signal.SIGKILL


GRANDCHILDREN = """
import subprocess, sys, time
nap = [sys.executable, '-c', 'import time; time.sleep(600)']
# One write per line, so that no line is read half written.
print(f'in-group {subprocess.Popen(nap).pid}')
print(f'own-session {subprocess.Popen(nap, start_new_session=True).pid}')
print('up')
time.sleep(600)
"""


async def family(process: EngineProcess) -> list[int]:
    await printed(process, "up")
    return [int((await printed(process, name)).split()[1]) for name in ("in-group", "own-session")]


async def test_stop_ends_grandchildren_even_in_their_own_session(tmp_path: Path) -> None:
    process = python(GRANDCHILDREN, tmp_path)
    await process.start()
    grandchildren = await family(process)
    await process.stop()
    assert [await gone(pid, 2) for pid in grandchildren] == [True, True]


async def test_a_killed_engine_takes_its_grandchildren_along(tmp_path: Path) -> None:
    process = python(GRANDCHILDREN, tmp_path)
    await process.start()
    grandchildren = await family(process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert [await gone(pid, 2) for pid in grandchildren] == [True, True]


async def test_nothing_outlives_a_killed_watchdog(tmp_path: Path) -> None:
    process = python("import time; print('up'); time.sleep(600)", tmp_path)
    await process.start()
    await printed(process, "up")
    assert process.pid is not None
    psutil.Process(process.pid).parent().kill()
    assert await process.wait() < 0
    assert await gone(process.pid)


APP = """
import asyncio, os, sys
from pathlib import Path
from backends.process import EngineProcess
async def main():
    process = EngineProcess([sys.executable, '-u', '-c', sys.argv[2]], {}, Path(sys.argv[1]) / 'engine.log')
    await process.start()
    if os.fork() == 0:  # a forked helper that keeps every pipe of the app open
        import time; time.sleep(25); os._exit(0)
    print(process.pid, flush=True)
    await process.wait()
asyncio.run(main())
"""


async def test_nothing_outlives_an_app_that_is_killed_with_signal_9(tmp_path: Path) -> None:
    app = subprocess.Popen([sys.executable, "-c", APP, tmp_path, GRANDCHILDREN], cwd=ROOT, stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        assert app.stdout is not None
        engine = int(await asyncio.to_thread(app.stdout.readline))
        log = EngineProcess([], {}, tmp_path / "engine.log")
        grandchildren = await family(log)
        helpers = [child for child in psutil.Process(app.pid).children() if "-c" in child.cmdline()]
    finally:
        app.kill()
        app.wait()
        app.stdout.close()
    try:
        assert [await gone(pid) for pid in (engine, *grandchildren)] == [True] * 3
    finally:
        for helper in helpers:
            helper.kill()


async def test_a_missing_program_is_named(tmp_path: Path) -> None:
    process = EngineProcess([str(tmp_path / "no-such-engine")], {}, tmp_path / "engine.log")
    with pytest.raises(EngineFailed, match="no-such-engine could not be started: No such file or directory"):
        await process.start()
    await process.stop()


async def test_secrets_reach_the_child_by_environment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTET_TOKEN", "the-token-of-the-app")
    monkeypatch.setenv("OF_THE_MACHINE", "inherited")
    names = ("KEY", "OF_THE_MACHINE", "QUARTET_TOKEN")
    code = f"import os, time; print([os.environ.get(name) for name in {names}]); time.sleep(600)"
    process = python(code, tmp_path, KEY="hunter2")
    await process.start()
    assert await printed(process, "[") == "['hunter2', 'inherited', None]"
    assert process.pid is not None
    engine = psutil.Process(process.pid)
    assert "hunter2" not in " ".join(engine.cmdline() + engine.parent().cmdline())
    await process.stop()


async def test_the_log_stays_small_and_keeps_the_newest_lines(tmp_path: Path) -> None:
    code = "for i in range(40_000): print(f'line {i} ' + 'x' * 190)"
    process = python(code, tmp_path)
    await process.start()
    await process.wait()
    assert process.log_tail(1)[0].startswith("line 39999 ")
    assert len(process.log_tail(100)) == 100
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) <= 4 * 1024 * 1024 + 65536


def test_a_free_port_can_be_bound() -> None:
    assert 1024 <= free_loopback_port() <= 65535
