# SPDX-License-Identifier: Apache-2.0
"""Lets MkDocs build pages that lie beside the code, and links to the code.

A link in a page is the path of a file in the repository, so that it works there
too. Here it becomes a link within the site. A file that is linked to becomes
part of the site: a source as a page that shows it, a notebook (a source whose
cells begin with # %%) as a page of its cells, others as they are.
"""

import os
import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
PAGES = '*.md', 'benchmarks/*.md', 'experiments/**/*.md'
SHOWN = {'.py': 'python', '.yml': 'yaml', '.toml': 'toml', '.sh': 'bash'}
LINK = re.compile(r'(?<=\]\()[^)#:\s]+(?=[)#])')  # not https:...


def _target(page, link):
  """Returns the path of what a page links to, in the repository."""
  here = os.path.relpath(page.abs_src_path, ROOT)
  return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _uri(path):
  """Returns the path in the site of a file of the repository."""
  is_shown = pathlib.Path(path).suffix in SHOWN
  return path.removeprefix('docs/') + ('.md' if is_shown else '')


def of_cells(source: str) -> str:
  """Makes a page of a notebook: what is prose, and blocks of Python."""
  parts = []
  for cell in re.split('^# %%', source, flags=re.MULTILINE)[1:]:
    kind, _, text = cell.partition('\n')
    text = text.strip()
    if kind.strip() == '[markdown]':
      parts.append(re.sub('^# ?', '', text, flags=re.MULTILINE))
    else:
      parts.append(f'```python\n{text}\n```')
  return '\n\n'.join(parts) + '\n'


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the pages outside of docs/, and the files that pages link to."""
  pages = {x for pattern in PAGES for x in ROOT.glob(pattern)}
  for path in sorted(pages - {ROOT / 'README.md'}):  # index.md is its page
    uri = str(path.relative_to(ROOT))
    files.append(File.generated(config, uri, abs_src_path=str(path)))
  for page in list(files.documentation_pages()):
    for link in LINK.findall(page.content_string):
      path = _target(page, link)
      file, uri = ROOT / path, _uri(path)
      if file.is_file() and uri not in files.src_uris:
        if kind := SHOWN.get(file.suffix):
          text = file.read_text()
          if '\n# %%' in text:
            text = of_cells(text)
          else:
            text = f'# {path}\n\n~~~~~~{kind}\n{text}\n~~~~~~\n'
          files.append(File.generated(config, uri, content=text))
        else:
          files.append(File.generated(config, uri, abs_src_path=str(file)))
  return files


def on_page_markdown(
  markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
  """Turns links within the repository into links within the site."""
  if not page.file.abs_src_path:  # it shows a source
    return markdown
  folder = posixpath.dirname(page.file.src_uri)

  def within(match):
    uri = _uri(_target(page.file, match[0]))
    return posixpath.relpath(uri, folder)

  return LINK.sub(within, markdown)
