# SPDX-License-Identifier: Apache-2.0
"""Translation: WMT-14 and any other parallel text.

Axes: R rows of packed pairs, L tokens of a row, B sentences to translate.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from collab import decoding, metrics
from collab.data import cache, pipeline, samples, sources, tokenizer

SHOWN = 10  # translations to look at
INPUTS = (  # what the model takes of a batch
  'source',
  'source_segments',
  'source_positions',
  'target_inputs',
  'target_segments',
  'target_positions',
)


class Translation:
  """Sentence pairs, packed into rows for training; see tasks.Task.

  Args:
    data: fields of `read`, row_length, batch_size (rows of a global batch) and
      too_long ('drop' or 'truncate').
    workdir: keeps the tokenizer and the tokenised text.
    seed: of the order of the data.
    shard: (index, count) of this host.
    label_smoothing: of the training loss.
    beam: size of the beam of the final evaluation.
    alpha: its length penalty.
  """

  def __init__(
    self, data, *, workdir, seed, shard, label_smoothing=0.1, beam=4, alpha=0.6
  ):
    data = dict(data)
    length, size = data.pop('row_length'), data.pop('batch_size')
    too_long = data.pop('too_long')
    self._language = data['target']
    self._bleu = metrics.bleu_metric(self._language)  # which may not be there
    self.corpus, self.tokenizer, folder = read(workdir=workdir, **data)
    self._tokenized = functools.partial(
      cache.tokenized, self.corpus, tokenizer=self.tokenizer, folder=folder
    )
    splits = [*map(self._tokenized, sources.SPLITS)]  # bad input shows early
    self._sides = [side for x in splits for side in (x.source, x.target)]
    self._packed = pipeline.PackedPairs(
      splits[0], length, size, seed, too_long, shard
    )
    self._length, self._size = length, size
    self._label_smoothing, self._beam, self._alpha = (
      label_smoothing,
      beam,
      alpha,
    )
    self._program = None, None
    self.model_kwargs = dict(vocab_size=self.tokenizer.vocab_size)
    self.unit = 'tokens'
    self.units_per_step = round(
      size * length * (1 - self._packed.statistics['target_padding'])
    )
    self.batch, self.rows = self._packed.batch, self._packed.pairs
    self.examples = {}  # until there are translations

  def check(self, model):
    """See tasks.Task. Perplexity cuts what is too long, translation cannot."""
    _check_beam(self._beam, self._alpha, self.tokenizer)
    lengths = self._tokenized('test').source.lengths + 1  # with <eos>
    most, place = longest(model), int(lengths.argmax())
    if lengths[place] > most:
      raise ValueError(
        f"{self.corpus.name}: sentence {place + 1} of 'test' has "
        f'{lengths[place]} tokens; with model.max_length={model.max_length} '
        f'the model translates at most {most}, so '
        f'{int((lengths > most).sum())} of {len(lengths)} are too long.'
      )

  def inputs(self, batch):
    return ({key: batch[key] for key in INPUTS},)

  def loss(self, apply, params, batch, rngs):
    x = apply({'params': params}, batch, rngs=rngs, method='features')
    sums = metrics.projected_cross_entropy(
      x,
      params['embed']['embedding'],
      batch['labels'],
      batch['weights'],
      self._label_smoothing,
      bias=params['embed'].get('bias'),
    )
    aux = dict(nll=sums['nll'], accuracy=sums['right'])
    return sums['loss'], sums['weight'], aux

  def evaluate(self, model, params, split):
    """Perplexity and accuracy per token; of 'test', translations as well."""
    sums = self._sums(model, params, split)
    scores = {
      'nll': sums['nll'] / sums['weight'],
      'perplexity': metrics.perplexity(sums['nll'], sums['weight']),
      'accuracy': sums['accuracy'] / sums['weight'],
    }
    if split == 'test':
      scores |= self._translation_scores(model, params)
    return scores

  def describe(self):
    shown = dict(corpus=self.corpus.name, vocabulary=self.tokenizer.vocab_size)
    dropped = self._tokenized('train').info['empty_lines_dropped']
    shown |= {f'empty lines in {k}': v for k, v in dropped.items() if v}
    shown['logits at a time'] = metrics.logits_held(
      self.batch(0)['labels'], self.tokenizer.vocab_size
    )
    shown['tokenizer of BLEU'] = self._bleu.tokenizer.signature()
    shown['checksum'] = cache.checksum(*(x for y in self._sides for x in y))
    return shown | self._packed.statistics

  def translator(self, model, params):
    """sentences -> translations, by this task's beam."""
    return functools.partial(
      translate,
      model,
      params,
      self.tokenizer,
      beam=self._beam,
      alpha=self._alpha,
    )

  def _sums(self, model, params, split):
    sums = self._compiled(model)
    data = self._tokenized(split)
    size = max(1, min(self._size, len(data)))
    batches = pipeline.eval_batches(data, size, self._length)
    total = None
    for batch in batches:
      batch.pop('valid')
      new = jax.device_get(sums(params, batch))
      total = new if total is None else jax.tree.map(np.add, total, new)
    return {name: float(value) for name, value in total.items()}

  def _compiled(self, model):
    """(params, batch) -> sums, compiled once for all evaluations."""

    def sums(params, batch):
      _, weight, aux = self.loss(model.apply, params, batch, rngs={})
      return aux | dict(weight=weight)

    if self._program[0] is not model:
      self._program = model, jax.jit(sums)
    return self._program[1]

  def _translation_scores(self, model, params):
    rows = list(self.corpus.rows('test'))
    ours, references, categories = zip(*rows, strict=True)
    found = self.translator(model, params)(ours)
    finite = not any(isinstance(x, Exception) for x in found)
    found = [x if isinstance(x, str) else '' for x in found]
    shown = min(SHOWN, len(rows))
    print(f'\nThe first {shown} of {len(rows)} translations of the test set:')
    for triple in zip(ours[:SHOWN], references, found, strict=False):
      print(
        '  source     {}\n  reference  {}\n  ours       {}\n'.format(*triple)
      )
    to = references, self._language
    bleu = metrics.bleu(found, *to)
    scores = dict(
      bleu=bleu['score'],
      bleu_signature=bleu['signature'],
      bleu_precisions=bleu['precisions'],
      bleu_brevity_penalty=bleu['brevity_penalty'],
      chrf=metrics.chrf(found, references)['score'],
      exact=float(
        np.mean([a == b for a, b in zip(found, references, strict=True)])
      ),
    )
    if any(categories):
      by = metrics.bleu_by(categories, found, *to)
      scores |= {f'bleu/{name}': x['score'] for name, x in by.items()}
    scores = metrics.nan_unless(finite, scores)
    self.examples = {}
    if finite:
      self.examples = dict(bleu=metrics.bleu_counts(found, *to))
    scores['bleu_of_copying'] = metrics.bleu(ours, *to)['score']
    if self.corpus.name == 'sample':
      lookup = samples.lookup(self.corpus.pairs('train'))
      baseline = [lookup(s) for s in ours]
      scores['bleu_of_lookup'] = metrics.bleu(baseline, *to)['score']
    return scores


build = Translation


def read(
  *,
  workdir,
  corpus,
  path,
  files,
  source,
  target,
  vocab_size,
  vocabulary,
  folder,
):
  """The parallel text and its tokenizer.

  Args:
    workdir: where the tokenizer is kept, and used again from.
    corpus: 'sample', or a name in TFDS, unless path is given.
    path: folder of local files, see `sources.parallel`.
    files: names in it, if they are not the usual ones.
    source: language, e.g. 'en'.
    target: language, e.g. 'de'.
    vocab_size: of the joint BPE that is trained on the training split.
    vocabulary: a tokenizer.json to use instead, '' for none.
    folder: of the tokenised text, '' for workdir/data.

  Returns:
    sources.Corpus, tokenizer.Tokenizer, folder.
  """
  if path:
    text = sources.parallel(path, source, target, tuple(files))
  elif corpus == 'sample':
    text = sources.sample()
  else:
    text = sources.tfds(corpus, source, target)
  rules = tokenizer.prepare(
    workdir,
    vocabulary,
    lambda: (line for pair in text.pairs('train') for line in pair),
    vocab_size,
  )
  if not rules.ours:
    raise ValueError(
      'Translation takes tokenizers of this project only, from which any text '
      'comes back.'
    )
  return text, rules, folder or os.path.join(workdir, 'data')


def longest(model):
  """Tokens that a sentence may have with <eos>, so that 1.5 S + 10 fit too."""
  return 2 * (model.max_length - 10) // 3


def translate(
  model, params, tokenizer, sentences, *, beam=4, alpha=0.6, batch_size=64
):
  """Translations of a list of sentences, by beam search.

  Sentences of like length are decoded together, padded to a power of two, so
  that few programs are compiled. A translation has at most 1.5 S + 10 tokens.

  Args:
    model: EncoderDecoder.
    params: its parameters.
    tokenizer: data.tokenizer.Tokenizer.
    sentences: list of str.
    beam, alpha: see `decoding.beam`; beam=1 is greedy.
    batch_size: sentences at a time.

  Returns:
    For each sentence its translation as one line, '' for ''; or an exception
    in its place: it is longer than `longest`, or the model's outputs for it
    are not finite.

  Raises:
    ValueError: the beam is wider than the vocabulary or cannot be.
  """
  _check_beam(beam, alpha, tokenizer)
  ids = [[*x, tokenizer.eos_id] for x in tokenizer.encode_batch(sentences)]
  run = jax.jit(
    functools.partial(_decode, model, beam, alpha), static_argnums=3
  )
  most, found = longest(model), [''] * len(ids)
  for i, row in enumerate(ids):
    if len(row) > most:
      found[i] = ValueError(
        f'{len(row)} tokens; with max_length={model.max_length} the model '
        f'translates at most {most}'
      )
  order = [i for i, text in enumerate(sentences) if text and not found[i]]
  order.sort(key=lambda i: len(ids[i]))
  starts = range(0, len(order), batch_size)
  for start in tqdm(starts, 'translating', leave=False, disable=None):
    rows = order[start : start + batch_size]
    lengths = np.array(
      [len(ids[i]) for i in rows] + [1] * (batch_size - len(rows))
    )
    S = min(1 << int(max(lengths) - 1).bit_length(), model.max_length)
    limit = min(3 * S // 2 + 10, model.max_length)
    tokens = np.zeros((batch_size, S), np.int32)
    for row, i in enumerate(rows):
      tokens[row, : len(ids[i])] = ids[i]
    out = jax.device_get(run(params, tokens, lengths, limit))
    for i, *best in zip(rows, *out, strict=False):
      found[i] = decoding.line(tokenizer, *best)
  return found


def _check_beam(beam, alpha, tokenizer):
  if beam > tokenizer.vocab_size:
    raise ValueError(f'beam={beam}; expected 1 to {tokenizer.vocab_size}.')
  decoding.check_beam(beam, alpha)


def _decode(model, beam, alpha, params, source, lengths, limit):
  """Decoded of the best translations of source [B, S]: [B, limit], [B]."""
  valid = (jnp.arange(source.shape[1])[None] < lengths[:, None]).astype(
    jnp.int32
  )
  variables = {'params': params}
  memory = model.apply(variables, source, valid, method='encode')
  decoder = model.clone(decode=True)
  shapes = jax.eval_shape(
    lambda: decoder.init(
      jax.random.key(0),
      jnp.zeros((source.shape[0], limit), jnp.int32),
      memory,
      method='next_logits',
    )['cache']
  )
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  _, state = decoder.apply(
    variables | {'cache': state},
    memory,
    lengths,
    method='prefill_memory',
    mutable=['cache'],
  )

  def step(tokens, state):
    logits, new = decoder.apply(
      variables | {'cache': state},
      tokens,
      method='next_logits',
      mutable=['cache'],
    )
    return logits, new['cache']

  start = jnp.full((source.shape[0], 1), tokenizer.BOS, jnp.int32)
  found = decoding.beam(
    step,
    state['cache'],
    start,
    eos=tokenizer.EOS,
    pad=tokenizer.PAD,
    max_length=limit,
    limits=3 * lengths // 2 + 10,
    size=beam,
    alpha=alpha,
    capacity=limit,
  )
  return decoding.Decoded(found.tokens[:, 0], found.scores[:, 0])
