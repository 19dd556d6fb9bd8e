/** Writes the rows of `store-rows` into a new file, as a process of its own: `store-writer.ts store|plain FILE`. */

import type { Observation } from '../../src/observation.js';
import { openSqlite } from '../../src/store/sqlite.js';
import { openStore } from '../../src/store/store.js';
import { beginRun, CELLS, observations, tokens } from './store-rows.js';

const PART = 10_000;
const CHUNK = 500;

const [way, file] = process.argv.slice(2) as ['store' | 'plain', string];
const runId = beginRun(file);
const { write, close } = way === 'store' ? byStore() : byPlainInserts();
let seconds = 0;
for (let begin = 0; begin < CELLS; begin += PART) {
  const part = observations(begin, PART);
  const start = performance.now();
  write(begin, part);
  seconds += (performance.now() - start) / 1000;
}
const start = performance.now();
close();
seconds += (performance.now() - start) / 1000;
console.log(JSON.stringify({ seconds, peakMegabytes: process.resourceUsage().maxRSS / 1024 }));

function byStore() {
  const store = openStore(file);
  return {
    write: (begin: number, part: Observation[]) => {
      for (let i = 0; i < part.length; i += CHUNK) {
        store.addChunk(runId, (begin + i) / CHUNK, part.slice(i, i + CHUNK));
      }
    },
    close: () => store.close(),
  };
}

/** One transaction for each part; texts of tokens before. */
function byPlainInserts() {
  const database = openSqlite(file);
  database.pragma('synchronous = NORMAL');
  const token = database.prepare('INSERT OR IGNORE INTO token VALUES (1, ?, ?)');
  database.transaction(() => tokens.forEach((text, tokenId) => void token.run(tokenId, text)))();
  const cell = database.prepare(
    `INSERT INTO observation
      (id, run_id, sample_idx, variant, source_site, site, source_layer, target_layer, mapping_id, control, draw,
      status, error, text, token_ids)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?)`,
  );
  const tokenScore = database.prepare('INSERT INTO token_score VALUES (?, ?, ?, ?, ?)');
  const score = database.prepare('INSERT INTO score VALUES (?, ?, ?)');
  const write = database.transaction((begin: number, part: Observation[]) => {
    for (let i = 0; i < part.length; i++) {
      const id = begin + i + 1;
      const row = part[i]!;
      cell.run(
        id,
        runId,
        row.sample,
        row.variant,
        row.sourceSite,
        row.targetSite,
        row.sourceLayer,
        row.targetLayer,
        row.control,
        row.draw,
        row.status,
        row.error,
        row.text,
        JSON.stringify(row.tokenIds),
      );
      for (const { rank, tokenId, logprob } of row.steps[0]!) tokenScore.run(id, 0, rank, tokenId, logprob);
      score.run(id, 'answer-found', row.scores['answer-found']);
    }
  });
  return { write, close: () => database.close() };
}
