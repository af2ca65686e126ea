"""Pages in a real browser: what it takes to judge one as a person would see it."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.web import browser

# Text against the nearest background that is not transparent, by WCAG's formula; one line
# for each that has too little contrast. Normal and large text are held to the same 4.5.
CONTRAST = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    seen += 1;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(background(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
  }
  return {seen, poor};
})()
"""
# What sticks out of the screen to the right, deepest elements only.
OVERFLOW = """
[...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 80))
  .concat(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls"] : [])
"""
# Headings that skip a level; tables without caption or header; pages without language or title.
STRUCTURE = """
(() => {
  const wrong = [];
  let last = 0;
  for (const heading of document.querySelectorAll("h1,h2,h3,h4")) {
    const level = Number(heading.tagName[1]);
    if (level > last + 1) wrong.push(`h${level} after h${last}`);
    last = level;
  }
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption) wrong.push("a table without caption");
    if (!table.querySelector("thead th[scope=col]")) wrong.push("a table without header");
  }
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id twice");
  for (const named of document.querySelectorAll("[aria-labelledby]"))
    if (!document.getElementById(named.getAttribute("aria-labelledby"))) wrong.push("no label");
  if (!document.documentElement.lang) wrong.push("no language");
  if (!document.title) wrong.push("no title");
  if (!document.querySelector("main")) wrong.push("no main");
  return wrong;
})()
"""


@pytest.fixture
async def chromium() -> AsyncIterator[browser.Browser]:
    with tempfile.TemporaryDirectory(prefix="chromium") as folder:
        async with browser.opened(Path(folder)) as opened:
            yield opened
