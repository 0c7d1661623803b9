// The style sheet of report.html: light and dark as the reader has it, light on paper.
#pragma once

namespace moraine {

// No '<' and no '&': it stands in an XML element as it is.
inline constexpr char kReportStyle[] = R"css(
:root { color-scheme: light dark; --page: #ffffff; --text: #1d2125; --muted: #656d76; --rule: #e3e6e9; --soft: #f5f6f7; --mean: #1f5f99;
  --raw: #a9c6e0; --mark: #b8500f; --limit: #8b6a1f; --good: #23754a; --look: #a4460e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #16181b; --text: #e3e6e9; --muted: #979fa8; --rule: #2c3036; --soft: #1e2125; --mean: #7cb4e8; --raw: #38587a;
    --mark: #f2a25c; --limit: #c9a75a; --good: #6cc396; --look: #f0965a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 64rem; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
header { margin-bottom: 1.75rem; }
.over { margin: 0; color: var(--muted); font-size: 13px; }
h1 { margin: 0.1rem 0 0.5rem; font-size: 30px; font-weight: 650; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 0.75rem; font-size: 17px; font-weight: 650; }
section { margin-bottom: 2.25rem; }
p { margin: 0 0 0.75rem; }
.state { display: inline-block; margin: 0; padding: 0.1rem 0.7rem; border: 1px solid currentColor; border-radius: 1rem; font-size: 13px;
  font-weight: 600; }
.good { color: var(--good); }
.look { color: var(--look); }
.muted { color: var(--muted); font-weight: 400; }
dl { margin: 0; }
dt { color: var(--muted); font-size: 13px; }
dd { margin: 0; overflow-wrap: anywhere; }
strong { font-weight: 600; }
.what { padding: 1.1rem 0; border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); font-size: 14px; }
.what dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.1rem 2rem; }
.checks { margin: 0; padding: 0; list-style: none; }
.checks li { display: grid; grid-template-columns: 1.6rem 1fr; padding: 0.2rem 0; }
.checks li span + span { color: var(--text); }
.checks .plain { color: var(--muted); }
.sign { font-weight: 700; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.75rem 1.5rem; }
figure { margin: 0; min-width: 0; overflow-x: auto; }
figure.wide { grid-column: 1 / -1; }
figcaption { margin-bottom: 0.4rem; font-size: 13px; }
figcaption div { display: flex; flex-wrap: wrap; gap: 0 1.1rem; align-items: baseline; justify-content: space-between; }
figcaption .keys { min-height: 1.55em; justify-content: flex-start; }
figcaption strong { font-size: 15px; }
.key { color: var(--muted); white-space: nowrap; }
.swatch { display: inline-block; width: 1.1rem; height: 0; margin-right: 0.35rem; vertical-align: middle; border-top: 2px solid; }
.swatch.raw { border-color: var(--raw); }
.swatch.mean { border-color: var(--mean); border-top-width: 3px; }
.swatch.mark { width: 0.5rem; height: 0.5rem; border: 0; border-radius: 50%; background: var(--mark); }
.swatch.limit { border-color: var(--limit); border-top-style: dashed; }
.swatch.event { border-color: var(--muted); border-top-style: dotted; }
svg { display: block; width: 100%; height: auto; min-width: 26rem; font-size: 11px; font-family: inherit; }
.wide svg { min-width: 40rem; }
svg text { fill: var(--muted); }
svg polyline { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .grid { stroke: var(--rule); }
svg .axis { stroke: var(--muted); }
svg .raw { stroke: var(--raw); stroke-width: 1; }
svg .mean { stroke: var(--mean); stroke-width: 1.75; }
svg .limit { stroke: var(--limit); stroke-width: 1.25; stroke-dasharray: 6 4; }
svg .event { stroke: var(--muted); stroke-dasharray: 1 3; }
svg .dot { stroke: none; }
svg .dot.raw { fill: var(--raw); }
svg .dot.mean { fill: var(--mean); }
svg .dot.mark { fill: var(--mark); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 3rem; align-items: start; }
.figures dl div { display: flex; justify-content: space-between; gap: 1rem; padding: 0.3rem 0; border-bottom: 1px solid var(--rule); }
.figures dt { font-size: 14px; }
.figures dd { font-weight: 600; text-align: right; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 13px; }
th { padding: 0.3rem 0.75rem 0.3rem 0; color: var(--muted); font-weight: 400; text-align: left; border-bottom: 1px solid var(--muted);
  white-space: nowrap; }
td { padding: 0.3rem 0.75rem 0.3rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
.number { text-align: right; }
.number + :not(.number) { padding-left: 1.5rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 12.5px; }
code { overflow-wrap: anywhere; }
pre { margin: 0.5rem 0 0; padding: 0.8rem 1rem; background: var(--soft); border-radius: 6px; white-space: pre-wrap; }
summary { cursor: pointer; color: var(--mean); }
@media print {
  body { padding: 0; max-width: none; font-size: 12px; }
  .what, .figures dt { font-size: 12px; }
  .what dl { grid-template-columns: repeat(3, 1fr); }
  section { margin-bottom: 1.5rem; }
  figure, tr, li, .what { break-inside: avoid; }
  h2 { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  figure, .scroll { overflow: visible; }
  svg, .wide svg { min-width: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
)css";

}  // namespace moraine
