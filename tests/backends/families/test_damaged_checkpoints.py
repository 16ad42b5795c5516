"""What cannot be converted is refused in one sentence that names the file, and the cache stays clean."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backends.errors import ModelUnusable, QuartetError, StorageFull
from backends.families import prepare, recognise
from tests.backends.families.conftest import quiet
from tests.backends.families.reference import change, copy_of, rewrite, weights_of
from tests.shared_data import requires_shared

pytestmark = requires_shared


class Marker:
    """Something that is no tensor."""


def cut_shard(folder: Path) -> None:
    shard = next(folder.glob("*-00002-*"))
    shard.write_bytes(shard.read_bytes()[:100_000])


def lose_shard(folder: Path) -> None:
    next(folder.glob("*-00001-*")).unlink()


def lose_tensor(folder: Path) -> None:
    rewrite(folder, "safetensors", 1)
    tensors = weights_of(folder)
    tensors.pop("lm_head.weight")
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")


def wrong_width(folder: Path) -> None:
    change(folder / "config.json", hidden_size=256)


def extra_layer(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=1)


def pickled_object(folder: Path) -> None:
    shard = next(folder.glob("*-00001-*"))
    torch.save({"lm_head.weight": Marker()}, shard)


def broken_index(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").write_text("{")


def escaping_index(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))


def no_tokenizer(folder: Path) -> None:
    (folder / "qwen.tiktoken").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "qwen.tiktoken").write_bytes((folder / "qwen.tiktoken").read_bytes()[:2001])


def key_missing(folder: Path) -> None:
    change(folder / "config.json", hidden_size=None)


def visual(folder: Path) -> None:
    change(folder / "config.json", visual={"layers": 48})


def gptq(folder: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def unknown_code(folder: Path) -> None:
    change(folder / "config.json", model_type="quuxformer")


def unknown_type(folder: Path) -> None:
    change(folder / "config.json", model_type="quuxformer", auto_map=None)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen"')


def only_pth(folder: Path) -> None:
    no_config(folder)
    (folder / "consolidated.00.pth").write_bytes(b"x")


def no_weights(folder: Path) -> None:
    for path in folder.glob("*.bin"):
        path.unlink()


DAMAGE: dict[Callable[[Path], None], str] = {
    cut_shard: "pytorch_model-00002-of-00002.bin in qwen1 is damaged or cut off",
    lose_shard: "pytorch_model-00001-of-00002.bin is missing",
    lose_tensor: "lack 1 of",
    wrong_width: "does not fit config.json",
    extra_layer: "no place for",
    pickled_object: "holds more than tensors",
    broken_index: "pytorch_model.bin.index.json in qwen1 is damaged",
    escaping_index: "names a file outside",
    no_tokenizer: "qwen.tiktoken is missing",
    broken_tokenizer: "qwen.tiktoken in qwen1 is",
    key_missing: "lacks hidden_size",
    visual: "Qwen-VL",
    gptq: "quantised with GPTQ",
    unknown_code: "program code",
    unknown_type: "quuxformer",
    no_config: "no config.json",
    broken_config: "config.json in qwen1 cannot be read",
    only_pth: "Meta's own format",
    no_weights: "no weight files",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_refused_by_name(damage: Callable[[Path], None], tmp_path: Path) -> None:
    source, cache = copy_of("qwen1", tmp_path), tmp_path / "cache"
    damage(source)
    with pytest.raises(ModelUnusable) as refused:
        prepare(recognise(source), cache, quiet)
    message = refused.value.message
    assert DAMAGE[damage] in message
    assert str(tmp_path) not in message
    assert "\n" not in message
    assert not [path for path in cache.glob("*") if not path.name.endswith(".lock")]
    assert not list(cache.glob(".*part*"))


def test_a_first_release_of_chatglm_is_refused(tmp_path: Path) -> None:
    source = copy_of("chatglm1", tmp_path)
    change(source / "tokenizer_config.json", num_image_tokens=20000)
    with pytest.raises(ModelUnusable, match="first release"):
        recognise(source)


def test_chatglm_2_or_3_is_asked_when_nothing_tells(tmp_path: Path) -> None:
    source = copy_of("chatglm3", tmp_path).rename(tmp_path / "mystery")
    for name in ("config.json", "tokenizer_config.json"):
        change(source / name, _name_or_path=None, name_or_path=None)
    with pytest.raises(ModelUnusable, match="name the one it is"):
        recognise(source)
    assert recognise(source, "chatglm3").kind == "chatglm3"
    with pytest.raises(ModelUnusable, match="not a qwen model"):
        recognise(source, "qwen")
    with pytest.raises(ModelUnusable, match="no model type 'gpt'"):
        recognise(source, "gpt")


Disk = namedtuple("Disk", "total used free")


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**12, 10**12, 1000))
    with pytest.raises(StorageFull, match="free some space"):
        prepare(recognise(copy_of("qwen1", tmp_path)), tmp_path / "cache", quiet)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    source, cache = copy_of("qwen1", tmp_path), tmp_path / "cache"

    def fill(progress: object) -> None:
        if getattr(progress, "stage", "") == "converting":
            raise OSError(28, "No space left on device")

    with pytest.raises(QuartetError, match="disk of the data folder is full"):
        prepare(recognise(source), cache, fill)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    assert prepare(recognise(source), cache, quiet).is_dir()
