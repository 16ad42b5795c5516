"""Keeps conversions: made once per content, beside their place and then renamed, by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.errors import Conflict, ModelUnusable, StorageFull
from backends.families.recognise import MARK, Checkpoint
from backends.families.sources import read_json
from backends.types import Progress

# Raised whenever a conversion would come out otherwise: older ones are then made anew.
FORMAT = 2
_WHOLE = 64 * 1024 * 1024
_SAMPLES, _SAMPLE = 128, 64 * 1024
Report = Callable[[Progress], None]


def prepared(checkpoint: Checkpoint, cache: Path, report: Report) -> Path:
    """The conversion of `checkpoint` in `cache`, made now if it is not there. Raises as `convert`."""
    report(Progress("reading the checkpoint"))
    key = content_key(checkpoint)
    target = cache / f"{checkpoint.kind}-{key[:16]}"
    return converted_into(checkpoint, target, key, report)


def converted_into(checkpoint: Checkpoint, target: Path, key: str, report: Report) -> Path:
    """Make `target` the conversion with this key, unless it is that. Raises Conflict when something else is there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, report):
            if _is_whole(target, key):
                return target
            if target.exists() and not (target / MARK).is_file() and any(target.iterdir()):
                raise Conflict(f"{target} exists and is no conversion: name a folder that does not exist yet.")
            _build(checkpoint, target, key, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"The disk of the data folder is full, so {checkpoint.folder.name} was not converted: "
                "free some space, or choose another data folder."
            ) from error
        raise ModelUnusable(
            f"{checkpoint.folder.name} was not converted, because {error.filename or target} cannot be read or "
            f"written ({error.strerror or 'input/output error'}): check its permissions and its disk."
        ) from error
    return target


def _build(checkpoint: Checkpoint, target: Path, key: str, report: Report) -> None:
    from backends.families.convert import convert

    for left in target.parent.glob(f".{target.name}.part-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: the lock is ours, nobody writes there
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    try:
        convert(checkpoint, beside, {"format": FORMAT, "key": key}, report)
        beside.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _is_whole(target: Path, key: str) -> bool:
    if not (target / MARK).is_file():
        return False
    try:
        return read_json(target / MARK).get("key") == key
    except ModelUnusable:
        return False


@contextmanager
def _alone(target: Path, report: Report) -> Iterator[None]:
    """Hold the lock of this target; the system lets it go when the process ends, however it ends."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(Progress("waiting", note="another process converts this model"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def content_key(checkpoint: Checkpoint) -> str:
    """A fingerprint of what is converted, and how: the small files whole, of large ones the length and many samples."""
    digest = hashlib.sha256(f"{FORMAT} {checkpoint.kind}".encode())
    words = ("config.json", "generation_config.json", "tokenizer_config.json", "*.model", "*.tiktoken")
    names = (*words, "*.index.json", "*.safetensors", "*.bin")
    paths = sorted({path for name in names for path in checkpoint.folder.glob(name) if path.is_file()})
    for path in paths:
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for index in range(_SAMPLES):
                file.seek((size - _SAMPLE) * index // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
