# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of files: atomic writes, and one-line errors."""
