"""The class for Qwen 1 on transformers: a Qwen2 that goes beyond `seq_length` as the original does.

A prompt longer than `seq_length` widens the rotary base (dynamic NTK), which then stays for the whole answer, and
queries at later positions are scaled up (logn).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import DynamicCache, Qwen2ForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2Model,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class _Attention(Qwen2Attention):  # type: ignore[misc]
    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        around = hidden_states.shape[:-1]
        by_head = (*around, -1, self.head_dim)
        query, key, value = (
            project(hidden_states).view(by_head).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin, query_scale = position_embeddings
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        query = query * query_scale[:, None, :, None]
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, sliding_window=None, **kwargs
        )
        return self.o_proj(output.reshape(*around, -1).contiguous()), weights


class _Model(Qwen2Model):  # type: ignore[misc]
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = _Attention(config, index)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = (torch.arange(states.shape[1], device=states.device) + past)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        turned = self._turned(states, position_ids, past_key_values, past == 0)
        for layer in self.layers:
            states = layer(
                states,
                attention_mask=mask,
                position_embeddings=turned,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(states), past_key_values=past_key_values if use_cache else None
        )

    def _turned(
        self, states: torch.Tensor, position_ids: torch.Tensor, cache: Any, is_prompt: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """cos and sin (batch, tokens, head) of the rotation, and the scale of each query (batch, tokens)."""
        stretch = self.config.qwen1_beyond_seq_length
        limit, width = stretch["seq_length"], self.layers[0].self_attn.head_dim
        # The cache of an answer remembers how far its prompt stretched the base.
        alpha = None if is_prompt else getattr(cache, "qwen1_alpha", None)
        if alpha is None:
            lengths = position_ids.max(dim=1).values + 1
            alpha = torch.tensor(
                [_alpha(int(length), limit) if stretch["dynamic_ntk"] else 1.0 for length in lengths],
                device=states.device,
            )
            if cache is not None:
                cache.qwen1_alpha = alpha
        base = self.config.rope_parameters["rope_theta"] * alpha ** (width / (width - 2))
        steps = torch.arange(0, width, 2, device=states.device).float() / width
        angles = position_ids[..., None].float() * (1.0 / base[:, None] ** steps)[:, None, :]
        angles = torch.cat((angles, angles), dim=-1)
        scale = torch.ones_like(position_ids, dtype=torch.float32)
        if stretch["logn"]:
            place = position_ids.float() + 1
            scale = torch.where(place > limit, place.clamp(min=1).log() / math.log(limit), scale)
        scale = scale.expand(states.shape[0], -1)
        return angles.cos().to(states.dtype), angles.sin().to(states.dtype), scale.to(states.dtype)


def _alpha(length: int, limit: int) -> float:
    """How much a prompt of `length` tokens stretches the base of a model trained on `limit`."""
    if length <= limit:
        return 1.0
    return max(2.0 ** math.ceil(math.log2(length / limit) + 1) - 1, 1.0)


class Qwen1ForCausalLM(Qwen2ForCausalLM):  # type: ignore[misc]
    """As Qwen2ForCausalLM up to `seq_length`; the config's `qwen1_beyond_seq_length` says the rest."""

    _can_compile_fullgraph = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = _Model(config)
        self.config.max_position_embeddings = config.qwen1_beyond_seq_length["max_length"]
        self.post_init()
