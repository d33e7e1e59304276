# SPDX-License-Identifier: Apache-2.0
"""Pretrained checkpoints in, checkpoints with another attention out."""

from collab import extras

extras.need()
