/** Runs of a results file as text and as JSON. */
import {
  type Effect,
  formatTable,
  grouped,
  type LayerMetric,
  layerText,
  numberText,
  onOneLine,
  type RunDetails,
  type RunSummary,
} from '../index.js';

export function runText(run: RunSummary): string {
  const { runId, name, status, cellsStored, cellsPlanned } = run;
  return onOneLine(
    `run ${runId} (${name} on ${modelText(run)}, ${cellsStored} of ${cellsPlanned} cells, ${status})`,
  );
}

export function modelText(run: RunSummary): string {
  const { model, quantization, targetModel, targetQuantization } = run;
  const [source, target] = [`${model} ${quantization}`, `${targetModel} ${targetQuantization}`];
  return source === target ? source : `${source} into ${target}`;
}

export function runsTable(runs: readonly RunSummary[]): string {
  const shards = runs.some(({ shard }) => shard !== null);
  return formatTable({
    columns: [
      ...['run', 'name', 'model', 'cells', 'failed', 'status', 'started', 'seconds'],
      ...(shards ? ['shard'] : []),
    ],
    rows: runs.map((run) => [
      ...[run.runId, run.name, modelText(run), cellsText(run), run.cellsFailed, run.status],
      ...[startedText(run), run.seconds],
      ...(shards ? [run.shard] : []),
    ]),
    truncated: false,
  });
}

function cellsText({ cellsStored, cellsPlanned }: RunSummary): string {
  return `${cellsStored}/${cellsPlanned}`;
}

/** To the second, in UTC. */
function startedText({ startedAt }: RunSummary): string {
  return `${startedAt.slice(0, 19).replace('T', ' ')}Z`;
}

/** What a run was, a label and a fact a line. */
export function factLines({ run, facts, repeats, vectors }: RunDetails): string {
  const shard = run.shard === null ? '' : `, shard ${run.shard}`;
  const libraries = (JSON.parse(`${facts.devices}`) as { library: string }[]).map(({ library }) => library);
  const failed = run.cellsFailed > 0 ? `, ${run.cellsFailed} failed` : '';
  const host = facts.host === null ? '' : ` on ${facts.host}`;
  const rows: [label: string, fact: string][] = [
    ['run', `${run.runId} ${run.name}${shard}, ${run.status}`],
    ['model', modelText(run)],
    ['cells', `${run.cellsStored} of ${run.cellsPlanned}${failed}`],
    ...(repeats === null ? [] : [['repeated', repeatText(repeats)] as [string, string]]),
    ...vectors.map(vectorLine),
    ['started', `${startedText(run)}${run.seconds === null ? '' : `, ${run.seconds} s`}${host}`],
    ['engine', `llama.cpp ${facts.llama_cpp}, patchscopes ${facts.package}, ${libraries.join(' and ')}`],
    [
      'settings',
      `seed ${facts.seed}, ${facts.threads} threads, ${facts.batch_rows} rows and ${facts.batch_tokens} tokens a batch, K/V ${facts.type_k} and ${facts.type_v}, ${facts.exact ? 'exact' : `tolerance ${facts.tolerance ?? 'not measured'}`}`,
    ],
    ['command', `${facts.command}`],
  ];
  return rows.map(([label, fact]) => `${label.padEnd(10)}${onOneLine(fact)}`).join('\n');
}

function vectorLine({
  variant,
  op,
  isOwnEdit,
  text,
  count,
}: RunDetails['vectors'][number]): [string, string] {
  const others = count > 1 ? ` and ${count - 1} more` : '';
  const what = `${text}${others}`;
  return isOwnEdit
    ? ['edited', `${variant}: ${op}${text === '' ? '' : ` of ${what}`}, in every cell`]
    : ['source', `${variant}: ${what}`];
}

export function repeatText({ cells, differing }: NonNullable<RunDetails['repeats']>): string {
  const what = differing === 0 ? 'the same to the bit' : `${differing} came out otherwise`;
  return `${cells} cells were run twice: ${what}`;
}

/** What the captured states add to the controls, a line each. */
export function effectTable(effects: readonly Effect[]): string {
  const several = (of: (effect: Effect) => string) => new Set(effects.map(of)).size > 1;
  const told: [title: string, of: (effect: Effect) => string][] = [
    ['variant', ({ variant }) => variant],
    ['mapping', ({ mapping }) => mapping],
    ['site', placesOf],
  ];
  const keys = told.filter(([, of]) => several(of));
  return formatTable({
    columns: ['metric', ...keys.map(([title]) => title), 'less control', 'difference', 'pairs of cells'],
    rows: effects.map((effect) => [
      ...[effect.name, ...keys.map(([, of]) => of(effect)), effect.control],
      `${numberText(effect.value)} [${numberText(effect.ciLow)}, ${numberText(effect.ciHigh)}]`,
      effect.n,
    ]),
    truncated: false,
  });
}

/** A line each source layer, a column each metric: the mean over target layers, with its interval where there is one. */
export function metricTable(metrics: readonly LayerMetric[]): string {
  const names = [...new Set(metrics.map(({ name }) => name))].sort();
  const several = (of: (metric: LayerMetric) => string) => new Set(metrics.map(of)).size > 1;
  const shown: [title: string, of: (metric: LayerMetric) => string][] = [
    ['variant', ({ variant }) => variant],
    ['site', placesOf],
    ['control', ({ control }) => control],
  ];
  const keys = shown.filter(([, of]) => several(of));
  const lines = grouped(metrics, (metric) =>
    JSON.stringify([...keys.map(([, of]) => of(metric)), layerText(metric.sourceLayer)]),
  );
  return formatTable({
    columns: [...keys.map(([title]) => title), 'source layer', ...names],
    rows: [...lines].map(([key, line]) => [
      ...(JSON.parse(key) as string[]),
      ...names.map((name) => meanText(line.filter((metric) => metric.name === name))),
    ]),
    truncated: false,
  });
}

export function placesOf({
  sourceSite,
  site,
}: {
  readonly sourceSite: string;
  readonly site: string;
}): string {
  const [source, target] = [sourceSite, site].map((name) => (name === 'embed' ? 'resid_out' : name));
  return source === target ? source! : `${source} to ${target}`;
}

function meanText(metrics: readonly LayerMetric[]): string {
  const n = metrics.reduce((sum, metric) => sum + metric.n, 0);
  if (n === 0) return '';
  const mean = metrics.reduce((sum, metric) => sum + metric.value * metric.n, 0) / n;
  const [only, another] = metrics;
  const interval = another === undefined ? ` [${numberText(only!.ciLow)}, ${numberText(only!.ciHigh)}]` : '';
  return `${numberText(mean)}${interval}`;
}

/** Keys as columns are named in SQL; layers as everywhere in JSON. */
export function runJson(value: object): string {
  return JSON.stringify(value, (key, inner: unknown) => {
    if (/layer$/i.test(key) && inner === -1) return 'embed';
    if (jsonColumns.has(key) && typeof inner === 'string') return JSON.parse(inner) as unknown;
    if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).map(([name, part]) => [snake(name), part]));
  });
}

/** Columns of `run` that hold JSON. */
const jsonColumns = new Set(['experiment', 'reading', 'devices']);

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
