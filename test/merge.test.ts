/** Shards of a run, merged, are the run that was not cut; whatever is not that is refused. */
import assert from 'node:assert/strict';
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { mergeShards } from '../src/store/merge.js';
import { openSqlite } from '../src/store/sqlite.js';
import { dump } from './store-dump.js';
import { engine, folder } from './store-records.js';
import { addRun, otherModel, type Part, type Sweep, sweep } from './sweep-records.js';

/** A file with one shard of `sweep`. */
function shard(home: string, index: number, count: number, of: Sweep = sweep, part: Part = {}): string {
  const path = join(home, `${of.name}-${index}-of-${count}-${readdirSync(home).length}.db`);
  addRun(path, of, { shard: { index, count }, ...part });
  return path;
}

function shards(home: string, count: number, of: Sweep = sweep): string[] {
  return Array.from({ length: count }, (_, i) => shard(home, i + 1, count, of));
}

function whole(home: string, of: Sweep = sweep): string {
  const path = join(home, 'whole.db');
  addRun(path, of);
  return path;
}

const sweeps: readonly Sweep[] = [
  sweep,
  { ...sweep, cellsInChunk: 1, samples: 2 },
  { ...sweep, cellsInChunk: 50 },
  { ...sweep, diagonal: true, source: otherModel },
];

for (const [i, of] of sweeps.entries()) {
  for (const count of [1, 2, 3, 5]) {
    test(`${count} shards of sweep ${i}, merged, are the run that was not cut`, async (t) => {
      const home = folder(t);
      const output = join(home, 'all.db');
      // named in any order
      const merged = await mergeShards(shards(home, count, of).reverse(), output);
      assert.deepEqual(dump(output), dump(whole(home, of)));
      assert.deepEqual(
        [merged.runId, merged.status, merged.shard, merged.cellsStored],
        [1, 'done', null, merged.cellsPlanned],
      );
    });
  }
}

test('neither other runs in the files, nor resuming, nor all shards in one file change what is merged', async (t) => {
  const home = folder(t);
  const path = join(home, 'r.db');
  const other = { ...sweep, name: 'other', salt: 9, source: otherModel };
  addRun(path, other, { shard: { index: 1, count: 2 } });
  addRun(path, sweep, { shard: { index: 1, count: 3 }, chunks: 2 }); // broken off, and run anew
  addRun(path, sweep, { shard: { index: 1, count: 3 } });
  addRun(path, other);
  for (const index of [3, 2]) addRun(path, sweep, { shard: { index, count: 3 } });
  const output = join(home, 'all.db');
  await mergeShards([path], output);
  const expected = dump(whole(home));
  assert.deepEqual(dump(output), expected);
  // a file's own newest run may be another, where the first file says which run is meant
  const [first, ...others] = shards(home, 3);
  for (const file of others) addRun(file, other, { shard: { index: 1, count: 2 } });
  await mergeShards([first!, ...others], join(home, 'again.db'));
  assert.deepEqual(dump(join(home, 'again.db')), expected);
});

test('mappings that files number in other ways are still told apart', async (t) => {
  const home = folder(t);
  const files = ['a', 'b', 'whole'].map((name) => join(home, `${name}.db`));
  const odd = { ...sweep, mapping: 'second' };
  for (const [i, file] of files.entries()) {
    addRun(file, { ...sweep, name: 'first', salt: i });
    const database = openSqlite(file);
    const mappings = i === 0 ? ['first', 'second'] : ['second', 'first'];
    for (const name of mappings)
      database
        .prepare('INSERT INTO mapping (name, kind, sha256) VALUES (?, ?, ?)')
        .run(name, 'affine', `sha of ${name}`);
    database.close();
    addRun(file, odd, i < 2 ? { shard: { index: i + 1, count: 2 } } : {});
  }
  const output = join(home, 'all.db');
  await mergeShards(files.slice(0, 2), output);
  const ofRun = ({ observation }: ReturnType<typeof dump>) =>
    observation!.filter(({ run_id }) => `${run_id}`.startsWith('sweep'));
  const merged = ofRun(dump(output));
  assert.ok(merged.length > 0 && merged.every(({ mapping_id }) => mapping_id === 'second'));
  assert.deepEqual(merged, ofRun(dump(files[2]!)));
  assert.deepEqual(
    dump(output)
      .mapping!.map(({ name, sha256 }) => [name, sha256])
      .sort(),
    [
      ['identity', null],
      ['second', 'sha of second'],
    ],
  );
});

test('other machines and libraries are warned of, and kept in the record', async (t) => {
  const home = folder(t);
  const devices = [{ name: 'CPU', description: 'a CPU', library: 'libggml-cpu-other.so' }];
  const files = [
    shard(home, 1, 3),
    shard(home, 2, 3, sweep, { changes: { host: 'there', engine: { ...engine, devices, threads: 8 } } }),
    shard(home, 3, 3, sweep, { changes: { tolerance: 0.5 } }),
  ];
  const notes: string[] = [];
  await mergeShards(files, join(home, 'all.db'), { onNote: (line) => notes.push(line) });
  assert.equal(notes.length, 1);
  assert.match(
    notes[0]!,
    /^Warning: .*host is there, not here, devices is libggml-cpu-other\.so, not .*threads is 8, not 2/,
  );
  const database = openSqlite(join(home, 'all.db'));
  t.after(() => database.close());
  assert.deepEqual(database.prepare('SELECT host, tolerance, command FROM run').all(), [
    { host: 'here, there', tolerance: 0.5, command: 'patchscopes run sweep' },
  ]);
});

/** Neither the output nor anything on the way to it is there, and no file was changed. */
async function refused(t: TestContext, files: readonly string[], sentence: RegExp, name = 'all.db') {
  const home = folder(t);
  const output = join(home, name);
  const before = files.map((file) => dumpIfThere(file));
  await assert.rejects(mergeShards(files, output), (error: Error) => {
    assert.equal(error.name, 'PatchscopeError');
    assert.match(error.message, sentence);
    return true;
  });
  assert.deepEqual(readdirSync(home), []);
  assert.deepEqual(
    files.map((file) => dumpIfThere(file)),
    before,
  );
}

function dumpIfThere(path: string): unknown {
  try {
    return dump(path);
  } catch (error) {
    return (error as Error).message;
  }
}

test('shards of another run are refused, and what differs is said', async (t) => {
  const home = folder(t);
  const first = shard(home, 1, 2);
  const differing: readonly [Partial<Sweep>, RegExp][] = [
    [{ changes: { seed: 8 } }, /seed is 8, not 7/],
    [{ changes: { planSha256: 'another' } }, /: the plan is another\.$/],
    [{ changes: { experiment: { layers: 'all' } } }, /: experiment is another\.$/],
    [{ changes: { experimentSource: 'name: x\n' } }, /experiment_source is name: x/],
    [{ changes: { reading: { topK: 9 } } }, /reading is another/],
    [{ changes: { addon: '9' } }, /addon is 9, not 0\.2\.0/],
    [{ changes: { cacheLayout: 'streams' } }, /cache_layout is streams, not unified/],
    [{ changes: { engine: { ...engine, batchRows: 64 } } }, /batch_rows is 64, not 128/],
    [{ changes: { engine: { ...engine, typeK: 'q8_0' } } }, /type_k is q8_0, not f16/],
    [{ changes: { engine: { ...engine, exact: true } } }, /exact is 1, not 0/],
    [{ changes: { engine: { ...engine, packageVersion: '9' } } }, /package is 9, not 0\.1\.0/],
    [{ changes: { engine: { ...engine, llamaCpp: 'b2' } } }, /llama_cpp is b2, not b1/],
    [{ source: otherModel }, /source_model is (cd)+, not (ab)+/],
    [{ name: 'other' }, /name is other, not sweep/],
    [{ salt: 3, changes: { planSha256: 'plan of sweep 0' } }, /its table (prompt|variant) is another/],
  ];
  for (const [changes, sentence] of differing) {
    await refused(t, [first, shard(home, 2, 2, { ...sweep, ...changes })], sentence);
  }
  await refused(t, [first, shard(home, 2, 3)], /shard_count is 3, not 2/);
});

test('shards that overlap, are missing, unfinished or none are refused', async (t) => {
  const home = folder(t);
  const [first, second, third] = shards(home, 3) as [string, string, string];
  const copy = join(home, 'copy.db');
  copyFileSync(second, copy);
  await refused(t, [first, second, third, copy], /^Shard 2\/3 is in .* and in .*; name one of them\.$/);
  await refused(t, [first, first, second, third], /^Shard 1\/3 is in /);
  await refused(t, [first], /^Shards 2\/3, 3\/3 are missing/);
  await refused(t, [third, first], /^Shard 2\/3 is missing/);
  await refused(t, [], /no file to merge/);
  const brokenOff = shard(home, 2, 3, sweep, { chunks: 3 });
  await refused(
    t,
    [first, brokenOff, third],
    /^Shard 2\/3 in .* is unfinished: it has 3 of 13 chunks; .*--resume 1/,
  );
  await refused(t, [first, second, whole(home)], /whole\.db holds no shard of a run/);
  await refused(t, [first, join(home, 'none.db')], /There is no results file/);
  const text = join(home, 'text.db');
  writeFileSync(text, 'a,b\n'.repeat(2000));
  await refused(t, [first, text], /text\.db is not a SQLite database/);
});

test('chunks that were cut in another way are refused', async (t) => {
  const home = folder(t);
  const plan = { planSha256: 'one plan' };
  const first = shard(home, 1, 2, sweep, { changes: plan });
  const fewer = shard(home, 2, 2, { ...sweep, samples: 3 }, { changes: plan });
  await refused(t, [first, fewer], /Chunk \d+ is in none of the shards/);
  const moved = shard(home, 2, 2, sweep, { changes: plan });
  const database = openSqlite(moved);
  database.exec('UPDATE chunk SET idx = 0 WHERE idx = 1');
  database.close();
  await refused(t, [first, moved], /Chunk 0 is in two of the shards/);
});

test('a file whose cells are not those of its chunks is refused as damaged', async (t) => {
  const home = folder(t);
  const [first, second] = shards(home, 2) as [string, string];
  const database = openSqlite(second);
  database.pragma('foreign_keys = ON');
  database.exec('DELETE FROM observation WHERE id = 5');
  database.close();
  await refused(t, [first, second], /is damaged: the cells of run 1 are not those of its chunks/);
});

test('an output that exists or has no folder is refused and left as it is', async (t) => {
  const home = folder(t);
  const files = shards(home, 2);
  const output = join(home, 'all.db');
  writeFileSync(output, 'mine');
  await assert.rejects(mergeShards(files, output), /all\.db exists: remove it, or name another/);
  assert.equal(readFileSync(output, 'utf8'), 'mine');
  await assert.rejects(mergeShards(files, files[0]!), /exists/);
  await refused(t, files, /can't be written \(ENOENT\)/, join('no', 'all.db'));
});
