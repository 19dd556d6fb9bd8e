/** A table like the paper's second: what patching finds of each group's facts, beside a probe and the controls. */
import { numberText, onOneLine } from '../store/format.js';
import type { Accuracies, GroupAccuracy } from './accuracy.js';
import { groupName, momentsOf } from './accuracy.js';
import { escapeHtml } from './html.js';
import { type Part, partName } from './part.js';

const SIGNIFICANT = 0.05;

const lineNames = ['none', 'probe', 'random', 'shuffled', 'unpatched'] as const;

const columns = [
  ...['group', 'run_id', 'variant', 'facts', 'samples', 'subjects', 'classes'],
  ...lineNames.flatMap((name) => [`${wordOf(name)}_mean`, `${wordOf(name)}_sd`]),
  ...['difference', 't', 'df', 'p', 'p_bonferroni', 'significant', 'note'],
];

export function accuracyTable({ all, sql }: Accuracies, rule: string): Part {
  const some = all
    .filter((one) => one.rule === rule)
    .sort(
      (a, b) =>
        a.runId - b.runId ||
        compare(a.variant, b.variant) ||
        compare(a.group, b.group) ||
        +a.known - +b.known,
    );
  const title = `Patchscope against probe: ${rule}`;
  return {
    ...{ name: partName('accuracy', rule), title },
    caption:
      'In percent: the samples whose fact some target layer finds, mean ± standard deviation over source layers; controls are counted by the same rule, with as many chances in each of their draws. The probe is multinomial logistic regression, tried on subjects that it did not learn from. t: paired over layers, Patchscope less probe; significant: p times the number of groups tested is below 0.05 (Bonferroni). Neighbouring layers are no independent tries, so that p says less than it seems to.',
    html: tableHtml(title, some),
    data: { sql, columns, rows: some.map(valuesOf) },
  };
}

export function wordOf(name: string): string {
  return name === 'none' ? 'patchscope' : name;
}

export function factsOf(known: boolean): string {
  return known ? 'known' : 'all';
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

function valuesOf(one: GroupAccuracy) {
  const { group, runId, variant, known, samples, subjects, classes, test, note } = one;
  const lines = lineNames.flatMap((name) => {
    const found = momentsOf(one, name);
    return [found?.mean ?? null, found === undefined || one.lines.get(name)!.length < 2 ? null : found.sd];
  });
  return [
    ...[groupName(group), runId, variant, factsOf(known), samples, subjects, classes, ...lines],
    ...(test === undefined
      ? [null, null, null, null, null, null]
      : [test.meanDifference, test.t, test.df, test.p, test.corrected, isSignificant(test) ? 'yes' : 'no']),
    note,
  ];
}

function isSignificant({ corrected }: { readonly corrected: number }): boolean {
  return corrected < SIGNIFICANT;
}

function tableHtml(title: string, some: readonly GroupAccuracy[]): string {
  const several = new Set(some.map(({ runId, variant }) => JSON.stringify([runId, variant]))).size > 1;
  const heads = [
    ...['group', ...(several ? ['run, variant'] : []), 'facts', 'N', 'subjects', 'classes'],
    ...['probe', 'Patchscope', 'random', 'shuffled', 'unpatched', 't (df)', 'p', 'significant'],
  ];
  const rows = some.map((one) => {
    const { runId, variant, group, known, samples, subjects, classes, test, note } = one;
    const cells = [
      ...(several ? [`${runId}, ${variant}`] : []),
      ...[factsOf(known), String(samples), String(subjects ?? ''), String(classes ?? '')],
      ...['probe', 'none', 'random', 'shuffled', 'unpatched'].map((name) => percents(one, name)),
      ...(test === undefined
        ? ['', '', note === null ? '' : 'no probe']
        : [
            `${numberText(test.t)}\u00a0(${test.df})`,
            pText(test.p),
            isSignificant(test) ? (test.t > 0 ? 'yes, Patchscope' : 'yes, probe') : 'no',
          ]),
    ];
    const hint = note === null ? '' : ` title="${escapeHtml(onOneLine(note))}"`;
    return `<tr${hint}><th scope="row">${escapeHtml(onOneLine(groupName(group)))}</th>${cells.map((cell) => `<td>${escapeHtml(onOneLine(cell))}</td>`).join('')}</tr>`;
  });
  return `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(title)}"><table>
<thead><tr>${heads.map((head) => `<th scope="col">${head}</th>`).join('')}</tr></thead>
<tbody>${rows.join('\n')}</tbody>
</table></div>`;
}

function percents(one: GroupAccuracy, name: string): string {
  const found = momentsOf(one, name);
  if (found === undefined) return '';
  const [mean, sd] = [found.mean, found.sd].map((value) => (100 * value).toFixed(1));
  return one.lines.get(name)!.length < 2 ? mean! : `${mean}\u00a0±\u00a0${sd}`;
}

function pText(p: number): string {
  return p < 0.0001 ? p.toExponential(0) : p.toFixed(4);
}
