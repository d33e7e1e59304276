# SPDX-License-Identifier: Apache-2.0
"""Every attention layer as its paper writes it: float64 NumPy, head by head.

Slow and literal on purpose, and independent of `collab`: what these say is the
evidence that the fast forms compute the same thing. Everything also accepts
complex arrays, so `directional` gives derivatives exact to rounding; hence no
conj, abs or real on the way, only plain transposes.

B batch, T queries, S keys, D model width, H heads, K key and V value width of
a head; d = D/H, X the queries' input, Y the keys', Z the values' (Y in the
papers). Papers: arXiv 2006.16362 (collaborative), 2310.07911 (MHE).
"""

import numpy as np


def _map(f, tree, *rest):
  if not isinstance(tree, dict):
    return f(tree, *rest)
  for other in rest:
    if other.keys() != tree.keys():
      raise ValueError(f'got keys {set(other)}, expected {set(tree)}')
  return {n: _map(f, tree[n], *(other[n] for other in rest)) for n in tree}


def _double(a):
  return np.asarray(a, np.result_type(np.asarray(a).dtype, np.float64))


def directional(f, tree, direction, h=1e-30):
  """Im f(tree + i h direction) / h, the derivative of f along `direction`.

  No difference is taken, hence no cancellation; real-analytic f only.
  """
  step = _map(lambda a, t: _double(a) + 1j * h * _double(t), tree, direction)
  return np.imag(f(step)) / h


def weights(q, k, *, key_bias=None, scale, mask=None, keep=None, soft_cap=None):
  """softmax_j(scale q_h[i].k_h[j] + b_h[j]) * keep_h[i,j]: [B,H,T,S].

  soft_cap c makes of each score s, with its bias, c tanh(s / c).
  q [B,T,H,K], k [B,S,H,K], b = key_bias [B,S,H] (already scaled), mask (bool)
  and keep broadcastable to [B,H,T,S]. keep is dropout: it multiplies after the
  normalisation, 1/(1-rate) included. A row that sees nothing has no weight.
  """
  (B, T, H, _), S = q.shape, k.shape[1]
  mask = np.broadcast_to(True if mask is None else mask, (B, H, T, S))
  heads = []
  for h in range(H):
    seen = mask[:, h]
    score = scale * (_double(q[:, :, h]) @ _double(k[:, :, h]).swapaxes(1, 2))
    if key_bias is not None:
      score = score + _double(key_bias)[:, None, :, h]
    if soft_cap is not None:
      score = soft_cap * np.tanh(score / soft_cap)
    # Any constant cancels in the quotient, so this one may be real.
    top = np.max(score.real, -1, keepdims=True, where=seen, initial=-np.inf)
    e = np.exp(np.where(seen, score - np.where(seen, top, 0), 0)) * seen
    total = e.sum(-1, keepdims=True)
    heads.append(e / np.where(seen.any(-1, keepdims=True), total, 1))
  A = np.stack(heads, 1)
  return A if keep is None else A * _double(keep)


def heads_softmax(q, k, v, **how):
  """o_h = weights_h v_h: q [B,T,H,K], k [B,S,H,K], v [B,S,H,V] -> [B,T,H,V]."""
  A = weights(q, k, **how)
  H = q.shape[2]
  return np.stack([A[:, h] @ _double(v[:, :, h]) for h in range(H)], 2)


def _dense(p, x, h=None):
  """x W + b, or head h of it."""
  if h is None:
    return x @ p['kernel'] + p.get('bias', 0)
  return x @ p['kernel'][:, h] + (p['bias'][h] if 'bias' in p else 0)


# A layer yields Q_h [B,T,K], K_h [B,S,K], V_h [B,S,V] and the keys' bias (None
# or [B,S], not yet scaled) for h = 0 ... H-1.


def mha(p, X, Y, Z, H):
  """2006.16362, concatenated: Q_h = X Wq_h, K_h = Y Wk_h, V_h = Z Wv_h."""
  for h in range(H):
    Q, K = _dense(p['query'], X, h), _dense(p['key'], Y, h)
    yield Q, K, _dense(p['value'], Z, h), None


def gqa(p, X, Y, Z, H, kv_heads):
  """MHA, but head h has the keys and values of group g = h // (H/G)."""
  if p['key']['kernel'].shape[1] != kv_heads or H % kv_heads:
    raise ValueError(f'{kv_heads=}: not the kernel, or no divisor of {H=}')
  for h in range(H):
    g = h // (H // kv_heads)
    Q, K = _dense(p['query'], X, h), _dense(p['key'], Y, g)
    yield Q, K, _dense(p['value'], Z, g), None


def skv(p, X, Y, Z, H, kv_heads=0):
  """SKV, a baseline in 2310.07911 (our reading): K_h = V_h = Y Wkv_g + b_g.

  g = h there; fewer key heads are Q-K=V in 2606.04032.
  """
  for h in range(H):
    KV = _dense(p['key'], Y, h // (H // (kv_heads or H)))
    yield _dense(p['query'], X, h), KV, KV, None


def el(p, X, Y, Z, H):
  """EL-ATT, a baseline there (our reading): K_h = V_h = slice h of Y."""
  slices = np.split(Y, H, axis=-1)
  for h in range(H):
    yield _dense(p['query'], X, h), slices[h], slices[h], None


def collab(p, X, Y, Z, H, bias='content'):
  """2006.16362: score_h = ((X Wq * m_h) (Y Wk)^T + 1 (Y c_h)^T) / sqrt(d).

  bias says what stands for the biases of queries and keys: 'content' is c_h,
  'shared' X Wq + bq and Y Wk + bk without c_h, 'none' neither. V_h as in MHA.
  """
  if bias not in ('content', 'shared', 'none'):
    raise ValueError(f'got {bias=}, expected content, shared or none')
  use_bias = 'bias' in p['out']
  Q, K = X @ p['query']['kernel'], Y @ p['key']['kernel']
  if use_bias and bias == 'shared':
    Q, K = Q + p['query']['bias'], K + p['key']['bias']
  for h in range(H):
    b = None
    if use_bias and bias == 'content':
      b = Y @ p['content_bias']['kernel'][:, h]
    yield Q * p['mixing'][h], K, _dense(p['value'], Z, h), b


def sha(p, X, Y, Z, H):
  """SHA, a baseline there (our reading): X Wq, Y Wk, Z Wv in all H slots."""
  for _ in range(H):
    Q, K = _dense(p['query'], X), _dense(p['key'], Y)
    yield Q, K, _dense(p['value'], Z), None


def mhe_add(p, X, Y, Z, H):
  """2310.07911, MHE-ADD: Q_h = Q + eq_h, K_h = K + ek_h, V_h = V + ev_h."""
  eq, ek, ev = (p[f'{n}_embedding'] for n in ('query', 'key', 'value'))
  for h, (Q, K, V, _) in enumerate(sha(p, X, Y, Z, H)):
    yield Q + eq[h], K + ek[h], V + ev[h], None


def mhe_mul(p, X, Y, Z, H, offset=1.0):
  """2310.07911, MHE-MUL: Q_h = Q * (offset + eq_h), K_h and V_h likewise.

  That the paper's offset is 1 is our reading.
  """
  eq, ek, ev = (offset + p[f'{n}_embedding'] for n in ('query', 'key', 'value'))
  for h, (Q, K, V, _) in enumerate(sha(p, X, Y, Z, H)):
    yield Q * eq[h], K * ek[h], V * ev[h], None


def mla(p, X, Y, Z, H):
  """MLA (2405.04434, no rotary part): c = Y Wc, K_h = c Uk_h, V_h = c Uv_h."""
  c = Y @ p['latent']['kernel']
  for h in range(H):
    K, V = _dense(p['key_up'], c, h), _dense(p['value_up'], c, h)
    yield _dense(p['query'], X, h), K, V, None


def gla(p, X, Y, Z, H):
  """GLA (2505.21487, no rotary part): MLA, a latent c_g for H / G heads."""
  G = p['latent']['kernel'].shape[1]
  for h in range(H):
    c = Y @ p['latent']['kernel'][:, h // (H // G)]
    K, V = _dense(p['key_up'], c, h), _dense(p['value_up'], c, h)
    yield _dense(p['query'], X, h), K, V, None


def gta(p, X, Y, Z, H):
  """GTA (2505.21487): V_g = Y Wkv_g, K_h = [first half of V_g; Y Wr]."""
  G, d = p['key_value']['kernel'].shape[1:]
  for h in range(H):
    V = _dense(p['key_value'], Y, h // (H // G))
    K = np.concatenate([V[..., : d - d // 2], _dense(p['rope_key'], Y, 0)], -1)
    yield _dense(p['query'], X, h), K, V, None


def mfa(p, X, Y, Z, H):
  """MFA (2412.19255): Q_h = X Sq Q_h, K = Y Sk and V = Z Sv for all heads."""
  for h in range(H):
    Q = _dense(p['query'], X @ p['query_down']['kernel'], h)
    yield Q, _dense(p['key'], Y, 0), _dense(p['value'], Z, 0), None


def mfa_kr(p, X, Y, Z, H):
  """MFA-KR (there): V = (I + diag(a) N) K for every key, before any mixing."""
  for h in range(H):
    Q = _dense(p['query'], X @ p['query_down']['kernel'], h)
    K = _dense(p['key'], Y, 0)
    N = p['value']['kernel'] * p['value_gate']  # columns, as keys are rows
    yield Q, K, K @ (np.eye(len(N)) + N), None


def tpa(p, X, Y, Z, H):
  """TPA-KVonly (2501.06425): K = 1/R sum_r a_r (x) b_r [H, d], and so V."""
  for h in range(H):
    heads = []
    for name, U in (('key', Y), ('value', Z)):
      R = p[name]['kernel'].shape[1]
      a = [_dense(p[f'{name}_heads'], U, r)[..., h, None] for r in range(R)]
      b = [_dense(p[name], U, r) for r in range(R)]
      heads.append(sum(a[r] * b[r] for r in range(R)) / R)
    yield _dense(p['query'], X, h), *heads, None


def widened(params, widths, V):
  """The layer whose heads all have width V, the narrower ending in zeros."""

  def wide(x, axis):
    parts = np.split(_double(x), np.cumsum(widths)[:-1], axis)
    ends = [(0, 0)] * x.ndim
    for h, n in enumerate(widths):
      ends[axis] = (0, V - n)
      parts[h] = np.pad(parts[h], ends)
    return np.stack(parts, axis)

  value = {name: wide(x, x.ndim - 1) for name, x in params['value'].items()}
  out = params['out'] | dict(kernel=wide(params['out']['kernel'], 0))
  return params | dict(value=value, out=out)


LAYERS = {f.__name__: f for f in (mha, gqa, skv, el, collab, sha)}
LAYERS |= {f.__name__: f for f in (mhe_add, mhe_mul, mla, gla, gta)}
LAYERS |= {f.__name__: f for f in (mfa, mfa_kr, tpa)}


def attention(
  name,
  params,
  x,
  y,
  z,
  *,
  num_heads,
  mask=None,
  scale=None,
  gate='none',
  **fields,
):
  """Concat_h(softmax(scale Q_h K_h^T) V_h) Wo + bo: [B,T,D_out].

  params is the layer's 'params' collection; scale is 1/sqrt(d) unless given,
  d = qkv_features/H being the width of a head's output; fields are `name`'s.
  With a gate (2505.06708), o_h times sigmoid(x Wg_h + bg_h).
  """
  p, H = _map(_double, params), num_heads
  x, y, z = _double(x), _double(y), _double(z)
  Wo = p['out']['kernel']
  if Wo.shape[0] != H:
    raise ValueError(f'got out/kernel {Wo.shape}, expected {H} heads first')
  scale = Wo.shape[1] ** -0.5 if scale is None else scale
  q, k, v, b = zip(*LAYERS[name](p, x, y, z, H, **fields), strict=True)
  q, k, v = (np.stack(heads, 2) for heads in (q, k, v))
  b = None if b[0] is None else np.stack(b, 2) * scale
  o = heads_softmax(q, k, v, key_bias=b, scale=scale, mask=mask)
  if gate != 'none':
    g = [_dense(p['gate'], x, h) for h in range(H)]
    o = o / (1 + np.exp(-np.stack(g, 2)))
  concat = o.reshape(*o.shape[:2], -1)
  return concat @ Wo.reshape(-1, Wo.shape[-1]) + p['out'].get('bias', 0)
