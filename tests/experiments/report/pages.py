# SPDX-License-Identifier: Apache-2.0
"""Pages taken apart, and the command that makes them."""

from html import parser
import json
import re
import sys

from experiments.report import __main__ as report

VOID = {'meta', 'img', 'br', 'path', 'image'}
EVIL = '<script>alert("x")'


class Page(parser.HTMLParser):
  """What a page is made of; fails if its tags do not match."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.texts, self._open = [], [], []
    self.feed(html)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open and self._open[-1] not in ('script', 'style'):
      self.texts.append((self._open[-1], data))

  @property
  def text(self):
    return ' '.join(data for _, data in self.texts)

  def all(self, name):
    return [data for tag, data in self.texts if tag == name]


def check(path):
  """What holds for any page; returns it."""
  html = path.read_text('utf-8')
  found = Page(html)
  assert len(html) < 2e6
  names = [tag for tag, _ in found.tags]
  assert names.count('script') == names.count('h1') == 1
  assert not {'link', 'iframe', 'object', 'base'} & {*names}
  ids = [attrs['id'] for _, attrs in found.tags if 'id' in attrs]
  assert len(ids) == len({*ids})
  for tag, attrs in found.tags:
    for url in (attrs.get('src'), attrs.get('href')):
      inside = url and url[0] == '#' and url[1:] in ids
      assert url is None or inside or url.startswith('data:image/png;base64,')
    assert not any(name.startswith('on') for name in attrs)
    if tag == 'img':
      assert attrs['alt']
    if tag == 'svg':
      assert attrs.get('aria-label') or attrs.get('aria-hidden')
  urls = re.findall(r'url\(([^)]*)\)', html)
  assert all(url.startswith('data:') for url in urls)
  assert '@import' not in html
  return found


def call(monkeypatch, *args):
  monkeypatch.setattr(sys, 'argv', ['report', *map(str, args)])
  report.main()


def change(path, **new):
  """Changes fields of a JSON file."""
  path.write_text(json.dumps(json.loads(path.read_text()) | new))
