"""The text of answers in vLLM: as the original tokenizer decodes it, and never half a character in a stream."""

from __future__ import annotations

from typing import Any

from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer

from backends.engines.vllm_plugin.requests import stands_alone
from backends.families.decoding import Decoder

DECODED_HERE = "decoded_by_quartet"  # attribute of a tokenizer


def decode_answers() -> None:
    """Have vLLM decode the answers of tokenizers with the attribute DECODED_HERE by `AnswerDetokenizer`.

    Its own way takes an answer for the continuation of the prompt's text, so that the first word begins with a space
    that is the tokenizer's own; and it loses characters beside bytes that make none.
    """
    own = IncrementalDetokenizer.from_new_request
    if own.__func__ is not _from_new_request:
        IncrementalDetokenizer.vllms_own = own
        IncrementalDetokenizer.from_new_request = classmethod(_from_new_request)


def _from_new_request(cls: Any, tokenizer: Any, request: Any) -> Any:
    return (
        AnswerDetokenizer(tokenizer, request) if hasattr(tokenizer, DECODED_HERE) else cls.vllms_own(tokenizer, request)
    )


class AnswerDetokenizer(BaseIncrementalDetokenizer):  # type: ignore[misc]
    """One answer of one request; stop texts and what is held back for them are vLLM's."""

    def __init__(self, tokenizer: Any, request: Any) -> None:
        super().__init__(request)
        params = request.sampling_params
        self._decoder = Decoder(tokenizer, not params.skip_special_tokens, not stands_alone(params))
        self._complete = False

    def decode_next(self, next_token_id: int) -> str:
        return self._decoder.step(next_token_id)

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        stopped_at: str | None = super().update(new_token_ids, stop_terminated)
        self._complete = self._complete or stopped_at is not None
        return stopped_at

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        if finished and not delta and not self._complete:
            # An answer given as a whole says where it was cut within a character; a stream never shows half of one.
            self._complete = True
            self.output_text += self._decoder.rest()
        return str(super().get_next_output_text(finished, delta))
