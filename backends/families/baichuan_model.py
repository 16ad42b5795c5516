"""Baichuan-13B and Baichuan2-13B on transformers: a Llama that knows positions by ALiBi, not by rotation."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

from backends.families.alibi import BaichuanAlibiConfig, alibi_slopes


class _NoRotation(torch.nn.Module):  # type: ignore[misc]
    """Stands where Llama asks for its rotation: turning by no angle leaves queries and keys as they are."""

    def forward(self, states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*position_ids.shape, 1)
        return states.new_ones(shape), states.new_zeros(shape)


class BaichuanAlibiForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """`attention_mask` is 2-D (batch, keys), 1 for a token and 0 for padding, which may stand on the left."""

    config_class = BaichuanAlibiConfig
    _supports_flash_attn = False  # takes no bias on the scores
    _supports_flex_attn = False
    _can_compile_fullgraph = False

    def __init__(self, config: BaichuanAlibiConfig) -> None:
        super().__init__(config)
        self.model.rotary_emb = _NoRotation()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits as LlamaForCausalLM gives them; a 4-D mask (batch, heads, queries, keys) is added as it is."""
        inputs = input_ids if input_ids is not None else inputs_embeds
        if inputs is None:
            raise ValueError("one of input_ids and inputs_embeds is needed")
        if attention_mask is None or attention_mask.ndim == 2:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            attention_mask = self._bias(inputs.shape[1], past, attention_mask)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _bias(self, queries: int, past: int, padding: torch.Tensor | None) -> torch.Tensor:
        """(batch, heads, queries, keys): slope times distance, and almost minus infinity for what may not be seen."""
        device, lowest = self.lm_head.weight.device, torch.finfo(self.dtype).min
        slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=device)
        keys = torch.arange(past + queries, device=device)
        distance = keys[None, :] - keys[past:, None]
        bias = slopes[:, None, None] * distance[None].float()
        unseen = distance[None, None] > 0
        if padding is not None:
            unseen = unseen | ~padding[:, None, None, : past + queries].to(device).bool()
        return bias[None].masked_fill(unseen, lowest).clamp(min=lowest).to(self.dtype)
