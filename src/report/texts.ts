/** What came out at each layer, as text, methods and controls side by side. */
import type { Database } from 'better-sqlite3';
import { layerText, onOneLine } from '../store/format.js';
import { lineLabel } from './curves.js';
import { ask, askData, sqlText } from './data.js';
import { type Part, partName } from './part.js';
import { type PageCell, readingsTable } from './readings-table.js';
import { type Place, placeColumns, placeJoins, type Subject } from './subject.js';

interface Row extends Place {
  readonly sample: string;
  readonly control: string;
  readonly layer: number | null;
  readonly text: string | null;
  readonly top_probability: number | null;
  readonly answer_found: number | null;
  readonly error: string | null;
  /** JSON: text and relevancy of each token; null where it was not asked for. */
  readonly relevancy: string | null;
}

export function textTables(database: Database, subject: Subject, sampleCount: number): Part[] {
  const samples = ask<{ sample_idx: number; name: string }>(
    database,
    `SELECT DISTINCT idx AS sample_idx, name FROM sample WHERE run_id IN (${subject.runIds}) AND idx < ${sampleCount}
    ORDER BY idx, name`,
  );
  const other = otherLayer(database, subject);
  return samples.map(({ sample_idx, name }, i) => {
    const sql = textsSql(subject, sample_idx, name, other);
    const title = onOneLine(`sample ${sample_idx}: ${name}`);
    return {
      ...{ name: partName('texts', i + 1), title, data: askData(database, sql) },
      caption: other === undefined ? '' : other.why,
      html: tableOf(subject, title, ask<Row>(database, sql)),
    };
  });
}

interface OtherLayer {
  readonly side: 'source_layer' | 'target_layer';
  readonly layer: number;
  readonly why: string;
}

/** Where both sides are swept, a table has room for one layer of the other side. */
function otherLayer(
  database: Database,
  { runIds, axis, isGrid, metrics, isSmallerBetter }: Subject,
): OtherLayer | undefined {
  const side = axis === 'source_layer' ? 'target_layer' : 'source_layer';
  const layers = ask<{ layer: number }>(
    database,
    `SELECT DISTINCT ${side} AS layer FROM observation WHERE run_id IN (${runIds}) AND ${side} IS NOT NULL ORDER BY layer`,
  );
  if (!isGrid || layers.length < 2) return undefined;
  const [metric] = metrics;
  const [best] =
    metric === undefined
      ? []
      : ask<{ layer: number }>(
          database,
          `SELECT ${side} AS layer FROM best_layers
          WHERE run_id IN (${runIds}) AND control = 'none' AND name = ${sqlText(metric)}
          ORDER BY value ${isSmallerBetter(metric) ? 'ASC' : 'DESC'}, source_layer, target_layer LIMIT 1`,
        );
  const name = side.replace('_', ' ');
  return best === undefined
    ? {
        side,
        layer: layers[0]!.layer,
        why: `At ${name} ${layerText(layers[0]!.layer)}, the first of several.`,
      }
    : { side, layer: best.layer, why: `At ${name} ${layerText(best.layer)}, where ${metric} is best.` };
}

function textsSql({ runIds, axis }: Subject, sampleIdx: number, name: string, other: OtherLayer | undefined) {
  return `SELECT ${placeColumns}, sample.name AS sample, observation.control, observation.${axis} AS layer,
  observation.text, exp(token_score.logprob) AS top_probability, score.value AS answer_found, observation.error,
  (
    SELECT json_group_array(json_array(token, round(relevancy, 4)) ORDER BY step)
    FROM relevancy WHERE observation_id = observation.id HAVING count(*) > 0
  ) AS relevancy
FROM observation
JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
${placeJoins}
LEFT JOIN token_score
  ON token_score.observation_id = observation.id AND token_score.step = 0 AND token_score.rank = 0
LEFT JOIN score ON score.observation_id = observation.id AND score.name = 'answer-found'
WHERE observation.run_id IN (${runIds}) AND observation.sample_idx = ${sampleIdx} AND sample.name = ${sqlText(name)}
  AND observation.draw = 0 AND observation.move_idx = CASE observation.control WHEN 'unpatched' THEN 0 ELSE (
    SELECT max(move_idx) FROM observation AS other
    WHERE other.run_id = observation.run_id AND other.sample_idx = observation.sample_idx
      AND other.variant = observation.variant
  ) END${other === undefined ? '' : ` AND coalesce(observation.${other.side}, ${other.layer}) = ${other.layer}`}
ORDER BY observation.run_id, observation.variant, observation.control, layer`;
}

function tableOf(subject: Subject, title: string, rows: readonly Row[]): string {
  const labelOf = (row: Row, control = row.control) => lineLabel(subject.nameOf(row), control);
  const columns = [
    ...new Set(rows.filter(({ control }) => control !== 'unpatched').map((row) => labelOf(row))),
  ];
  const cells = new Map(
    rows.map((row) =>
      row.control === 'unpatched'
        ? [`${labelOf(row, 'none')}\nnone`, cellOf(row)]
        : [`${labelOf(row)}\n${layerText(row.layer)}`, cellOf(row)],
    ),
  );
  const layers = [...new Set(rows.map(({ layer }) => layer))].sort((a, b) => (a ?? -2) - (b ?? -2));
  return readingsTable({
    ...{ title, about: '', framed: 'the text holds an answer' },
    underlined: 'how much the patch changes the probability of a token',
    groups: [{ title, columns }],
    rows: layers.map((layer) => ({
      heading: layer === null ? 'nothing patched' : layerText(layer),
      cells: columns.map((column) => cells.get(`${column}\n${layerText(layer)}`) ?? nothing),
    })),
  });
}

const nothing: PageCell = { text: '', probability: null, detail: 'no cell' };

function cellOf({ text, top_probability, answer_found, error, relevancy }: Row): PageCell {
  if (error !== null) {
    return { text: onOneLine(`failed: ${error}`), probability: null, detail: onOneLine(error), failed: true };
  }
  const probability = top_probability ?? null;
  const sure = probability === null ? [] : [`first token: ${Math.round(100 * probability)} %`];
  const tokens = (JSON.parse(relevancy ?? '[]') as [string, number][]).map(([token, weight]) => ({
    text: onOneLine(token),
    weight,
  }));
  const told = tokens.map((token) => `${token.text.trim()} ${token.weight.toFixed(2)}`).join(', ');
  return {
    text: text === null ? '' : onOneLine(text),
    ...(tokens.length > 0 && { tokens }),
    probability,
    detail: [...sure, ...(tokens.length > 0 ? [`changed by the patch: ${told}`] : [])].join('; '),
    marked: answer_found === 1,
  };
}
