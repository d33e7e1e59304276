# SPDX-License-Identifier: Apache-2.0
"""Files and text: written whole or not at all, read or refused in one line."""
