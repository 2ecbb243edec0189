"""All caption metrics at once, each text tokenised once."""

from __future__ import annotations

from functools import lru_cache

from tove_core.evaluation.metrics.bleu import bleu
from tove_core.evaluation.metrics.cider import cider
from tove_core.evaluation.metrics.ptb import tokenize
from tove_core.evaluation.metrics.rouge import rouge
from tove_core.evaluation.metrics.score import Candidates, References, Score


def score_captions(candidates: Candidates, references: References) -> dict[str, Score]:
    """Return BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D by name, with COCO's tokens.

    Raises:
        DataError: the ids differ or there are none.
    """
    tokenizer = lru_cache(maxsize=None)(tokenize)
    scores = (
        *bleu(candidates, references, tokenizer=tokenizer),
        rouge(candidates, references, tokenizer=tokenizer),
        cider(candidates, references, tokenizer=tokenizer),
    )
    return {score.name: score for score in scores}
