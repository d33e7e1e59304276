# SPDX-License-Identifier: Apache-2.0
"""What the papers' tables and figures are made from."""
