/** What was run, on what. */
import type { Database } from 'better-sqlite3';
import { onOneLine } from '../store/format.js';
import type { SqlValue } from '../store/query.js';
import { askData, type Data } from './data.js';
import { escapeHtml } from './html.js';
import { dataTable, type Part } from './part.js';
import type { Subject } from './subject.js';

export function facts(database: Database, { runIds }: Subject): Part {
  const data = askData(
    database,
    `SELECT run.id AS run, run.name AS name, run.status AS status, run.cells_planned AS "cells planned",
  (SELECT count(*) FROM observation WHERE run_id = run.id) AS "cells stored",
  (SELECT count(*) FROM observation WHERE run_id = run.id AND status = 'failed') AS "cells failed",
  (SELECT count(*) FROM sample WHERE run_id = run.id) AS samples,
  run.command AS command, run.seed AS seed, run.started_at AS started, run.finished_at AS finished, run.host AS host,
  run.shard_index || '/' || run.shard_count AS shard, run.plan_sha256 AS "plan sha256",
  ${modelFacts('source')},
  ${modelFacts('target')},
  'patchscopes ' || run.package || ', addon ' || run.addon || ', llama.cpp ' || run.llama_cpp AS engine,
  run.backend AS backend, run.devices AS devices, run.gpu_layers AS "GPU layers", run.split_mode AS "split mode",
  run.threads AS threads, run.batch_rows AS "rows a batch", run.batch_tokens AS "tokens a batch",
  run.batch_outputs AS "outputs a batch", run.cache_layout AS "K/V layout",
  run.type_k || ' and ' || run.type_v AS "K/V types", run.flash_attention AS "flash attention", run.exact AS exact,
  run.tolerance AS tolerance, run.reading AS reading, run.experiment AS experiment
FROM run
JOIN model AS source ON source.id = run.source_model_id
JOIN model AS target ON target.id = run.target_model_id
WHERE run.id IN (${runIds})
ORDER BY run.id`,
  );
  return {
    ...{ name: 'facts', title: 'Runs, models, engine and settings', data },
    caption:
      'Tolerance: the largest difference of a log-probability that the company of a cell in its batch was measured to make; empty: not measured. A model file is told by its sha256.',
    html: transposed(data),
  };
}

function modelFacts(side: 'source' | 'target'): string {
  return `${side}.name || ' ' || ${side}.quantization || ' (' || ${side}.architecture || ', ' || ${side}.layers || ' layers, width ' || ${side}.width || ', ' || ${side}.bytes || ' bytes)' AS "${side} model",
  ${side}.sha256 AS "${side} sha256"`;
}

export function prompts(database: Database, { runIds }: Subject, sampleCount: number): Part {
  const data = askData(
    database,
    `SELECT variant.run_id, sample.name AS sample, sample."group", coalesce(variant.answer, sample.answer) AS answer,
  variant.name AS variant,
  source.text AS source_prompt, iif(variant.source_vector_idx IS NULL, move.source_position, NULL) AS source_position,
  move.source_token,
  target.text AS target_prompt, move.target_position, move.target_token,
  variant.op, variant.alpha, variant.at_generated, variant.decay, variant.contrast,
  (
    SELECT group_concat(edit.value ->> '$.op' || coalesce(' ' || vector.text, ''), '; ')
    FROM json_each(variant.own_edits) AS edit
    LEFT JOIN vector ON vector.run_id = variant.run_id AND vector.idx = edit.value ->> '$.vector'
  ) AS own_edits
FROM variant
JOIN move ON move.run_id = variant.run_id AND move.sample_idx = variant.sample_idx AND move.variant = variant.name
JOIN sample ON sample.run_id = variant.run_id AND sample.idx = variant.sample_idx
JOIN prompt AS source ON source.run_id = variant.run_id AND source.idx = variant.source_prompt_idx
JOIN prompt AS target ON target.run_id = variant.run_id AND target.idx = variant.target_prompt_idx
WHERE variant.run_id IN (${runIds}) AND variant.sample_idx < ${sampleCount}
ORDER BY variant.run_id, variant.sample_idx, variant.name, move.idx`,
  );
  const rows = data.rows.map((row) =>
    row.map((value) => (typeof value === 'string' ? shortened(value) : value)),
  );
  return {
    ...{ name: 'prompts', title: 'Prompts and positions', data },
    caption: `Of the first ${sampleCount} samples. Positions are indexes of tokens, from 0; tokens stand beside them to be read. Long texts have a gap in the middle here, and are whole in the data.`,
    html: dataTable({ columns: data.columns, rows }, 'Prompts and positions'),
  };
}

/** Most signs of a text in a table. */
const LONGEST = 80;

/** Both ends are kept: what is patched often stands last. */
function shortened(text: string): string {
  const signs = [...text];
  if (signs.length <= LONGEST) return text;
  return `${signs.slice(0, LONGEST / 2).join('')} … ${signs.slice(3 - LONGEST / 2).join('')}`;
}

/** A run is a column. */
function transposed({ columns, rows }: Data): string {
  const lines = columns.map((column, i) => {
    const cells = rows.map((row) => `<td>${escapeHtml(valueText(row[i]!))}</td>`).join('');
    return `<tr><th scope="row">${escapeHtml(column)}</th>${cells}</tr>`;
  });
  return `<div class="scroll facts" tabindex="0" role="region" aria-label="Facts of the runs"><table><tbody>${lines.join('\n')}</tbody></table></div>`;
}

function valueText(value: SqlValue): string {
  return value === null ? '' : onOneLine(String(value));
}
