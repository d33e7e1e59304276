# SPDX-License-Identifier: Apache-2.0
"""The register of claims: papers', peers' and our own, each with a verdict.

A verdict is computed from the committed rows. `holds` and `does not hold`: the
difference has that sign, its 95 % interval is without 0, and p < 0.05 after
Holm's correction over the claims of a study. Where a claim is that nothing is
lost beyond a margin, its 95 % interval lies above or below that; such claims
are not corrected for their number. Otherwise the rows `cannot tell at this
scale`. All models are small: what holds here need not hold at another scale,
nor what does not.

A difference is that of the first arm to the second, in the units of the score;
+ is better, also where lower scores are. Its interval is the wider, and its p
the larger, of two: the bootstrap over seeds and examples, which is too narrow
where seeds are two or three; and a t test of the seeds alone, with a standard
deviation that is pooled over all arms of the study ([the noise
floor](../questions/noise_floor.md)). Where no arm has two seeds, the rows do
not tell. Times and counts are single figures without an interval.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np

from benchmarks import protocol
from collab import attention
from collab.io import json_text
from experiments import intervals, metric, results, study
from experiments import table as tables

COLLABORATIVE, EMBEDDINGS = 'arXiv 2006.16362', 'arXiv 2310.07911'
OURS = 'ours'
HOLDS, FAILS = 'holds', 'does not hold'
UNKNOWN, WAITING = 'cannot tell at this scale', 'not run yet'
VERDICTS = HOLDS, FAILS, UNKNOWN, WAITING


class Paired(NamedTuple):
  """Two arms whose difference decides on a claim.

  Attributes:
    studies: studies that the arms belong to.
    of: metric.
    arm, baseline: names of the arms.
    sign: 1 if the claim is that arm is better, -1 if worse.
    margin: if given, the claim is that arm is not worse by more.
    prefix: of the arms whose seeds are pooled, '' for all of the studies.
  """

  studies: tuple
  of: metric.Metric
  arm: str
  baseline: str
  sign: int = 1
  margin: float | None = None
  prefix: str = ''

  @property
  def command(self) -> str:
    sweep = 'python -m experiments.sweep {} --data=DIR'.format
    return '` and `./launch.sh '.join(map(sweep, self.studies))


class Read(NamedTuple):
  """A claim on figures without intervals.

  Attributes:
    command: what makes the figures.
    look: function -> (what was measured, whether the claim holds; None if one
      sample does not tell).
  """

  command: str
  look: Callable


class Claim(NamedTuple):
  """A claim, who made it, what decides on it here, and what would settle it."""

  text: str
  source: str
  evidence: Paired | Read
  settle: str


def _parameters():
  D, H = 768, 12
  count = lambda name: attention.build(name, num_heads=H, use_bias=False).count(
    D
  )
  more, full = count('mhe_mul') - count('sha'), 3 * H * (D // H)
  return f'{more:,} of {count("mhe_mul"):,}, and 3Hd = {full:,}', more == full


def _figures(name, *path):
  found = json_text.read_object(protocol.RESULTS / f'{name}.json', figures=dict)
  return functools.reduce(dict.get, path, found['figures'])


def _decoding():
  found = _figures('decode', 'decode, B=32, S=2048')
  share = found['mhe_mul']['ms'] / found['mha']['ms']
  return f"{share:.2f} of MHA's time at 2,048 places", share < 1


def _speed():
  found = _figures('attention', 'layer, B=1, T=2048', 'forward_backward')
  share = found['collab, k=192']['ms'] / found['mha']['ms']
  return f"{share:.2f} of MHA's time at 2,048 tokens", share >= 1


def _decomposed(one, two):
  """Compares Spearman's correlation of two conversions, (way, key width)."""
  path = study.RESULTS / 'minilm.jsonl'
  found = {
    (row['way'], row['key_width']): results.as_float(row.get('spearman'))
    for row in results.rows(path)
    if 'way' in row  # the others are of equal_sizes
  }
  return f'{found[one]:.3f} and {found[two]:.3f}', None  # one sample of text


BLEU, BITS, WORDS = metric.BLEU, metric.BITS, metric.PERPLEXITY
TRANSLATION, FAMILY = ('translation',), ('noise', 'family')
LARGER = 'WMT-14 with Transformer base, 3 seeds: a GPU for a week'
BOOKS = '`:m` and `:l` on a GPU, learning rates tuned at each size'
CLAIMS = (
  Claim(
    'Collaborative attention with half of the key width translates as well as '
    'MHA (at most 0.5 BLEU less)',
    COLLABORATIVE,
    Paired(TRANSLATION, BLEU, 'collab-96', 'mha', margin=0.5),
    LARGER,
  ),
  Claim(
    'Collaborative attention does so with a quarter of the key width',
    COLLABORATIVE,
    Paired(TRANSLATION, BLEU, 'collab-48', 'mha', margin=0.5),
    LARGER,
  ),
  Claim(
    'With a quarter of the key width it translates better than MHA with keys '
    'as narrow',
    COLLABORATIVE,
    Paired(TRANSLATION, BLEU, 'collab-48', 'mha-48'),
    LARGER,
  ),
  Claim(
    'Images are classified as well with half of the key width (at most 0.3 '
    'points less)',
    COLLABORATIVE,
    Paired(('vision',), metric.TOP1, 'collab-64', 'mha', margin=0.3),
    'DeiT-B on ImageNet',
  ),
  Claim(
    'A pretrained encoder, converted to half of the key width by its weights '
    'alone, loses at most 1 point of STS-B after fine-tuning',
    COLLABORATIVE,
    Paired(
      ('glue',), metric.CORRELATION, 'stsb-collab-192-plain', 'stsb-original',
      margin=1.0, prefix='stsb-',
    ),
    'BERT-base, three epochs, as in the paper',
  ),
  Claim(
    'At half of the key width a language model of the same parameters is as '
    'good (at most 0.01 bits more)',
    COLLABORATIVE,
    Paired(FAMILY, BITS, 'collab', 'mha', margin=0.01),
    BOOKS,
  ),
  Claim(
    'Head embeddings cost 3Hd parameters more than a single head',
    EMBEDDINGS,
    Read('python -m collab.accounting', _parameters),
    'algebra: settled',
  ),
  Claim(
    'MHE-MUL translates better than a single head',
    EMBEDDINGS,
    Paired(TRANSLATION, BLEU, 'mhe_mul', 'sha'),
    LARGER,
  ),
  Claim(
    'MHE-ADD translates better than a single head',
    EMBEDDINGS,
    Paired(TRANSLATION, BLEU, 'mhe_add', 'sha'),
    LARGER,
  ),
  Claim(
    'MHE-MUL retains most of what MHA has (at most 3 BLEU less)',
    EMBEDDINGS,
    Paired(TRANSLATION, BLEU, 'mhe_mul', 'mha', margin=3.0),
    LARGER,
  ),
  Claim(
    'MHE-MUL has a lower perplexity on Penn Treebank than a single head',
    EMBEDDINGS,
    Paired(('ptb',), WORDS, 'mhe_mul', 'sha'),
    'the paper\'s model and recipe, which could not be recovered',
  ),
  Claim(
    'MHE-ADD has a lower perplexity on Penn Treebank than a single head',
    EMBEDDINGS,
    Paired(('ptb',), WORDS, 'mhe_add', 'sha'),
    'likewise',
  ),
  *(
    Claim(
      f'Pre-trained and fine-tuned, MHE-MUL is better than a single head: {of}',
      EMBEDDINGS,
      Paired(
        ('finetune',), score, f'{task}-mhe_mul', f'{task}-sha',
        prefix=f'{task}-',
      ),
      'BERT-base, pre-trained by each attention',
    )
    for task, of, score in (
      ('sst2', 'SST-2', metric.ACCURACY),
      ('mrpc', 'MRPC', metric.F1_ACCURACY),
      ('stsb', 'STS-B', metric.CORRELATION),
    )
  ),
  Claim(
    'MLA is better than MHA, at equal parameters',
    'arXiv 2405.04434',
    Paired(FAMILY, BITS, 'mla', 'mha'),
    BOOKS,
  ),
  Claim(
    'GTA loses nothing to MHA (at most 0.01 bits), at equal parameters',
    'arXiv 2505.21487',
    Paired(FAMILY, BITS, 'gta', 'mha', margin=0.01),
    BOOKS,
  ),
  Claim(
    'TPA is better than MHA, at equal parameters',
    'arXiv 2501.06425',
    Paired(FAMILY, BITS, 'tpa', 'mha'),
    BOOKS,
  ),
  Claim(
    'MFA is better than MHA, at equal parameters',
    'arXiv 2412.19255',
    Paired(FAMILY, BITS, 'mfa', 'mha'),
    BOOKS,
  ),
  Claim(
    'A key that is the value as well (SKV) costs perplexity, at equal '
    'parameters',
    'arXiv 2606.04032',
    Paired(FAMILY, BITS, 'skv', 'mha', sign=-1),
    BOOKS,
  ),
  Claim(
    'A key that is the value as well (SKV) costs BLEU',
    'arXiv 2606.04032',
    Paired(TRANSLATION, BLEU, 'skv', 'mha', sign=-1),
    LARGER,
  ),
  Claim(
    'Half of the key heads (GQA) cost at most 0.01 bits per character',
    'public sweeps: 0.003 bits per byte',
    Paired(FAMILY, BITS, 'gqa', 'mha', margin=0.01),
    BOOKS,
  ),
  Claim(
    'One key head (MQA) costs quality in a language model',
    'public sweeps: 0.024 to 0.034 bits per byte',
    Paired(FAMILY, BITS, 'mqa', 'mha', sign=-1),
    BOOKS,
  ),
  Claim(
    'One key head (MQA) costs BLEU',
    'arXiv 1911.02150',
    Paired(TRANSLATION, BLEU, 'mqa', 'mha', sign=-1),
    LARGER,
  ),
  Claim(
    'MHE-MUL translates better than MHE-ADD, whose heads share their scores',
    OURS,
    Paired(TRANSLATION, BLEU, 'mhe_mul', 'mhe_add'),
    'about 16 (sigma / difference)² seeds an arm',
  ),
  Claim(
    'Out of German, too, collaborative attention with a quarter of the keys '
    'loses at most 0.5 BLEU',
    OURS,
    Paired(
      ('german_english',), BLEU, 'de-en-collab-48', 'de-en-mha', margin=0.5
    ),
    'a third seed',
  ),
  Claim(
    "MHE-MUL's embeddings are better around 1 than around 0",
    OURS,
    Paired(
      ('translation', 'starts'), BLEU, 'mhe_mul', 'offset-0-std-1'
    ),
    'a third seed, and another task',
  ),
  Claim(
    'A modern decoder is better than the recipe of GPT-2, at equal parameters '
    'and tokens',
    OURS,
    Paired(('recipe',), BITS, 'modern', 'lm'),
    'the same at `:m` and with tuned learning rates',
  ),
  Claim(
    'With a quarter of the keys a conversion that looks at data scores more on '
    'MRPC than one of weights alone',
    OURS,
    Paired(
      ('glue',), metric.F1_ACCURACY, 'mrpc-collab-96-aware',
      'mrpc-collab-96-plain', prefix='mrpc-',
    ),
    'other pretrained models',
  ),
  Claim(
    'A conversion that looks at data scores more on STS-B, too',
    OURS,
    Paired(
      ('glue',), metric.CORRELATION, 'stsb-collab-96-aware',
      'stsb-collab-96-plain', prefix='stsb-',
    ),
    'other pretrained models',
  ),
  Claim(
    'A quarter of the keys that looks at data keeps more of a sentence encoder '
    "than half of weights alone (Spearman's correlation, untrained)",
    OURS,
    Read(
      'python -m experiments.minilm --model=MODEL_DIR --glue=DIR --save',
      lambda: _decomposed(('data-aware', 96), ('plain', 192)),
    ),
    'other pretrained models, three samples of text',
  ),
  Claim(
    'Collaborative attention with a quarter of the keys is no faster than MHA',
    OURS,
    Read('python -m benchmarks.attention --save', _speed),
    'the same on a GPU',
  ),
  Claim(
    'MHE-MUL decodes faster than MHA',
    OURS,
    Read('python -m benchmarks.decode', _decoding),
    'the same on a GPU',
  ),
)  # fmt: skip


class Result(NamedTuple):
  """A difference where + is better, its 95 % interval, and its p."""

  difference: float
  low: float
  high: float
  p: float


def compared() -> dict[Claim, Result]:
  """Returns the Results of the claims whose arms have run, p as corrected."""
  groups, found = {}, {}
  for claim in CLAIMS:
    if isinstance(claim.evidence, Paired):
      x = claim.evidence
      key = x.studies, x.of.title, x.baseline
      groups.setdefault(key, []).append(claim)
  for (studies, _, baseline), claims in groups.items():
    arms = {x: x for x in [baseline, *(c.evidence.arm for c in claims)]}
    measured = tables.measure(studies, claims[0].evidence.of, arms, baseline)
    for claim in claims:
      both = [measured.get(x) for x in (claim.evidence.arm, baseline)]
      if all(both):
        found[claim] = _result(claim.evidence, *(x.interval for x in both))
  corrected = {}
  signed = [claim for claim in found if claim.evidence.margin is None]
  for studies in {claim.evidence.studies for claim in signed}:
    corrected |= intervals.holm(
      {c: found[c].p for c in signed if c.evidence.studies == studies}
    )
  return {c: x._replace(p=corrected.get(c, x.p)) for c, x in found.items()}


def _result(x, one, base):
  """Joins the bootstrap and the t test of seeds; of both, the worse counts."""
  found = [(*one.span, one.p)]
  arms = tables.seeds(x.studies, x.of, x.prefix).values()
  sigma, freedom = intervals.pooled(arms)
  seeds = one.seeds, base.seeds
  if freedom:
    found.append(intervals.of_seeds(one.difference, sigma, freedom, seeds))
  else:
    found.append((-np.inf, np.inf, np.nan))
  low, high, p = np.transpose(found)
  sign = -1 if x.of.lower else 1
  low, high = sorted((sign * low.min(), sign * high.max()))
  return Result(sign * one.difference, low, high, p.max())


def verdict(x: Paired, found: Result) -> str:
  """Decides on a claim."""
  if x.margin is not None:
    if found.low > -x.margin:
      return HOLDS
    return FAILS if found.high < -x.margin else UNKNOWN
  if not found.p < 0.05 or found.low <= 0 <= found.high:  # nor if p is nan
    return UNKNOWN
  return HOLDS if found.difference * x.sign > 0 else FAILS


def table() -> tables.Table:
  """Makes the register."""
  found, rows = compared(), []
  for claim in CLAIMS:
    measured = span = p = ''
    said, x = WAITING, claim.evidence
    if isinstance(x, Read):
      measured, holds = x.look()
      said = {None: UNKNOWN, True: HOLDS, False: FAILS}[holds]
    elif claim in found:
      one = found[claim]
      number = lambda value, of=x.of: f'{value:+.{of.digits}f}'
      measured = f'{number(one.difference)} ({x.of.title})'
      span = f'{number(one.low)} to {number(one.high)}'
      p = f'{one.p:.3f}' if x.margin is None else ''
      said = verdict(x, one)
    rows.append(
      {
        'claim': claim.text,
        'source': claim.source,
        'measured': measured,
        '95 %': span,
        'p, Holm': p,
        'verdict': said,
        'what would settle it': claim.settle,
        'command': f'`./launch.sh {x.command}`',
      }
    )
  counts = [sum(row['verdict'] == x for row in rows) for x in VERDICTS]

  def draw(figure):
    axis = figure.subplots()
    axis.barh(VERDICTS, counts, color='#b9c7de')
    for place, count in enumerate(counts):
      axis.text(count, place, f' {count}', va='center')
    tables.label_rows(axis, VERDICTS)
    axis.set(xlabel='claims')

  return tables.Table('Claims', __doc__, rows, draw)
