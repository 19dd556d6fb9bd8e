/** Runs of a results file -> one self-contained page. */
import type { Database } from 'better-sqlite3';
import { onOneLine } from '../store/format.js';
import { withResults } from '../store/results.js';
import { chosenRun, type RunSummary } from '../store/run-list.js';
import { accuraciesOf } from './accuracy.js';
import { accuracyBars, accuracyCurves, accuracyMaps } from './accuracy-pictures.js';
import { accuracyTable } from './accuracy-table.js';
import { bestCurves } from './best-curves.js';
import { cellChoices } from './cell-choice.js';
import { curves } from './curves.js';
import { differences } from './differences.js';
import { facts, prompts } from './facts.js';
import { fidelityTables } from './fidelity.js';
import { groupBars } from './group-bars.js';
import { groupCurves } from './group-curves.js';
import { heatMaps } from './heat-maps.js';
import { escapeHtml } from './html.js';
import { expectations, judgedReadings, knownRuns } from './known.js';
import { mappingBars } from './mapping-bars.js';
import { numbers } from './numbers.js';
import { type Part, renderSection, type Section } from './part.js';
import { positionMaps } from './position-maps.js';
import { failureReasons, signatureCauses, signatureCounts, signatureCurves } from './signatures.js';
import { BASE_STYLE, REPORT_STYLE } from './style.js';
import { type Subject, subjectOf } from './subject.js';
import { textTables } from './texts.js';
import { whatMatters } from './what-matters.js';

export { csvOf } from './part.js';

export interface Rendered {
  readonly runs: readonly RunSummary[];
  readonly html: string;
  readonly parts: readonly Part[];
}

/** Samples whose texts and prompts are shown. */
const shownSamples = 6;

/** All that it reads is of one moment. */
export function renderReport(path: string, specs: readonly (string | undefined)[]): Rendered {
  return withResults(path, (database) =>
    database.transaction(() => {
      const chosen = specs.map((spec) => chosenRun(database, path, spec));
      const runs = [...new Map(chosen.map((run) => [run.runId, run])).values()];
      const sections = sectionsOf(database, subjectOf(database, runs));
      return { runs, html: pageOf(runs, sections), parts: sections.flatMap(({ parts }) => parts) };
    })(),
  );
}

function sectionsOf(database: Database, subject: Subject): Section[] {
  const { metrics, hasControls, hasGroups, isGrid } = subject;
  const each = (of: (database: Database, subject: Subject, metric: string) => Part[]) =>
    metrics.flatMap((metric) => of(database, subject, metric));
  const known = knownRuns(database, subject);
  const sections: Section[] = [
    {
      ...{ name: 'what-was-run', title: 'What was run' },
      about: 'Enough to run it again.',
      parts: [facts(database, subject), prompts(database, subject, shownSamples)],
    },
    {
      ...{ name: 'in-numbers', title: 'The numbers' },
      about: 'Means of the metrics of single cells. Failed cells have no metrics and are in no mean.',
      parts: metrics.length === 0 ? [] : [numbers(database, subject)],
    },
    {
      ...{ name: 'accuracy', title: 'What is found of the facts' },
      about:
        'A sample counts at a source layer if some target layer succeeds with its state. Facts are known where the model itself, asked with nothing patched, says them; pictures show these alone where there are some.',
      parts: accuracyParts(database, subject),
    },
    {
      ...{ name: 'known', title: 'Against what is known' },
      about:
        'The truth of these runs is known beforehand, and with it how far their readings can be trusted.',
      parts: known === '' ? [] : [expectations(database, known), ...judgedReadings(database, subject, known)],
    },
    {
      ...{ name: 'factors', title: 'What matters' },
      about:
        'Variants that are made of factors. Each source layer goes into the target layer that is best for the other half of the samples, so that a variant of many layers is not flattered by their number.',
      parts: whatMatters(database, subject),
    },
    {
      ...{ name: 'curves', title: 'By layer' },
      about: `A line for each run and variant. ${hasControls ? 'Controls are lines of their own, dashed.' : 'These runs have no controls: how much of this the target prompt alone would do can not be told.'}`,
      parts: [...each(curves), ...(isGrid ? each(bestCurves) : [])],
    },
    {
      ...{ name: 'effect', title: 'Against the controls' },
      about: 'The effect of the captured state is what it does beyond the control.',
      parts: hasControls ? each(differences) : [],
    },
    {
      ...{ name: 'layer-pairs', title: 'By source and target layer' },
      about: 'Colours of one metric mean the same in all its pictures.',
      parts: [...(isGrid ? each(heatMaps) : []), ...each(cellChoices)],
    },
    {
      ...{ name: 'positions', title: 'By position and layer' },
      about: 'Of variants that go through several positions of the source.',
      parts: each(positionMaps),
    },
    {
      ...{ name: 'by-group', title: 'By group' },
      about: 'Groups of samples, such as their relation.',
      parts: hasGroups ? [...each(groupCurves), ...each(groupBars)] : [],
    },
    {
      ...{ name: 'by-mapping', title: 'By mapping' },
      about: 'What a mapping of more numbers is good for.',
      parts: each(mappingBars),
    },
    {
      ...{ name: 'texts', title: 'Texts' },
      about: `What was generated at each layer, of the first ${shownSamples} samples, at the last of several source positions, and the first draw of each control.`,
      parts: textTables(database, subject, shownSamples),
    },
    {
      ...{ name: 'fidelity', title: 'What to believe' },
      about: `Whether readings are borne out by other inspection prompts, by neighbouring layers, and by what controls do not say, of the first ${shownSamples} samples.`,
      parts: fidelityTables(database, subject, shownSamples),
    },
    {
      ...{ name: 'signatures', title: 'Failure signatures' },
      about:
        'How many readings say nothing, or nothing about the patched state, where, and of what that may come.',
      parts: [
        signatureCounts(database, subject),
        ...signatureCurves(database, subject),
        signatureCauses(database, subject),
        failureReasons(database, subject),
      ],
    },
  ];
  return sections.filter(({ parts }) => parts.length > 0);
}

/** Maps are of the paper's own rule, where it was taken. */
function accuracyParts(database: Database, subject: Subject): Part[] {
  const accuracies = accuraciesOf(database, subject);
  if (accuracies === undefined) return [];
  const rules = [...new Set(accuracies.all.map(({ rule }) => rule))];
  const [first] = rules.includes('answer-found') ? ['answer-found'] : rules;
  return [
    ...rules.flatMap((rule) => [
      accuracyTable(accuracies, rule),
      ...accuracyBars(accuracies, rule),
      ...accuracyCurves(accuracies, rule),
    ]),
    ...(first === undefined ? [] : accuracyMaps(database, accuracies, first)),
  ];
}

function pageOf(runs: readonly RunSummary[], sections: readonly Section[]): string {
  const title = onOneLine(runs.map(({ runId, name }) => `run ${runId} ${name}`).join(', '));
  const contents = sections.map(
    ({ name, title, parts }) =>
      `<li><a href="#${name}">${escapeHtml(title)}</a>: ${parts.map((part) => `<a href="#${part.name}">${escapeHtml(part.title)}</a>`).join(', ')}</li>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(title)}</title>
<style>${BASE_STYLE}${REPORT_STYLE}</style>
</head>
<body>
<header><h1>${escapeHtml(title)}</h1>
${unfinished(runs)}</header>
<nav aria-label="Contents"><ul>${contents.join('\n')}</ul></nav>
<main>
${sections.map(renderSection).join('\n')}
</main>
</body>
</html>
`;
}

function unfinished(runs: readonly RunSummary[]): string {
  const open = runs.filter(({ cellsStored, cellsPlanned }) => cellsStored < cellsPlanned);
  return open
    .map(
      ({ runId, cellsStored, cellsPlanned }) =>
        `<p role="note"><strong>Run ${runId} is not whole: ${cellsStored} of ${cellsPlanned} cells are stored.</strong></p>`,
    )
    .join('');
}
