# SPDX-License-Identifier: Apache-2.0
"""Reading and writing files: atomic writes, and errors in one line."""
