# SPDX-License-Identifier: Apache-2.0
"""The machine that a program is for: this one, or another to lower it for."""

from collections.abc import Iterator
import contextlib
import contextvars
from typing import NamedTuple

import jax

from collab.attention import cudnn


class Target(NamedTuple):
  """What the choice of kernels has to know of a machine.

  Attributes:
    platform: 'cpu', 'cuda', 'rocm' or 'tpu'.
    capability: CUDA's compute capability, e.g. (9, 0) for Hopper.
    cudnn: version of cuDNN, e.g. 91002 for 9.10.2.
  """

  platform: str
  capability: tuple[int, int] = (0, 0)
  cudnn: int = 0


_CHOSEN = contextvars.ContextVar('target', default=None)


def target() -> Target:
  """Returns the Target of `lowering_for`, or else JAX's default device.

  All devices of a process are taken to be alike.
  """
  if (chosen := _CHOSEN.get()) is not None:
    return chosen
  device = jax.config.jax_default_device or jax.local_devices()[0]
  if isinstance(device, str):
    device = jax.local_devices(backend=device)[0]
  if device.platform != 'gpu':
    return Target(device.platform)
  if 'cuda' not in device.client.platform_version:
    return Target('rocm')
  capability = tuple(map(int, device.compute_capability.split('.')))
  return Target('cuda', capability, cudnn.version())


@contextlib.contextmanager
def lowering_for(machine: Target) -> Iterator[None]:
  """Makes `target` return another machine, to lower or export a program for it.

  A function that was traced before is not traced again: use it around a new
  `jax.jit`. JAX itself asks for cuDNN's version and the GPU's capability while
  it lowers cuDNN's attention, and refuses where there is neither.
  """
  token = _CHOSEN.set(machine)
  try:
    yield
  finally:
    _CHOSEN.reset(token)
