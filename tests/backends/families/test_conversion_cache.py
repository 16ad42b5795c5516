"""A checkpoint is converted once per content, whole or not at all, by one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from backends.families import prepare, recognise
from backends.types import Progress
from tests.backends.families.conftest import quiet
from tests.backends.families.reference import FAMILIES, change, copy_of
from tests.shared_data import requires_shared

pytestmark = requires_shared
ROOT = Path(__file__).resolve().parents[3]


def command(*arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "backends.families", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def events(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    output, _ = process.communicate(timeout=120)
    return [json.loads(line) for line in output.splitlines()]


def test_the_same_content_is_converted_once_wherever_it_lies(tmp_path: Path) -> None:
    seen: list[Progress] = []
    first = prepare(recognise(copy_of("qwen1", tmp_path)), tmp_path / "cache", quiet)
    again = prepare(recognise(FAMILIES / "qwen1"), tmp_path / "cache", seen.append)
    assert again == first
    assert "converting" not in {progress.stage for progress in seen}


def test_another_content_or_kind_is_another_conversion(tmp_path: Path) -> None:
    source = copy_of("chatglm3", tmp_path)
    first = prepare(recognise(source), tmp_path / "cache", quiet)
    assert prepare(recognise(source, "chatglm2"), tmp_path / "cache", quiet) != first
    change(source / "config.json", layernorm_epsilon=1e-4)
    assert prepare(recognise(source), tmp_path / "cache", quiet) != first


def test_two_processes_convert_once(tmp_path: Path) -> None:
    both = [command("prepare", FAMILIES / "glm4", tmp_path / "cache") for _ in range(2)]
    told = [events(process) for process in both]
    assert told[0][-1]["result"] == told[1][-1]["result"]
    converting = [any(event.get("stage") == "converting" for event in events) for events in told]
    assert sorted(converting) == [False, True]


def test_what_a_killed_conversion_left_is_cleared_away(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    target = prepare(recognise(FAMILIES / "qwen1"), cache, quiet)
    left = cache / f".{target.name}.part-killed"
    target.rename(left)
    (left / "quartet.json").unlink()
    assert prepare(recognise(FAMILIES / "qwen1"), cache, quiet) == target
    assert not left.exists()


def test_convert_writes_where_it_is_told_and_reports(tmp_path: Path) -> None:
    process = command("convert", FAMILIES / "baichuan-7b", tmp_path / "out")
    told = events(process)
    assert process.returncode == 0
    assert told[-1] == {"result": str(tmp_path / "out")}
    last = [event for event in told if event.get("stage") == "converting"][-1]
    assert last["done"] == last["total"]
    assert recognise(tmp_path / "out").kind == "baichuan-7b"


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    process = command("convert", FAMILIES / "qwen1", tmp_path / "mine")
    assert "no conversion" in str(events(process)[-1]["error"])
    assert process.returncode == 1
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_inspect_says_what_a_folder_is_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    output, errors = command("inspect", FAMILIES / "chatglm2").communicate(timeout=120)
    assert "chatglm2" in output
    assert "after conversion" in output
    assert errors == ""
    output, errors = command("inspect", tmp_path).communicate(timeout=120)
    assert (output, len(errors.splitlines())) == ("", 1)


def test_recognising_and_importing_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pathlib import Path; from backends.families import recognise;"
        f"recognise(Path({str(FAMILIES / 'baichuan2-7b')!r}));"
        "print([name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
