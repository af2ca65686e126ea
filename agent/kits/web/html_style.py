"""The style of pages for people: light and dark, wide and on a phone.

Each pair of text and background has a contrast of at least 4.5 (WCAG AA); a test
computes it in a browser. Colour never says alone what a word does not.
"""

CSS = """
:root {
  color-scheme: light dark;
  --back: #f5f6f8; --card: #ffffff; --text: #1b2430; --soft: #566275; --line: #dde2e9;
  --link: #0b5cad; --good: #11662f; --good-back: #dff3e5; --warn: #7a4b00; --warn-back: #fdeecd;
  --bad: #a5161d; --bad-back: #fde3e3; --plain-back: #e8ebf0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #12161c; --card: #1a2029; --text: #e7ebf1; --soft: #a3afbf; --line: #2d3643;
    --link: #7db8f7; --good: #86dba0; --good-back: #15351f; --warn: #f2c46d; --warn-back: #3a2c0c;
    --bad: #ff9d9d; --bad-back: #44191b; --plain-back: #2a323e;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 3rem;
  background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
p { margin: .25rem 0 .75rem; max-width: 50rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
.note { color: var(--soft); font-size: .9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.1rem 1.25rem; margin: 1rem 0; }
section.good { border-left: .4rem solid var(--good); }
section.warn { border-left: .4rem solid var(--warn); }
section.bad { border-left: .4rem solid var(--bad); }
section > :last-child { margin-bottom: 0; }
dl { margin: 0; }
dl > div { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .3rem 0; }
dt { color: var(--soft); flex: 0 0 11rem; }
dd { margin: 0; flex: 1 1 14rem; unicode-bidi: isolate; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.75rem, 1fr));
  gap: .75rem; margin: 1rem 0; }
dl.tiles > div { display: block; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .8rem .9rem; }
dl.tiles dt { font-size: .9rem; }
dl.tiles dd { font-size: 1.5rem; font-weight: 650; line-height: 1.3; }
dl.tiles dd.note { font-size: .85rem; font-weight: 400; line-height: 1.4; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem .5rem 0;
  border-top: 1px solid var(--line); unicode-bidi: isolate; }
thead th { border-top: 0; color: var(--soft); font-size: .85rem; font-weight: 600;
  white-space: nowrap; }
tbody th { font-weight: 600; min-width: 9rem; }
tbody td { min-width: 5.2rem; }
table + table { margin-top: 1.5rem; }
.badge { display: inline-block; border-radius: 1rem; padding: .05rem .6rem; font-size: .85rem;
  font-weight: 600; white-space: nowrap; background: var(--plain-back); }
.badge.good { color: var(--good); background: var(--good-back); }
.badge.warn { color: var(--warn); background: var(--warn-back); }
.badge.bad { color: var(--bad); background: var(--bad-back); }
summary { cursor: pointer; color: var(--link); padding: .3rem 0; }
ul { margin: .25rem 0; padding-left: 1.2rem; }
form { margin: 0; }
label { display: block; margin: .5rem 0 .9rem; max-width: 40rem; }
label > span { display: block; }
input[type=text], textarea { width: 100%; padding: .45rem .6rem; font: inherit;
  color: var(--text); background: var(--back);
  border: 1px solid var(--soft); border-radius: .35rem; }
button { white-space: nowrap; font: inherit; font-weight: 600; padding: .35rem .9rem;
  border-radius: .35rem;
  color: var(--text); background: var(--plain-back);
  border: 1px solid var(--soft); cursor: pointer; }
input:focus-visible, textarea:focus-visible, button:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
progress { width: 4.5rem; max-width: 100%; accent-color: var(--link); }
td ul { margin: 0; padding: 0; list-style: none; }
footer nav { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; }
@media (max-width: 78rem) { dl.tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 52rem) {
  body { padding: 1rem .75rem 2rem; }
  section { padding: .9rem; }
  dl.tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
  dl.tiles dd { font-size: 1.25rem; }
  table, tbody, tr, th, td { display: block; width: 100%; }
  caption { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr { border-top: 1px solid var(--line); padding: .6rem 0; }
  tbody th { border: 0; padding: 0 0 .2rem; min-width: 0; }
  tbody td { border: 0; padding: .15rem 0; min-width: 0; display: flex; gap: .75rem; }
  tbody td::before { content: attr(data-label); color: var(--soft); flex: 0 0 6rem;
    font-size: .85rem; padding-top: .1rem; }
  tbody td.none { display: none; }
  tbody td > div { flex: 1; min-width: 0; }
}
"""
