"""Baichuan-13B and Baichuan2-13B in vLLM: its Llama, with attention that knows positions by ALiBi.

Loads the folders that `backends.families.convert` writes. Tensor and pipeline parallelism are those of vLLM's Llama.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaForCausalLM
from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from backends.families.alibi import alibi_slopes


class AlibiAttention(torch.nn.Module):  # type: ignore[misc]
    """Takes the arguments of vLLM's LlamaAttention; what concerns rotary positions is left aside."""

    def __init__(
        self,
        config: Any,
        hidden_size: int,
        num_heads: int,
        quant_config: Any = None,
        cache_config: Any = None,
        prefix: str = "",
        **_: Any,
    ) -> None:
        super().__init__()
        ranks, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
        heads, width = num_heads // ranks, hidden_size // num_heads
        self.qkv_proj = QKVParallelLinear(
            hidden_size, width, num_heads, bias=False, quant_config=quant_config, prefix=f"{prefix}.qkv_proj"
        )
        self.o_proj = RowParallelLinear(
            hidden_size, hidden_size, bias=False, quant_config=quant_config, prefix=f"{prefix}.o_proj"
        )
        self.attn = Attention(
            heads,
            width,
            width**-0.5,
            # The slopes of all heads are computed and cut: those of a few heads alone would be others.
            alibi_slopes=alibi_slopes(num_heads)[rank * heads : (rank + 1) * heads],
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
            attn_backend=_backend_with_slopes(),
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """(tokens, width) to the same; `positions` are known to the attention by the order of its cache."""
        fused, _ = self.qkv_proj(hidden_states)
        query, key, value = fused.chunk(3, dim=-1)
        output, _ = self.o_proj(self.attn(query, key, value))
        return output


def _backend_with_slopes() -> Any:
    """On NVIDIA the one backend that takes slopes on every generation: FlashInfer, which newer ones prefer, ignores
    them without a word. Elsewhere vLLM's own choice knows them."""
    return AttentionBackendEnum.TRITON_ATTN.get_class() if current_platform.is_cuda() else None


class _AlibiLayer(LlamaDecoderLayer):  # type: ignore[misc]
    def __init__(self, vllm_config: Any, prefix: str = "", config: Any = None) -> None:
        super().__init__(vllm_config, prefix, config, attn_layer_type=AlibiAttention)


class BaichuanAlibiForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """The name that config.json of a converted folder asks for."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=_AlibiLayer)
