/** The probe as part of a run: what is stored is what the probe says of the captured states, however the run came about. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Engine } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Experiment } from '../src/patchscope.js';
import { makePlan, type Plan } from '../src/plan/plan.js';
import { probeUnits } from '../src/plan/probe-units.js';
import { GroupProber } from '../src/probing/group-prober.js';
import { uniforms } from '../src/random.js';
import { Probing } from '../src/record-probes.js';
import { needUnfinishedRun, recordRun, runHeader, type Shard, shardChunks } from '../src/record-run.js';
import { renderReport } from '../src/report/report.js';
import { ChunkRunner, run } from '../src/run.js';
import { groupedFolds } from '../src/statistics/folds.js';
import { probe } from '../src/statistics/probe.js';
import { deleteRun } from '../src/store/delete.js';
import { exportRun } from '../src/store/export.js';
import { mergeShards } from '../src/store/merge.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { dump } from './store-dump.js';
import { cell, folder, runOf } from './store-records.js';
import { promptOf, sharedEngine, tinyModels, writeFile } from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const classes = ['a', 'b', 'c'];
const draw = uniforms(11);

/** Two groups of 12 subjects, two samples each; the last token of a source tells the class. */
const samples = ['one', 'two'].flatMap((kind) =>
  Array.from({ length: 24 }, (_, i) => ({
    ids: [1, 30 + i, 60 + (Math.floor(i / 2) % 3)],
    who: `${kind} ${Math.floor(i / 2)}`,
    word: classes[Math.floor(i / 2) % 3]!,
    drawn: classes[Math.floor(3 * draw())]!,
    kind,
  })),
);

function experimentOf(changes: object = {}): Experiment {
  const path = writeFile(
    'probe.json',
    JSON.stringify({
      name: 'probed',
      samples,
      group: '{kind}',
      answer: '{word}',
      source: { prompt: { tokens: '{ids}' }, layers: 'embed,all' },
      target: { prompt: 'the cat is on a mat', position: 'cat', layers: '0,2' },
      variants: [
        { name: 'patched' },
        {
          name: 'asked',
          source: { layers: 0 },
          target: { prompt: 'a b c {word} {word}', position: -1, layers: 0 },
          edit: { op: 'scale' },
        },
      ],
      reading: { tokens: 16 },
      metrics: ['answer-found', 'answer-word'],
      known: 'asked',
      probe: { class: '{word}', subject: '{who}' },
      seed: 5,
      ...changes,
    }),
  );
  return readExperiment(path).experiment;
}

/** Runs what is missing of a run, or of a shard of it; `most` chunks and `units` groups are done at most. */
async function runInto(
  db: string,
  plan: Plan,
  engine: Engine,
  options: { readonly shard?: Shard; readonly most?: number; readonly units?: number; resume?: boolean } = {},
): Promise<boolean> {
  const { shard, most, units = Number.POSITIVE_INFINITY, resume = false } = options;
  const header = runHeader(plan, { command: 'test', shard });
  const openResults = () => openStore(db);
  const resumed = resume ? needUnfinishedRun(header, engine, openResults) : undefined;
  const left = shardChunks(plan, shard).filter((chunk) => !resumed?.doneChunks.includes(chunk));
  const controller = new AbortController();
  const prober = new GroupProber(plan, engine);
  let probed = 0;
  const probing = new Probing(
    plan,
    {
      probe: (...task) => {
        if (probed++ >= units) controller.abort();
        return prober.probe(task[0], task[1], { signal: controller.signal });
      },
    },
    { signal: controller.signal },
  );
  const chunks = run(plan, new ChunkRunner(plan, engine), { chunks: left.slice(0, most) });
  for await (const _ of recordRun(chunks, header, engine, openResults, resumed, shard ? undefined : probing));
  return probing.isDone;
}

async function planned(changes: object = {}): Promise<{ readonly engine: Engine; readonly plan: Plan }> {
  const engine = await sharedEngine(llama);
  return { engine, plan: makePlan(experimentOf(changes), engine.tokenizer, engine.record) };
}

const statusOf = (db: string) => query(db, 'SELECT status FROM run').rows[0]![0];
const file = (t: TestContext) => join(folder(t), 'r.db');

test('stored predictions are those of the probe on the captured states; no subject is in two folds', async (t) => {
  const { engine, plan } = await planned();
  const db = file(t);
  assert.equal(await runInto(db, plan, engine), true);
  assert.equal(statusOf(db), 'done');
  const { samples: all } = plan.experiment;
  for (const { group, samples: own, places } of probeUnits(plan)) {
    const sources = own.map((sample) => promptOf(plan.pairs.find((pair) => pair.sample === sample)!.source));
    const captured = await engine.capture(
      sources.map(({ tokenIds, tokenIndex }) => ({
        tokenIds,
        points: places.map((place) => ({ ...place, tokenIndex })),
      })),
    );
    const knownRows = query(db, `SELECT sample_idx FROM known_sample WHERE "group" = '${group}'`).rows;
    const known = new Set(knownRows.map(([sample]) => sample));
    for (const [flag, some] of [
      [0, own],
      [1, own.filter((sample) => known.has(sample))],
    ] as const) {
      const stored = query(
        db,
        `SELECT sample_idx, source_layer, fold, predicted, correct FROM probe_prediction
        JOIN sample ON sample.idx = sample_idx WHERE known = ${flag} AND "group" = '${group}' ORDER BY 2, 1`,
      ).rows;
      if (flag === 1 && new Set(some).size < 3) continue;
      const folds = groupedFolds(
        some.map((sample) => all[sample]!.subject!),
        3,
        5,
      );
      const labels = some.map((sample) => all[sample]!.class!);
      const layer = (place: (typeof places)[number]) => (place.layer === 'embed' ? -1 : place.layer);
      const expected = places
        .map((place, k) => [place, k] as const)
        .sort(([a], [b]) => layer(a) - layer(b))
        .flatMap(([place, k]) => {
          const states = some.map((sample) => {
            const result = captured[own.indexOf(sample)]!;
            return result.status === 'ok' ? result.states[k]! : assert.fail();
          });
          const { predictions } = probe({ states, labels, folds });
          return some.map((sample, i) => [
            ...[sample, layer(place), folds[i], predictions[i], Number(predictions[i] === labels[i])],
          ]);
        });
      assert.deepEqual(stored, expected, `${group} ${flag}`);
    }
  }
  assert.deepEqual(
    query(
      db,
      'SELECT count(*) FROM (SELECT 1 FROM probe_reading GROUP BY known, variant, subject HAVING count(DISTINCT fold) > 1)',
    ).rows,
    [[0]],
  );
  // the token that the state is of tells the class
  const [[embed, last] = []] = query(
    db,
    `SELECT max(CASE source_layer WHEN -1 THEN accuracy END), max(CASE source_layer WHEN 3 THEN accuracy END)
    FROM accuracy_by_layer WHERE name = 'probe'`,
  ).rows;
  assert.deepEqual([embed, last], [1, 1]);
});

test('classes that say nothing of the states are found by chance alone', async (t) => {
  const { engine, plan } = await planned({ group: 'all', probe: { class: '{drawn}', subject: '{who}' } });
  const db = file(t);
  await runInto(db, plan, engine);
  const rows = query(db, "SELECT mean FROM accuracy WHERE name = 'probe'").rows;
  assert.equal(rows.length, 1);
  for (const [mean] of rows) assert.ok(Number(mean) < 0.55, `${mean}`);
});

test('a run that broke off at a chunk or between probes, and one that was cut into shards, are the undisturbed one', async (t) => {
  const { engine, plan } = await planned();
  const home = folder(t);
  const [whole, broken, merged] = ['whole', 'broken', 'merged'].map((name) => join(home, `${name}.db`)) as [
    string,
    string,
    string,
  ];
  await runInto(whole, plan, engine);
  const expected = dump(whole);
  assert.ok(expected.probe_prediction!.length > 200);

  assert.equal(await runInto(broken, plan, engine, { most: 1 }), false);
  assert.equal(statusOf(broken), 'interrupted');
  assert.deepEqual(query(broken, 'SELECT count(*) FROM probe').rows, [[0]]);
  assert.equal(await runInto(broken, plan, engine, { resume: true, units: 1 }), false);
  assert.equal(statusOf(broken), 'interrupted');
  assert.deepEqual(query(broken, 'SELECT count(DISTINCT "group") FROM probe').rows, [[1]]);
  assert.equal(await runInto(broken, plan, engine, { resume: true }), true);
  assert.deepEqual(dump(broken), expected);

  const shards = [1, 2].map((index) => ({ index, count: 2 }));
  for (const shard of shards) await runInto(join(home, `${shard.index}.db`), plan, engine, { shard });
  const notes: string[] = [];
  await mergeShards(
    shards.map(({ index }) => join(home, `${index}.db`)),
    merged,
    { onNote: (line) => notes.push(line) },
  );
  assert.match(notes.join(), /its probe learns from all samples.*--resume/);
  assert.equal(statusOf(merged), 'interrupted');
  assert.equal(await runInto(merged, plan, engine, { resume: true }), true);
  assert.deepEqual(dump(merged), expected);
});

test('predictions are exported, and go with their run', async (t) => {
  const { engine, plan } = await planned();
  const db = file(t);
  await runInto(db, plan, engine);
  let text = '';
  const { rowCount } = await exportRun(db, {
    ...{ run: '1', format: 'jsonl', rows: 'predictions' },
    to: (more) => {
      text += more;
      return true;
    },
  });
  const rows = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.equal(rows.length, rowCount);
  const { subject, class: kind, predicted, correct } = rows[0];
  assert.deepEqual([subject, correct], ['one 0', Number(kind === predicted)]);
  const { rows: gone } = deleteRun(db, 1);
  assert.equal(gone.probe_prediction, rowCount);
  assert.ok(gone.probe! > 0);
});

test('a sample counts once some target layer succeeds, in each draw of a control', (t) => {
  const db = file(t);
  addCounts(db, { x: [1, 2, 0] }, { x: [1, 1, 1] }, 2);
  const rows = query(
    db,
    "SELECT control, source_layer, accuracy, known_accuracy, known_samples FROM accuracy_by_layer WHERE name = 'answer-found' AND variant = 'patched' ORDER BY 1, 2",
  ).rows;
  assert.deepEqual(rows, [
    ['none', 0, 0.5, 1, 1],
    ['none', 1, 1, 1, 1],
    ['none', 2, 0, 0, 1],
    ['random', 0, 0.25, 0.5, 1],
    ['random', 1, 0.5, 0.5, 1],
    ['random', 2, 0, 0, 1],
  ]);
});

/**
 * A run of as many samples for each group: at source layer l the first counts[l] of them succeed at the second of
 * two target layers, under the control random in the first of two draws; the probe finds the first so many. The
 * model knows the first sample of each.
 */
function addCounts(
  db: string,
  counts: Readonly<Record<string, readonly number[]>>,
  probed: Readonly<Record<string, readonly number[]>>,
  each: number,
): void {
  const groups = Object.keys(counts);
  const named = groups.flatMap((group) => Array.from({ length: each }, (_, i) => ({ group, i })));
  const place = { prompt: 0, position: 1, tokenId: 7, token: ' x' };
  const observations = named.flatMap(({ group, i }, sample) => [
    cell({
      ...{ sample, variant: 'asked', sourceLayer: 0, targetLayer: 0 },
      scores: { 'answer-found': Number(i === 0) },
    }),
    ...counts[group]!.flatMap((count, sourceLayer) =>
      [0, 1].flatMap((targetLayer) =>
        (
          [
            ['none', 0],
            ['random', 0],
            ['random', 1],
          ] as const
        ).map(([control, draw]) =>
          cell({
            ...{ sample, variant: 'patched', sourceLayer, targetLayer, control, draw },
            scores: { 'answer-found': Number(targetLayer === 1 && draw === 0 && i < count) },
          }),
        ),
      ),
    ),
  ]);
  const store = openStore(db);
  const runId = store.beginRun(
    runOf({
      experiment: { name: 'counts', known: 'asked', probe: { folds: 3 } },
      cellsPlanned: observations.length,
      chunksPlanned: 1,
    }),
    {
      prompts: [{ text: 'a x', tokenIds: [1, 7] }],
      samples: named.map(({ group, i }) => ({ name: `${group} ${i}`, group, subject: `${i}`, class: 'c' })),
      variants: named.flatMap((_, sample) =>
        ['patched', 'asked'].map((name) => ({
          ...{ sample, name, source: place, target: place },
          ...{ op: 'replace' as const, alpha: 1, atGenerated: false },
        })),
      ),
    },
  );
  store.addChunk(runId, 0, observations);
  for (const [g, group] of groups.entries()) {
    store.addProbes(runId, [
      {
        ...{ variant: 'patched', group, known: false, samples: each, subjects: each, classes: 2, note: null },
        predictions: probed[group]!.flatMap((count, sourceLayer) =>
          Array.from({ length: each }, (_, i) => ({
            ...{ sample: g * each + i, sourceSite: 'attn_out' as const, sourceLayer, fold: i % 3 },
            ...{ predicted: i < count ? 'c' : 'd', correct: i < count },
          })),
        ),
      },
    ]);
  }
  store.finishRun(runId, 'done');
  store.close();
}

test("means, deviations and tests of the report are scipy's", (t) => {
  const { accuracies }: { readonly accuracies: Reference[] } = JSON.parse(
    readFileSync(new URL('reference/statistics.json', import.meta.url), 'utf8'),
  );
  const db = file(t);
  const names = accuracies.map((_, i) => `group ${i}`);
  const of = (which: number) =>
    Object.fromEntries(names.map((name, i) => [name, accuracies[i]!.counts[which]!]));
  addCounts(db, of(0), of(1), accuracies[0]!.samples);
  const { parts } = renderReport(db, ['1']);
  const { columns, rows } = parts.find(({ name }) => name === 'accuracy-answer-found')!.data;
  const found = rows
    .map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])))
    .filter(({ facts }) => facts === 'all');
  assert.equal(found.length, accuracies.length);
  for (const [i, { means, sds, t, df, p, corrected, samples }] of accuracies.entries()) {
    const row = found[i]!;
    assert.deepEqual([row.group, row.samples, row.df], [names[i], samples, df]);
    const pairs: [unknown, number][] = [
      [row.patchscope_mean, means[0]!],
      [row.patchscope_sd, sds[0]!],
      [row.probe_mean, means[1]!],
      [row.probe_sd, sds[1]!],
      [row.random_mean, means[0]! / 2],
      [row.t, t],
      [row.p, p],
      [row.p_bonferroni, corrected],
    ];
    for (const [actual, expected] of pairs)
      assert.ok(Math.abs(Number(actual) / expected - 1) < 1e-9, `${names[i]}: ${actual}, not ${expected}`);
    assert.equal(row.significant, corrected < 0.05 ? 'yes' : 'no');
  }
  // the file says the same where SQL can
  const stored = query(db, 'SELECT mean, sd FROM accuracy WHERE name = \'probe\' ORDER BY "group"').rows;
  stored.forEach(([mean, sd], i) => {
    assert.ok(Math.abs(Number(mean) - accuracies[i]!.means[1]!) < 1e-12);
    assert.ok(Math.abs(Number(sd) - accuracies[i]!.sds[1]!) < 1e-9);
  });
});

interface Reference {
  readonly samples: number;
  readonly counts: [number[], number[]];
  readonly means: [number, number];
  readonly sds: [number, number];
  readonly t: number;
  readonly df: number;
  readonly p: number;
  readonly corrected: number;
}

test('a group that cannot be probed gets a note, and the others their probes', async (t) => {
  const odd = samples.map((sample, i) => (i < 24 ? { ...sample, word: 'a' } : sample));
  const { engine, plan } = await planned({ samples: odd });
  const db = file(t);
  assert.equal(await runInto(db, plan, engine), true);
  const notes = query(db, 'SELECT "group", note, classes FROM probe WHERE known = 0 ORDER BY 1').rows;
  assert.deepEqual(notes, [
    ['one', "All states are of the class 'a': a probe needs two or more.", 1],
    ['two', null, 3],
  ]);
  assert.deepEqual(query(db, 'SELECT DISTINCT "group" FROM probe_reading WHERE known = 0').rows, [['two']]);
});

test('a layer where a state is missing has no probe, the others do', async () => {
  const { engine, plan } = await planned();
  const spoilt: Engine = {
    ...engine,
    record: engine.record,
    capture: async (requests, options) => {
      const results = await engine.capture(requests, options);
      return results.map((result, i) => {
        const holds = i === 3 && requests[i]!.points.some(({ layer }) => layer === 2);
        return holds
          ? { status: 'failed' as const, code: 'not_finite', error: 'The state holds NaN.' }
          : result;
      });
    },
  };
  const [all] = await new GroupProber(plan, spoilt).probe(0, null);
  assert.match(
    all!.note!,
    /^Some source layers have no probe: at resid_out 2 a state is missing \(The state holds NaN/,
  );
  const layers = new Set(all!.predictions.map(({ sourceLayer }) => sourceLayer));
  assert.deepEqual([...layers], ['embed', 0, 1, 3]);
});

test('a probe that is given up lets go of its threads, and says why', async () => {
  const { engine, plan } = await planned();
  const controller = new AbortController();
  const given = new GroupProber(plan, engine).probe(0, null, { signal: controller.signal });
  controller.abort();
  await assert.rejects(given, { name: 'AbortError' });
});

test('what can tell nothing is refused in one sentence', async () => {
  const engine = await sharedEngine(llama);
  const cases: [object, RegExp][] = [
    [{ known: 'askd' }, /^known names 'askd', which is no variant: there are patched, asked\.$/],
    [{ known: 'patched' }, /^known names 'patched', a variant that patches something, .*op: scale/],
    [{ known: ['asked', 'askd'] }, /^known names 'askd', which is no variant/],
    [{ metrics: ['answer-word'] }, /^known names 'asked', which tells by the metric answer-found/],
    [
      { probe: { class: 'x', subject: '{who}' } },
      /^A probe can't learn from any of the 2 groups \(the first is 'one'\): all states are of the class 'x'/,
    ],
    [
      { probe: { class: '{word}', subject: '{kind}' }, group: 'g' },
      /^A probe can't learn from the samples: there are 2 subjects for 3 folds/,
    ],
    [{ probe: { class: '{word}' } }, /probe\.subject is missing/],
    [{ probe: { class: '{word}', subject: '{whom}' } }, /probe\.subject takes \{whom\}, .*perhaps \{who\}/],
    [
      { probe: { class: '{word}', subject: '{who}', folds: 1 } },
      /probe\.folds is 1 where a whole number of at least 2/,
    ],
  ];
  for (const [changes, message] of cases) {
    assert.throws(
      () => makePlan(experimentOf(changes), engine.tokenizer, engine.record),
      (error: { code: string; message: string }) => {
        assert.equal(error.code, 'bad_input');
        assert.match(error.message, message);
        return true;
      },
    );
  }
});
