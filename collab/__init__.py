# SPDX-License-Identifier: Apache-2.0
"""Parameter-efficient multi-head attention in JAX and Flax."""

from collab import extras

extras.need_in_commands()
