# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: nothing broadcasts by accident.

Warnings are errors by pyproject.toml.
"""

import os

# The tests compile far more than they compute.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false'
)

import jax  # noqa: E402, the flags are read when jax starts

jax.config.update('jax_numpy_rank_promotion', 'raise')
