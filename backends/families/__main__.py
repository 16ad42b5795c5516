"""`python -m backends.families inspect SRC | convert SRC DST | prepare SRC CACHE`: see `prepare` for what it prints."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from backends.errors import QuartetError
from backends.families import prepare, recognise
from backends.hardware import memory_needed, weight_files
from backends.types import Progress

_EVERY = 0.2  # seconds between progress lines


class _Printer:
    """Prints progress as JSON lines, not more often than a reader needs, but each new stage at once."""

    def __init__(self) -> None:
        self._last, self._stage = 0.0, ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        finished = progress.done == progress.total
        if progress.stage == self._stage and not finished and now - self._last < _EVERY:
            return
        self._last, self._stage = now, progress.stage
        _say({"stage": progress.stage, "done": progress.done, "total": progress.total, "note": progress.note})


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


def _inspect(folder: Path, model_type: str) -> None:
    checkpoint = recognise(folder, model_type)
    need = memory_needed(folder)
    size = sum(path.stat().st_size for path in weight_files(folder))
    served = "as it is" if checkpoint.native else "after conversion, which happens once when the model is loaded"
    print(f"model      {checkpoint.kind} ({checkpoint.family}), {checkpoint.architecture}")
    print(f"context    {checkpoint.context_length or 'not said'} tokens")
    print(f"weights    {size / 1024**3:.2f} GiB on disk")
    print(f"memory     about {need.total / 1024**3:.2f} GiB with a context of 4,096 tokens")
    print(f"served     {served}")


def _run(arguments: argparse.Namespace) -> str:
    checkpoint = recognise(arguments.source, arguments.model_type)
    if arguments.command == "prepare":
        return str(prepare(checkpoint, arguments.target, _Printer()))
    if checkpoint.native:
        return str(checkpoint.folder)
    from backends.families.cache import content_key, converted_into

    return str(converted_into(checkpoint, arguments.target, content_key(checkpoint), _Printer()))


def main() -> int:
    """Runs one command; 0 when it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m backends.families")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inspect", "convert", "prepare"):
        command = commands.add_parser(name)
        command.add_argument("source", type=Path, metavar="SRC")
        command.add_argument("--model-type", default="")
        if name != "inspect":
            command.add_argument("target", type=Path, metavar="DST" if name == "convert" else "CACHE")
    arguments = parser.parse_args()
    # Ending on request still tidies up; and the libraries' own notes have no place in what is read by line.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        if arguments.command == "inspect":
            _inspect(arguments.source, arguments.model_type)
        else:
            _say({"result": _run(arguments)})
    except QuartetError as error:
        if arguments.command == "inspect":
            print(error.message, file=sys.stderr)
        else:
            _say({"error": error.message, "code": error.code})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
