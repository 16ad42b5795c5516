"""The models the menu offers: the four families with their hub ids and what they need. Knows no hub and no engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogEntry:
    """One model. `parameters` in billions, `context_length` in tokens, `memory_gib` for its weights at two bytes each
    and one conversation of 4,096 tokens."""

    family: str
    label: str
    hub_id: str
    modelscope_id: str
    parameters: float
    context_length: int
    memory_gib: float


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry("qwen", "Qwen3 0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", 0.6, 40960, 2.2),
    CatalogEntry("qwen", "Qwen3 1.7B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B", 1.7, 40960, 4.8),
    CatalogEntry("qwen", "Qwen3 4B", "Qwen/Qwen3-4B", "Qwen/Qwen3-4B", 4.0, 40960, 8.9),
    CatalogEntry("qwen", "Qwen3 8B", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B", 8.2, 40960, 17.1),
    CatalogEntry(
        "qwen", "Qwen2.5 7B Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", 7.6, 32768, 15.6
    ),
    CatalogEntry("qwen", "Qwen 1.8B Chat", "Qwen/Qwen-1_8B-Chat", "Qwen/Qwen-1_8B-Chat", 1.8, 8192, 4.9),
    CatalogEntry("qwen", "Qwen 7B Chat", "Qwen/Qwen-7B-Chat", "Qwen/Qwen-7B-Chat", 7.7, 8192, 17.6),
    CatalogEntry("qwen", "Qwen 14B Chat", "Qwen/Qwen-14B-Chat", "Qwen/Qwen-14B-Chat", 14.2, 2048, 31.4),
    CatalogEntry(
        "llama", "Llama 2 7B Chat", "meta-llama/Llama-2-7b-chat-hf", "shakechen/Llama-2-7b-chat-hf", 6.7, 4096, 15.7
    ),
    CatalogEntry(
        "llama", "Llama 2 13B Chat", "meta-llama/Llama-2-13b-chat-hf", "ydyajyA/Llama-2-13b-chat-hf", 13.0, 4096, 29.1
    ),
    CatalogEntry("chatglm", "ChatGLM3 6B", "zai-org/chatglm3-6b", "ZhipuAI/chatglm3-6b", 6.2, 8192, 12.8),
    CatalogEntry("chatglm", "ChatGLM2 6B", "zai-org/chatglm2-6b", "ZhipuAI/chatglm2-6b", 6.2, 32768, 12.8),
    CatalogEntry("chatglm", "GLM-4 9B Chat", "zai-org/glm-4-9b-chat-hf", "ZhipuAI/glm-4-9b-chat-hf", 9.4, 131072, 19.2),
    CatalogEntry(
        "baichuan",
        "Baichuan2 7B Chat",
        "baichuan-inc/Baichuan2-7B-Chat",
        "baichuan-inc/Baichuan2-7B-Chat",
        7.5,
        4096,
        17.2,
    ),
    CatalogEntry(
        "baichuan",
        "Baichuan2 13B Chat",
        "baichuan-inc/Baichuan2-13B-Chat",
        "baichuan-inc/Baichuan2-13B-Chat",
        13.9,
        4096,
        30.8,
    ),
    CatalogEntry(
        "baichuan",
        "Baichuan 13B Chat",
        "baichuan-inc/Baichuan-13B-Chat",
        "baichuan-inc/Baichuan-13B-Chat",
        13.3,
        4096,
        29.6,
    ),
)

# What one click loads on a machine without a GPU.
STARTER = CATALOG[0]


def modelscope_id(hub_id: str) -> str:
    """The id under which ModelScope has a model; most have the same there."""
    return next((entry.modelscope_id for entry in CATALOG if entry.hub_id == hub_id), hub_id)
