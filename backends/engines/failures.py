"""Why a child process ended, in one sentence a person can act on, read from its log and exit code."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a log says -> what a person is told, first match wins.
_REASONS = (
    (
        r"out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError|No available memory for the cache blocks",
        "there was not enough memory for the model; choose a smaller one, or give it less context with --engine-args "
        "(--max-model-len).",
    ),
    (
        r"larger than the maximum number of tokens that can be stored in KV cache",
        "the memory left beside the weights is too small for the model's context; "
        "set a smaller one with --engine-args --max-model-len.",
    ),
    (
        r"plugin is written for vLLM (?P<what>[\d.]+) and does not fit vLLM",
        "Quartet fits vLLM {what} and the installed vLLM is another: run `make vllm`, or use --backend transformers.",
    ),
    (
        r"No module named 'vllm\.|cannot import name '\w+' from 'vllm",
        "the installed vLLM is another than the one Quartet is written for: run `make vllm`, or use "
        "--backend transformers.",
    ),
    (
        r"No \w+ registered for \w+='quartet'",
        "vLLM was kept from loading Quartet's plugin; unset VLLM_PLUGINS.",
    ),
    (
        r"max_model_len \(\d+\) is greater than the derived max_model_len \(\w+=(?P<what>\d+)",
        "on vLLM this model takes {what} tokens at most; give --engine-args no larger --max-model-len.",
    ),
    (r"address already in use", "its port was taken by another program; try again."),
    (
        r"are not supported for now|does not recognize this architecture|Unrecognized model|no vLLM implementation",
        "the engine does not support this model's architecture; try --backend transformers.",
    ),
    (r"unrecognized arguments?: (?P<what>.{1,100})", "it does not know these --engine-args: {what}."),
    (r"No module named '?(?P<what>[\w.]+)", "the Python package {what} is missing in its environment."),
    (
        r"No such file or directory: '?(?:[^'\n]*/)?(?P<what>[^'/\n]{1,200})",
        "a file is missing: {what}.",
    ),
    (
        r"SafetensorError|Error while deserializing|PytorchStreamReader failed",
        "a weight file is damaged; fetch it again.",
    ),
    (r"No space left on device", "the disk is full."),
    (r"CUDA driver|no CUDA-capable device|NVIDIA driver", "the graphics driver could not be used."),
)


# Of what vLLM can do without; it says so at every start.
_HARMLESS = r"^.{0,80}\b(?:INFO|WARNING)\b.*(?:Failed to import|not installed)"
# Lines that only say that the reason is to be found further up.
_ELSEWHERE = r"Engine core initialization failed|EngineDeadError|[Ss]ee (?:root cause|stack trace)"


def why_it_ended(log: Sequence[str], code: int) -> str:
    """One sentence: what the log says, or else its last line, or how the process ended."""
    for line in reversed([line for line in log if not re.search(_HARMLESS, line)]):
        for pattern, sentence in _REASONS:
            if match := re.search(pattern, line, re.IGNORECASE):
                return sentence.format(what=(match.groupdict().get("what") or "").strip())
    if code == -9:
        return "its process was killed, most often because the machine ran out of memory."
    last = _last_telling(log)
    ending = f"a signal ({-code})" if code < 0 else f"exit code {code}"
    return f"its process ended with {ending}" + (f"; its last words were: {last}" if last else " and said nothing.")


def _last_telling(log: Sequence[str]) -> str:
    """The last line that names an error, else the last line; without time stamp, class name or traceback arrows."""
    named = [
        line for line in log if re.search(r"\b\w*(?:Error|Exception)\b: ", line) and not re.search(_ELSEWHERE, line)
    ]
    line = (named or list(log) or [""])[-1]
    line = re.sub(r"^.*?\b(?:\w+\.)*\w*(?:Error|Exception)\b: ", "", line)
    return line[:300]
