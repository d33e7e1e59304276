# SPDX-License-Identifier: Apache-2.0
"""Every attention layer under rotary positions, literally: NumPy, head by head.

A head has a query Q_h and a key K_h as if there were no positions, both rotate,
and values do not. What fast forms do to the algebra, and what they cache, is
not here. As in `reference`, everything also takes complex numbers.
"""

import functools

import numpy as np

from tests.attention import reference


def rotate(x, at, base=10_000.0, fraction=1.0, planes=None):
  """Rotates x [B, S, K] by at [B|1, S]: planes (i, i + n/2) of the first n.

  `planes` has numbers of planes, and the width of the vector that they are of.
  """
  n = round(fraction * x.shape[-1])
  numbers, width = planes or (range(n // 2), n)
  out = x.copy()
  for i in range(n // 2):
    angle = at * base ** (-2 * numbers[i] / width)
    a, b = x[..., i], x[..., i + n // 2]
    out[..., i] = a * np.cos(angle) - b * np.sin(angle)
    out[..., i + n // 2] = a * np.sin(angle) + b * np.cos(angle)
  return out


def rms(p, name, x, on):
  """x / sqrt(mean x^2) * scale."""
  if not on:
    return x
  size = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x / size * p[f'{name}_norm']['scale']


def factors(p, x):
  """All factors a_r [H] of TPA, [B, S, R, H]."""
  return np.einsum('bsd,drh->bsrh', x, p['kernel']) + p.get('bias', 0)


def layer(
  name,
  p,
  x,
  y,
  z,
  mask,
  at,
  key_at,
  *,
  num_heads,
  base=10_000.0,
  fraction=1.0,
  qk_norm=False,
  gate='none',
  **fields,
):
  """Computes the layer's output from its parameters, [B, T, D_out]."""
  p = reference._map(reference._double, p)
  x, y, z = map(reference._double, (x, y, z))
  H, Wo = num_heads, p['out']['kernel']
  norm = lambda which, u: rms(p, which, u, qk_norm)
  dense = reference._dense
  turn = lambda u, at: rotate(u, at, base, fraction)
  Q, K, V, scale = [], [], [], Wo.shape[1] ** -0.5
  for h in range(H):
    if name in ('mha', 'gqa', 'skv', 'el'):
      G = fields.get('kv_heads', H)
      g = h // (H // G)
      k = np.split(y, H, -1)[h] if name == 'el' else dense(p['key'], y, g)
      v = dense(p['value'], z, g) if name in ('mha', 'gqa') else k
      q = norm('query', dense(p['query'], x, h))
      Q.append(turn(q, at))
      K.append(turn(norm('key', k), key_at))
      V.append(v)
    elif name in ('sha', 'mhe_add', 'mhe_mul'):
      q = norm('query', dense(p['query'], x))
      k = norm('key', dense(p['key'], y))
      v = dense(p['value'], z)
      if name == 'mhe_add':
        # With fraction < 1 the embeddings are of the other dimensions.
        e = [p[f'{n}_embedding'][h] for n in ('query', 'key', 'value')]
        e = [np.concatenate([np.zeros(len(e[2]) - len(u)), u]) for u in e]
        q, k, v = q + e[0], k + e[1], v + e[2]
      elif name == 'mhe_mul':
        e = [1 + p[f'{n}_embedding'][h] for n in ('query', 'key', 'value')]
        if fields.get('fold'):
          q, v = q * e[0] * e[1], v * e[2]
        else:
          q, k, v = q * e[0], k * e[1], v * e[2]
      Q.append(turn(q, at))
      K.append(turn(k, key_at))
      V.append(v)
    elif name == 'collab':
      q = norm('query', dense(p['query'], x))
      k = norm('key', dense(p['key'], y))
      m, cut = p['mixing'][h], lambda u: np.split(u, fields['bands'], -1)
      if fields.get('mixing') == 'complex':
        blocks = []
        for one, mix in zip(cut(q), cut(m), strict=True):
          (a, b), (c, d) = np.split(one, 2, -1), np.split(mix, 2, -1)
          blocks += [a * c - b * d, a * d + b * c]
        q = np.concatenate(blocks, -1)
      else:
        q = q * m
      if 'query_bias' in p:
        q = q + p['query_bias'][h]
      Q.append(np.concatenate([turn(u, at) for u in cut(q)], -1))
      K.append(np.concatenate([turn(u, key_at) for u in cut(k)], -1))
      V.append(dense(p['value'], z, h))
    elif name == 'mla':
      d = Wo.shape[1]
      c = norm('latent', y @ p['latent']['kernel'])
      q, k = dense(p['query'], x, h), dense(p['key_up'], c, h)
      V.append(dense(p['value_up'], c, h))
      if not fields.get('decoupled', True):
        Q.append(turn(q, at))
        K.append(turn(k, key_at))
        continue
      planes = fields.get('planes')
      how = dict(base=base, planes=planes and (planes, d))
      part = functools.partial(rotate, **how)
      shared = part(y @ p['rope_key']['kernel'], key_at)
      Q.append(np.concatenate([q[..., :d], part(q[..., d:], at)], -1))
      K.append(np.concatenate([k, shared], -1))
      scale = Q[-1].shape[-1] ** -0.5
    elif name == 'gla':
      d, G = Wo.shape[1], p['latent']['kernel'].shape[1]
      c = norm('latent', y @ p['latent']['kernel'][:, h // (H // G)])
      q, k = dense(p['query'], x, h), dense(p['key_up'], c, h)
      shared = turn(y @ p['rope_key']['kernel'], key_at)
      Q.append(np.concatenate([q[..., :d], turn(q[..., d:], at)], -1))
      K.append(np.concatenate([k, shared], -1))
      V.append(dense(p['value_up'], c, h))
      scale = Q[-1].shape[-1] ** -0.5
    elif name == 'gta':
      d, G = Wo.shape[1], p['key_value']['kernel'].shape[1]
      n = d - d // 2
      q = norm('query', dense(p['query'], x, h))
      v = norm('key_value', dense(p['key_value'], y, h // (H // G)))
      shared = norm('rope_key', dense(p['rope_key'], y, 0))
      Q.append(np.concatenate([q[..., :n], turn(q[..., n:], at)], -1))
      K.append(np.concatenate([v[..., :n], turn(shared, key_at)], -1))
      V.append(v)
    elif name in ('mfa', 'mfa_kr'):
      q = norm('query', x @ p['query_down']['kernel'])
      k = dense(p['key'], y, 0)
      Q.append(turn(dense(p['query'], q, h), at))
      K.append(turn(norm('key', k), key_at))
      if name == 'mfa':
        V.append(dense(p['value'], z, 0))
      else:
        V.append(k + k @ p['value']['kernel'] * p['value_gate'])
    elif name == 'tpa':
      a, b = factors(p['key_heads'], y), p['key']
      R = b['kernel'].shape[1]
      # The whole key is rotated, not its factors.
      k = sum(
        a[..., r, h, None] * norm('key', dense(b, y, r)) for r in range(R)
      )
      Q.append(turn(norm('query', dense(p['query'], x, h)), at))
      K.append(turn(k / R, key_at))
      a, b = factors(p['value_heads'], z), p['value']
      V.append(sum(a[..., r, h, None] * dense(b, z, r) for r in range(R)) / R)
  q, k, v = (np.stack(u, 2) for u in (Q, K, V))
  o = reference.heads_softmax(q, k, v, scale=scale, mask=mask)
  if gate != 'none':
    g = [dense(p['gate'], x, h) for h in range(H)]
    o = o / (1 + np.exp(-np.stack(g, 2)))
  o = o.reshape(*o.shape[:2], -1) @ Wo.reshape(-1, Wo.shape[-1])
  return o + p['out'].get('bias', 0)
