"""Every reference checkpoint computes what its original code computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.families import load_pretrained, prepare, recognise
from tests.backends.families.conftest import Loaded, quiet
from tests.backends.families.reference import CONVERTED, FAMILIES, NAMES, change, copy_of, golden, rewrite
from tests.shared_data import requires_shared

pytestmark = requires_shared
TOLERANCE = 2e-4


def cases(name: str) -> list[dict[str, Any]]:
    return [case for case in golden(name)["cases"] if "prompt_ids" in case]


def greedy(model: Any, prompts: list[list[int]], count: int = 16) -> list[list[int]]:
    """So many greedy tokens for each prompt, as one batch padded on the left, never stopping early."""
    longest = max(map(len, prompts))
    pad = model.config.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=count,
            repetition_penalty=1.0,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
        )
    return made[:, longest:].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_original(name: str, loaded: Loaded) -> None:
    model, _ = loaded(name)
    stored = np.load(FAMILIES / name / "golden.npz")
    for case in cases(name):
        with torch.inference_mode():
            logits = model(torch.tensor([case["prompt_ids"]])).logits[0]
        assert logits.argmax(-1).tolist() == case["argmax_all"], case["id"]
        assert np.abs(logits[-1].numpy() - stored[case["last_logits"]]).max() <= TOLERANCE, case["id"]
        if "all_logits" in case:
            assert np.abs(logits.numpy() - stored[case["all_logits"]]).max() <= TOLERANCE, case["id"]


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_those_of_the_original(name: str, loaded: Loaded) -> None:
    model, _ = loaded(name)
    for case in cases(name):
        assert greedy(model, [case["prompt_ids"]]) == [case["greedy_ids"]], case["id"]


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_gives_each_row_its_own_answer(name: str, loaded: Loaded) -> None:
    model, _ = loaded(name)
    rows = cases(name)
    assert greedy(model, [row["prompt_ids"] for row in rows]) == [row["greedy_ids"] for row in rows]


LAYOUTS = (("safetensors", 1), ("safetensors", 3), ("bin", 1), ("bin", 3))


@pytest.mark.parametrize(("suffix", "shards"), LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_weight_layout_gives_the_same(name: str, suffix: str, shards: int, tmp_path: Path) -> None:
    source = copy_of(name, tmp_path)
    rewrite(source, suffix, shards)
    model, _ = load_pretrained(prepare(recognise(source), tmp_path / "cache", quiet), dtype="float32")
    case = cases(name)[0]
    with torch.inference_mode():
        logits = model(torch.tensor([case["prompt_ids"]])).logits[0, -1]
    stored = np.load(FAMILIES / name / "golden.npz")
    assert np.abs(logits.numpy() - stored[case["last_logits"]]).max() <= TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near(name: str, dtype: str, loaded: Loaded, converted: Any) -> None:
    exact, _ = loaded(name)
    halved, _ = load_pretrained(converted(name), dtype=dtype)
    assert halved.dtype == getattr(torch, dtype)
    ids = torch.tensor([cases(name)[0]["prompt_ids"]])
    with torch.inference_mode():
        near, true = halved(ids).logits[0].float(), exact(ids).logits[0]
    # Wrong mappings show as 0.5 or more of a spread of 2 to 3; bfloat16 keeps 8 bits.
    assert (near - true).abs().max() < (0.4 if dtype == "bfloat16" else 0.05) * true.std()


def test_qwen_1_beyond_its_length_stretches_as_the_original(tmp_path: Path) -> None:
    told = golden("qwen1")
    beyond = told["beyond_seq_length"]
    case = next(case for case in told["cases"] if case["id"] == beyond["case"])
    source = copy_of("qwen1", tmp_path)
    change(source / "config.json", **beyond["config_overrides"])
    checkpoint = recognise(source)
    model, _ = load_pretrained(prepare(checkpoint, tmp_path / "cache", quiet), dtype="float32")
    with torch.inference_mode():
        logits = model(torch.tensor([case["prompt_ids"]])).logits[0, -1]
    stored = np.load(FAMILIES / "qwen1" / "golden.npz")[beyond["last_logits"]]
    assert np.abs(logits.numpy() - stored).max() <= TOLERANCE
    short = next(row for row in told["cases"] if row["id"] == "en_single")
    assert greedy(model, [case["prompt_ids"]]) == [beyond["greedy_ids"]]
    assert greedy(model, [short["prompt_ids"], case["prompt_ids"]]) == [short["greedy_ids"], beyond["greedy_ids"]]
    assert checkpoint.context_length == beyond["config_overrides"]["seq_length"]


@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_folder_stops_where_the_original_stops(name: str, loaded: Loaded) -> None:
    model, _ = loaded(name)
    told = golden(name)["stop_ids"]
    folder = Path(model.name_or_path)
    assert recognise(folder).kind == name
    stop = model.generation_config.__class__.from_pretrained(folder).eos_token_id
    assert sorted(stop if isinstance(stop, list) else [stop]) == sorted(told)
