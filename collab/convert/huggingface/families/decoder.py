# SPDX-License-Identifier: Apache-2.0
"""What the decoders in Llama's form share: fields, rotary positions, rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from collab import checks
from collab.attention.rope import Rope
from collab.convert.huggingface.families.family import (
  ACTIVATIONS,
  LABELS,
  LAYERS,
  RATE,
  Family,
  block,
)
from collab.convert.huggingface.layouts import DENSE, NORM, TABLE

FULL, SLIDING = 'full_attention', 'sliding_attention'  # of config's layer_types
MODULES = {
  'self_norm': 'input_layernorm',
  'mlp_norm': 'post_attention_layernorm',
  'mlp_gate': 'mlp.gate_proj',
  'mlp_in': 'mlp.up_proj',
  'mlp_out': 'mlp.down_proj',
  'self_attention/query_norm': 'self_attn.q_norm',
  'self_attention/key_norm': 'self_attn.k_norm',
}
FIXED = dict(
  partial_rotary_factor=1.0,
  quantization_config=None,
  token_classification_bias=True,
)
# A classifier has a table of the tokens in, and none out.
HEADS = dict(
  ForSequenceClassification=dict(head='classify', outputs=LABELS, tied=True),
  ForTokenClassification=dict(head='tag', outputs=LABELS, tied=True),
)


def fields(
  get: Callable, activation: str = 'hidden_act', **attention: Any
) -> dict:
  """Reads the model's fields from a config with Llama's names.

  Args:
    get: see `Family`.
    activation: name of the field with the activation.
    **attention: further fields of the attention.
  """
  heads = get('num_attention_heads')
  width = get('head_dim', 0) or get('hidden_size') // heads
  if width % 2:
    raise ValueError(f'head_dim is {width}, expected an even number.')
  own = dict(
    name='gqa',
    num_heads=heads,
    kv_heads=get('num_key_value_heads', 0, divides=heads) or heads,
    qkv_features=heads * width,
  )
  if 'rope' not in attention:
    own['rope'] = rope(get)
  return dict(
    vocab_size=get('vocab_size'),
    dim=get('hidden_size'),
    num_layers=get('num_hidden_layers', legal=LAYERS),
    tied=get('tie_word_embeddings', False),
    mlp='gated',
    mlp_dim=get('intermediate_size'),
    activation=get(activation, 'silu', legal=ACTIVATIONS),
    use_bias=False,
    norm='pre',
    norm_kind='rms',
    epsilon=get('rms_norm_eps', 1e-6),
    dropout=0.0,
    attention_dropout=get('attention_dropout', 0.0, legal=RATE),
    activation_dropout=0.0,
    positions='none',
    max_length=get('max_position_embeddings'),
    attention=own | attention,
  )


def rope(
  get: Callable, given: Mapping | None = None, theta: float | None = None
) -> dict:
  """Reads the fields of `Rope`; the names are those of before version 5, too.

  Args:
    get: see `Family`.
    given: rope_parameters, by default the config's.
    theta: their base, if they have none, by default the config's.
  """
  if given is None:
    given = get('rope_scaling', {}) or get('rope_parameters', {})
  if theta is None:
    theta = get('rope_theta', 10_000.0)
  given = {name: value for name, value in given.items() if value is not None}
  base, kind = given.pop('rope_theta', theta), given.pop('type', 'default')
  kind, length = given.pop('rope_type', kind), get('max_position_embeddings')
  if (share := given.pop('partial_rotary_factor', 1)) != 1:
    raise ValueError(f'partial_rotary_factor is {share!r}, expected 1.')
  original = 'original_max_position_embeddings'
  if kind == 'dynamic':
    given[original] = length
  elif kind in ('llama3', 'yarn'):
    given.setdefault(original, length)
    given[original] = get(original, 0) or given[original]
  found = dict(base=base, scaling=dict(rope_type=kind) | given)
  wrong = TypeError, ValueError, ArithmeticError
  with checks.located('rope_parameters', wrong):
    Rope(**found)
  return found


def layer_types(get: Callable, slides: Callable[[int], bool]) -> list[str]:
  """Reads whether layers are FULL or SLIDING; where not said, by `slides`."""
  n = get('num_hidden_layers', legal=LAYERS)
  types = get('layer_types', [(FULL, SLIDING)[slides(i)] for i in range(n)])
  if len(types) != n:
    raise ValueError(f'layer_types has {len(types)} layers, expected {n}.')
  for kind in types:
    checks.one_of('layer_types', kind, (FULL, SLIDING))
  return types


def windows(types: Sequence[str], size: int) -> int | tuple | None:
  """Returns the window of all layers or of each, None where it is FULL."""
  if SLIDING in types and not size:
    raise ValueError(f'sliding_window is missing; layers are {SLIDING}.')
  found = tuple(size if kind == SLIDING else None for kind in types)
  return found if len(set(found)) > 1 else found[0]


def family(
  name: str,
  fields: Callable,
  *,
  defaults: Mapping = {},
  fixed: Mapping = {},
  modules: Mapping = MODULES,
  norm: tuple = NORM,
  body: str = 'Model',
  heads: Mapping = HEADS,
) -> Family:
  """Makes the Family of a decoder.

  Args:
    name: prefix of its architectures, 'Llama' of LlamaModel.
    fields, defaults, fixed: see `Family`.
    modules: modules of a block besides attention, by our names.
    norm: layout of the norms.
    body: end of the name of the architecture without logits.
    heads: {end of the name of a classifier: its fields}.
  """
  rows = (
    ('embed_tokens', 'embed', TABLE),
    *block(
      'layers.{}',
      'decoder/layer_{}',
      heads='self_attn.{letter}_proj',
      out='self_attn.o_proj',
      norm=norm,
      **modules,
    ),
    ('norm', 'decoder/norm', norm),
  )
  # A row is of all of a module's tensors: with the bias, and without one.
  unbiased = [(module, path, layout[:1]) for module, path, layout in rows]
  return Family(
    model='decoder',
    fields=fields,
    fixed=FIXED | fixed,
    defaults=defaults,
    architectures={
      name + body: dict(tied=True),
      f'{name}ForCausalLM': {},
      **{name + end: fields for end, fields in heads.items()},
    },
    prefix='model',
    body=(*rows, *unbiased),
    head=(
      ('lm_head', 'output', TABLE),
      ('score', 'head', DENSE),
      ('score', 'head', DENSE[:1]),
    ),
    tied=(('lm_head.weight', 'embed_tokens.weight'),),
    rest=('layers.*.self_attn.rotary_emb.inv_freq',),
  )
