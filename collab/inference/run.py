# SPDX-License-Identifier: Apache-2.0
"""A trained or converted model to use: text, translations, embeddings, maps."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from collab import checks, decoding, models, tasks
from collab.convert import source
from collab.data import examples
from collab.data.sentencepieces import SentencePieces
from collab.data.tokenizer import Tokenizer
from collab.inference import attention_maps, pooling
from collab.inference.continuation import Continuation
from collab.model_json import Meaning
from collab.runtime import plan
from collab.tasks import wmt14
from collab.training import evaluation, sharding

KINDS = dict(
  texts='a text encoder',
  stream='a language model',
  pairs='a translator',
  images='a model of images',
)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A trained or converted model, which `load` opens.

    run = collab.load('runs/lm-sample-s0')
    run.generate(['The statement'], temperature=0)

  A method compiles a program for each new shape and choice of its options, and
  uses it again. `generate` and `translate` return an exception in place of a
  text that cannot be done, so that it costs itself alone.

  Attributes:
    model: models.Model.
    params: its parameters.
    tokenizer: its tokenizer; None if the folder has none.
    config: config of the run; of a converted checkpoint a minimal one.
    folder: folder that it was read from.
    meaning: model_json.Meaning of the model's ids and outputs.
    files: {path: content} of the files that came with a checkpoint.
    mesh: mesh of `sharding.make_mesh`, over which rows are split; all devices
      by default.
  """

  model: models.Model
  params: Mapping
  tokenizer: Tokenizer | SentencePieces | None = None
  config: ConfigDict | None = None
  folder: str = ''
  meaning: Meaning = dataclasses.field(default_factory=Meaning)
  files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
  mesh: Mesh | None = None

  def generate(
    self,
    prompts: Sequence[str],
    *,
    length: int = 100,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
  ) -> list[str | Exception]:
    """Continues prompts; returns lines of text that begin with them.

    Args:
      prompts: list of str, which may be empty.
      length: maximum number of tokens to add to each.
      temperature: 0 is greedy; see `decoding.sample`.
      top_k, top_p: see `decoding.sample`.
      seed: seed of the random choices, which also depend on a line's place.
      batch_size: prompts at a time.

    Returns:
      A list with a line for each prompt. It has an exception instead if prompt
      and `length` exceed the model's max_length, or if outputs are not finite.

    Raises:
      ValueError: this is no language model, length or batch_size < 1, or an
        argument that `decoding.sample` refuses.
    """
    words = self.words('stream', prompts)
    checks.at_least('length', length, 1)
    checks.at_least('batch_size', batch_size, 1)
    checks.within('seed', seed, *plan.SEEDS)
    decoding.check_within(top_k, top_p)  # whatever the temperature
    ids = [[words.start_id, *x] for x in words.encode_batch(prompts)]
    found = [None] * len(ids)
    for i, n in enumerate(map(len, ids)):
      need = n + length - 1  # the last token is not fed back
      if need > self.model.max_length:
        found[i] = ValueError(
          f'{n} tokens; with length={length} the model needs '
          f'max_length={need}, it has {self.model.max_length}'
        )
    fit = [i for i, error in enumerate(found) if not error]
    if not fit:
      return found
    encoded = examples.collect((x, len(x)) for x in ids)
    P = examples.width(encoded, fit, self.model.max_length + 1 - length)
    fold_in = jax.vmap(jax.random.fold_in, (None, 0))
    keys = fold_in(jax.random.key(seed), np.arange(len(ids)))
    keys = np.asarray(jax.random.key_data(keys))

    def make(at):
      more = dict(keys=keys[at]) if temperature else {}
      return examples.pad(encoded, at, P) | more

    rows = Continuation(words, length, temperature, top_k, top_p)
    size = min(batch_size, len(fit))
    # In the order of `fit`, which is that of the examples.
    out = self.compute(tasks.Pass.over(rows, fit, size, make))
    for i, row, score in zip(fit, *out, strict=True):
      found[i] = decoding.line(words, [*ids[i], *row], score)
    return found

  def translate(
    self,
    sentences: Sequence[str],
    *,
    beam: int | None = None,
    alpha: float | None = None,
  ) -> list[str | Exception]:
    """Translates sentences, each to one line; '' stays ''.

    Args:
      sentences: list of str.
      beam, alpha: see `wmt14.translations`; those of the run by default.

    Returns:
      A list with a line for each sentence. It has an exception instead if the
      sentence is longer than the model supports, or if the model's outputs are
      not finite.

    Raises:
      ValueError: this is no translator, or beam or alpha is impossible.
    """
    words = self.words('pairs', sentences)
    beam = self.config.task.beam if beam is None else beam
    alpha = self.config.task.alpha if alpha is None else alpha
    ids, most = wmt14.encode(words, sentences), wmt14.longest(self.model)
    found = [''] * len(ids)
    for i, n in enumerate(map(len, ids)):
      if n > most:
        found[i] = ValueError(
          f'{n} tokens; with max_length={self.model.max_length} the model '
          f'translates at most {most}'
        )
    fit = [i for i, x in enumerate(sentences) if x and not found[i]]
    computed = wmt14.translations(
      self.model, words, [ids[i] for i in fit], beam, alpha
    )
    if fit:
      for i, *best in zip(fit, *self.compute(computed), strict=True):
        found[i] = decoding.line(words, *best)
    return found

  def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Computes embeddings of texts, float32 [N, D].

    A folder of Sentence Transformers says how (see `pooling.Pooling`). Without
    such files an embedding is the mean of the last layer's outputs over all
    tokens, those before and after the text too, and is not normalised. A text
    that is too long is cut.

    Args:
      texts: list of str.
      batch_size: texts at a time.

    Raises:
      ValueError: this is no text encoder, batch_size < 1, or unknown pooling.
    """
    words = self.words('texts', texts)
    pool = pooling.read(self.files)
    most = min(pool.longest or self.model.longest, self.model.longest)
    texts = [text.strip() for text in texts]
    if pool.lower:
      texts = [text.lower() for text in texts]
    encoded = examples.encode([(text,) for text in texts], words, most)
    return self._rows(pool, encoded, most, batch_size, self.model.dim)

  def classify(
    self,
    texts: Sequence[str],
    second: Sequence[str] = (),
    *,
    batch_size: int = 64,
  ) -> np.ndarray:
    """Computes the probabilities of the classes of texts, float32 [N, C].

    They are in the order of `meaning.classes`. A regression has its number
    instead, C = 1. What is too long is cut.

    Args:
      texts: list of str.
      second: the second texts of pairs, as many; none by default.
      batch_size: texts at a time.

    Raises:
      ValueError: this is no text encoder with a head that classifies, the
        numbers of texts differ, or batch_size < 1.
    """
    words, model = self.words('texts', texts), self.model
    self.words('texts', second)
    if model.head != 'classify':
      raise ValueError(
        f"{self.folder} has head={model.head!r}, expected 'classify'."
      )
    if len(second) not in (0, len(texts)):
      raise ValueError(
        f'{len(texts)} texts, but {len(second)} second ones; expected as many.'
      )
    pairs = zip(texts, second, strict=True) if len(second) else zip(texts)
    encoded = examples.encode(pairs, words, model.longest)
    return self._rows(
      _probabilities, encoded, model.longest, batch_size, model.outputs
    )

  def _rows(self, rows, encoded, most, batch_size, width):
    """Computes an array [N, width] of encoded texts; see `Pass.by_length`."""
    checks.at_least('batch_size', batch_size, 1)
    if not (n := len(encoded)):
      return np.zeros((0, width), np.float32)
    size = min(batch_size, n)
    return self.compute(
      tasks.Pass.by_length(rows, encoded, np.arange(n), size, most)
    )

  def attention_maps(
    self, text: str, second: str = ''
  ) -> attention_maps.AttentionMaps:
    """Computes the attention weights of every layer on a text.

    Args:
      text: str; what exceeds the model's longest sequence is cut.
      second: a translator's translation, or the second text of a pair.

    Raises:
      ValueError: the model does not read text, or has an implementation of
        attention without weights.
    """
    model, words = self.model, self.words(self.model.READS, [text, second])
    most, target = model.longest, []
    if model.READS == 'stream':
      ids = [words.start_id, *words.encode(text)][:most]
      batch = dict(tokens=np.int32([ids]))
    elif model.READS == 'pairs':
      ids = wmt14.encode(words, [text])[0][:most]
      target = [words.bos_id, *words.encode_targets([second])[0]][:most]
      batch = {}
      for name, ids_of in dict(source=ids, target_inputs=target).items():
        side = name.removesuffix('_inputs')
        batch[name] = np.int32([ids_of])
        batch[f'{side}_segments'] = np.ones_like(batch[name])
        batch[f'{side}_positions'] = np.arange(len(ids_of))[None]
    else:
      texts = (text, second) if second else (text,)
      rows = examples.encode([texts], words, most)
      ids, batch = rows.tokens, examples.pad(rows, [0], len(rows.tokens))
      model = model.clone(head='none', outputs=0, pooler=False)
    weights = attention_maps.weights(model, self.params, batch)
    pieces = words.pieces(ids), words.pieces(target)
    return attention_maps.AttentionMaps(*pieces, weights)

  def compute(self, computed: tasks.Pass) -> Any:
    """Computes a Pass; see `evaluation.over_examples`."""
    return self._compute(self.params, computed)

  @functools.cached_property
  def _compute(self):
    mesh = self.mesh or sharding.make_mesh()
    return evaluation.over_examples(self.model, mesh)

  def words(
    self, reads: str, texts: Sequence[str] = ()
  ) -> Tokenizer | SentencePieces:
    """Returns the tokenizer, if the model is of a kind and there are texts.

    Raises:
      ValueError: the model is of another kind (see `models.Model.READS`), there
        is no tokenizer, or `texts` is no list of str.
    """
    if reads != self.model.READS or reads == 'images':
      want = KINDS[reads] if reads != 'images' else 'a model of text'
      raise ValueError(
        f'{self.folder} has {KINDS[self.model.READS]}, expected {want}.'
      )
    if getattr(self.model, 'source_vocab_size', 0):
      raise ValueError(
        f'{self.folder} has a vocabulary for each language, expected one.'
      )
    if self.tokenizer is None:
      raise ValueError(source.NO_WORDS.format(self.folder))
    many = isinstance(texts, Collection) and not isinstance(texts, str | bytes)
    for text in texts if many else [texts]:
      if not many or not isinstance(text, str):
        raise ValueError(f'Expected a list of str, got {text!r:.60}.')
    return self.tokenizer


def _probabilities(model, params, batch):
  x = model.apply({'params': params}, batch).astype(jnp.float32)
  return x if model.outputs == 1 else jax.nn.softmax(x)


def load(folder: str | pathlib.Path, mesh: Mesh | None = None) -> Run:
  """Opens a trained or converted model.

  Args:
    folder: workdir of a run or of a conversion, checkpoint of Transformers or
      its name on the Hub (org/model), or file of llama.cpp (.gguf).
    mesh: mesh of `sharding.make_mesh`, over which rows and, with fsdp,
      parameters are split; all devices by default.

  Raises:
    ValueError: the folder has no model, is damaged, or has a tokenizer of
      another model.
  """
  mesh = mesh or sharding.make_mesh()
  return of_source(source.read(folder, mesh=mesh), mesh)


def of_source(found: source.Source, mesh: Mesh | None = None) -> Run:
  """Makes a Run of what `source.read` returned; arguments as of `load`."""
  mesh = mesh or sharding.make_mesh()
  return Run(
    model=models.build(**found.model),
    params=sharding.moved(found.params, mesh),
    tokenizer=source.tokenizer(found),
    config=found.config,
    folder=found.folder,
    meaning=found.meaning,
    files=found.pretrained.files if found.pretrained else {},
    mesh=mesh,
  )
