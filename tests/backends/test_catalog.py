"""The menu: four families, real-looking ids, and figures that agree with each other."""

from __future__ import annotations

from backends.catalog import CATALOG, STARTER, modelscope_id
from backends.hub import is_hub_id


def test_each_of_the_four_families_is_offered() -> None:
    assert {entry.family for entry in CATALOG} == {"qwen", "llama", "chatglm", "baichuan"}


def test_each_id_can_be_fetched_and_is_there_once() -> None:
    assert all(is_hub_id(entry.hub_id) and is_hub_id(entry.modelscope_id) for entry in CATALOG)
    assert len({entry.hub_id for entry in CATALOG}) == len(CATALOG)


def test_the_memory_holds_the_weights_and_not_much_more() -> None:
    for entry in CATALOG:
        weights = entry.parameters * 1e9 * 2 / 2**30
        assert weights * 1.05 < entry.memory_gib < weights * 1.3 + 1.5, entry.label


def test_the_starter_is_small_enough_for_a_cpu() -> None:
    assert STARTER.family == "qwen"
    assert STARTER.memory_gib < 4


def test_the_other_hub_knows_some_models_by_another_name() -> None:
    assert modelscope_id("zai-org/chatglm3-6b") == "ZhipuAI/chatglm3-6b"
    assert modelscope_id("someone/else") == "someone/else"
