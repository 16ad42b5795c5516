"""The reranker, on a cross-encoder of some kilobytes whose weights are set here: a stand-in for those of a hub, which a
test cannot download. It loads in the real worker and likes passages with the word "zebra"."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.errors import EngineFailed
from rag.knowledge import KnowledgeService
from rag.ranking import THRESHOLD, Candidate, Scored, reordered
from rag.reranker import CANDIDATES, Reranker
from tests.rag.hashed_embeddings import HashedEmbeddings

_WORDS = ["pump", "warranty", "months", "lasts", "the", "of", "how", "long", "does", "years", "zebra", "copper", "roof"]


def cross_encoder(folder: Path, scores: int = 1) -> Path:
    """BERT of one layer. Attention takes the mean of what all tokens say, and only "zebra" says anything."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    config = BertConfig(
        vocab_size=len(known), hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
        max_position_embeddings=128, num_labels=scores,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "LayerNorm" not in name:
                weights.zero_()
        model.bert.embeddings.word_embeddings.weight[known.index("zebra")] = torch.tensor([1.0, -1.0, 1.0, -1.0])
        for dense in (layer.attention.self.value, layer.attention.output.dense, model.bert.pooler.dense):
            dense.weight.copy_(torch.eye(4))
        model.classifier.weight[:] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(known))
    tokenizer = {"tokenizer_class": "BertTokenizer", "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def scored(*texts: str) -> list[Scored]:
    """Passages whose scores go down from 0.9."""
    return [
        Scored(0.9 - 0.01 * at, Candidate(at, text, "", None, "a.txt", "a", None, "")) for at, text in enumerate(texts)
    ]


def texts_of(ranked: list[Scored]) -> list[str]:
    return [one.candidate.text for one in ranked]


def test_places_are_exchanged_and_scores_stay_where_they_are() -> None:
    ranked = scored("a", "b", "c", "d")
    better = reordered(ranked, [-7.5, 0.25, 11.0])
    assert texts_of(better) == ["c", "b", "a", "d"]
    assert [one.score for one in better] == [one.score for one in ranked]


def test_the_best_passages_are_put_in_the_order_of_the_model_and_no_others(tmp_path: Path) -> None:
    reranker = Reranker(str(cross_encoder(tmp_path / "cross")), threads=1)
    try:
        texts = [f"the pump lasts {n} years" for n in range(CANDIDATES + 5)]
        texts[CANDIDATES - 1] = "the zebra lasts"
        texts[CANDIDATES + 1] = "zebra zebra"  # behind those that are looked at
        found = reranker.reordered("how long does the pump last", scored(*texts))
        assert reranker.trouble == ""
        assert texts_of(found) == ["the zebra lasts", *texts[: CANDIDATES - 1], *texts[CANDIDATES:]]
        nothing = [Scored(0.0, one.candidate) for one in scored("the pump", "the zebra")]
        assert reranker.reordered("how long", nothing) == nothing
    finally:
        reranker.close()
    with pytest.raises(EngineFailed):
        reranker._process.introduction()
    assert texts_of(reranker.reordered("how long", scored("a", "zebra"))) == ["a", "zebra"]


async def searched(folder: Path, reranker: str, query: str) -> tuple[list[tuple[str, float]], str]:
    """The hits of a search in three files, and the note of the status after it."""
    service = KnowledgeService(folder / "data", embeddings=HashedEmbeddings(), reranker_model=reranker)
    await service.start()
    try:
        await service.create("bench")
        ids = []
        for name, text in {
            "pump.txt": "The warranty of the pump lasts 36 months.",
            "zebra.txt": "The zebra in the yard has seen the warranty of the pump.",
            "roof.txt": "The roof is made of copper.",
        }.items():
            (folder / name).write_text(text)
            ids.append((await service.add_file("bench", name, folder / name)).id)
        await service.wait("bench", ids)
        hits = await service.search("bench", query)
        return [(hit.file, hit.score) for hit in hits], (await service.embedding_status()).note
    finally:
        await service.close()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "other"


async def test_a_search_uses_it_and_its_scores_mean_the_same(folders: tuple[Path, Path], tmp_path: Path) -> None:
    query = "How long does the warranty of the pump last?"
    plain, _ = await searched(folders[0], "", query)
    better, note = await searched(folders[1], str(cross_encoder(tmp_path / "cross")), query)
    assert (plain[0][0], better[0][0], note) == ("pump.txt", "zebra.txt", "")
    assert [score for _, score in plain] == [score for _, score in better]
    assert better[0][1] >= THRESHOLD


async def test_small_talk_is_rejected_with_it_too(tmp_path: Path) -> None:
    hits, _ = await searched(tmp_path, str(cross_encoder(tmp_path / "cross")), "Hello, how are you?")
    assert [score for _, score in hits] == [0.0] * 3


@pytest.mark.parametrize("kind", ["nothing", "three scores"])
async def test_without_the_model_searches_go_on_and_the_status_says_why(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "cross"
    if kind == "nothing":
        folder.mkdir()
    else:
        cross_encoder(folder, scores=3)
    hits, note = await searched(tmp_path, str(folder), "How long does the warranty of the pump last?")
    assert hits[0][0] == "pump.txt"
    assert note.startswith(f"The reranker {folder} could not be loaded (")
    assert "--reranker-model" in note
    assert "Traceback" not in note
