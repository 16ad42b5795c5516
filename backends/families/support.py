"""The table of what is supported: each original class, what it is served as, and where. Data; the README shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Support:
    """One row. `system` says what becomes of a system message; `limit` what is left out, "" when nothing is.

    `chats`: whether the original has conversations, whose ids and texts can be compared.
    """

    kind: str
    family: str
    models: str
    original: str
    served_as: str
    vllm: bool
    system: str
    limit: str = ""
    chats: bool = True

    @property
    def verified(self) -> str:
        """What tests compare with the values that the original code computed."""
        here = "ids, " if self.chats else "ids of texts, "
        there = "; vLLM: ids, greedy tokens and text over HTTP" if self.chats else "; vLLM: greedy tokens over HTTP"
        return f"{here}logits within 2e-4, greedy tokens{there if self.vllm else ''}"


_OWN_SYSTEM = "as the original"
_IN_FRONT = "put before the first question"
SUPPORT = (
    Support(
        "qwen1",
        "Qwen",
        "Qwen 1.8B to 72B",
        "QWenLMHeadModel",
        "Qwen2ForCausalLM",
        True,
        _OWN_SYSTEM,
        "beyond seq_length (dynamic NTK, logn) on transformers only; vLLM refuses longer prompts",
    ),
    Support("llama2", "Llama 2", "Llama 2", "LlamaForCausalLM", "LlamaForCausalLM", True, _OWN_SYSTEM),
    Support(
        "chatglm1",
        "ChatGLM",
        "ChatGLM-6B",
        "ChatGLMModel",
        "ChatGLMv1ForCausalLM",
        False,
        _IN_FRONT,
        "vLLM has no such attention",
    ),
    Support("chatglm2", "ChatGLM", "ChatGLM2-6B", "ChatGLMModel", "GlmForCausalLM", True, _IN_FRONT),
    Support("chatglm3", "ChatGLM", "ChatGLM3-6B", "ChatGLMModel", "GlmForCausalLM", True, _OWN_SYSTEM),
    Support("glm4", "ChatGLM", "GLM-4-9B", "ChatGLMModel", "GlmForCausalLM", True, _OWN_SYSTEM),
    Support(
        "baichuan-7b",
        "Baichuan",
        "Baichuan-7B",
        "BaiChuanForCausalLM",
        "LlamaForCausalLM",
        True,
        "put first",
        "a base model",
        False,
    ),
    Support(
        "baichuan-13b", "Baichuan", "Baichuan-13B", "BaichuanForCausalLM", "BaichuanAlibiForCausalLM", True, _IN_FRONT
    ),
    Support("baichuan2-7b", "Baichuan", "Baichuan2-7B", "BaichuanForCausalLM", "LlamaForCausalLM", True, _OWN_SYSTEM),
    Support(
        "baichuan2-13b",
        "Baichuan",
        "Baichuan2-13B",
        "BaichuanForCausalLM",
        "BaichuanAlibiForCausalLM",
        True,
        _OWN_SYSTEM,
    ),
)


def table() -> str:
    """The rows as a Markdown table."""
    head: tuple[str, ...] = ("family", "model", "original class", "served as", "transformers", "vLLM")
    head += ("verified how", "system message", "note")
    lines = [head, ("---",) * len(head)]
    for row in SUPPORT:
        vllm = "yes" if row.vllm else "no"
        engines = ("yes", vllm, row.verified)
        lines.append((row.family, row.models, row.original, row.served_as, *engines, row.system, row.limit))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
