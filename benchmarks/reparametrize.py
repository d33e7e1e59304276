# SPDX-License-Identifier: Apache-2.0
r"""Compares our decomposition of score matrices with tensorly's parafac.

  ./launch.sh python -m benchmarks.reparametrize [--save]

The layer has BERT-base's size, with k = 384, in float32. Both sides start at
the same point, make the same number of sweeps and take turns. Errors are those
of the D x H x D tensor. Then our side decomposes twelve layers, 100 sweeps
each, and its memory is measured.
"""

import argparse
import importlib.metadata
import random
import resource
import time

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks import protocol
from collab.convert.decompose import cp

D, H, RANK, LAYERS, SWEEPS = 768, 12, 384, 12, 100
ROUNDS, PART = 3, 4  # rounds of the comparison, and sweeps in each

# Floating-point operations of a sweep (N = D): Gq X and Gk Y, three products
# [k, N] [N, k], two solutions for [N, k] and three Cholesky factors.
FLOP = 4 * D**2 * RANK + 10 * D * RANK**2 + RANK**3


def projections(seed):
  """Makes Wq and Wk [D, D] whose scores have a decaying spectrum.

  All heads look at the same directions of the input, each in its own way, and
  at some noise. The weight of direction i falls as i^-0.75.
  """
  rng = np.random.default_rng(seed)
  basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
  shared = basis * np.arange(1.0, D + 1) ** -0.75
  parts = [shared @ rng.normal(size=(D, D)) for _ in range(2)]
  return [(w + 0.01 * rng.normal(size=(D, D))).astype('f') for w in parts]


def gram(w):
  return w.T.astype('d') @ w


def dense(wq, wk):
  """Computes Wq_h Wk_h^T, [D, H, D]."""
  q, k = (w.reshape(D, H, -1) for w in (wq, wk))
  return np.stack([q[:, h] @ k[:, h].T for h in range(H)], 1)


def dense_error(tensor, u, m, v):
  """Computes |A - U diag(m) V^T| / |A| from the full tensor."""
  left = sum(
    ((tensor[:, h] - (u * m[h]) @ v.T) ** 2).sum(dtype='d') for h in range(H)
  )
  return float(np.sqrt(left) / np.linalg.norm(tensor))


def compare(parafac, rounds):
  """Returns seconds a sweep, errors and number of sweeps of both sides."""
  wq, wk = projections(0)
  grams, tensor = (gram(wq), gram(wk)), dense(wq, wk)
  ours = start = cp.decompose(*grams, H, RANK, 0)
  factors = wq @ start.query, start.mixing, wk @ start.key
  theirs = None, [f.astype('f') for f in factors]
  spent = dict(collab=[], tensorly=[])
  order, shuffle = list(spent), random.Random(0).shuffle
  for i in tqdm(range(rounds), 'in turns', leave=False, disable=None):
    sweeps = (i + 1) * PART
    shuffle(order)
    for name in order:
      if name == 'tensorly':
        seconds, theirs = timed(
          parafac, tensor, RANK, n_iter_max=PART, init=theirs, tol=0
        )
        spent[name].append(seconds / PART)
      else:
        without, _ = timed(cp.decompose, *grams, H, RANK, 0)
        seconds, ours = timed(cp.decompose, *grams, H, RANK, sweeps)
        spent[name].append((seconds - without) / sweeps)
  u, m, v = theirs[1]
  ours = wq @ ours.query, ours.mixing, wk @ ours.key
  errors = dict(
    start=start.error,
    collab=dense_error(tensor, *ours),
    tensorly=dense_error(tensor, u, m, v),
  )
  return {n: float(np.median(s)) for n, s in spent.items()}, errors, sweeps


def whole_model():
  """Returns seconds and errors of decomposing twelve layers."""
  grams = [[gram(w) for w in projections(seed)] for seed in range(LAYERS)]
  seconds, errors = 0.0, []
  for layer in tqdm(grams, 'twelve layers', leave=False, disable=None):
    more, found = timed(cp.decompose, *layer, H, RANK, SWEEPS)
    seconds += more
    errors.append(found.error)
  return seconds, errors


def timed(function, *arguments, **options):
  """Returns the seconds that a call takes, and its result."""
  start = time.perf_counter()
  found = function(*arguments, **options)
  return time.perf_counter() - start, found


def peak_mib():
  """Returns the peak memory of this process so far, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def gemm_rate():
  """Measures GFLOP/s of a 2048-cubed float32 product, one thread, best of 5."""
  x = np.ones((2048, 2048), 'f')
  with threadpool_limits(1, 'blas'):
    return 2 * 2048**3 / min(timed(np.matmul, x, x)[0] for _ in range(5)) / 1e9


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  try:
    from tensorly.decomposition import parafac
  except ImportError:
    raise SystemExit(
      'This compares with tensorly: COLLAB_EXTRAS=test,parity ./launch.sh ...'
    ) from None
  machine = protocol.machine() | {
    name: importlib.metadata.version(name)
    for name in ('numpy', 'scipy', 'tensorly')
  }
  print(*(f'{k}: {v}' for k, v in machine.items()), sep='\n')
  base, gemm = peak_mib(), gemm_rate()
  whole, lost = whole_model()
  memory = peak_mib() - base
  seconds, errors, sweeps = compare(parafac, args.rounds)
  limit = FLOP / gemm / 1e9
  figures = dict(
    gemm_gflops=gemm,
    sweep=dict(
      gflop=FLOP / 1e9,
      limit=limit,
      seconds=seconds,
      ratio=seconds['tensorly'] / seconds['collab'],
      of_limit=limit / seconds['collab'],
      sweeps=sweeps,
      errors=errors,
    ),
    twelve_layers=dict(
      seconds=whole, sweeps=SWEEPS, errors=lost, memory_mib=memory
    ),
    memory_with_tensorly_mib=peak_mib() - base,
  )
  report(**figures)
  if args.save:
    protocol.save('reparametrize', machine | figures)


def report(gemm_gflops, sweep, twelve_layers, memory_with_tensorly_mib):
  """Prints the figures."""
  print(f'\nmatrix product {gemm_gflops:.0f} GFLOP/s')
  print(f'\n{"":10}{"ms a sweep":>12}{"error of " + str(sweep["sweeps"]):>12}')
  for name, seconds in sweep['seconds'].items():
    print(f'{name:10}{1e3 * seconds:12.1f}{sweep["errors"][name]:12.5f}')
  print(
    f'{"":10}{"start":>12}{sweep["errors"]["start"]:12.5f}\n'
    f'{sweep["ratio"]:.0f} times faster; a sweep is {sweep["gflop"]:.2f} GFLOP,'
    f' {1e3 * sweep["limit"]:.1f} ms at the rate of the product: '
    f'{sweep["of_limit"]:.2f} of the limit'
  )
  print(
    f'{LAYERS} layers, {SWEEPS} sweeps: {twelve_layers["seconds"]:.1f} s, '
    f'errors {min(twelve_layers["errors"]):.4f} to '
    f'{max(twelve_layers["errors"]):.4f}, '
    f'{twelve_layers["memory_mib"]:.0f} MiB above the start '
    f'(with tensorly {memory_with_tensorly_mib:.0f})'
  )


if __name__ == '__main__':
  main()
