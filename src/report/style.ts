/** What all pages share. */
export const BASE_STYLE = `
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --line: #d0d0d0; --hot: #f2a33a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e8e6e3; --line: #3a3d44; --hot: #9a5b00; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--paper); color: var(--ink); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th { font-weight: 600; padding: 3px 8px; text-align: left; vertical-align: bottom; }
thead tr:first-child th { border-bottom: 1px solid var(--line); }
tbody th { text-align: right; }
td { padding: 3px 8px; border: 1px solid var(--line); white-space: pre-wrap; max-width: 18rem; font-family: ui-monospace, monospace;
  background: color-mix(in oklab, var(--hot) var(--p, 0%), var(--paper)); }
td.failed { background: repeating-linear-gradient(45deg, var(--paper) 0 6px, var(--line) 6px 8px); }
td.marked { outline: 2px solid var(--ink); outline-offset: -2px; }
.scale { font-size: 12px; }
.ramp { display: inline-block; width: 8rem; height: .8em; border: 1px solid var(--line); background: linear-gradient(to right in oklab, var(--paper), var(--hot)); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 1rem; font-size: 13px; } dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } .scroll { overflow: visible; } }
`;

/** What a report has beside them. Paper is white, whatever the screen was. */
export const REPORT_STYLE = `
:root { --link: #0b57a4; } @media (prefers-color-scheme: dark) { :root { --link: #8ab8f0; } }
a { color: var(--link); } :focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
h3 { font-size: 1rem; margin-top: 1.8rem; } nav ul { columns: 2; font-size: 13px; padding-left: 1.2rem; }
figure { margin: 1.2rem 0; break-inside: avoid; } figcaption, .about { max-width: 52rem; font-size: 13px; }
figure svg { display: block; height: auto; max-width: 100%; }
details, .download { font-size: 13px; margin: .3rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); white-space: pre-wrap; overflow-wrap: anywhere; }
td.number { text-align: right; }
u.token { text-decoration: underline 3px color-mix(in oklab, var(--ink) var(--w, 0%), transparent); text-underline-offset: 3px; }
.facts th { vertical-align: top; } .facts td { overflow-wrap: anywhere; max-width: 40rem; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --line: #bbb; --hot: #f2a33a; --link: #000; }
  body { font-size: 10pt; } nav, .download, details:not([open]) { display: none; } h2, h3, .about { break-after: avoid; }
  td, .ramp, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { font-size: 8pt; } tr { break-inside: avoid; }
}
`;
