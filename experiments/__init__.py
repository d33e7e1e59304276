# SPDX-License-Identifier: Apache-2.0
"""Studies, their results, and the tables and figures made from them."""
