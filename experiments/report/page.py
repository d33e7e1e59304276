# SPDX-License-Identifier: Apache-2.0
"""The HTML templates of a page; they escape all text that is put into them."""

import pathlib

import jinja2

_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)
parts = _ENVIRONMENT.get_template('parts.html').module
# Rendered with title, outcome, done (whether that is good) and facts; sections,
# {heading: HTML}; wide, whether results and cost may stand side by side.
whole = _ENVIRONMENT.get_template('page.html')
