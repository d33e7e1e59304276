# SPDX-License-Identifier: Apache-2.0
"""Chooses XLA's flags that overlap the step's communication and computation.

They are options of the step's program, not XLA_FLAGS, for two reasons. They
need not be set before JAX starts. A flag that this XLA does not know is left
out with a warning, while in XLA_FLAGS it would end the process. The flags
change when things are computed, and no result.
"""

from collections.abc import Mapping
import os
import re

from absl import logging
import jax

PRESETS = dict(
  # openxla.org/xla/gpu_optimization_levels: what O1 does for data-parallel
  # communication. Without the scheduler each collective waits for its turn;
  # without pipelining those in a scan over layers end with their iteration.
  gpu=dict(
    xla_gpu_enable_latency_hiding_scheduler=True,
    xla_gpu_enable_pipelined_all_gather=True,
    xla_gpu_enable_pipelined_all_reduce=True,
    xla_gpu_enable_pipelined_reduce_scatter=True,
  ),
  # MaxText, benchmarks/xla_flags_library.py, CF_FOR_ALL_GATHER: collectives are
  # fused into the computation that hides them; and DATA_PARALLEL_OVERLAP:
  # gradients are reduced while those of the layer below are computed.
  tpu=dict(
    xla_enable_async_all_gather=True,
    xla_tpu_enable_async_collective_fusion=True,
    xla_tpu_enable_async_collective_fusion_fuse_all_gather=True,
    xla_tpu_enable_async_collective_fusion_multiple_steps=True,
    xla_tpu_overlap_compute_collective_tc=True,
    xla_tpu_enable_data_parallel_all_reduce_opt=True,
    xla_tpu_data_parallel_opt_different_sized_ops=True,
  ),
)


def preset(backend: str, environ: Mapping = os.environ) -> dict[str, bool]:
  """Returns the compiler_options of jax.jit for a backend.

  Flags that the user has set in XLA_FLAGS or LIBTPU_INIT_ARGS are left out, and
  so are those that XLA refuses.
  """
  texts = (environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS'))
  given = re.findall(r'--(\w+)', ' '.join(texts))
  return {
    name: value
    for name, value in PRESETS.get(backend, {}).items()
    if name not in given and _is_known(name, value)
  }


def _is_known(name, value):
  """Whether XLA compiles an empty program with a flag; if not, says so."""
  empty = jax.jit(lambda: None, compiler_options={name: value})
  try:
    empty.lower().compile()
  except jax.errors.JaxRuntimeError as e:
    told = "%s is left out of the step's flags, XLA refuses it: %s"
    logging.warning(told, name, str(e).partition('\n')[0])
    return False
  return True
