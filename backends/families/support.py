"""The table of what is supported: each original class, what it is served as, and where. Data; the README shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Support:
    """One row. `system` says what becomes of a system message; `limit` what is left out, "" when nothing is."""

    kind: str
    models: str
    original: str
    served_as: str
    vllm: bool
    system: str
    limit: str = ""


_OWN_SYSTEM = "as the original"
_IN_FRONT = "put before the first question"
SUPPORT = (
    Support(
        "qwen1",
        "Qwen 1.8B to 72B",
        "QWenLMHeadModel",
        "Qwen2ForCausalLM",
        True,
        _OWN_SYSTEM,
        "beyond seq_length (dynamic NTK, logn) on transformers only",
    ),
    Support("llama2", "Llama 2", "LlamaForCausalLM", "LlamaForCausalLM", True, _OWN_SYSTEM),
    Support("chatglm1", "ChatGLM-6B", "ChatGLMModel", "ChatGLMv1ForCausalLM", False, _IN_FRONT),
    Support("chatglm2", "ChatGLM2-6B", "ChatGLMModel", "GlmForCausalLM", True, _IN_FRONT),
    Support("chatglm3", "ChatGLM3-6B", "ChatGLMModel", "GlmForCausalLM", True, _OWN_SYSTEM),
    Support("glm4", "GLM-4-9B", "ChatGLMModel", "GlmForCausalLM", True, _OWN_SYSTEM),
    Support("baichuan-7b", "Baichuan-7B", "BaiChuanForCausalLM", "LlamaForCausalLM", True, "put first", "a base model"),
    Support("baichuan-13b", "Baichuan-13B", "BaichuanForCausalLM", "BaichuanAlibiForCausalLM", True, _IN_FRONT),
    Support("baichuan2-7b", "Baichuan2-7B", "BaichuanForCausalLM", "LlamaForCausalLM", True, _OWN_SYSTEM),
    Support("baichuan2-13b", "Baichuan2-13B", "BaichuanForCausalLM", "BaichuanAlibiForCausalLM", True, _OWN_SYSTEM),
)


def table() -> str:
    """The rows as a Markdown table."""
    head = ("model", "original class", "served as", "transformers", "vLLM", "system message", "note")
    lines = [head, ("---",) * len(head)]
    for row in SUPPORT:
        vllm = "yes" if row.vllm else "no"
        lines.append((row.models, row.original, row.served_as, "yes", vllm, row.system, row.limit))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
