# SPDX-License-Identifier: Apache-2.0
"""Models of Transformers with other attention, as collab.convert writes them.

A file of a checkpoint, which Transformers runs for trust_remote_code=True. It
needs torch and transformers alone.

CollabBertModel is BertModel, and so on for any model. Its attention modules
mask, cache and project outputs as ever. Their projections of queries, keys and
values are a variant's, and `Heads.attend` makes heads of what these return.
With value_dims, or qkv_features of pruned heads, the output projection has as
many inputs as these say. Modules with rotary positions are replaced as a whole,
by `Rotated`.
config.collab has the name, num_heads and fields of each layer's variant, in the
order of the modules.

Axes: B batch, T queries, S keys, D model, H heads, K key width, V value width.
"""

import functools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad
import transformers
from transformers import conversion_mapping, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.pytorch_utils import Conv1D

IMPLEMENTATION = 'collab'
# Names that the attention modules of the families give to their projections.
PROJECTIONS = (
  ('query', 'key', 'value'),
  ('q_lin', 'k_lin', 'v_lin'),
  ('q_proj', 'k_proj', 'v_proj'),
)
OUTPUTS = 'c_proj', 'dense', 'o_proj', 'out_lin', 'out_proj'


class Mixed(nn.Linear):
  """x Wq * m_h, [B, T, H K]; with content bias a head's last H are one-hot."""

  def __init__(self, D, H, K, *, bias, content):
    super().__init__(D, K, bias)
    self.mixing = nn.Parameter(torch.ones(H, K))
    self.content = content

  def forward(self, x):
    q = super().forward(x)[..., None, :] * self.mixing
    if self.content:
      one = torch.eye(len(self.mixing), dtype=q.dtype, device=q.device)
      q = torch.cat([q, one.expand(*q.shape[:-1], -1)], -1)
    return q.flatten(-2)


class Absorbed(nn.Linear):
  """x Wq_h Uk_h^T, [B, T, H R]: queries of a latent of width R."""

  def __init__(self, D, H, V, R):
    super().__init__(D, H * V)
    self.up = nn.Parameter(torch.randn(H, V, R) * V**-0.5)

  def forward(self, x):
    q = super().forward(x).unflatten(-1, self.up.shape[:2])
    return torch.einsum('bthv,hvr->bthr', q, self.up).flatten(-2)


class Latent(nn.Module):
  """Values that are the keys, of which Uv_h makes the outputs of heads."""

  out_features = 1

  def __init__(self, H, R, V):
    super().__init__()
    self.up = nn.Parameter(torch.randn(H, R, V) * R**-0.5)

  def forward(self, x):
    return x[..., :1]  # caches want values, though nothing reads these


class Fused(nn.Module):
  """The three projections in one module, as GPT-2 has them."""

  def __init__(self, query, key, value):
    super().__init__()
    self.query, self.key, self.value = query, key, value

  def forward(self, x):
    return torch.cat([self.query(x), self.key(x), self.value(x)], -1)


class Heads(NamedTuple):
  """The projections of a layer; a head's queries and keys have width K.

  Its values have width V, or its own of value_dims.
  """

  K: int
  V: int
  query: nn.Module
  key: nn.Module
  value: nn.Module
  value_dims: list | None = None

  def attend(self, module, q, k, v, mask, **options):
    """Attends with q, k, v [B, width, S, 1], as the modules cut heads of 1."""
    latent = isinstance(self.value, Latent)
    q, k = cut(q, self.K), cut(k, self.K)
    if self.value_dims:
      v = padded(v, self.value_dims)
    else:
      v = k if latent else cut(v, self.V)
    k, v = (repeat(x, q.shape[1]) for x in (k, v))
    options['scaling'] = self.V**-0.5
    o, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
    if latent:  # o is [B, T, H, R]
      o = torch.einsum('bthr,hrv->bthv', o, self.value.up)
    if self.value_dims:
      heads = [o[:, :, h, :n] for h, n in enumerate(self.value_dims)]
      o = torch.cat(heads, -1)[:, :, None]
    return o, None


def cut(x, width):
  """Cuts [B, G width, S, 1] into G heads [B, G, S, width]."""
  return x.squeeze(-1).unflatten(1, (-1, width)).transpose(2, 3)


def padded(x, widths):
  """Cuts [B, sum of widths, S, 1] into heads [B, H, S, V] that end in zeros."""
  V = max(widths)
  heads = x.squeeze(-1).transpose(1, 2).split(widths, -1)
  return torch.stack([pad(h, (0, V - h.shape[-1])) for h in heads], 1)


def repeat(x, H):
  """Repeats the heads of x [B, G, S, K] to H; one head is not copied."""
  B, G, S, K = x.shape
  return x[:, :, None].expand(B, G, H // G, S, K).reshape(B, H, S, K)


class Rotated(nn.Module):
  """Attention to latents c under rotary positions, in the place of Llama's own.

    [x Wq_h Uk_h^T; R_t x Wr_h] . [c; R_s y Wr],  values c Uv_h

  Each plane of the rotated part turns at the rate of one of a whole head's.
  Without planes whole keys turn, R_t x Wq_h . R_s c Uk_h. They are made of the
  cached c in each call, so the cache has their positions in place of values.
  """

  def __init__(self, old, rotary, num_heads, latent_dim, planes=()):
    super().__init__()
    D, H, K, R = old.q_proj.in_features, num_heads, old.head_dim, latent_dim
    self.K, self.R, self.rotated = K, R, 2 * len(planes)
    self.rates = 2 * list(planes or range(K // 2))  # of both halves of a vector
    self.layer_idx, self.is_causal = old.layer_idx, True
    self.dropout = old.attention_dropout
    self.rotary_emb = rotary
    self.q_proj = nn.Linear(D, H * (K + self.rotated))
    self.q_proj.up = nn.Parameter(torch.randn(H, K, R) * K**-0.5)
    self.k_proj = nn.Linear(D, R + self.rotated, bias=False)
    self.v_proj = Latent(H, R, K)
    self.o_proj = nn.Linear(H * K, D)

  def forward(
    self,
    hidden_states,
    position_ids,
    attention_mask=None,
    cache=None,
    past_key_values=None,  # its name before Transformers 5.24
    is_causal=None,
    **options,
  ):
    at = position_ids.expand(hidden_states.shape[:2])[:, None, :, None]
    q = self.q_proj(hidden_states).unflatten(-1, (-1, self.K + self.rotated))
    q, k = q.transpose(1, 2), self.k_proj(hidden_states)[:, None]
    if self.rotated:
      q, turned = q.split([self.K, self.rotated], -1)
      q = torch.einsum('bhtk,hkr->bhtr', q, self.q_proj.up)
      q = torch.cat([q, self.turn(turned, at)], -1)
      c, turned = k.split([self.R, self.rotated], -1)
      k = torch.cat([c, self.turn(turned, at)], -1)
    else:
      q = self.turn(q, at)
    if (past := past_key_values if cache is None else cache) is not None:
      k, at = past.update(k, at.float(), self.layer_idx)
    if self.rotated:
      k, v = (repeat(x, q.shape[1]) for x in (k, k[..., : self.R]))
    else:
      c = k[:, 0]
      k = torch.einsum('bsr,hkr->bhsk', c, self.q_proj.up)
      k, v = self.turn(k, at), torch.einsum('bsr,hrv->bhsv', c, self.v_proj.up)
    how = dict(is_causal=is_causal, scaling=(self.K + self.rotated) ** -0.5)
    how['dropout'] = self.dropout if self.training else 0.0
    o, _ = sdpa_attention_forward(self, q, k, v, attention_mask, **how)
    if self.rotated:  # o is [B, T, H, R]
      o = torch.einsum('bthr,hrv->bthv', o, self.v_proj.up)
    return self.o_proj(o.flatten(-2)), None

  def turn(self, x, at):
    """Rotates x [B, H, S, *] by positions [B, 1, S, 1]."""
    cos, sin = self.rotary_emb(x, at[:, 0, :, 0])
    cos, sin = (y[:, None, :, self.rates] for y in (cos, sin))
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


# The variants: from D, H, V and fields to Heads -------------------------------


def collab(D, H, V, shared_dim, bias, value_dims=None):
  content, shared = bias == 'content', bias == 'shared'
  K = shared_dim + H * content
  query = Mixed(D, H, shared_dim, bias=shared, content=content)
  value = nn.Linear(D, sum(value_dims or [H * V]))
  return Heads(K, V, query, nn.Linear(D, K, shared), value, value_dims)


def gqa(D, H, V, kv_heads):
  key, value = nn.Linear(D, kv_heads * V), nn.Linear(D, kv_heads * V)
  return Heads(V, V, nn.Linear(D, H * V), key, value)


def mha(D, H, V, key_features=0, value_dims=None):
  N = key_features or H * V
  value = nn.Linear(D, sum(value_dims or [H * V]))
  query, key = nn.Linear(D, N), nn.Linear(D, N)
  return Heads(N // H, V, query, key, value, value_dims)


def mhe_mul(D, H, V):
  query = Mixed(D, H, V, bias=True, content=False)
  return Heads(V, V, query, nn.Linear(D, V), nn.Linear(D, V))


def mla(D, H, V, latent_dim):
  R = latent_dim
  key = nn.Linear(D, R, bias=False)
  return Heads(R, V, Absorbed(D, H, V, R), key, Latent(H, R, V))


VARIANTS = dict(collab=collab, gqa=gqa, mha=mha, mhe_mul=mhe_mul, mla=mla)


# The models -------------------------------------------------------------------


class Collab:
  """Replaces the projections of the model of Transformers that it precedes."""

  def __init__(self, config, *args, **kwargs):
    got = config._attn_implementation
    if got not in (None, 'sdpa', IMPLEMENTATION):
      raise ValueError(f'attn_implementation={got!r}; expected sdpa.')
    config._attn_implementation = IMPLEMENTATION
    super().__init__(config, *args, **kwargs)
    modules = [(at, x) for at, x in self.named_modules() if projections(x)]
    rotary = next((x for x in self.modules() if hasattr(x, 'inv_freq')), None)
    for (at, module), fields in zip(modules, config.collab, strict=True):
      if rotary:
        parent, _, name = at.rpartition('.')
        own = {key: x for key, x in fields.items() if key != 'name'}
        new = Rotated(module, type(rotary)(config), **own)
        setattr(self.get_submodule(parent), name, new)
        continue
      replace(module, config.hidden_size, **fields)
      width = sum(fields.get('value_dims') or [fields.get('qkv_features', 0)])
      if width:
        parent = self.get_submodule(at.rpartition('.')[0])
        narrow((module, getattr(parent, 'output', None)), width)


def projections(module):
  """Returns the names of an attention module's projections; () of others."""
  for names in (('c_attn',), *PROJECTIONS):
    if all(hasattr(module, name) for name in names):
      return names
  return ()


def replace(module, D, name, num_heads, qkv_features=0, **fields):
  """Replaces the projections of an attention module."""
  V = (qkv_features or D) // num_heads
  heads = VARIANTS[name](D, num_heads, V, **fields)
  parts = heads.query, heads.key, heads.value
  names = projections(module)
  if names == ('c_attn',):
    others = heads.key.out_features, heads.value.out_features
    module.split_size = [num_heads * heads.K, *others]
    parts = [Fused(*parts)]
  for at, part in zip(names, parts, strict=True):
    setattr(module, at, part)
  for width in ('head_dim', 'attention_head_size'):
    if hasattr(module, width):  # they cut heads of one, `cut` the variant's
      setattr(module, width, 1)
  module.collab = heads


def narrow(owners, width):
  """Replaces the output projection, which one of the modules has."""
  owner, name = next(
    (x, name) for x in owners for name in OUTPUTS if hasattr(x, name)
  )
  if isinstance(old := getattr(owner, name), Conv1D):
    new = Conv1D(old.nf, width)
  else:
    new = nn.Linear(width, old.out_features)
  setattr(owner, name, new)


@functools.cache
def make(name):
  """Makes CollabX of Transformers' X, a model or the config of one."""
  base = getattr(transformers, name.removeprefix('Collab'))
  if issubclass(base, transformers.PreTrainedConfig):
    fields = dict(model_type=f'collab_{base.model_type}', __module__=__name__)
    return type(name, (base,), fields)
  config = make(f'Collab{base.config_class.__name__}')
  # Newer versions rename tensors of checkpoints by the name of the class.
  renames = conversion_mapping.get_checkpoint_conversion_mapping(base.__name__)
  if renames:
    register = conversion_mapping.register_checkpoint_conversion_mapping
    register(name, renames, overwrite=True)
  return type(
    name, (Collab, base), dict(config_class=config, __module__=__name__)
  )


def __getattr__(name):
  if not name.startswith('Collab'):
    raise AttributeError(f'{__name__} has no {name}.')
  return make(name)


def attend(module, *args, **options):
  return module.collab.attend(module, *args, **options)


transformers.AttentionInterface.register(IMPLEMENTATION, attend)
transformers.AttentionMaskInterface.register(
  IMPLEMENTATION, masking_utils.sdpa_mask
)
