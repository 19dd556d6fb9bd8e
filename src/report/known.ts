/** Beside the truth, where it is known: what came out, and which signs of a reading tell right ones from wrong ones. */
import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { areaUnderCurve } from '../statistics/auc.js';
import { expectationSql } from '../store/expectations.js';
import { ask, askData } from './data.js';
import { methodsByLayer } from './known-methods.js';
import { type ExpectationRow, expectationTable, signTable } from './known-tables.js';
import type { Part } from './part.js';
import { type Place, placeColumns, placeJoins, type Subject } from './subject.js';

/** Runs that were given something to expect. */
export function knownRuns(database: Database, { runIds }: Subject): string {
  const runs = ask<{ id: number }>(
    database,
    `SELECT id FROM run WHERE id IN (${runIds}) AND experiment -> '$.expected' IS NOT NULL ORDER BY id`,
  );
  return runs.map(({ id }) => id).join(', ');
}

export function expectations(database: Database, runIds: string): Part {
  const sql = expectationSql(runIds);
  return {
    ...{ name: 'expectations', title: 'What came out beside the truth' },
    caption:
      'Truth: what the metric is where the reading says what is so. Least and most: what the lowest and the highest mean at one pair of layers must keep to; found: these two. In the data layer -1 is the embedding, no layers are all of them, and holds is blank where no such cell is stored.',
    html: expectationTable(ask<ExpectationRow>(database, sql)),
    data: askData(database, sql),
  };
}

/** Each is larger where a reading looks more trustworthy. */
const signs = {
  top_probability: 'probability of the most probable token',
  margin: 'how much more probable it is than the next one, in nats',
  against_unpatched: 'improbability of what the unpatched prompt says',
  unlike_unpatched: 'another text than that of the unpatched prompt',
  unlike_random: 'another text than with random vectors',
  unlike_shuffled: "another text than with other samples' states",
  unlike_all: 'another text than all of these',
} as const;

type Sign = keyof typeof signs;
type Row = Place & { readonly right: number } & { readonly [sign in Sign]: number | null };

/** Rules of success, the strictest first. */
const rightness = ['answer-first-token', 'answer-word', 'answer-found', 'precision-at-1'] as const;

/** Whether readings are right, and by what that is told; nothing where the runs do not say. */
export function judgedReadings(database: Database, subject: Subject, runIds: string): Part[] {
  const metric = rightness.find((name) => subject.metrics.includes(name));
  if (metric === undefined) return [];
  return [methodsByLayer(database, runIds, metric), ...tellingSigns(database, subject, runIds, metric)];
}

/** None where all readings of the runs are right, or all are wrong. */
function tellingSigns(database: Database, subject: Subject, runIds: string, metric: string): Part[] {
  const sql = signsSql(runIds, metric);
  const places = grouped(ask<Row>(database, sql), (row) =>
    JSON.stringify([row.run_id, subject.indexOf(row)]),
  );
  const rows = [...places.values()].flatMap((cells) =>
    (Object.keys(signs) as Sign[]).flatMap((sign) => {
      const of = (right: number) =>
        cells.flatMap((cell) => (cell.right === right && cell[sign] !== null ? [cell[sign]] : []));
      const [rights, wrongs] = [of(1), of(0)];
      if (rights.length === 0 || wrongs.length === 0) return [];
      const { run_id, variant, mapping } = cells[0]!;
      const area = areaUnderCurve(rights, wrongs);
      const [right, wrong] = [rights.length, wrongs.length];
      return [
        {
          run_id,
          variant,
          mapping,
          place: subject.nameOf(cells[0]!) || 'all readings',
          sign: signs[sign],
          right,
          wrong,
          area,
        },
      ];
    }),
  );
  if (rows.length === 0) return [];
  return [
    {
      ...{ name: 'telling-signs', title: 'Which signs tell right readings from wrong ones' },
      caption: `Area under the ROC curve: how probable it is that a right reading (${metric}) has more of a sign than a wrong one; 0.5 says nothing, 1 everything. Captured states alone, all layers. Where the right answer is the prompt's own, signs that the patch has an effect lie below 0.5.`,
      html: signTable(rows),
      data: {
        sql: `-- the sign of each cell, from which the areas are computed\n${sql}`,
        columns: ['run_id', 'variant', 'mapping', 'sign', 'right', 'wrong', 'area'],
        rows: rows.map((row) => [
          ...[row.run_id, row.variant, row.mapping, row.sign, row.right, row.wrong, row.area],
        ]),
      },
    },
  ];
}

function signsSql(runIds: string, metric: string): string {
  return `WITH token AS MATERIALIZED (
  SELECT observation.id, token_score.rank, token_score.token_id, token_score.logprob
  FROM observation JOIN token_score ON token_score.observation_id = observation.id AND token_score.step = 0
  WHERE observation.run_id IN (${runIds}) AND observation.status = 'ok'
), unpatched AS MATERIALIZED (
  SELECT observation.run_id, observation.sample_idx, observation.variant, token.token_id
  FROM observation JOIN token ON token.id = observation.id AND token.rank = 0
  WHERE observation.control = 'unpatched' AND observation.draw = 0
)
SELECT ${placeColumns},
  observation.id AS observation_id, score.value AS right,
  exp(best.logprob) AS top_probability, best.logprob - next.logprob AS margin,
  CASE WHEN unpatched.token_id IS NOT NULL THEN -coalesce(exp(said.logprob), 0) END AS against_unpatched,
  NOT contaminated AS unlike_unpatched, NOT same_as_random AS unlike_random,
  NOT same_as_shuffled AS unlike_shuffled, NOT (contaminated OR same_as_random OR same_as_shuffled) AS unlike_all
FROM signature
JOIN observation ON observation.id = signature.observation_id
${placeJoins}
JOIN score ON score.observation_id = observation.id AND score.name = '${metric}'
JOIN token AS best ON best.id = observation.id AND best.rank = 0
LEFT JOIN token AS next ON next.id = observation.id AND next.rank = 1
LEFT JOIN unpatched ON unpatched.run_id = observation.run_id AND unpatched.sample_idx = observation.sample_idx
  AND unpatched.variant = observation.variant
LEFT JOIN token AS said ON said.id = observation.id AND said.token_id = unpatched.token_id
WHERE signature.run_id IN (${runIds}) AND signature.control = 'none'`;
}
