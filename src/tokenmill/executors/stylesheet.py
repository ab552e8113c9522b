"""The style sheet of the HTML report: light and dark, paper and phone."""

STYLE = (
    """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1d2330; --soft: #667085;
  --line: #e4e2dc; --good: #2f7d5b; --bad: #b3372f; --live: #2a68b8; --wait: #98a0ae;
  --p0: #2f6f9f; --p1: #c4762b; --p2: #4a8f5c; --p3: #a3485c; --p4: #7460a8; --p5: #3c9a9a;
  --p6: #8a7a2e; --p7: #6b7280 }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --card: #1c2129; --ink: #e6e8ec;
  --soft: #98a2b3;
  --line: #2e3540; --good: #5bbd8e; --bad: #ef7b70; --live: #6ea8f0; --wait: #6b7484;
  --p0: #6fb1e0; --p1: #eaa561; --p2: #7cc48e; --p3: #e08a9c; --p4: #ab9ae0; --p5: #6ccccc;
  --p6: #c9b85e; --p7: #a3abb8 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 30px; margin: 0 0 10px; line-height: 1.2 } h2 { font-size: 19px; margin: 0 0 12px }
h3 { font-size: 16px; margin: 0 0 6px } h4 { font-size: 14px; margin: 0 0 4px }
a { color: inherit } small, .quiet { color: var(--soft); font-size: 13px; font-weight: normal;
  margin: 0 0 4px }
.kicker { margin: 0; color: var(--soft); letter-spacing: .08em; font-size: 13px }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px; margin: 18px 0 }
footer { color: var(--soft); font-size: 13px; text-align: center; margin-top: 30px }
.pill { font-size: 12px; font-weight: 600; padding: 2px 10px; border-radius: 99px;
  vertical-align: middle;
  border: 1px solid currentColor; color: var(--wait); white-space: nowrap }
.pill.complete { color: var(--good) } .pill.failed, .pill.cancelled { color: var(--bad) }
.pill.running { color: var(--live) }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0 0 14px;
  font-size: 13px }
.facts dt { color: var(--soft) } .facts dd { margin: 0; overflow-wrap: anywhere }
.facts-line { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 12px }
.facts-line { color: var(--soft); font-size: 13px }
.more { display: flex; flex-wrap: wrap; gap: 0 28px } .more details[open] { flex-basis: 100% }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 10px;
  margin-top: 16px }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px }
.tiles b { display: block; font-size: 21px; line-height: 1.25 } .tiles span { color: var(--soft);
  font-size: 13px }
.scroll, .drawing { overflow-x: auto } svg { display: block; max-width: 100%; height: auto }
table { border-collapse: collapse; min-width: min(100%, 420px); font-size: 13px;
  font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top }
thead th { color: var(--soft);
  font-weight: 500 } .number { text-align: right; white-space: nowrap } tbody th { font-weight: 500 }
td { overflow-wrap: break-word } .funnel { min-width: 560px; width: 100% } .bars { width: 100% }
.funnel td { width: 24% }
.funnel td:last-child { width: auto }
.meter { height: 10px; border-radius: 3px; background: var(--line); overflow: hidden; margin-top: 5px }
.meter { display: flex } .meter i { display: block; height: 100%; min-width: 1px }
.meter + span { font-size: 12px; color: var(--soft) } .usage .meter + span { white-space: nowrap }
.usage { width: 100%; min-width: 680px } .usage td:nth-child(4) { width: 34% }
i.key { background: var(--line) } i.bad { background: var(--bad) }
.bars th { width: 38%; overflow-wrap: anywhere }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 18px }
figure { margin: 0; min-width: 0 } figure.wide { grid-column: 1 / -1 } figcaption { font-weight: 600;
  margin-bottom: 6px; font-size: 14px }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
.samples { gap: 14px 22px }
.samples article { border-left: 3px solid var(--line); padding: 2px 0 2px 14px; min-width: 0 }
.samples h4 { overflow-wrap: anywhere }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 14px;
  max-height: 15em; overflow-y: auto }
details { margin-top: 10px } summary { cursor: pointer; color: var(--soft); font-size: 14px }
details[open] > summary { margin-bottom: 8px }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px;
  margin: 0; overflow-x: auto;
  font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; max-height: 30em }
.failure { border-left: 4px solid var(--bad); padding-left: 14px; margin-bottom: 16px }
.failure > pre { white-space: pre-wrap; overflow-wrap: anywhere }
text { fill: var(--ink);
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
.tick, .label { fill: var(--soft); font-size: 11px } .name { font-weight: 600 }
.middle { text-anchor: middle } .end { text-anchor: end }
.grid { stroke: var(--line); stroke-width: 1 } .edge { fill: none; stroke: var(--wait);
  stroke-width: 1.5 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round } svg a { text-decoration: none }
.node { fill: var(--paper); stroke: var(--wait); stroke-width: 1.5 }
.node.input { stroke-dasharray: 4 3 }
.node.complete { stroke: var(--good) } .node.failed, .node.cancelled { stroke: var(--bad);
  stroke-width: 2.5 } .node.running { stroke: var(--live) }
.band { fill: var(--wait); opacity: .85 } .band.complete { fill: var(--good) }
.band.failed, .band.cancelled { fill: var(--bad) } .band.running { fill: var(--live) }
.mark { fill: var(--bad); stroke: var(--card); stroke-width: 1.5 }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft) }
.legend .key, .quiet .key { display: inline-block; width: 14px; height: 4px; border-radius: 2px;
  margin-right: 6px; vertical-align: middle }
.quiet .key { margin-left: 12px } .quiet .key:first-child { margin-left: 0 }
"""
    + "".join(
        f".curve.c{n} {{ stroke: var(--p{n}) }} .dot.c{n} {{ fill: var(--p{n}) }}"
        f" i.c{n} {{ background: var(--p{n}) }}\n"
        for n in range(8)
    )
    + """
@media (max-width: 600px) { main { padding: 16px 10px 40px } section { padding: 14px 12px }
  h1 { font-size: 24px } .facts { grid-template-columns: 1fr } .facts dd { margin-bottom: 6px }
.tiles { grid-template-columns: 1fr 1fr } }
@media print { section { break-inside: avoid; border: none } }
"""
)
