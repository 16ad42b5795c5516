"""Nothing is keyed to the sizes, key spellings or file formats of the reference checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.families import load_pretrained, prepare, recognise
from backends.families.alibi import alibi_slopes
from tests.backends.families.conftest import quiet
from tests.backends.families.reference import FAMILIES, change, copy_of, golden, weights_of
from tests.shared_data import requires_shared

pytestmark = requires_shared

FIRST_SPELLING = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "seq_length": "n_positions",
    "intermediate_size": "ffn_hidden_size",
    "vocab_size": "padded_vocab_size",
}


def logits_of(folder: Path, cache: Path, ids: list[int]) -> np.ndarray:
    model, _ = load_pretrained(prepare(recognise(folder), cache, quiet), dtype="float32")
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1].numpy()


def check_first_case(name: str, folder: Path, cache: Path) -> None:
    case = golden(name)["cases"][0]
    stored = np.load(FAMILIES / name / "golden.npz")[case["last_logits"]]
    assert np.abs(logits_of(folder, cache, case["prompt_ids"]) - stored).max() <= 2e-4


def test_the_first_release_of_qwen_spells_its_config_otherwise(tmp_path: Path) -> None:
    source = copy_of("qwen1", tmp_path)
    config = recognise(source)
    values = {new: _config(source)[old] for old, new in FIRST_SPELLING.items()}
    change(source / "config.json", **values, **dict.fromkeys(FIRST_SPELLING), max_position_embeddings=None)
    assert recognise(source).context_length == config.context_length
    check_first_case("qwen1", source, tmp_path / "cache")


def test_bin_files_of_the_oldest_format_are_read(tmp_path: Path) -> None:
    source = copy_of("baichuan-7b", tmp_path)
    tensors = weights_of(source)
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    check_first_case("baichuan-7b", source, tmp_path / "cache")


@pytest.mark.parametrize("name", ["baichuan-13b", "chatglm3", "qwen1"])
def test_fewer_layers_are_another_model_not_an_error(name: str, tmp_path: Path) -> None:
    source = copy_of(name, tmp_path)
    config = _config(source)
    key = "num_layers" if "num_layers" in config else "num_hidden_layers"
    last = config[key] - 1
    kept = {name: value for name, value in weights_of(source).items() if f".{last}." not in name}
    for path in [*source.glob("*.bin"), *source.glob("*.index.json")]:
        path.unlink()
    torch.save(kept, source / "pytorch_model.bin")
    change(source / "config.json", **{key: last})
    model, _ = load_pretrained(prepare(recognise(source), tmp_path / "cache", quiet), dtype="float32")
    assert model.config.num_hidden_layers == last


def test_slopes_of_a_power_of_two_halve_evenly_and_others_interleave() -> None:
    assert alibi_slopes(8) == [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]
    assert len(alibi_slopes(40)) == 40


def _config(folder: Path) -> dict[str, int]:
    import json

    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
