"""Which writing systems a text uses, and which of them a tokenizer was made for. Knows no model and no store."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

_LETTERS = {
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "han": "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    "kana": "\u3041-\u30ff",
    "hangul": "\u1100-\u11ff\uac00-\ud7af",
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff",
    "arabic": "\u0600-\u06ff",
    "hebrew": "\u0590-\u05ff",
    "devanagari": "\u0900-\u097f",
    "thai": "\u0e00-\u0e7f",
}
_PATTERNS = {name: re.compile(f"[{letters}]") for name, letters in _LETTERS.items()}
HAN = _LETTERS["han"]

# One ordinary sentence for each script, and how many tokens a letter may cost in a vocabulary that has that script's
# words. An English vocabulary knows the letters of Russian too, but spells every word with them.
_SAMPLES = {
    "latin": ("The weather report says that it will rain in the mountains tomorrow", 0.5),
    "han": ("天气预报说明天山区将会下雨，请大家出门时带好雨伞，注意行车安全", 1.2),
    "kana": ("あしたはやまであめがふるでしょう、かさをわすれないでください", 1.0),
    "hangul": ("일기예보에 따르면 내일 산간 지역에 비가 내릴 것으로 보입니다", 0.9),
    "cyrillic": ("Прогноз погоды обещает завтра дождь в горах", 0.6),
    "greek": ("Το δελτίο καιρού λέει ότι αύριο θα βρέξει στα βουνά", 0.6),
    "arabic": ("تقول النشرة الجوية إن المطر سيهطل غدا في الجبال", 0.6),
    "hebrew": ("התחזית אומרת שמחר ירד גשם בהרים", 0.6),
    "devanagari": ("मौसम की रिपोर्ट कहती है कि कल पहाड़ों में बारिश होगी", 0.6),
    "thai": ("พยากรณ์อากาศบอกว่าพรุ่งนี้ฝนจะตกบนภูเขา", 0.6),
}


_TELLING = 400  # characters at the beginning of a text tell its language


def scripts(text: str) -> dict[str, float]:
    """The share of each script among the letters of `text`: together 1, or {} for a text without letters."""
    if text.isascii():
        return {"latin": 1.0} if any(map(str.isalpha, text)) else {}
    counts = {name: len(pattern.findall(text)) for name, pattern in _PATTERNS.items()}
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count}


def spoken_scripts(tokenize: Callable[[str], Sequence[int]], unknown: int | None) -> frozenset[str]:
    """The scripts whose words are in a vocabulary. `tokenize` gives ids without special tokens, `unknown` is the id of
    an unknown word. A vocabulary that merely knows the letters does not count."""
    spoken = set()
    for name, (sample, limit) in _SAMPLES.items():
        ids = tokenize(sample)
        letters = len(_PATTERNS[name].findall(sample))
        unknowns = 0 if unknown is None else ids.count(unknown)
        if unknowns <= 0.05 * len(ids) and len(ids) <= limit * letters:
            spoken.add(name)
    return frozenset(spoken)


def fluency(shares: Mapping[str, float], spoken: frozenset[str]) -> float:
    """0..1: how much of a text with these script shares is in the scripts `spoken`. A text without letters gives 1."""
    return sum(share for name, share in shares.items() if name in spoken) if shares else 1.0


def reads(text: str, spoken: frozenset[str]) -> bool:
    """Whether a model that knows the scripts `spoken` makes sense of `text`."""
    return fluency(scripts(text[:_TELLING]), spoken) > 0.5
