"""ChatGLM-6B on transformers: a prompt that sees itself in both directions, and positions in two numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# The original meant to scale by its number of layers, but never passes it on: every size uses that of the 6B model.
_ALPHA = math.sqrt(2 * 28)


class ChatGLMv1Config(PretrainedConfig):  # type: ignore[misc]
    """The keys of ChatGLM-6B under today's names."""

    model_type = "chatglm_v1"


class _Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, config: ChatGLMv1Config, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = config.num_attention_heads, layer
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: torch.Tensor, turn: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        batch, tokens, width = states.shape
        mixed = self.query_key_value(states).view(batch, tokens, self.heads, 3 * width // self.heads)
        query, key, value = (part.transpose(1, 2) for part in mixed.chunk(3, dim=-1))
        query, key = _rotate(query, turn), _rotate(key, turn)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.dense(seen.transpose(1, 2).reshape(batch, tokens, width))


def _rotate(states: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotates each half of a head (batch, heads, tokens, head) by its own angles (2, batch, tokens, quarter head)."""
    halves = []
    for half, angles in zip(states.chunk(2, dim=-1), turn, strict=True):
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        left, right = half.chunk(2, dim=-1)
        cos, sin = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
        halves.append(half * cos + torch.cat((-right, left), dim=-1) * sin)
    return torch.cat(halves, dim=-1)


class _FeedForward(nn.Module):  # type: ignore[misc]
    def __init__(self, config: ChatGLMv1Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        widened = nn.functional.gelu(self.dense_h_to_4h(states), approximate="tanh")
        result: torch.Tensor = self.dense_4h_to_h(widened)
        return result


class _Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: ChatGLMv1Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = _Attention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _FeedForward(config)

    def forward(self, states: torch.Tensor, turn: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        normed = self.input_layernorm(states)
        states = _ALPHA * normed + self.attention(normed, turn, mask, cache)
        normed = self.post_attention_layernorm(states)
        result: torch.Tensor = _ALPHA * normed + self.mlp(normed)
        return result


class _Transformer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: ChatGLMv1Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config, index) for index in range(config.num_hidden_layers)])
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class ChatGLMv1ForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """`attention_mask` is 2-D (batch, keys), 1 for a token and 0 for padding on the left. No training."""

    config_class = ChatGLMv1Config
    base_model_prefix = "transformer"
    _no_split_modules = ("_Layer",)
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: ChatGLMv1Config) -> None:
        super().__init__(config)
        self.transformer = _Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.word_embeddings

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # An answer's positions follow from its prompt, which only the whole sequence shows.
        kwargs["position_ids"] = self._positions(input_ids, kwargs.get("attention_mask"))
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)
        return inputs

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """`position_ids` (2, batch, tokens) are needed with a cache that holds something; else they are derived."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None or position_ids.ndim != 3:
            if past:
                raise ValueError("position_ids of shape (2, batch, tokens) are needed to go on from a cache")
            position_ids = self._positions(input_ids, attention_mask)
        states = self.transformer.word_embeddings(input_ids)
        turn = position_ids[..., None].float() * self._frequencies(states.device)
        mask = self._mask(input_ids, attention_mask, past)
        for layer in self.transformer.layers:
            states = layer(states, turn, mask, past_key_values)
        states = self.transformer.final_layernorm(states)
        logits = self.lm_head(states[:, -logits_to_keep:] if logits_to_keep else states)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values if use_cache else None)

    def _frequencies(self, device: torch.device) -> torch.Tensor:
        """Of one half of a head; the original keeps them in float16, also in a float32 model."""
        width = self.config.hidden_size // self.config.num_attention_heads // 2
        steps = torch.arange(0, width, 2, device=device).float() / width
        return (1.0 / 10000.0**steps).half().float()

    def _contexts(self, input_ids: torch.Tensor) -> list[int]:
        """Where the answer starts in each row: at <sop>; 0 in a text without one, which is then read one way."""
        starts = (input_ids == self.config.bos_token_id).int()
        return [int(row.argmax()) if bool(row.any()) else 0 for row in starts]

    def _positions(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(2, batch, tokens): place in the prompt, then always that of [gMASK]; and 1, 2, 3... within the answer."""
        config = self.config
        padding = [0] * len(input_ids) if attention_mask is None else _leading_zeros(attention_mask)
        positions = torch.zeros((2, *input_ids.shape), dtype=torch.long, device=input_ids.device)
        for row, (context, left) in enumerate(zip(self._contexts(input_ids), padding, strict=True)):
            places = torch.arange(input_ids.shape[1], device=input_ids.device) - left
            ids = input_ids[row]
            marks = ((ids == config.gmask_token_id) | (ids == config.mask_token_id)).nonzero()
            positions[0, row] = places.clamp(min=0)
            if context:
                positions[0, row, context:] = int(marks[0]) - left if len(marks) else context - left
                positions[1, row, context:] = places[context:] - (context - left) + 1
        return positions

    def _mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, past: int) -> torch.Tensor:
        """(batch, 1, queries, keys), true where a query sees a key."""
        batch, tokens = input_ids.shape
        keys = torch.arange(past + tokens, device=input_ids.device)
        seen = (keys[None, :] <= keys[past:, None])[None].repeat(batch, 1, 1)
        if not past:
            for row, context in enumerate(self._contexts(input_ids)):
                seen[row, :context, :context] = True
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, : past + tokens].bool()
        # Padding looks at itself, so that no row is empty.
        return (seen | (keys[None, :] == keys[past:, None])[None])[:, None]


def _leading_zeros(attention_mask: torch.Tensor) -> list[int]:
    return [int(row.argmax()) for row in attention_mask.int()]
