/** Readings of one state by layer, the numbers that say whether to believe them, and what follows from these. */
import { formatTable, layerText, numberText, query } from '../index.js';

/** A row of the view `fidelity_by_layer`. */
export interface LayerFidelity {
  readonly source_layer: number;
  readonly target_layer: number;
  readonly variant: string;
  /** What the variant said whose text agrees best with the others'. */
  readonly text: string | null;
  readonly readings: number;
  readonly agreement: number | null;
  readonly chance_agreement: number | null;
  readonly stability: number | null;
  readonly chance_stability: number | null;
  readonly unlike_controls: number | null;
  readonly relevancy: number | null;
  readonly failed: number;
  readonly unrelated: number | null;
  readonly contaminated: number | null;
  readonly meaningless: number | null;
  readonly norm_far: number | null;
  readonly believable: number | null;
}

/** Of a run's first sample, layer by layer. */
export function fidelityOf(db: string, runId: number): LayerFidelity[] {
  return rowsOf<LayerFidelity>(
    db,
    `SELECT source_layer, target_layer, variant, text, readings, agreement, chance_agreement, stability, chance_stability,
      unlike_controls, relevancy, failed, unrelated, contaminated, meaningless, norm_far, believable
    FROM fidelity_by_layer WHERE run_id = ${runId} AND sample_idx = 0 ORDER BY source_layer, target_layer`,
  );
}

/** One object a layer, with what each variant said. */
export function fidelityJson(db: string, runId: number, layers: readonly LayerFidelity[]): string[] {
  const readings = rowsOf<{ source_layer: number; target_layer: number }>(
    db,
    `SELECT source_layer, target_layer, variant, text, agreement, stability, unlike_controls, relevancy, unrelated,
      contaminated, meaningless, norm_far
    FROM fidelity WHERE run_id = ${runId} AND sample_idx = 0 AND control = 'none' ORDER BY observation_id`,
  );
  return layers.map(({ source_layer, target_layer, variant: _, text: __, readings: ___, ...numbers }) =>
    JSON.stringify({
      source_layer: jsonLayer(source_layer),
      target_layer: jsonLayer(target_layer),
      ...numbers,
      believable: numbers.believable === null ? null : numbers.believable === 1,
      readings: readings
        .filter((reading) => reading.source_layer === source_layer && reading.target_layer === target_layer)
        .map(({ source_layer: _, target_layer: __, ...reading }) => reading),
    }),
  );
}

function jsonLayer(layer: number): number | 'embed' {
  return layer === -1 ? 'embed' : layer;
}

function rowsOf<Row>(db: string, sql: string): Row[] {
  const { columns, rows } = query(db, sql);
  return rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])) as Row);
}

const LEAST_TEXT = 16;

/** @param width that lines may have. */
export function fidelityTable(layers: readonly LayerFidelity[], width: number): string {
  const columns = ['layer', 'reading', 'agree', 'stable', 'unlike', 'depend', 'believe'];
  const others = columns.reduce((sum, name) => sum + 2 + name.length, 0) - 'reading'.length;
  const longest = Math.max(LEAST_TEXT, width - others);
  return formatTable({
    columns,
    rows: layers.map((layer) => [
      layerText(layer.source_layer),
      shortened(readingText(layer), longest),
      ...[layer.agreement, layer.stability, layer.unlike_controls, layer.relevancy].map(twoDigits),
      layer.believable === 1 ? 'yes' : '',
    ]),
    truncated: false,
  });
}

function readingText({ text, failed, readings }: LayerFidelity): string {
  if (readings === 0) return failed > 0 ? '(failed)' : '';
  return text === null || text.trim() === '' ? '(nothing)' : text.trim();
}

function shortened(text: string, longest: number): string {
  const characters = [...text];
  return characters.length > longest ? `${characters.slice(0, longest - 1).join('')}…` : text;
}

function twoDigits(value: number | null): string | null {
  return value === null ? null : value.toFixed(2);
}

/** What the columns mean. */
export const legend = [
  "reading  of the inspection prompts' texts the one that agrees best with the others",
  'agree    share of words in common, from prompt to prompt; 0 to 1, as all that follow',
  'stable   share of words in common with the layers before and behind',
  'unlike   1 less the share of words in common with a random, another or no state',
  'depend   how much the patch changes the probabilities of the words',
];

/** Which layers to believe and why, in a sentence or two. */
export function verdict(layers: readonly LayerFidelity[]): string {
  const believed = layers.filter(({ believable }) => believable === 1);
  if (believed.length === 0) {
    const [best] = [...layers].sort((a, b) => (b.agreement ?? -1) - (a.agreement ?? -1));
    const why =
      best === undefined ? '' : ` Layer ${layerText(best.source_layer)} comes nearest: ${doubts(best)}.`;
    return `Believe none of these readings.${why}`;
  }
  const least = (of: (layer: LayerFidelity) => number | null) => {
    const values = believed.map(of).filter((value) => value !== null);
    return values.length === 0 ? undefined : Math.min(...values).toFixed(2);
  };
  const [{ chance_agreement, chance_stability }] = believed as [LayerFidelity];
  const stable = least(({ stability }) => stability);
  const orMore = believed.length > 1 ? ' or more' : '';
  const where = believed.map(({ source_layer }) => layerText(source_layer));
  return [
    `Believe ${where.length === 1 ? 'layer' : 'layers'} ${where.join(', ')}: there the inspection prompts agree`,
    `(${least(({ agreement }) => agreement)}${orMore}; random vectors ${chance_agreement!.toFixed(2)})`,
    ...(stable === undefined
      ? []
      : [
          `and neighbouring layers say the same (${stable}${orMore}; random vectors ${(chance_stability ?? 0).toFixed(2)})`,
        ]),
    'in words that the controls do not say.',
  ].join(' ');
}

/** What keeps a layer from being believed; a clause. */
function doubts(layer: LayerFidelity): string {
  const { agreement, chance_agreement, stability, chance_stability } = layer;
  const { unlike_controls, contaminated, meaningless, failed } = layer;
  if (agreement === null || chance_agreement === null) {
    return failed > 0 ? 'its readings failed' : 'there is nothing to compare it with';
  }
  const share = (part: number) => `${Math.round(100 * part)} %`;
  return [
    ...(agreement > chance_agreement || agreement === 1
      ? []
      : [
          `the prompts agree no more on it (${numberText(agreement)}) than on random vectors (${numberText(chance_agreement)})`,
        ]),
    ...(stability === null || stability > (chance_stability ?? 0) || stability === 1
      ? []
      : [
          `neighbouring layers are no more like it (${numberText(stability)}) than those of random vectors (${numberText(chance_stability ?? 0)})`,
        ]),
    ...(unlike_controls === null || unlike_controls >= 0.5
      ? []
      : [`the controls say much the same (unlike ${numberText(unlike_controls)})`]),
    ...(contaminated === null || contaminated < 0.5
      ? []
      : [`${share(contaminated)} of its texts are those of the unpatched prompts`]),
    ...(meaningless === null || meaningless < 0.5 ? [] : [`${share(meaningless)} of its texts mean nothing`]),
  ].join('; ');
}
