# SPDX-License-Identifier: Apache-2.0
"""Reads and writes checkpoints of Transformers without PyTorch."""
