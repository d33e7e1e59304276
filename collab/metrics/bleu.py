# SPDX-License-Identifier: Apache-2.0
"""BLEU and chrF of translations, computed by sacreBLEU."""

from collections.abc import Sequence
import re
from typing import TYPE_CHECKING

from collab import checks

if TYPE_CHECKING:
  import sacrebleu


def metric(
  language: str = '', effective_order: bool = False
) -> 'sacrebleu.BLEU':
  """Makes sacreBLEU's BLEU, with the tokenizer for a language.

  The tokenizer is zh, ja-mecab or ko-mecab for Chinese, Japanese and Korean, in
  which 13a would see sentences of one word. It is 13a for all others.

  Args:
    language: language of the texts, e.g. 'de', 'zh-CN', 'jpn_Jpan'; '' for 13a.
    effective_order: see `scores`.

  Raises:
    ValueError: the tokenizer needs a package that is not installed.
  """
  from babel.core import get_global
  from sacrebleu.metrics import BLEU  # slow, and needed only for scoring text

  code = re.split('[-_]', language.lower())[0]
  code = get_global('language_aliases').get(code, code)
  with checks.located(f'BLEU of the language {language!r}', RuntimeError):
    return BLEU(trg_lang=code, effective_order=effective_order)


def scores(
  hypotheses: Sequence[str],
  references: Sequence[str],
  language: str = '',
  *,
  effective_order: bool = False,
) -> dict:
  """Computes BLEU = 100 BP exp(mean_n log p_n), n = 1..4, of a corpus.

  Post, 2018. sacreBLEU tokenises the texts, so they must be detokenised.

  Args:
    hypotheses: list of str.
    references: list of str, equally long.
    language: language of the texts, see `metric`.
    effective_order: leave out the n for which no hypothesis is long enough.
      Otherwise texts of at most three words score 0 even when all are right.

  Returns:
    dict: score, signature (to be reported with every result), precisions (a
    list, in percent), brevity_penalty.

  Raises:
    ValueError: there are no texts, or the numbers of texts differ; or as
      `metric`.
  """
  _check_texts(hypotheses, references)
  scorer = metric(language, effective_order)
  result = scorer.corpus_score(hypotheses, [references])
  return dict(
    score=result.score,
    signature=str(scorer.get_signature()),
    precisions=result.precisions,
    brevity_penalty=result.bp,
  )


def counts(
  hypotheses: Sequence[str], references: Sequence[str], language: str = ''
) -> list[list[int]]:
  """Computes what each sentence adds to `scores`, to score any subset.

  Arguments and errors as in `scores`.

  Returns:
    For each sentence [its length, the reference's, matching 1- to 4-grams, its
    1- to 4-grams]: ten ints, from which nobody can recover the text.
  """
  _check_texts(hypotheses, references)
  score = metric(language, effective_order=True).sentence_score
  found = map(score, hypotheses, ([x] for x in references))
  return [[x.sys_len, x.ref_len, *x.counts, *x.totals] for x in found]


def of_counts(sums: Sequence[int]) -> float:
  """Computes BLEU from the sum of rows of `counts`: ten numbers."""
  from sacrebleu.metrics import BLEU

  ours, reference, *grams = map(int, sums)
  return BLEU.compute_bleu(
    grams[:4], grams[4:], ours, reference, smooth_method='exp'
  ).score


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
  """Computes chrF2 = 5 P R / (4 P + R) of character 1- to 6-grams, in percent.

  Popović, 2015. Arguments and errors as in `scores`.
  """
  from sacrebleu.metrics import CHRF

  _check_texts(hypotheses, references)
  return CHRF().corpus_score(hypotheses, [references]).score


def by_category(
  categories: Sequence[str],
  hypotheses: Sequence[str],
  references: Sequence[str],
  language: str = '',
) -> dict[str, dict]:
  """Computes `scores` of each category, with effective_order.

  Args:
    categories: list of str, as many as hypotheses.
    hypotheses: list of str.
    references: list of str.
    language: see `metric`.

  Returns:
    dict from category, sorted, to the result of `scores`.
  """
  _check_texts(hypotheses, references)
  rows = list(zip(categories, hypotheses, references, strict=True))
  found = {}
  for category in sorted(set(categories)):
    pairs = [pair for kind, *pair in rows if kind == category]
    ours, theirs = zip(*pairs, strict=True)
    found[category] = scores(ours, theirs, language, effective_order=True)
  return found


def _check_texts(hypotheses, references):
  if not hypotheses or len(hypotheses) != len(references):
    raise ValueError(
      f'There must be as many hypotheses as references, and some; got '
      f'{len(hypotheses)} and {len(references)}.'
    )
