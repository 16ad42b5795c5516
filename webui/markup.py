"""Small pieces of HTML for Markdown components, built from values; every value is escaped here and nowhere else.

Gradio sanitises the result once more in the browser. One piece is one line: inside HTML without blank lines nothing
is taken as Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backends.types import Progress
from rag.types import FileRecord, Source
from webui.texts import Texts

_ACTIVE = re.compile(r"""[&<>"'\\`*_{}\[\]()#+\-.!|~$:]""")


def escape(value: object) -> str:
    """A value as text of HTML: no tag, no attribute end, no Markdown, no line end."""
    return "<br>".join(_ACTIVE.sub(lambda found: f"&#{ord(found[0])};", line) for line in str(value).splitlines())


def _label(value: object) -> str:
    # A name is one line, however many were put into it.
    return escape(" ".join(str(value).split()))


def rows(pairs: Iterable[tuple[str, str]], none: str) -> str:
    """One row for each name and what there is to say of it; `none` where there are no rows."""
    made = "".join(
        f'<div class="q-file q-row"><span class="q-file-name">{_label(name)}</span>'
        f'<span class="q-quiet">{escape(about)}</span></div>'
        for name, about in pairs
    )
    return f'<div class="q-files">{made}</div>' if made else f'<div class="q-quiet">{escape(none)}</div>'


def bar(fraction: float | None) -> str:
    """A progress bar; None is a bar that only shows that something happens."""
    if fraction is None:
        return "<progress></progress>"
    return f'<progress max="100" value="{_percent(fraction)}"></progress>'


def _percent(fraction: float) -> int:
    return round(100 * min(1.0, max(0.0, fraction)))


def pace(per_second: float, seconds_left: float | None, texts: Texts) -> list[str]:
    """How fast passages are made and how long it will take, as far as that is known."""
    facts = [texts.per_second.format(n=f"{per_second:.3g}")] if per_second else []
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        left = texts.minutes.format(m=minutes) if minutes >= 2 else texts.seconds.format(s=seconds + 60 * minutes)
        facts.append(texts.time_left.format(left=left))
    return facts


def files(records: Iterable[FileRecord], texts: Texts) -> str:
    """One row per document: name, and how far it is or what came of it."""
    rows = "".join(_file(record, texts) for record in records)
    return f'<div class="q-files">{rows}</div>' if rows else f'<div class="q-quiet">{escape(texts.no_files)}</div>'


def _file(record: FileRecord, texts: Texts) -> str:
    name = f'<span class="q-file-name">{_label(record.name)}</span>'
    if record.finished:
        return f'<div class="q-file q-{escape(record.state)}">{name}{_outcome(result(record, texts))}</div>'
    state = record.reindexing or record.state
    word = {"parsing": texts.parsing, "embedding": texts.embedding}.get(state, texts.uploaded)
    waiting = state == "uploaded"
    facts = [result(record, texts)] if record.reindexing else []
    facts.append(word if waiting else f"{word} {_percent(record.progress)}%")
    facts += pace(record.passages_per_second, record.seconds_left, texts)
    progress = "" if waiting else bar(record.progress)
    return f'<div class="q-file q-working">{name}{_outcome(texts.separator.join(facts))}{progress}</div>'


def _outcome(text: str) -> str:
    return f'<span class="q-file-result">{escape(text)}</span>'


def result(record: FileRecord, texts: Texts) -> str:
    """What came of a finished document, as plain text: "12 pages, 48 passages, searchable" or "failed: why"."""
    if record.state == "failed":
        return texts.failed_why.format(why=texts.reason(record.reason) or record.error or record.reason)
    parts = [_count(record.pages, texts.pages_one, texts.pages_many)] if record.pages else []
    parts += [_count(record.passages, texts.passages_one, texts.passages_many), texts.searchable]
    return texts.separator.join(parts)


def _count(n: int, one: str, many: str) -> str:
    return one if n == 1 else many.format(n=n)


def sources(found: tuple[Source, ...], texts: Texts) -> str:
    """The sources under an answer: number, file, page and score, each opening its passage."""
    if not found:
        return f'<div class="q-sources q-quiet">{escape(texts.no_sources)}</div>'
    title = f'<div class="q-sources-title">{escape(texts.sources)}</div>'
    return f'<div class="q-sources">{title}{"".join(_source(source, texts) for source in found)}</div>'


def _source(source: Source, texts: Texts) -> str:
    hit = source.hit
    page = "" if hit.page is None else f'<span class="q-page">{escape(texts.page.format(page=hit.page))}</span>'
    heading = f'<div class="q-heading">{_label(hit.heading)}</div>' if hit.heading else ""
    score = escape(texts.score.format(score=_percent(hit.score)))
    return (
        f'<details class="q-source"><summary><span class="q-number">{source.number}</span>'
        f'<span class="q-file-name">{_label(hit.file)}</span>{page}<span class="q-score">{score}</span></summary>'
        f'<div class="q-passage">{heading}{_quoted(source)}</div></details>'
    )


def _quoted(source: Source) -> str:
    """What the model read; what stands around the passage that was found is set off from it."""
    before, passage, after = source.quoted.partition(source.hit.text)
    around = (f'<span class="q-around">{escape(text)}</span>' if text else "" for text in (before, after))
    return next(around) + escape(passage) + next(around)


def progress(step: Progress, texts: Texts) -> str:
    """A stage of a long job with its bar."""
    fraction = step.done / step.total if step.total > 0 else None
    percent = "" if fraction is None else f" {_percent(fraction)}%"
    note = f'<span class="q-quiet">{_label(step.note)}</span>' if step.note else ""
    return f'<div class="q-progress"><span>{_label(texts.stage(step.stage))}{percent}</span>{bar(fraction)}{note}</div>'
