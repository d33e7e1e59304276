# SPDX-License-Identifier: Apache-2.0
"""The decomposition against the D x H x D tensor that it never forms."""

import numpy as np
import pytest

from collab.convert.decompose import cp

D, H, K = 19, 3, 5
N = H * K


def projections(seed=0, heads=H, width=K, dim=D):
  """Wq and Wk, [D, H K], and C, the second moments of inputs that vary."""
  rng = np.random.default_rng(seed)
  wq, wk = rng.normal(size=(2, dim, heads * width))
  x = rng.normal(size=(53, dim)) * np.linspace(0.1, 3, dim)
  return wq, wk, x.T @ x / 53


def grams(wq, wk, c=None):
  c = np.eye(len(wq)) if c is None else c
  return wq.T @ c @ wq, wk.T @ c @ wk


def dense(wq, wk, heads=H):
  """A [H, D, D]."""
  q, k = (w.reshape(len(w), heads, -1) for w in (wq, wk))
  return np.einsum('dhk,ehk->hde', q, k)


def rebuilt(wq, wk, f):
  """U diag(m_h) V^T, [H, D, D]."""
  return np.einsum('dk,hk,ek->hde', wq @ f.query, f.mixing, wk @ f.key)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('rank, sweeps', [(1, 3), (7, 0), (7, 20), (N - 1, 9)])
def test_error_is_that_of_the_dense_tensor(rank, sweeps, weighted):
  wq, wk, c = projections()
  c = c if weighted else np.eye(D)
  f = cp.decompose(*grams(wq, wk, c), H, rank, sweeps)
  s = np.linalg.cholesky(c).T
  a, b = (s @ x @ s.T for x in (dense(wq, wk), rebuilt(wq, wk, f)))
  want = np.linalg.norm(a - b) / np.linalg.norm(a)
  assert 0.01 < want < 1
  np.testing.assert_allclose(f.error, want, rtol=1e-6)
  if sweeps:
    np.testing.assert_allclose(f.sweeps[-1], want, rtol=1e-3)


def test_full_rank_is_a_copy():
  f = cp.decompose(*grams(*projections()[:2]), H, N)
  assert f.error == 0
  np.testing.assert_array_equal(f.query, np.eye(N))
  np.testing.assert_array_equal(f.key, np.eye(N))
  np.testing.assert_array_equal(f.mixing, np.repeat(np.eye(H), K, 1))


def test_no_sweep_makes_it_worse():
  g = grams(*projections())
  f = cp.decompose(*g, H, 7, 40)
  start = cp.decompose(*g, H, 7, 0).error
  assert len(f.sweeps) == 40
  assert (np.diff(f.sweeps) <= 0).all()
  assert f.sweeps[-1] < f.sweeps[0] <= start


def test_more_width_is_less_error():
  g = grams(*projections())
  errors = [cp.decompose(*g, H, k, 30).error for k in range(1, N + 1)]
  assert (np.diff(errors) < 0).all()


def test_one_head_is_the_svd():
  """Eckart and Young: nothing of that rank is nearer."""
  wq, wk, _ = projections(heads=1)
  s = np.linalg.svd(wq @ wk.T)[1]
  want = np.sqrt((s[2:] ** 2).sum() / (s**2).sum())
  assert cp.decompose(*grams(wq, wk), 1, 2, 5).error == pytest.approx(want)


def test_heads_of_width_one():
  """H outer products are a decomposition of rank H: of fewer, the best."""
  wq, wk, _ = projections(heads=7, width=1)
  f = cp.decompose(*grams(wq, wk), 7, 6, 50)
  assert 0 < f.error < cp.decompose(*grams(wq, wk), 7, 6, 0).error


@pytest.mark.parametrize('seed', range(3))
def test_finds_a_decomposition_that_is_there(seed):
  """Heads made of 7 shared columns, as those of MHE-MUL are."""
  rng = np.random.default_rng(seed)
  u, v, m = (rng.normal(size=(n, 7)) for n in (D, D, H))
  wq = (u[:, None] * m[None]).reshape(D, -1)
  wk = np.repeat(v[:, None], H, 1).reshape(D, -1)
  f = cp.decompose(*grams(wq, wk), H, 7, 600)
  assert f.error < 1e-6
  a = dense(wq, wk)
  np.testing.assert_allclose(rebuilt(wq, wk, f), a, atol=1e-6 * a.max())


def test_same_bits_every_time():
  g = grams(*projections())
  one, two = (cp.decompose(*g, H, 7, 11) for _ in range(2))
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a, b)


def test_order_and_scale_of_columns_are_free():
  wq, wk, _ = projections()
  g = grams(wq, wk)
  f = cp.decompose(*g, H, 7, 5)
  rng = np.random.default_rng(1)
  order, (a, b) = rng.permutation(7), rng.uniform(0.5, 2, (2, 7))
  x, y, m = f.query * a, f.key * b, f.mixing / (a * b)
  got = cp.error(*g, x[:, order], y[:, order], m[:, order])
  np.testing.assert_allclose(got, f.error, rtol=1e-12)


def test_columns_are_balanced():
  wq, wk, c = projections()
  gq, gk = grams(wq, wk, c)
  f = cp.decompose(gq, gk, H, 7, 5)
  np.testing.assert_allclose(np.abs(f.mixing).max(0), 1)
  u, v = (((g @ x) * x).sum(0) for g, x in ((gq, f.query), (gk, f.key)))
  np.testing.assert_allclose(u, v, rtol=1e-4)


def test_heads_are_permuted_with_their_mixing():
  wq, wk, _ = projections()
  order = np.array([2, 0, 1])
  moved = [w.reshape(D, H, K)[:, order].reshape(D, N) for w in (wq, wk)]
  f = cp.decompose(*grams(wq, wk), H, 7, 10)
  p = cp.decompose(*grams(*moved), H, 7, 10)
  # Columns are those of the heads in their order: compare them sorted.
  a, b = (np.sort(np.abs(x.mixing), 1) for x in (f, p))
  np.testing.assert_allclose(b, a[order], atol=1e-3)
  np.testing.assert_allclose(p.error, f.error, rtol=1e-5)


@pytest.mark.parametrize('scale', [1e-9, 1e9])
def test_scale_of_the_projections_is_no_matter(scale):
  wq, wk, _ = projections()
  f = cp.decompose(*grams(wq, wk), H, 7, 10)
  g = cp.decompose(*grams(wq * scale, wk), H, 7, 10)
  np.testing.assert_allclose(g.error, f.error, rtol=1e-6)
  a, b = rebuilt(wq, wk, f), rebuilt(wq, wk, g)
  np.testing.assert_allclose(b, a, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize('weighted', [False, True])
def test_looking_at_the_inputs_pays_where_they_count(weighted):
  wq, wk, c = projections()
  found = cp.decompose(*grams(wq, wk, c if weighted else None), H, 4, 50)
  other = cp.decompose(*grams(wq, wk, None if weighted else c), H, 4, 50)
  g = grams(wq, wk, c if weighted else None)
  assert found.error < 0.99 * cp.error(*g, *other[:3])


def test_a_head_of_zeros_and_inputs_of_low_rank():
  wq, wk, _ = projections()
  wq[:, :K] = 0
  x = np.random.default_rng(1).normal(size=(6, D))
  f = cp.decompose(*grams(wq, wk, x.T @ x), H, 6, 60)
  assert all(np.isfinite(part).all() for part in f)
  assert f.error < 0.1  # of 2 heads of rank 5, seen through 6 directions
  assert np.abs(f.mixing[0]).max() < 1e-3
  whole = cp.decompose(*grams(wq, wk), H, 2 * K, 3)
  assert whole.error < 1e-6


def test_nothing_but_zeros():
  f = cp.decompose(np.zeros((N, N)), np.zeros((N, N)), H, 4, 3)
  assert f.error == 0
  assert all(np.isfinite(part).all() for part in f)


def test_refuses():
  g = grams(*projections()[:2])
  for rank in (0, N + 1):
    with pytest.raises(ValueError, match=rf'^Key width {rank}; expected 1 to'):
      cp.decompose(*g, H, rank)
  with pytest.raises(ValueError, match=r'^sweeps=-1; expected at least 0'):
    cp.decompose(*g, H, 3, -1)
  for bad in (np.nan, np.inf):
    with pytest.raises(ValueError, match='not finite'):
      cp.decompose(g[0] * bad, g[1], H, 3)
