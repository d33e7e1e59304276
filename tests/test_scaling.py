# SPDX-License-Identifier: Apache-2.0
"""What the step of train.py sends, in its compiled program and on paper."""

import collections
import os

import pytest

from benchmarks import collectives, scaling
from collab.training import sharding
from tests import tiny

N = 8
FLAGS = (
  f'--xla_force_host_platform_device_count={N} --xla_dump_hlo_as_text '
  '--xla_dump_hlo_module_re=jit_train_step --xla_dump_to='
)


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return tiny.write_text(tmp_path_factory.mktemp('text'))


def compiled(fsdp, text, folder):
  """The collectives of a step on N devices, and {name: size} of parameters."""
  command = tiny.lm_command(text, folder / 'run', fsdp=fsdp, total_steps=5)
  flags = f'{os.environ["XLA_FLAGS"]} {FLAGS}{folder / "hlo"}'
  code, _, err = tiny.train(command, folder / 'compiled', XLA_FLAGS=flags)
  assert code == 0, err
  (path,) = (folder / 'hlo').glob('*train_step.*after_optimizations.txt')
  table = (folder / 'run' / 'parameters.txt').read_text().splitlines()
  rows = [[cell.strip() for cell in line.split('|')] for line in table]
  rows = [x for x in rows if len(x) > 4 and x[2].startswith('(')]
  sizes = {x[1]: int(x[4].replace(',', '')) for x in rows}
  return collectives.of_program(path.read_text()), sizes


def by_kind(found):
  """{kind: bytes of the results}; all N devices take part in each."""
  sums = collections.Counter()
  for kind, size, chips in found:
    assert chips == N
    sums[kind] += size
  return sums


@pytest.mark.slow
def test_data_parallel(text, tmp_path):
  """Every gradient once, three numbers besides, and nothing else."""
  found, sizes = compiled(1, text, tmp_path)
  whole = sum(sizes.values())
  assert by_kind(found) == {'all-reduce': 4 * whole + 3 * 4}
  sent = sum(collectives.sent(*x) for x in found)
  model = scaling.Model(whole, flops=1)
  expected = scaling.volume(model, 'data parallel', N)
  assert sent == pytest.approx(expected, rel=1e-3)


def test_fsdp(text, tmp_path):
  """Parameters are gathered and gradients scattered; never activations.

  Those of blocks are gathered again for the backward pass; in JAX 0.10 XLA's
  CPU backend undoes that, and keeps them from the forward pass.
  """
  found, sizes = compiled(N, text, tmp_path)
  sums = by_kind(found)
  assert set(sums) == {'all-gather', 'all-reduce', 'reduce-scatter'}
  whole = sum(sizes.values())
  split = {name: x for name, x in sizes.items() if x >= sharding.SMALL}
  parts = sum(split.values())
  assert parts > 0.8 * whole
  of_blocks = sum(x for name, x in split.items() if 'layer_' in name)
  assert 0 < of_blocks < parts
  assert sums['all-gather'] in (4 * parts, 4 * (parts + of_blocks))
  assert sums['reduce-scatter'] == 4 * parts / N
  more = sums['all-reduce'] - 4 * (whole - parts)
  assert 0 < more < 4 * 3 * len(sizes)  # norms, and whether all is finite
  sent = sum(collectives.sent(*x) for x in found)
  model = scaling.Model(whole, flops=1)
  assert sent <= 1.01 * scaling.volume(model, 'FSDP', N)


@pytest.mark.parametrize(
  'groups', ["mesh['a'=8,'b'=2] {'a'}", '[2,8]<=[16]', '{{0,1,2,3,4,5,6,7}}']
)
def test_collectives(groups):
  hlo = f"""
  %x = (f32[3,5]{{1,0}}, bf16[7]{{0}}, f32[]) all-reduce(%a, %b, %c), channel_id=1, replica_groups={groups}, to_apply=%add
  %y = s8[2,2]{{1,0}} all-gather-start(%x), replica_groups={groups}
  %z = f32[4]{{0}} add(%x, %y), metadata={{op_name="all-reduce"}}
  """  # noqa: E501
  assert collectives.of_program(hlo) == [
    ('all-reduce', 4 * 15 + 2 * 7 + 4, 8),
    ('all-gather', 4, 8),
  ]


@pytest.mark.parametrize('kind', collectives.KINDS)
def test_sent_by_a_ring(kind):
  """Chunk by chunk: how often a chip passes on an n-th of the whole."""
  n, chunk = 7, 11
  hops = {'all-reduce': 2 * (n - 1), 'collective-permute': n}.get(kind, n - 1)
  result = chunk if kind == 'reduce-scatter' else n * chunk
  assert collectives.sent(kind, result, n) == pytest.approx(hops * chunk)


@pytest.mark.parametrize('way', scaling.PASSES)
def test_tokens_keep_the_efficiency(way):
  model, chip = scaling.Model(10**8, 6e8), scaling.RATES['TPU v5p']
  for n in scaling.CHIPS:
    for t, enough in ((0, True), (-1, False)):
      t += scaling.tokens(model, way, n, chip)
      computing = t * model.flops / (scaling.UTILISATION * chip.flops)
      waiting = scaling.volume(model, way, n) / chip.sent
      share = computing / (computing + waiting)
      assert (share >= scaling.EFFICIENCY) == enough


def test_model_of_a_config():
  """ptb's decoder: parameters by hand, FLOPs near six a parameter."""
  model = scaling.model('lm:ptb')
  D, V, layers, positions = 512, 10_000, 6, 1024
  layer = 4 * D * D + 4 * D + 8 * D * D + 4 * D + D + 4 * D
  assert model.parameters == layers * layer + (V + positions) * D + 2 * D
  assert 6 < model.flops / (layers * 12 * D * D + V * D) < 7
