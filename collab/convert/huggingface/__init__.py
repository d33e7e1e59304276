# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Transformers, read and written without PyTorch."""
