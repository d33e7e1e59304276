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
from typing import Any

from absl import logging
import jax

ON = 'COLLECTIVE_PIPELINING_MODE_ON'
PRESETS = dict(
  # openxla.org/xla/gpu_optimization_levels: what O1 does for data-parallel
  # communication. Without the scheduler each collective waits for its turn;
  # without pipelining those in a scan over layers end with their iteration.
  gpu=dict(
    xla_gpu_enable_latency_hiding_scheduler=True,
    xla_gpu_pipeline_all_gather=ON,
    xla_gpu_pipeline_all_reduce=ON,
    xla_gpu_pipeline_reduce_scatter=ON,
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

# What the XLA of JAX 0.10 has instead; its True is ON by --help of the newer.
FORMER = dict(
  xla_gpu_pipeline_all_gather='xla_gpu_enable_pipelined_all_gather',
  xla_gpu_pipeline_all_reduce='xla_gpu_enable_pipelined_all_reduce',
  xla_gpu_pipeline_reduce_scatter='xla_gpu_enable_pipelined_reduce_scatter',
)


def preset(backend: str, environ: Mapping = os.environ) -> dict[str, Any]:
  """Returns the compiler_options of jax.jit for a backend.

  A flag that the user has set in XLA_FLAGS or LIBTPU_INIT_ARGS, by its name or
  its former one, is left out, and so is one that XLA refuses.
  """
  texts = (environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS'))
  given = re.findall(r'--(\w+)', ' '.join(texts))
  flags = {}
  for name, value in PRESETS.get(backend, {}).items():
    former = FORMER.get(name)
    if name in given or former in given:
      continue
    refusal = _refusal(name, value)
    if not refusal:
      flags[name] = value
    elif former and not _refusal(former, True):
      flags[former] = True
    else:
      told = "%s is left out of the step's flags, XLA refuses it: %s"
      logging.warning(told, name, refusal)
  return flags


def _refusal(name, value):
  """What XLA says when it compiles an empty program with a flag; '' if well."""
  empty = jax.jit(lambda: None, compiler_options={name: value})
  try:
    empty.lower().compile()
  except jax.errors.JaxRuntimeError as e:
    return str(e).partition('\n')[0]
  return ''
