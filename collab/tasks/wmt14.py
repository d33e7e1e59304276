# SPDX-License-Identifier: Apache-2.0
"""Translation: WMT-14 and any other parallel text.

Axes: R rows of packed pairs, L tokens of a row, B sentences to translate.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from collab import decoding, metrics, tasks
from collab.data import cache, pipeline, tokenizer_training
from collab.data.readers import sources
from collab.data.samples import translation
from collab.data.splits import SPLITS
from collab.model_json import Meaning

SHOWN = 10  # translations to look at


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
    splits = [*map(self._tokenized, SPLITS)]  # bad input shows early
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
    self.model_kwargs = dict(vocab_size=self.tokenizer.vocab_size)
    self.meaning = Meaning(self.tokenizer.fingerprint)
    self.unit = 'tokens'
    self.units_per_step = round(
      size * length * (1 - self._packed.statistics['target_padding'])
    )
    self.batch, self.rows = self._packed.batch, self._packed.pairs

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

  def loss(self, model, params, batch, rngs):
    x = model.apply({'params': params}, batch, rngs=rngs, method='features')
    table, bias = model.output_table(params)
    sums = metrics.projected_cross_entropy(
      x,
      table,
      batch['labels'],
      batch['weights'],
      self._label_smoothing,
      bias=bias,
    )
    aux = dict(nll=sums['nll'], accuracy=sums['right'])
    return sums['loss'], sums['weight'], aux

  def score(self, model, params, batch):
    """nll, right ones and number of each pair's target tokens, float32 [R]."""
    x = model.apply({'params': params}, batch, method='features')
    table, bias = model.output_table(params)
    return metrics.projected_rows(
      x, table, batch['labels'], batch['weights'], bias
    )

  def passes(self, model, split):
    """Tokens of the targets; of 'test', translations as well."""
    data = self._tokenized(split)
    size = max(1, min(self._size, len(data)))
    batch = functools.partial(pipeline.eval_batch, data, size, self._length)
    found = dict(tokens=tasks.Pass(self.score, batch, -(-len(data) // size)))
    if split == 'test':
      found['translations'] = self._translations(model).computed
    return found

  def metrics(self, split, found):
    """Perplexity and accuracy per token; of 'test', of translations as well."""
    sums = found['tokens']
    nll, right, weight = (
      float(sums[name].sum(dtype=float)) for name in ('nll', 'right', 'weight')
    )
    scores = {
      'nll': nll / weight,
      'perplexity': metrics.perplexity(nll, weight),
      'accuracy': right / weight,
    }
    if split != 'test':
      return scores, {}
    of_texts, examples = self._text_scores(found['translations'])
    return scores | of_texts, examples

  def baselines(self, split):
    """Of 'test': BLEU of copying and, of the sample, of looking words up."""
    if split != 'test':
      return {}
    ours, references, _ = self._test
    to = references, self._language
    scores = dict(bleu_of_copying=metrics.bleu(ours, *to)['score'])
    if self.corpus.name == 'sample':
      lookup = translation.lookup(self.corpus.pairs('train'))
      baseline = [lookup(s) for s in ours]
      scores['bleu_of_lookup'] = metrics.bleu(baseline, *to)['score']
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

  @functools.cached_property
  def _test(self):
    """Sources, references and categories of 'test'."""
    return list(zip(*self.corpus.rows('test'), strict=True))

  def _translations(self, model):
    return Translations(
      model, self.tokenizer, self._test[0], self._beam, self._alpha
    )

  def _text_scores(self, decoded):
    ours, references, categories = self._test
    found = [
      decoding.line(self.tokenizer, *row) for row in zip(*decoded, strict=True)
    ]
    shown = min(SHOWN, len(ours))
    print(f'\nThe first {shown} of {len(ours)} translations of the test set:')
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
    return scores, dict(bleu=metrics.bleu_counts(found, *to))


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
  rules = tokenizer_training.prepare(
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


class Translations:
  """Beam search for a list of sentences, as a Pass and the texts that it gives.

  Sentences of like length are decoded together, padded to a power of two, so
  that few programs are compiled. A translation has at most 1.5 S + 10 tokens.

  Attributes:
    computed: tasks.Pass; of each sentence that can be translated, Decoded.

  Args:
    model: EncoderDecoder.
    tokenizer: data.tokenizer.Tokenizer.
    sentences: list of str.
    beam, alpha: see `decoding.beam`; beam=1 is greedy.
    batch_size: sentences at a time.

  Raises:
    ValueError: the beam is wider than the vocabulary or cannot be.
  """

  def __init__(self, model, tokenizer, sentences, beam, alpha, batch_size=64):
    _check_beam(beam, alpha, tokenizer)
    self._tokenizer, most = tokenizer, longest(model)
    ids = [[*x, tokenizer.eos_id] for x in tokenizer.encode_batch(sentences)]
    self._texts = [''] * len(ids)
    for i, row in enumerate(ids):
      if len(row) > most:
        self._texts[i] = ValueError(
          f'{len(row)} tokens; with max_length={model.max_length} the model '
          f'translates at most {most}'
        )
    order = [i for i, x in enumerate(sentences) if x and not self._texts[i]]
    self._done = list(order)
    order.sort(key=lambda i: len(ids[i]))

    def batch(i):
      rows = order[i * batch_size : (i + 1) * batch_size]
      place = np.full(batch_size, -1)
      place[: len(rows)] = rows
      lengths = np.ones(batch_size, np.int32)
      lengths[: len(rows)] = [len(ids[i]) for i in rows]
      S = min(1 << int(max(lengths) - 1).bit_length(), model.max_length)
      source = np.zeros((batch_size, S), np.int32)
      for row, i in enumerate(rows):
        source[row, : len(ids[i])] = ids[i]
      return dict(source=source, lengths=lengths, place=place)

    def rows(model, params, batch):
      return _decode(model, tokenizer, beam, alpha, params, **batch)

    self.computed = tasks.Pass(rows, batch, -(-len(order) // batch_size))

  def texts(self, decoded):
    """For each sentence its translation as one line, '' for ''.

    Or an exception in its place: it is longer than `longest`, or the model's
    outputs for it are not finite.

    Args:
      decoded: what `computed` gives of all sentences.
    """
    found = list(self._texts)
    for i, *best in zip(self._done, *decoded, strict=True):
      found[i] = decoding.line(self._tokenizer, *best)
    return found


def _check_beam(beam, alpha, tokenizer):
  if beam > tokenizer.vocab_size:
    raise ValueError(f'beam={beam}; expected 1 to {tokenizer.vocab_size}.')
  decoding.check_beam(beam, alpha)


def _decode(model, tokenizer, beam, alpha, params, source, lengths):
  """Decoded of the best translations of source [B, S], all as long."""
  limit = min(3 * source.shape[1] // 2 + 10, model.max_length)
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
    # No text has <pad> in it; Marian, whose logit of it is 0, relies on that.
    return logits.at[..., tokenizer.pad_id].set(-jnp.inf), new['cache']

  start = jnp.full((source.shape[0], 1), tokenizer.bos_id, jnp.int32)
  found = decoding.beam(
    step,
    state['cache'],
    start,
    eos=tokenizer.eos_id,
    pad=tokenizer.pad_id,
    max_length=limit,
    limits=3 * lengths // 2 + 10,
    size=beam,
    alpha=alpha,
    capacity=limit,
  )
  tokens = jnp.pad(
    found.tokens[:, 0],
    ((0, 0), (0, model.max_length - limit)),
    constant_values=tokenizer.pad_id,
  )
  return decoding.Decoded(tokens, found.scores[:, 0])
