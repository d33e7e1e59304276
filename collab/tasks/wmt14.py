# SPDX-License-Identifier: Apache-2.0
"""Translation: WMT-14 and other parallel text.

Axes: R rows of packed pairs, L tokens of a row, B sentences to translate.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from collab import beam_search, checks, decoding, models, tasks
from collab.data import cache, examples, pipeline, tokenizer_training
from collab.data.readers import sources
from collab.data.samples import translation
from collab.data.splits import SPLITS
from collab.data.tokenizer import Tokenizer
from collab.io import node_files
from collab.metrics import bleu, tokens
from collab.model_json import Meaning

SHOWN = 10  # number of printed translations


@dataclasses.dataclass(eq=False, kw_only=True)
class Translation(tasks.OfConfig):
  """Translation of sentence pairs, packed into rows; see tasks.Task.

  `data` has the fields of `read`, row_length, batch_size (rows of a global
  batch) and too_long ('drop' or 'truncate').

  Attributes:
    label_smoothing: label smoothing of the training loss.
    beam: beam size of the final evaluation.
    alpha: length penalty of the beam search.
  """

  label_smoothing: float = 0.1
  beam: int = 4
  alpha: float = 0.6
  unit = 'tokens'

  def __post_init__(self):
    data = self.data
    length, size = data.row_length, data.batch_size
    self._language = data.target
    self._bleu = bleu.metric(self._language)  # may be not installed: fail early
    self.corpus, self.tokenizer, folder = read(data, self.workdir)
    self._tokenized = {  # reports bad input early
      split: cache.tokenized(self.corpus, split, self.tokenizer, folder)
      for split in SPLITS
    }
    how = self.seed, data.too_long, self.shard
    self._packed = pipeline.PackedPairs(
      self._tokenized['train'], length, size, *how
    )
    self._length, self._size = length, size
    self.model_kwargs = dict(vocab_size=self.tokenizer.vocab_size)
    self.meaning = Meaning(self.tokenizer.fingerprint)
    padding = self._packed.statistics['target_padding']
    self.units_per_step = round(size * length * (1 - padding))
    self.batch, self.rows = self._packed.batch, self._packed.pairs

  def check(self, model: models.EncoderDecoder) -> None:
    """See tasks.Task. Refuses test sentences that are too long to translate."""
    _check_beam(self.beam, self.alpha, self.tokenizer)
    lengths = self._tokenized['test'].source.lengths + 1  # including <eos>
    most, place = longest(model), int(lengths.argmax())
    if lengths[place] > most:
      raise ValueError(
        f"{self.corpus.name}: sentence {place + 1} of 'test' has "
        f'{lengths[place]} tokens; with model.max_length={model.max_length} '
        f'the model translates at most {most}, so '
        f'{int((lengths > most).sum())} of {len(lengths)} are too long.'
      )

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    sums = tokens.of_batch(model, params, batch, rngs, self.label_smoothing)
    aux = dict(nll=sums['nll'], accuracy=sums['right'])
    return sums['loss'], sums['weight'], aux

  score = staticmethod(tokens.of_rows)

  def passes(
    self, model: models.EncoderDecoder, split: str
  ) -> dict[str, tasks.Pass]:
    """Evaluates the targets' tokens; for 'test' it also translates."""
    data = self._tokenized[split]
    size = max(1, min(self._size, len(data)))
    make = functools.partial(pipeline.eval_batch, data, self._length)
    order = range(len(data))
    found = dict(tokens=tasks.Pass.over(self.score, order, size, make))
    if split == 'test':
      ids = encode(self.tokenizer, self._test[0])
      found['translations'] = translations(
        model, self.tokenizer, ids, self.beam, self.alpha
      )
    return found

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Computes token perplexity and accuracy; for 'test' also BLEU and chrF."""
    scores = tokens.scores(found['tokens'])
    if split != 'test':
      return scores, {}
    of_texts, examples = self._text_scores(found['translations'])
    return scores | of_texts, examples

  def baselines(self, split: str) -> dict[str, float]:
    """Computes BLEU of copying and, on the sample, of a look-up, for 'test'."""
    if split != 'test':
      return {}
    ours, references, _ = self._test
    to = references, self._language
    scores = dict(bleu_of_copying=bleu.scores(ours, *to)['score'])
    if self.corpus.name == 'sample':
      lookup = translation.lookup(self.corpus.pairs('train'))
      baseline = [lookup(s) for s in ours]
      scores['bleu_of_lookup'] = bleu.scores(baseline, *to)['score']
    return scores

  def describe(self) -> dict[str, Any]:
    shown = dict(corpus=self.corpus.name, vocabulary=self.tokenizer.vocab_size)
    dropped = self._tokenized['train'].info['empty_lines_dropped']
    shown |= {f'empty lines in {k}': v for k, v in dropped.items() if v}
    shown['logits at a time'] = tokens.logits_held(
      self.batch(0)['labels'], self.tokenizer.vocab_size
    )
    shown['tokenizer of BLEU'] = self._bleu.tokenizer.signature()
    sides = [y for x in self._tokenized.values() for y in (x.source, x.target)]
    shown['checksum'] = cache.checksum(*(x for side in sides for x in side))
    return shown | self._packed.statistics

  @functools.cached_property
  def _test(self):
    """Returns sources, references and categories of 'test'."""
    return list(zip(*self.corpus.rows('test'), strict=True))

  def _text_scores(self, decoded):
    ours, references, categories = self._test
    found = [
      decoding.line(self.tokenizer, *row) for row in zip(*decoded, strict=True)
    ]
    columns = dict(source=ours, reference=references, ours=found)
    tasks.show('translations', SHOWN, **columns)
    to = references, self._language
    total = bleu.scores(found, *to)
    right = [a == b for a, b in zip(found, references, strict=True)]
    scores = dict(
      bleu=total['score'],
      bleu_signature=total['signature'],
      bleu_precisions=total['precisions'],
      bleu_brevity_penalty=total['brevity_penalty'],
      chrf=bleu.chrf(found, references),
      exact=float(np.mean(right)),
    )
    if any(categories):
      by = bleu.by_category(categories, found, *to)
      scores |= {f'bleu/{name}': x['score'] for name, x in by.items()}
    return scores, dict(bleu=bleu.counts(found, *to))


build = Translation


def read(
  data: ConfigDict, workdir: str
) -> tuple[sources.Corpus, Tokenizer, str]:
  """Reads the parallel text and its tokenizer.

  Args:
    data: data fields of a config, with
      corpus: 'sample', or a name in TFDS, unless path is given.
      path: folder of local files, see `sources.parallel`.
      files: names of files in it, if they are unusual.
      source: language, e.g. 'en'.
      target: language, e.g. 'de'.
      vocab_size: size of the joint BPE trained on the training split.
      vocabulary: a tokenizer.json to use instead, '' for none.
      folder: folder of the tokenised text, '' for workdir/data.
    workdir: folder that keeps the tokenizer for later use.

  Returns:
    sources.Corpus, tokenizer.Tokenizer, folder.
  """
  source, target = data.source, data.target
  if data.path:
    text = sources.parallel(data.path, source, target, tuple(data.files))
  elif data.corpus == 'sample':
    text = sources.sample()
  else:
    text = sources.tfds(data.corpus, source, target)
  rules = tokenizer_training.prepare(
    workdir,
    data.vocabulary,
    lambda: (line for pair in text.pairs('train') for line in pair),
    data.vocab_size,
  )
  if not rules.ours:
    raise ValueError(
      'Translation takes tokenizers of this project only, from which any text '
      'comes back.'
    )
  return text, rules, node_files.folder(data.folder, workdir, 'data')


def longest(model: models.EncoderDecoder) -> int:
  """Returns the most tokens of a sentence, such that 1.5 S + 10 fit too."""
  return 2 * (model.max_length - 10) // 3


def encode(tokenizer: Tokenizer, sentences: Iterable[str]) -> list[list[int]]:
  """Encodes sentences as lists of token ids, with <eos> at the end."""
  return [[*x, tokenizer.eos_id] for x in tokenizer.encode_batch(sentences)]


def translations(
  model: models.EncoderDecoder,
  tokenizer: Tokenizer,
  ids: Sequence[Sequence[int]],
  beam: int,
  alpha: float,
  size: int = 64,
) -> tasks.Pass:
  """Makes a Pass that translates sentences by beam search: decoding.Decoded.

  A translation has at most 1.5 S + 10 tokens; S counts the padded sentence's.

  Args:
    model: EncoderDecoder.
    tokenizer: data.tokenizer.Tokenizer.
    ids: token ids of the sentences, see `encode`, each at most `longest`.
    beam, alpha: see `beam_search.beam`; beam=1 is greedy.
    size: sentences at a time.

  Raises:
    ValueError: the beam is wider than the vocabulary, or impossible.
  """
  _check_beam(beam, alpha, tokenizer)
  encoded = examples.collect((x, len(x)) for x in ids)
  every, rows = np.arange(len(ids)), BeamSearch(tokenizer, beam, alpha)
  return tasks.Pass.by_length(rows, encoded, every, size, model.max_length)


def _check_beam(beam, alpha, tokenizer):
  checks.within('beam', beam, 1, tokenizer.vocab_size)
  beam_search.check(beam, alpha)


class BeamSearch(NamedTuple):
  """Translates rows, a function of tasks.Pass; equal ones compile once."""

  tokenizer: Tokenizer
  beam: int
  alpha: float

  def __call__(
    self, model: models.EncoderDecoder, params: Mapping, batch: Mapping
  ) -> decoding.Decoded:
    """Decodes the best translations of source [B, S], all of one length."""
    source, lengths = batch['tokens'], batch['lengths']
    B, S = source.shape
    limit = min(3 * S // 2 + 10, model.max_length)
    valid = (jnp.arange(S)[None] < lengths[:, None]).astype(jnp.int32)
    memory = model.apply({'params': params}, source, valid, method='encode')
    cache = decoding.empty_cache(model, B, limit, memory)
    fill = decoding.step_of(model, params, 'prefill_memory')
    _, cache = fill(memory, cache, lengths=lengths)
    next_logits = decoding.step_of(model, params)

    def step(tokens, cache):
      logits, cache = next_logits(tokens, cache)
      # No text contains <pad>; Marian relies on that, because its logit is 0.
      return logits.at[..., self.tokenizer.pad_id].set(-jnp.inf), cache

    found = beam_search.beam(
      step,
      cache,
      jnp.full((B, 1), self.tokenizer.bos_id, jnp.int32),
      eos=self.tokenizer.eos_id,
      pad=self.tokenizer.pad_id,
      max_length=limit,
      limits=3 * lengths // 2 + 10,
      size=self.beam,
      alpha=self.alpha,
    )
    best = jnp.pad(
      found.tokens[:, 0],
      ((0, 0), (0, model.max_length - limit)),
      constant_values=self.tokenizer.pad_id,
    )
    return decoding.Decoded(best, found.scores[:, 0])
