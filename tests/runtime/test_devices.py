# SPDX-License-Identifier: Apache-2.0
"""Peaks of accelerators are looked up, those of CPUs measured."""

import types

import jax
import numpy as np
import pytest

from collab.runtime import devices
from collab.training import sharding


def mesh_of(kind, n, platform='gpu'):
  one = types.SimpleNamespace(platform=platform, device_kind=kind)
  return types.SimpleNamespace(devices=np.array([[one] * n]), size=n)


@pytest.mark.parametrize(
  'kind, platform, flops',
  [
    ('NVIDIA H200', 'gpu', 989e12),
    ('NVIDIA A100-SXM4-80GB', 'gpu', 312e12),
    ('TPU v3', 'tpu', 123e12 / 2),
    ('TPU v6 lite', 'tpu', 918e12),
  ],
)
def test_peak_of_an_accelerator(kind, platform, flops):
  found = devices.peak(mesh_of(kind, 5, platform))
  assert found.flops == 5 * flops
  assert 'bfloat16' in found.source


@pytest.mark.parametrize('kind', ['NVIDIA H100', 'NVIDIA H200 MIG 1g.18gb'])
def test_peak_is_never_guessed(kind):
  found = devices.peak(mesh_of(kind, 2))
  assert found.flops is None
  assert found.source == f'not known of {kind}, so there is no MFU'


def test_peak_of_a_cpu_is_measured_once():
  mesh = sharding.make_mesh()
  found = devices.peak(mesh)
  assert found.flops > 1e8
  assert 'measured' in found.source
  assert devices.peak(mesh) == found


def test_best_of_ten(monkeypatch):
  seconds = iter(np.cumsum([0, 5, 0, 3, 0, 4, 0, 3.5, 0, 9, *[0, 4] * 5]))
  monkeypatch.setattr(devices.time, 'perf_counter', lambda: next(seconds))
  mesh = sharding.make_mesh()
  assert devices._measured.__wrapped__(mesh, n=7) == 2 * 7**3 * mesh.size / 3


def test_peak_bytes_of_a_cpu_are_the_process():
  x = np.ones(100 << 20, np.uint8)
  [(name, value)] = devices.peak_bytes().items()
  assert name == 'resident_peak_bytes'
  assert x.nbytes < value < 1 << 40


def test_peak_bytes_of_a_device(monkeypatch):
  stats = dict(bytes_in_use=3, peak_bytes_in_use=7, bytes_limit=9)
  device = types.SimpleNamespace(memory_stats=lambda: stats)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  assert devices.peak_bytes() == dict(device_peak_bytes=7)
