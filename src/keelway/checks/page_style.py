"""The looks of a report's page: one column, readable from 320 pixels on, light and dark. Verdicts are told by a mark
beside the colour."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --ground: #fff; --card: #f6f8fa;
  --passed: #1a7f37; --failed: #cf222e; --inconclusive: #9a6700; --skipped: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --ground: #0d1117;
  --card: #151b23; --passed: #3fb950; --failed: #f85149; --inconclusive: #d29922; --skipped: #8b949e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
header { border-left: .4rem solid var(--skipped); background: var(--card); padding: 1rem 1.1rem; border-radius: .3rem; }
header.passed { border-color: var(--passed); } header.failed { border-color: var(--failed); }
header.inconclusive { border-color: var(--inconclusive); }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
header ul { margin: .3rem 0 .5rem; padding-left: 1.4rem; overflow-wrap: anywhere; }
header p { margin: .35rem 0 0; } .outcome { font-weight: 600; }
.digest { color: var(--soft); font: .78rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.passed .mark { color: var(--passed); } .failed .mark { color: var(--failed); }
.inconclusive .mark { color: var(--inconclusive); } .skipped .mark { color: var(--skipped); }
.mark { font-weight: 700; width: 1rem; text-align: center; }
.fact { display: grid; grid-template-columns: 1rem minmax(9rem, 15rem) 1fr; gap: 0 .7rem; padding: .35rem 0;
  border-bottom: 1px solid var(--line); }
.fact b { font-weight: 600; overflow-wrap: anywhere; } .fact span:last-child { color: var(--soft);
  overflow-wrap: anywhere; }
figure { margin: .6rem 0 1rem; padding: .7rem .9rem; border: 1px solid var(--line); border-radius: .3rem; }
figcaption { font-weight: 600; margin-bottom: .3rem; overflow-wrap: anywhere; }
figure p { margin: .4rem 0 0; color: var(--soft); font-size: .88rem; }
.row, .axis { display: grid; grid-template-columns: 1rem 10rem 1fr 15.5rem; gap: 0 .7rem; align-items: center; }
.row { padding: .2rem 0; } .name, .figures { overflow-wrap: anywhere; line-height: 1.25; }
small { display: block; color: var(--soft); font-size: .8rem; } .figures { font-variant-numeric: tabular-nums; }
.track { position: relative; height: 1.7rem; border-bottom: 1px solid var(--line); }
.track i { position: absolute; top: 50%; }
.span { height: .3rem; margin-top: -.15rem; border-radius: .15rem; background: currentColor; opacity: .55; }
.dot { width: .7rem; height: .7rem; margin: -.35rem; border-radius: 50%; background: currentColor; }
.bound { top: 0 !important; height: 100%; border-left: 2px dashed var(--ink); margin-left: -1px; opacity: .7; }
.passed .track { color: var(--passed); } .failed .track { color: var(--failed); }
.inconclusive .track { color: var(--inconclusive); }
.axis span { color: var(--soft); font-size: .78rem; } .axis span:first-child { grid-column: 3; grid-row: 1; }
.axis span:last-child { grid-column: 3; grid-row: 1; text-align: right; }
footer { margin-top: 2rem; color: var(--soft); font-size: .88rem; }
@media (max-width: 40rem) {
  .row { grid-template-columns: 1rem minmax(6.5rem, 1fr) minmax(0, 1.4fr); padding: .45rem 0; }
  .row .track { grid-column: 1 / -1; grid-row: 2; } .figures { text-align: right; } .axis { display: flex;
  justify-content: space-between; } .fact { grid-template-columns: 1rem 1fr; }
  .fact span:last-child { grid-column: 2; } figure { padding: .6rem .7rem; }
}
@media print { header, figure { break-inside: avoid; } }
"""
