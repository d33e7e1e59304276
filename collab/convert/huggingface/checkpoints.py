# SPDX-License-Identifier: Apache-2.0
"""Reads and writes checkpoints of Hugging Face's Transformers, without torch.

A checkpoint is read into a model of ours, its parameters, and `rest`. Writing
it again gives every tensor bit for bit (see layouts.SHIFTED for Gemma's norms),
and the files beside it. Parameters are float32 here, and what they were in
files. `families` maps names to ours.
"""

from collections.abc import Iterable, Mapping
import fnmatch
import math
import pathlib
from typing import NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from collab import checks, model_json, models
from collab.convert.huggingface import folders, gguf_file, leave, plans
from collab.data import tokenizer
from collab.io import json_text
from collab.models import layers
from collab.runtime import tree_table

DTYPES = 'float32', 'float16', 'bfloat16'
# Fields that do not affect what the trained model computes.
_OF_TRAINING = ('dropout', 'drop_path', 'scan', 'remat', 'dtype')


class Pretrained(NamedTuple):
  """A checkpoint of Transformers, in our terms.

  Attributes:
    model: all fields of models.build.
    params: nested dict of float32 NumPy arrays, like the model's init.
    config: config.json as it was read.
    tokenizer: text of tokenizer.json, '' if there is none.
    rest: {name in the file: array} that the model does not use.
    names: {name: name in the file} where the two differ.
    dtype: that of the parameters in the file, float32 if they have several.
    files: {path in the folder: content} of folders.COMPANIONS.
  """

  model: dict
  params: dict
  config: dict
  tokenizer: str
  rest: dict
  names: Mapping = {}
  dtype: str = 'float32'
  files: Mapping[str, bytes] = {}


def load(folder: str | pathlib.Path, allow: Iterable[str] = ()) -> Pretrained:
  """Reads a checkpoint.

  Args:
    folder: folder with config.json, model.safetensors or its shards, and
      tokenizer.json; or a file of llama.cpp, .gguf, see `gguf_file`.
    allow: patterns of names of tensors that may be present and unused (they go
      to `rest`), or missing (their parameters are freshly initialised).

  Raises:
    ValueError: this is not a checkpoint of a model that we have; the message
      says what, where, and what is expected.
  """
  folder = source = pathlib.Path(folder)
  files = {}
  if folder.suffix == gguf_file.SUFFIX:
    config, found, text = gguf_file.read(folder)
  else:
    source = folder / folders.CONFIG
    config = json_text.read_object(source)
    found = folders.read_tensors(folder)
    text = folders.read_tokenizer(folder)
    files = folders.read_companions(folder)
  with checks.located(source):
    plan = plans.make(config, pooler=any('pooler.' in name for name in found))
  with checks.located(folder):
    names, rest = _sort(plan, found, allow)
    flat = _parameters(plan, names, found)
  dtypes = {found[name].dtype for name in names.values()} or {'float32'}
  return Pretrained(
    model=plan.model,
    params=traverse_util.unflatten_dict(flat, sep='/'),
    config=config,
    tokenizer=text,
    rest={name: found[name] for name in rest},
    names={k: name for k, name in names.items() if name != plan.name(k)},
    dtype=jnp.result_type(*dtypes).name,
    files=files,
  )


def meaning(pretrained: Pretrained) -> model_json.Meaning:
  """Returns the Meaning of a checkpoint's ids and outputs, as far as known."""
  text, outputs = pretrained.tokenizer, pretrained.model.get('outputs')
  return model_json.Meaning(
    tokenizer.fingerprint(text) if text else '',
    plans.classes(plans.reader(pretrained.config)) if outputs else (),
  )


def labelled(config: dict, meaning: model_json.Meaning) -> dict:
  """Returns the config with the classes of a Meaning, if they differ."""
  names = meaning.classes
  if not names or names == plans.classes(plans.reader(config)):
    return config
  ids = {name: place for place, name in enumerate(names)}
  by_id = {str(place): name for name, place in ids.items()}
  return config | dict(id2label=by_id, label2id=ids)


def save(folder: str | pathlib.Path, pretrained: Pretrained) -> None:
  """Writes a checkpoint that Transformers reads, atomically.

  If the attention is not the config's, the folder has the code for it.

  Args:
    folder: folder that does not exist yet.
    pretrained: a checkpoint, or what it was converted to.

  Raises:
    ValueError: the folder exists; there is no code for such attention; or model
      or parameters do not match the config, or its half precision.
  """
  model, params, config, text, rest, names, dtype, files = pretrained
  plan = plans.make(config, model.get('pooler', False))
  if others := _others(plan, model):
    config = leave.plain(config, model)
    plan = plans.make(config, model.get('pooler', False))
    others = _others(plan, model)
  _check_same(plan, others, model, params)
  tensors = {}
  if others:
    found, tensors, params = leave.translate(plan, names, model, params)
    config = leave.describe(config, plan, found)
    files = {**files, leave.CODE.name: leave.CODE.read_bytes()}
  flat = tree_table.named(params)
  for key, (paths, part, _) in plan.entries.items():
    if flat.keys() >= set(paths):  # else it is translated
      tensors[names.get(key, plan.name(key))] = part.write(
        *(flat[path] for path in paths)
      )
  tensors = {name: _narrow(name, x, dtype) for name, x in tensors.items()}
  for name, x in rest.items():
    if target := plan.tied.get(plan.key(name)):
      x = tensors[names.get(target, plan.name(target))]
    tensors[name] = x
  said = {k: dtype for k in ('dtype', 'torch_dtype') if k in config}
  folders.write(folder, config | said, tensors, text, files)


def _sort(plan, found, allow):
  """Splits tensors into {key: name} of parameters, and names of the rest."""
  names, rest = {}, []
  for name in found:
    key = plan.key(name)
    if key in names:
      raise ValueError(f'{names[key]} and {name} are the same tensor.')
    names[key] = name
  for other, key in plan.tied.items():
    if other not in names:
      continue
    if key not in names:
      names[key] = names.pop(other)
    elif _equal(found[names[other]], found[names[key]]):
      rest.append(names.pop(other))
    else:
      raise ValueError(f'{names[other]} is not {names[key]}, as it has to be.')
  for key in plan.family.waves:
    if key in names:
      _check_waves(names[key], found[names[key]], plan.model)
      rest.append(names.pop(key))
  for key in sorted(names.keys() - plan.entries):
    if _matches(key, plan.family.rest) or _matches(names[key], allow):
      rest.append(names.pop(key))
  unexpected = [names[key] for key in names.keys() - plan.entries]
  missing = [plan.name(key) for key in plan.entries.keys() - names]
  missing = [name for name in missing if not _matches(name, allow)]
  wrong = dict(missing=missing, unexpected=unexpected)
  wrong = [f'{k}: {folders.join_sorted(x)}' for k, x in wrong.items() if x]
  if wrong:
    raise ValueError(f'tensors of a {plan.architecture}, {"; ".join(wrong)}.')
  return names, rest


def _matches(name, patterns):
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _equal(x, y):
  return x.shape == y.shape and x.dtype == y.dtype and (x == y).all()


def _check_waves(name, table, model):
  shape = (model['max_length'], model['dim'])
  if table.shape == shape:
    want = layers.exact_sinusoid(jnp.arange(shape[0])[None], shape[1])[0]
    rounding = 1e-3 if table.dtype.itemsize == 4 else 1e-2
    if np.allclose(table.astype(np.float32), want, atol=rounding, rtol=0):
      return
  raise ValueError(f'{name} is not the table of sinusoids {list(shape)}.')


def _parameters(plan, names, found):
  """Reads {path: array} from {key: name}, and initialises missing ones."""
  flat = {}
  for key, name in names.items():
    paths, part, _ = plan.entries[key]
    shapes = [plan.shapes[path].shape for path in paths]
    numbers = sum(map(math.prod, shapes))
    if numbers > 2 * found[name].size:  # before allocating so much
      raise ValueError(
        f'{name} has shape {found[name].shape}, expected {numbers:,} numbers.'
      )
    want = part.write(*(np.broadcast_to(0.0, s) for s in shapes)).shape
    x = _float32(name, found[name])
    if x.shape != want:
      raise ValueError(f'{name} has shape {x.shape}, expected {want}.')
    flat |= zip(paths, part.read(x, *shapes), strict=True)
  if len(flat) < len(plan.shapes):
    model = models.build(**plan.model)
    batch = models.zeros(model.example())
    fresh = jax.jit(model.init)(jax.random.key(0), batch)['params']
    flat = {k: np.asarray(x) for k, x in tree_table.named(fresh).items()} | flat
  return flat


def _float32(name, x):
  if x.dtype.name not in DTYPES:
    raise ValueError(
      f'{name} is {x.dtype}, expected float32, float16 or bfloat16.'
    )
  x = x.astype(np.float32, copy=False)
  if not np.isfinite(x).all():
    raise ValueError(f'{name} is not finite: it has a NaN or an infinity.')
  return x


def _narrow(name, x, dtype):
  with np.errstate(over='ignore'):
    new = np.asarray(x, np.float32).astype(dtype, copy=False)
  if not np.isfinite(new).all():
    raise ValueError(
      f'{name} has numbers up to {np.abs(x).max():.3g}, expected those of the '
      f"checkpoint's {dtype}."
    )
  return new


def _others(plan, model):
  """Returns the attentions of the model that are not those of the plan."""
  return {
    place: model[place]
    for place in models.ATTENTIONS
    if place in model and _given(model[place]) != _given(plan.model.get(place))
  }


def _check_same(plan, others, model, params):
  """Raises a ValueError unless the model is that of the plan but for others."""
  cls = models.find(plan.model['name'])  # with defaults of what is not given
  wrong = [
    f'{key} is {got!r}, by the config {want!r}'
    for key, want in (plan.model | others).items()
    if not key.endswith(_OF_TRAINING)
    and _given(got := model.get(key, getattr(cls, key, None))) != _given(want)
  ]
  if wrong:
    raise ValueError(f'model: {"; ".join(wrong)}.')
  shapes = plan.shapes
  if others:
    shapes = models.shapes(models.build(**plan.model | others))
  want, got = tree_table.shapes(shapes), tree_table.shapes(params)
  if different := tree_table.differences(want, got):
    raise ValueError(f'parameters: {different}.')


def _given(x):
  """Removes the fields that a mapping leaves at a default of 0 or ''."""
  return {k: v for k, v in x.items() if v} if isinstance(x, Mapping) else x
