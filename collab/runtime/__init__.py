# SPDX-License-Identifier: Apache-2.0
"""Keeps runs alive: processes, signals, checkpoints and the workdir."""

from collab import extras

extras.need()
