# SPDX-License-Identifier: Apache-2.0
"""Converts the attention of trained models; reads and writes checkpoints."""

from collab import extras

extras.need()
