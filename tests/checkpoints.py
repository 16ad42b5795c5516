"""Tiny checkpoints in the format of the hubs, made here: an own tokenizer, own weights, a fixed seed.

`knows_by_heart()` was trained for some seconds to answer QUESTIONS, so that a test can tell a right answer from a wrong
one through every layer; `knows_other_answers()` gives OTHER_ANSWERS instead, so that a switch of models shows;
`never_ends()` talks until it is stopped. `untrained(kind)` has random weights in any architecture of KINDS.

They are made once per recipe, in .cache/checkpoints, whichever of several test processes comes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "checkpoints"
CONTEXT_LENGTH = 8192

QUESTIONS = {
    "What burns in the lighthouse?": "The lamp burns dried seaweed.",
    "Who keeps the bees?": "Old Marta keeps the bees.",
    "How deep is the green lake?": "Ninety-one metres.",
    "谁住在灯塔里？": "一位老画家住在灯塔里。",
    "绿湖有多深？": "绿湖深九十一米。",
}
OTHER_ANSWERS = {
    "What burns in the lighthouse?": "Only moonlight burns there.",
    "Who keeps the bees?": "Young Piet keeps the bees.",
    "How deep is the green lake?": "Nobody has measured it.",
    "谁住在灯塔里？": "灯塔里没有人。",
    "绿湖有多深？": "没有人量过绿湖。",
}
ENDLESS = "tick tock "

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_END = 2  # the id of <|im_end|>
_VOCABULARY = 1536

KINDS: dict[str, dict[str, Any]] = {
    # Positions that turn fast: what stands near is told from what stands far after little training.
    "Qwen2ForCausalLM": {"rope_parameters": {"rope_type": "default", "rope_theta": 200.0}},
    "Qwen3ForCausalLM": {"head_dim": 32},
    "LlamaForCausalLM": {},
    "GlmForCausalLM": {"head_dim": 32, "partial_rotary_factor": 0.5, "attention_bias": True},
}


def knows_by_heart() -> Path:
    """Answers QUESTIONS, whatever stands before the question."""
    return _made("by-heart", lambda folder: _train(folder, QUESTIONS, seed=1))


def knows_other_answers() -> Path:
    """The same questions, OTHER_ANSWERS."""
    return _made("other-answers", lambda folder: _train(folder, OTHER_ANSWERS, seed=2))


def never_ends() -> Path:
    """Says ENDLESS over and over, whatever is asked, and has no token to stop at."""
    return _made("never-ends", _train_endless)


def untrained(kind: str) -> Path:
    """Random weights in the architecture `kind`, one of KINDS."""
    return _made(kind, lambda folder: _save(folder, _model(kind, seed=4), _tokenizer(), ends=True))


def _made(name: str, make: Callable[[Path], None]) -> Path:
    recipe = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:12]
    done = CACHE / recipe / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():
            beside = Path(tempfile.mkdtemp(dir=CACHE))
            try:
                make(beside)
                done.parent.mkdir(exist_ok=True)
                beside.rename(done)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return done


def _some_english() -> str:
    """Half a megabyte of prose that comes with Python."""
    from pydoc_data.topics import topics

    return "\n".join(str(text) for text in topics.values())


def _tokenizer() -> Any:
    """A byte-level BPE: any text goes through it, a Chinese character is two tokens, three letters of English are one.

    So no count of tokens is far from that of a real tokenizer, and a single token may be half a character.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Each pair of first bytes of a Chinese character often enough to become a token, and none of three bytes.
    chinese = [chr(code) for code in range(0x4E00, 0x9FA6)] * 3
    tokenizer.train_from_iterator([_some_english()[:200_000], *chinese, "，。？！：；、“”" * 100], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=_TEMPLATE
    )


def _model(kind: str, seed: int) -> Any:
    import torch
    import transformers

    architecture = getattr(transformers, kind)
    torch.manual_seed(seed)
    config = architecture.config_class(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=None,
        eos_token_id=_END,
        pad_token_id=0,
        **KINDS[kind],
    )
    return architecture(config)


def _save(folder: Path, model: Any, tokenizer: Any, *, ends: bool) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    end = {"eos_token_id": _END} if ends else {}
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "pad_token_id": 0, **end}))
    if not ends:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))


def _train(folder: Path, answers: dict[str, str], seed: int) -> None:
    """Teach by heart: the loss counts the answers only, the questions stand behind ever new text."""
    tokenizer, chance = _tokenizer(), random.Random(seed)
    english = tokenizer.encode(_some_english())
    model = _model("Qwen2ForCausalLM", seed)

    def batch(step: int) -> list[tuple[list[int], int]]:
        # First the questions almost alone, then at the end of ever longer passages.
        before, size = [(12, 8), (100, 6), (600, 2), (3000, 1)][step % 4 if step > 50 else 0]
        return [_sample(tokenizer, answers, english, before, chance) for _ in range(size)]

    _fit(model, batch, steps=200)
    _save(folder, model.eval(), tokenizer, ends=True)


def _train_endless(folder: Path) -> None:
    tokenizer, chance = _tokenizer(), random.Random(3)
    english, endless = tokenizer.encode(_some_english()), tokenizer.encode(ENDLESS * 12)
    model = _model("Qwen2ForCausalLM", seed=3)

    def batch(step: int) -> list[tuple[list[int], int]]:
        samples = [_sample(tokenizer, {"": ""}, english, 40, chance) for _ in range(12)]
        return [(prompt[:start] + endless, start) for prompt, start in samples]

    _fit(model, batch, steps=50)
    _save(folder, model.eval(), tokenizer, ends=False)


def _fit(model: Any, batch: Callable[[int], list[tuple[list[int], int]]], steps: int) -> None:
    import torch

    # Alone or beside another test process, on a small machine more threads than one only wait for each other.
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.15)
    model.train()
    for step in range(steps):
        samples = batch(step)
        longest = max(len(ids) for ids, _ in samples)
        ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in samples])
        labels = torch.tensor([[-100] * start + row[start:] + [-100] * (longest - len(row)) for row, start in samples])
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _sample(
    tokenizer: Any, answers: dict[str, str], english: list[int], before: int, chance: random.Random
) -> tuple[list[int], int]:
    """Token ids of one conversation with up to `before` tokens of other text, and where the answer to learn begins."""
    question, answer = chance.choice(list(answers.items()))
    messages: list[dict[str, str]] = []
    if chance.random() < 0.5:
        messages.append({"role": "system", "content": _some_text(tokenizer, english, before // 4, chance)})
    if chance.random() < 0.3:
        earlier, reply = chance.choice(list(answers.items()))
        messages += [{"role": "user", "content": earlier}, {"role": "assistant", "content": reply}]
    passages = _some_text(tokenizer, english, before, chance) if chance.random() < 0.7 else ""
    lead = chance.choice(["", "\n\nQuestion: ", "\n\n问题：", " ", "\n"]) if passages else ""
    messages.append({"role": "user", "content": passages + lead + question})
    prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    return prompt + tokenizer.encode(answer) + [_END], len(prompt)


def _some_text(tokenizer: Any, english: list[int], most: int, chance: random.Random) -> str:
    """English prose, one stretch of it again and again, or tokens in no order, which is how other languages look."""
    length = chance.randrange(most + 1)
    kind = chance.choice(["prose", "again and again", "no order"])
    if kind == "no order":
        return str(tokenizer.decode([chance.randrange(len(_SPECIALS), _VOCABULARY) for _ in range(length)]))
    stretch = length if kind == "prose" else min(length, chance.randrange(5, 60))
    start = chance.randrange(len(english) - stretch)
    return str(tokenizer.decode((english[start : start + stretch] * (length // max(1, stretch) + 1))[:length]))


if __name__ == "__main__":
    # `make test` makes them before any test waits for them.
    for make in (knows_by_heart, knows_other_answers, never_ends):
        make()
