# SPDX-License-Identifier: Apache-2.0
"""Metrics as plain functions; what is a library's is left to the library.

`bleu` and `chrf` take texts. `cross_entropy` and `accuracy` take arrays, can be
jitted, and return (sum, weight) in float32, so that sums over batches, devices
and accumulation steps are exact whatever the padding: mean = sum / weight.

Axes: B batch, T tokens, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp

PART = 4 << 20  # logits that exist at a time; they stay in a CPU's cache

# Texts ------------------------------------------------------------------------


def bleu(hypotheses, references, *, effective_order=False):
  """BLEU = 100 BP exp(mean_n log p_n), n = 1..4, of a corpus, by sacreBLEU.

  Post, 2018. Tokenised by sacreBLEU (13a), so the texts must be detokenised.

  Args:
    hypotheses: list of str.
    references: list of str, as many.
    effective_order: leave out the n for which no hypothesis is long enough.
      Otherwise texts of at most three words score 0 even when all are right.

  Returns:
    dict: score, signature (belongs into every result), precisions (a list, in
    percent), brevity_penalty, length_ratio, sentences.

  Raises:
    ValueError: no texts, or not as many references.
  """
  from sacrebleu.metrics import BLEU  # only who scores text waits for it

  _check_texts(hypotheses, references)
  metric = BLEU(tokenize='13a', effective_order=effective_order)
  result = metric.corpus_score(hypotheses, [references])
  return dict(
    score=result.score,
    signature=str(metric.get_signature()),
    precisions=result.precisions,
    brevity_penalty=result.bp,
    length_ratio=result.ratio,
    sentences=len(hypotheses),
  )


def chrf(hypotheses, references):
  """chrF2 = 5 P R / (4 P + R) of character 1- to 6-grams, by sacreBLEU.

  Popović, 2015. Arguments and errors as `bleu`.

  Returns:
    dict: score (0 to 100), signature, sentences.
  """
  from sacrebleu.metrics import CHRF

  _check_texts(hypotheses, references)
  metric = CHRF()
  score = metric.corpus_score(hypotheses, [references]).score
  signature = str(metric.get_signature())
  return dict(score=score, signature=signature, sentences=len(hypotheses))


def bleu_by(categories, hypotheses, references):
  """`bleu` of each category alone, with effective_order (see the signature).

  Args:
    categories: list of str, as many as hypotheses.
    hypotheses: list of str.
    references: list of str.

  Returns:
    dict from category, sorted, to the result of `bleu`.
  """
  _check_texts(hypotheses, references)
  if isinstance(categories, str) or len(categories) != len(hypotheses):
    raise ValueError(
      f'categories must be a list of {len(hypotheses)}, one a hypothesis, got '
      f'{type(categories).__name__} of {len(categories)}.'
    )
  groups = {category: ([], []) for category in sorted(set(categories))}
  for category, *pair in zip(categories, hypotheses, references, strict=True):
    for texts, text in zip(groups[category], pair, strict=True):
      texts.append(text)
  return {c: bleu(*pair, effective_order=True) for c, pair in groups.items()}


def _check_texts(hypotheses, references):
  for name, texts in dict(hypotheses=hypotheses, references=references).items():
    items = [texts] if isinstance(texts, str) else texts
    wrong = [x for x in items if x is texts or not isinstance(x, str)]
    if wrong:
      kind = type(wrong[0]).__name__
      raise ValueError(f'{name} must be a list of str, got {kind}.')
  if not hypotheses or len(hypotheses) != len(references):
    raise ValueError(
      f'There must be as many hypotheses as references, and some; got '
      f'{len(hypotheses)} and {len(references)}.'
    )


# Tokens -----------------------------------------------------------------------


def cross_entropy(logits, labels, weights, label_smoothing=0.0):
  """sum_i w_i ((1 - e) CE_i + e mean_v(-log p_iv)),  CE_i = -log p_i,label.

  Szegedy et al., 2016, section 7. With e = 0 it is what `perplexity` takes; in
  one compiled program both together compute log p once.

  Args:
    logits: [B, T, V], or any [..., V]; taken to float32.
    labels: int [B, T]. One outside of 0 to V - 1 makes the sum NaN.
    weights: [B, T]; where 0, labels and logits may hold anything, and have no
      gradient.
    label_smoothing: e, 0 to below 1.

  Returns:
    (sum, weight), float32 []; weight is the sum of the weights.

  Raises:
    ValueError: shapes or types that do not fit, e out of range.
  """
  if not 0 <= label_smoothing < 1:
    raise ValueError(
      f'label_smoothing must be 0 to below 1, got {label_smoothing}.'
    )
  logits, labels, weights, valid = _counted(logits, labels, weights)
  # Sums over v alone, which compile to few passes over the logits: gathering
  # the label's logit would scatter its gradient into zeros of their size.
  loss = jax.nn.logsumexp(logits, axis=-1)
  loss -= (1 - label_smoothing) * _picked(logits, labels)
  if label_smoothing:
    loss -= label_smoothing * logits.mean(axis=-1)
  loss = jnp.where(valid, loss, jnp.nan)
  return (loss * weights).sum(), weights.sum()


def projected_cross_entropy(x, table, labels, weights, label_smoothing=0.0):
  """`cross_entropy` and `accuracy` of the logits x E^T, a part of T at a time.

  The logits [B, T, V] never exist in full: a part is made, used and forgotten,
  and made again in the backward pass. Parts are cut along T, so that a batch
  that is split over devices stays where it is.

  Args:
    x: [B, T, D].
    table: E, [V, D].
    labels, weights, label_smoothing: as in `cross_entropy`.

  Returns:
    dict of float32 []: loss, nll (the loss without smoothing), right, weight:
    sums over the labels that count.
  """
  B, T, _ = x.shape
  n = next(
    n for n in range(1, T + 1) if T % n == 0 and n * PART >= B * T * len(table)
  )

  @jax.checkpoint
  def part(x, labels, weights):
    # As x @ E^T, whose gradient to E needs no transposed copy of the logits.
    logits = x @ table.astype(x.dtype).T
    loss, weight = cross_entropy(logits, labels, weights, label_smoothing)
    nll, _ = cross_entropy(logits, labels, weights)
    right, _ = accuracy(logits, labels, weights)
    return dict(loss=loss, nll=nll, right=right, weight=weight)

  def cut(x):
    return jnp.moveaxis(x.reshape(B, n, T // n, *x.shape[2:]), 1, 0)

  sums = jax.lax.map(lambda p: part(*p), (cut(x), cut(labels), cut(weights)))
  return jax.tree.map(lambda x: x.sum(0), sums)


def accuracy(logits, labels, weights):
  """sum_i w_i [logit_i,label = max_v logits_iv]. Arguments: `cross_entropy`."""
  logits, labels, weights, valid = _counted(logits, labels, weights)
  right = (_picked(logits, labels) == logits.max(-1)).astype(jnp.float32)
  right = jnp.where(valid, right, jnp.nan)
  return (right * weights).sum(), weights.sum()


def perplexity(nll_sum, count):
  """exp(nll_sum / count), of natural logarithms; inf where that is too large.

  Args:
    nll_sum: sum of -log p of the labels, without label smoothing.
    count: sum of their weights, above 0.
  """
  nll_sum, count = float(nll_sum), float(count)
  if not count > 0:
    raise ValueError(f'count must be above 0, got {count}.')
  try:
    return math.exp(nll_sum / count)
  except OverflowError:
    return math.inf


def _picked(logits, labels):
  """logits_i,label, [..., V] -> [...]."""
  ids = jnp.arange(logits.shape[-1])
  hit = labels[..., None] == ids.reshape((1,) * labels.ndim + ids.shape)
  return jnp.where(hit, logits, 0).sum(-1)


def _counted(logits, labels, weights):
  """float32 logits and weights, legal labels, and which labels were legal."""
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  weights = jnp.asarray(weights, jnp.float32)
  if not logits.shape[:-1] == labels.shape == weights.shape or not logits.ndim:
    raise ValueError(
      'labels and weights must have the shape of logits without its last axis; '
      f'got logits {logits.shape}, labels {labels.shape}, weights '
      f'{weights.shape}.'
    )
  if labels.dtype.kind not in 'iu':
    raise ValueError(f'labels must be integers, got {labels.dtype}.')
  counted = weights != 0
  valid = ~counted | ((labels >= 0) & (labels < logits.shape[-1]))
  # Zeros, for 0 * NaN would be NaN, in the sum and in the gradient.
  logits = jnp.where(counted[..., None], logits.astype(jnp.float32), 0)
  return logits, jnp.where(counted & valid, labels, 0), weights, valid
