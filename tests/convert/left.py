# SPDX-License-Identifier: Apache-2.0
"""Converted models of every family, as they leave for Transformers.

  pip install '.[train,parity]'
  python -m tests.convert.left

opens each in PyTorch, and writes left.json: the digest of its checkpoint, and
how far PyTorch's output is from ours. Where the digest is still the same,
PyTorch is not needed to know that the output is.
"""

import hashlib
import json
import os
import pathlib
import tempfile

from flax import traverse_util
import numpy as np

from collab import models
from collab.convert.huggingface import checkpoints, leave
from collab.runtime import tree_table
from tests.convert.checkpoints import load, read
from tests.convert.test_huggingface import batch_of, io, run

RECORDED = pathlib.Path(__file__).with_name('left.json')
FIELDS = dict(
  collab=dict(name='collab', shared_dim=7),
  collab_shared=dict(name='collab', shared_dim=5, bias='shared'),
  collab_none=dict(name='collab', shared_dim=12, bias='none'),
  gqa=dict(name='gqa', kv_heads=1),
  mhe_mul=dict(name='mhe_mul', offset=0.5),
  mla=dict(name='mla', latent_dim=5),
  mla_planes=dict(name='mla', latent_dim=5, rope_dim=6, planes=(0, 1, 1)),
  mla_whole=dict(name='mla', latent_dim=5, decoupled=False),
  collab_values=dict(name='collab', shared_dim=7),
  mha_values=dict(name='mha'),
  mha_pruned=dict(name='mha'),
)
# Every family; those that write projections differently with every variant.
OF_COLLAB = str.split(
  'albert_Model deit_Model distilbert_Model roberta_Model vit_Model '
  'bert_ForMaskedLM bert_ForMultipleChoice distilbert_ForQuestionAnswering '
  'deit_ForImageClassificationWithTeacher roberta_ForSequenceClassification '
  'xlm-roberta_ForTokenClassification camembert_ForTokenClassification '
  'albert_groups_Model dinov2_gated_Model dinov2_ForImageClassification '
  'gpt2_ForSequenceClassification marian_apart_MTModel'
)
OF_ALL = 'bert_Model', 'gpt2_LMHeadModel', 'marian_MTModel'
OF_ROTARY = 'llama_ForCausalLM', 'llama_Model', 'mistral_ForCausalLM'
ROTATED = 'mla_planes', 'mla_whole'  # those of rotary positions
CASES = [(case, 'collab') for case in OF_COLLAB]
CASES += [(x, y) for x in OF_ALL for y in FIELDS if y not in ROTATED]
CASES += [(x, y) for x in OF_ROTARY for y in ROTATED]
# Those whose output projections are elsewhere.
OF_VALUES = 'albert_Model', 'distilbert_Model', 'vit_Model'
CASES += [(x, y) for x in OF_VALUES for y in ('mha_values', 'mha_pruned')]
CASES += [('bert_Model', 'layers'), ('marian_Model', 'layers')]


def converted(case, name):
  """A model of golden/ with another attention, of random parameters."""
  old = load(case)
  model = dict(old.model)
  for i, place in enumerate(models.build(**model).attentions()):
    fields = FIELDS.get(name)
    if name == 'layers':  # no two are alike
      widths = tuple(5 + 3 * n + i for n in range(place.layers))
      fields = dict(name='collab', shared_dim=widths)
    before = old.model[place.field]
    heads = before['num_heads']
    model[place.field] = dict(fields, num_heads=heads)
    if 'rope' in before:
      kept = {key: before[key] for key in ('rope', 'qkv_features')}
      model[place.field] |= kept | dict(use_bias=True)
      if 'planes' in fields:
        model[place.field]['planes'] = (fields['planes'],) * place.layers
      old = old._replace(config=old.config | dict(sliding_window=None))
    if name == 'mha_pruned':
      n = heads - 1
      widths = dict(qkv_features=n * model['dim'] // heads, key_features=3 * n)
      model[place.field] |= dict(num_heads=n, **widths)
    if name.endswith('_values'):  # the second layer's are as they were
      widths = [(1 + i + n, 0, 5)[:heads] for n in range(place.layers)]
      widths[1:2] = [None] * len(widths[1:2])
      model[place.field]['value_dims'] = tuple(widths)
  rng, known = np.random.default_rng(0), tree_table.named(old.params)
  params = {}
  for key, x in tree_table.named(models.shapes(models.build(**model))).items():
    same = key in known and known[key].shape == x.shape
    fresh = rng.integers(-99, 100, x.shape) / np.float32(128)
    params[key] = known[key] if same else fresh.astype(np.float32)
  params = traverse_util.unflatten_dict(params, sep='/')
  return old._replace(model=model, params=params)


def digest(folder):
  """Of all that PyTorch reads."""
  found = hashlib.sha256((folder / leave.CODE.name).read_bytes())
  config = json.loads((folder / 'config.json').read_text())
  found.update(json.dumps(config, sort_keys=True).encode())
  for name, x in sorted(read(folder).items()):
    found.update(f'{name} {x.dtype} {x.shape}'.encode() + x.tobytes())
  return found.hexdigest()


def open_in_torch(folder):
  """The model of a folder, with no tensor missing or left over."""
  import transformers

  names = json.loads((folder / 'config.json').read_text())['auto_map']
  auto = getattr(transformers, list(names)[-1])
  model, told = auto.from_pretrained(
    folder, trust_remote_code=True, output_loading_info=True
  )
  assert not any(told.values()), told
  return model.eval()


def difference(case, pretrained, folder):
  """The largest between PyTorch's output and ours, over real tokens."""
  import torch

  inputs, _ = io(case)
  batch, real = batch_of(inputs)
  text = pretrained.model['name'] in ('decoder', 'encoder_decoder')
  body = case.endswith('_Model')
  ours = run(pretrained, batch, 'features' if text and body else None)
  ours = np.asarray(ours[0] if isinstance(ours, tuple) else ours)
  with torch.no_grad():
    found = open_in_torch(folder)(
      **{k: torch.from_numpy(x.copy()) for k, x in inputs.items()}
    )
  theirs = found[0]
  if case.endswith('QuestionAnswering'):
    theirs = torch.stack([found.start_logits, found.end_logits], -1)
  theirs = theirs.numpy()
  assert theirs.shape == ours.shape
  assert ours.std() > 0.01
  if real is not None and ours.shape[:2] == real.shape:
    ours, theirs = ours[real], theirs[real]
  return float(np.abs(ours - theirs).max() / max(1, np.abs(ours).max()))


def main():
  os.environ['HF_HUB_OFFLINE'] = '1'
  rows = {}
  for case, name in CASES:
    with tempfile.TemporaryDirectory() as folder:
      new = pathlib.Path(folder, 'new')
      pretrained = converted(case, name)
      checkpoints.save(new, pretrained)
      error = difference(case, pretrained, new)
      rows[f'{case} {name}'] = dict(digest=digest(new), difference=error)
      print(case, name, error, flush=True)
  RECORDED.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
  main()
