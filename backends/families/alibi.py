"""What Baichuan-13B and Baichuan2-13B are on every engine: the keys of their config and the slopes of their heads."""

from __future__ import annotations

import math

from transformers import LlamaConfig


class BaichuanAlibiConfig(LlamaConfig):  # type: ignore[misc]
    """The keys of Llama under a type of its own, so that no engine takes it for a Llama with rotary positions."""

    model_type = "baichuan_alibi"
    alibi = True  # by this name vLLM knows not to share attention over a common prefix


def alibi_slopes(heads: int) -> list[float]:
    """How fast each head forgets distance. For a number that is no power of two: those of the next lower power of two,
    then every second one of twice that."""

    def of_power(count: int) -> list[float]:
        first = 2.0 ** -(2.0 ** -(math.log2(count) - 3))
        return [first ** (index + 1) for index in range(count)]

    lower = 2 ** math.floor(math.log2(heads))
    return of_power(lower) + of_power(2 * lower)[0::2][: heads - lower]
