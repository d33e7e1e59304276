# SPDX-License-Identifier: Apache-2.0
r"""Computes what a training step communicates, and the batch that hides it.

  ./launch.sh python -m benchmarks.scaling [--save]

Nothing runs. For the model of every base config this computes the bytes that a
chip sends in a step of data parallelism and FSDP, in float32, in rings:

  data parallel   2 (n - 1) / n 4 P     all-reduce of the gradients
  FSDP            3 (n - 1) / n 4 P     all-gather of the parameters for the
                  forward and for the backward pass, reduce-scatter of the
                  gradients

In tensor parallelism over t chips, a layer adds up over the chips, for each
token of the rows that they share,

  forward    D of the attention's output, D of the MLP's
  backward   D of the MLP's input, and D for each projection to heads (or groups
             or the MLP: a gated one has two) from the input that all chips have
             whole; XLA for CPU adds up each by itself
             K of the queries, if they are one head or made from one head; K of
             the keys and V of the values, if they are one head; once where
             values are the keys; G times that for G groups that t does not
             divide; and the width of whatever else heads are made from

and nothing that grows with T x S. Once a layer it adds up the gradients of what
all heads share and follows the split; `tensor_sent` says what that is.

This also computes how many tokens a chip needs in a step so that communication
takes a tenth of the time, even if none of it overlaps with computation. FLOPs
are those of the traced pass. tests/test_scaling.py compares with what compiles.
"""

import argparse
import importlib
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collab import accounting, models
from collab.accounting import trace
from collab.io import atomic
from collab.training import sharding

CHIPS = (8, 64, 512)
EFFICIENCY = 0.9
UTILISATION = 0.5  # of the peak FLOP rate, which no program reaches
# How often a chip sends (n - 1) / n of the parameters' bytes.
PASSES = {'data parallel': 2, 'FSDP': 3}
CONFIGS = ('lm', 'lm:ptb', 'mlm', 'wmt14', 'glue', 'squad', 'vit')
DECIDED_BY_DATA = dict(
  lm={},
  mlm=dict(head='mlm'),
  wmt14={},
  glue=dict(head='classify', outputs=3),
  squad=dict(head='span'),
  vit=dict(outputs=1000),
)


class Chip(NamedTuple):
  """The published rates of a chip.

  Attributes:
    flops: peak FLOP/s in bfloat16, dense.
    sent: bytes/s that it sends to other chips, over all links.
    within: number of chips that reach each other at this rate.
  """

  flops: float
  sent: float
  within: int = 10**9


# The attentions of the page, at the widths of `lm`, as configs choose theirs.
TENSOR_D, TENSOR_H, TENSOR_T = 768, 12, (2, 4)
TENSOR = {
  'mha': {},
  'gqa': dict(kv_heads=2),
  'mqa': {},
  'collab': dict(shared_dim=384),
  'mhe_add': {},
  'mhe_mul': {},
  'skv': {},
  'mla': dict(latent_dim=192),
  'gla': dict(latent_dim=192, kv_heads=2),
  'gta': dict(kv_heads=2),
  'mfa': dict(query_dim=256, head_width=128),
  'mfa_kr': dict(query_dim=256, head_width=128),
  'tpa': {},
}
# The sources are in scaling.md.
RATES = {
  'TPU v4': Chip(275e12, 1.1e15 / 4096, 4096),
  'TPU v5e': Chip(197e12, 51.2e12 / 256, 256),
  'TPU v5p': Chip(459e12, 4800e9 / 8, 6144),
  'H100, NVLink': Chip(989e12, 900e9 / 2, 8),
  # Rings enter and leave a node of eight by all of its eight links.
  'H100, InfiniBand': Chip(989e12, 8 * 400e9 / 8),
}


class Model(NamedTuple):
  """The model of a base config: what it trains, and its FLOPs for each token.

  A token of a translation model is one source token and one target token.
  """

  parameters: int
  flops: float


def model(name):
  """Computes the Model of the config 'family[:argument]' from shapes alone."""
  family, _, argument = name.partition(':')
  config = importlib.import_module(f'configs.{family}').get_config(argument)
  fields = config.model.to_dict() | DECIDED_BY_DATA[family]
  for name in ('vocab_size', 'image_size'):
    if name in config.data:
      fields[name] = config.data[name]
  built = models.build(**fields)
  tokens = accounting.tokens(built, config.data)
  batch = built.example(length=tokens)
  params = jax.eval_shape(built.init, jax.random.key(0), batch)['params']

  def total(params, batch):
    out = built.apply({'params': params}, batch)
    return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(out))

  flops = trace.flops(jax.grad(total), params, batch)
  return Model(accounting.size(params), flops / tokens)


def volume(model, way, n):
  """Returns the bytes that each of n chips sends in a step."""
  return PASSES[way] * (n - 1) / n * 4 * model.parameters


def tokens(model, way, n, chip):
  """Returns a chip's tokens at which communication is 1 - EFFICIENCY of a step.

    F t / (U f) = E / (1 - E) volume / s

  t tokens, F FLOPs of one token, f peak FLOP/s, U utilisation, E efficiency,
  s bytes/s sent.
  """
  seconds = volume(model, way, n) / chip.sent
  computing = EFFICIENCY / (1 - EFFICIENCY) * seconds
  return math.ceil(computing * UTILISATION * chip.flops / model.flops)


def tensor_sent(
  name: str, D: int, H: int, t: int, *, gated: bool = False, **fields: Any
) -> dict[str, int]:
  """Counts the numbers that a layer adds up over t chips for a token.

  Args:
    name: variant of attention.
    D, H: widths of the model; a head has d = D / H.
    t: number of chips.
    gated: whether the MLP is.
    **fields: of the attention, without rope, qk_norm and gate.

  Returns:
    dict(forward, backward, merged, once): merged is what is left of backward
    where a compiler first adds what the projections send. `once` is not for
    each token. EL's keys are a cut of the input, whose gradient is gathered and
    not added up: it counts as if it were.
  """
  d = D // H
  G = fields.get('kv_heads') or dict(mqa=1, gla=2).get(name, H)
  k, r = fields.get('shared_dim', 0), fields.get('latent_dim', 0)
  c, q = fields.get('head_width') or d, fields.get('query_dim', 0)
  n, p = fields.get('length', 0), fields.get('projected_length', 0)
  split = G % t == 0
  to_heads, shared = {  # projections to heads, and numbers of shared heads
    'mha': (3, 0),
    'skv': (2, 0) if split else (1, G * d),
    'el': (1, D),
    'gqa': (3, 0) if split else (1, 2 * G * d),
    'mqa': (1, 2 * d),
    'collab': (2, 2 * k),  # values and content bias; queries and keys
    'sha': (0, 3 * d),
    'mhe_mul': (0, 3 * d),
    'mhe_add': (0, 3 * d + d),  # the key bias is made from the keys as well
    'mla': (1, r if r <= d else 2 * r),  # r once: values are the keys
    'gla': (2, 0) if split else (1, r if r <= G * d else 2 * r),
    'gta': (2, d // 2) if split else (1, 2 * G * d),  # half a key is shared
    'mfa': (0, q + 2 * c),  # what queries are made from, keys and values
    'mfa_kr': (0, q + c),
    'tpa': (3, 2 * fields.get('rank', 2) * d),  # of queries, and two of factors
    'linformer': (3, 0),
  }[name]
  once = dict(mfa_kr=c * c + c, linformer=2 * n * p).get(name, 0)
  return dict(
    forward=2 * D,
    backward=(to_heads + 1 + gated) * D + shared,
    merged=(min(to_heads, 1) + 1) * D + shared,
    once=once,
  )


def tensor_kept(name: str, D: int, H: int, t: int, **fields: Any) -> int:
  """Counts the parameters of an attention that each of t chips has."""
  model = models.build(
    'decoder',
    dim=D,
    num_layers=1,
    vocab_size=t,
    attention=dict(name=name, num_heads=H, **fields),
  )
  layer = models.shapes(model)
  mesh = jax.sharding.AbstractMesh((1, 1, t), sharding.AXES)
  rules = sharding.rules(mesh, model, layer, '')
  split = sharding.state_shardings(mesh, dict(params=layer), rules)['params']
  parts = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)), layer, split
  )
  stack = parts['decoder']['layer_0']['self_attention']
  return sum(jax.tree.leaves(stack))


# The page ---------------------------------------------------------------------


def tables():
  """Returns Markdown tables of the volumes and of the batches."""
  found = {name: model(name) for name in CONFIGS}
  lines = ['## Sent by each of 64 chips in a step', '']
  lines += _row('config', 'parameters', 'FLOPs a token', *PASSES)
  lines += _row(*['---'] * 5)
  for name, m in found.items():
    sizes = (f'{accounting.si(volume(m, way, 64))}B' for way in PASSES)
    lines += _row(name, f'{m.parameters:,}', accounting.si(m.flops), *sizes)
  for way in PASSES:
    lines += ['', f'## Tokens a chip, {way}', '']
    heads = [f'{chip}, {n}' for chip in RATES for n in _counts(chip)]
    lines += _row('config', *heads) + _row(*['---'] * (1 + len(heads)))
    for name, m in found.items():
      lines += _row(
        name,
        *(
          f'{tokens(m, way, n, RATES[chip]):,}'
          for chip in RATES
          for n in _counts(chip)
        ),
      )
  lines += ['', '## Tensor parallelism, a layer', '', *_tensor_table()]
  return '\n'.join(lines) + '\n'


def _tensor_table():
  """Returns a table of what each attention sends for a token, and keeps."""
  widths = dict(D=TENSOR_D, H=TENSOR_H)
  heads = [
    f'{what}, tensor={t}'
    for t in TENSOR_T
    for what in ('forward', 'backward', 'merged', 'kept', 'of the whole')
  ]
  lines = _row('attention', *heads) + _row(*['---'] * (1 + len(heads)))
  for name, fields in TENSOR.items():
    cells = []
    for t in TENSOR_T:
      sums = tensor_sent(name, t=t, **widths, **fields)
      kept = tensor_kept(name, t=t, **widths, **fields)
      whole = tensor_kept(name, t=1, **widths, **fields)
      cells += [f'{sums[k]:,}' for k in ('forward', 'backward', 'merged')]
      cells += [f'{kept:,}', f'{kept / whole:.2f}']
    lines += _row(name, *cells)
  return lines


def _counts(chip):
  """Returns those of CHIPS that this interconnect joins."""
  if chip == 'H100, InfiniBand':
    return CHIPS[1:]
  return [n for n in CHIPS if n <= RATES[chip].within]


def _row(*cells):
  return [f'| {" | ".join(cells)} |']


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--save', action='store_true', help='to scaling.md')
  args = parser.parse_args()
  text = tables()
  print(text)
  if args.save:
    path = pathlib.Path(__file__).with_name('scaling.md')
    head = path.read_text().partition('## Sent by')[0]
    atomic.write_text(path, head + text)


if __name__ == '__main__':
  main()
