# SPDX-License-Identifier: Apache-2.0
"""What keeps a run alive: processes, signals, checkpoints, its folder."""

from collab import extras

extras.need()
