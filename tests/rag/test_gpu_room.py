"""Where a GPU has no room left; the GPU is a stand-in, since there is none here."""

from __future__ import annotations

import torch

from rag.gpu_room import computed, loaded


def test_a_model_that_finds_no_room_is_loaded_into_main_memory() -> None:
    asked: list[str | None] = []

    def load(device: str | None) -> str:
        asked.append(device)
        if device is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"on {device}"

    assert loaded(load) == "on cpu"
    assert asked == [None, "cpu"]


def test_what_needs_more_than_is_left_is_computed_in_main_memory() -> None:
    model = torch.nn.Linear(2, 2, device="meta")
    model.to_empty(device="cpu")
    tries: list[int] = []

    def work() -> int:
        tries.append(len(tries))
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum(parameter.device.type == "cpu" for parameter in model.parameters())

    assert computed(model, work) == 2
    assert tries == [0, 1]


def test_where_there_is_room_nothing_is_moved() -> None:
    assert loaded(lambda device: device) is None
    assert computed(None, lambda: 4) == 4
