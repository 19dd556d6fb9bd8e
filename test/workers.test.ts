/** Models on workers: who may be one, what a lost one costs, and that it is all the same to the results. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LoadedAddon, loadAddon } from '../src/native.js';
import { query } from '../src/store/query.js';
import { connectWorkers } from '../src/workers.js';
import { t5 } from './fixtures/architectures/t5.js';
import { writeGguf } from './fixtures/gguf.js';
import { freePort, type StartedWorker, startWorker } from './start-worker.js';
import {
  assertRefused,
  assertSameBits,
  assertSentence,
  captured,
  folder,
  nextLogits,
  open,
  runChild,
  tinyPath,
  writeFile,
} from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));

let workers: StartedWorker[];
before(async () => {
  workers = [await startWorker(), await startWorker()];
});
after(() => Promise.all(workers.map((worker) => worker.stop())));
const both = () => workers.map(({ address }) => address);

const temporaryFolder = () => mkdtempSync(join(folder(), 'workers-'));

function cli(args: readonly string[], cwd = temporaryFolder()) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd,
    encoding: 'utf8',
    timeout: 30_000,
    killSignal: 'SIGKILL',
  });
  return { code: status, stdout, stderr };
}

const patchWords = (...more: string[]) =>
  `patch|-m|${world}|-t|1|--json|--source|i saw paul quill|--source-position|-1|--source-layer|all|--target|the city of x is|--target-position|x|--target-layer|same`
    .split('|')
    .concat(more);

/** One sentence, exit code 2, and nothing left behind. */
function assertBadInput(args: readonly string[], says: RegExp): void {
  const cwd = temporaryFolder();
  const { code, stdout, stderr } = cli(args, cwd);
  assert.equal(code, 2, stderr);
  assert.equal(stdout, '');
  assert.match(stderr, says);
  assertSentence(stderr.trimEnd());
  assert.deepEqual(readdirSync(cwd), []);
}

/** Listens and does to each connection what `greet` says. @returns its address. */
async function listener(t: { after(work: () => void): void }, greet: (socket: net.Socket) => void) {
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    greet(socket);
  });
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `127.0.0.1:${(server.address() as net.AddressInfo).port}`;
}

test('a worker says one line when it is ready, serves, and ends by Ctrl-C', async () => {
  const worker = await startWorker();
  const { code, stderr } = cli(patchWords('--no-db', '--rpc', worker.address));
  assert.equal(code, 0, stderr);
  assert.equal(worker.stdout(), `listening on ${worker.address}\n`);
  assert.equal(worker.stderr(), '');
  await worker.stop('SIGINT');
  assert.equal(worker.process.signalCode, 'SIGINT');
});

test('a worker that other machines reach warns of what that means', async (t) => {
  const worker = await startWorker('0.0.0.0');
  t.after(() => worker.stop());
  assert.match(worker.stderr(), /^Warning: .*no authentication and no encryption.*\n$/);
  assertSentence(worker.stderr().trimEnd());
});

test('an address that a worker cannot listen on is refused', async () => {
  const [taken] = both();
  assertBadInput(['worker', '--listen', taken!], new RegExp(`${taken} is in use: take another port`));
  assertBadInput(['worker', '--listen', '127.0.0.1:0'], /a port of 1 to 65535/);
  assertBadInput(['worker', '--listen', '127.0.0.1:65536'], /a port of 1 to 65535/);
  assertBadInput(['worker', '--listen', '127.0.0.1'], /HOST:PORT is needed/);
  assertBadInput(['worker', '--listen', '192.0.2.1:50052'], /192\.0\.2\.1:50052 can't be listened on/);
  assertBadInput(['worker', '-t', '0'], /-t is '0'/);
});

test('an engine that is refused leaves the workers to the engines that use them', async (t) => {
  const rpc = both();
  const options = { rpc, gpu: 'off', gpuLayers: 'all' } as const;
  const engine = await open(tinyPath('llama'), options);
  t.after(() => engine.close());
  const { release } = await connectWorkers(loadAddon('cpu'), rpc);
  release();
  release(); // counts once
  const exact = { ...options, exact: true, flashAttention: false };
  await assertRefused(() => open(tinyPath('llama'), exact), 'bad_input', /^Exact mode does not hold/);
  await (await open(tinyPath('gpt2'), options)).close();
});

test('a list of workers that can not be used is refused before the model is looked at', async (t) => {
  const [one] = both();
  const refuse = (rpc: string, says: RegExp) => assertBadInput(patchWords('--rpc', rpc), says);
  const nobody = `127.0.0.1:${await freePort()}`;
  refuse(nobody, new RegExp(`worker at ${nobody} can't be reached \\(ECONNREFUSED\\)`));
  refuse(`${one},${nobody}`, /can't be reached/);
  refuse(`${one},${one}`, /named twice/);
  refuse(`${one},localhost:${one!.split(':')[1]}`, /named twice/);
  for (const rpc of ['', ',', 'here', `${one},`, ':50052', '127.0.0.1:x', '[::1]:50052']) {
    refuse(rpc, /HOST:PORT is needed/);
  }
  // they run in this process, so the command must not block it
  const refused = async (address: string, says: RegExp) =>
    assertRefused(() => open(tinyPath('llama'), { rpc: [address] }), 'no_device', says);
  const closes = await listener(t, (socket) => socket.end());
  await refused(closes, /is no worker of this version/);
  const web = await listener(t, (socket) =>
    socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'),
  );
  await refused(web, /is no worker of this version/);
  const older = await listener(t, (socket) => {
    const answer = Buffer.alloc(36);
    answer.writeBigUInt64LE(28n);
    answer.set([6, 1], 8);
    socket.write(answer);
  });
  await refused(older, /speaks protocol 6\.1, not that of .*: use the same version on both sides/);
  const silent = await listener(t, () => undefined);
  await refused(silent, /does not answer: it serves one process at a time, and may be busy/);
});

test('where the RPC backend could not be compiled, workers are refused and all else goes on', async () => {
  const addon = { rpcPlugin: null } as LoadedAddon;
  await assertRefused(() => connectWorkers(addon, ['127.0.0.1:50052']), 'no_addon', /could not be compiled/);
  assert.deepEqual((await connectWorkers(addon, [])).devices, []);
});

test('the record shows the workers, and results are those of this machine alone', async () => {
  const engine = async (gpuLayers?: number) =>
    open(tinyPath('llama'), { gpu: 'off', rpc: both(), ...(gpuLayers !== undefined && { gpuLayers }) });
  const local = await open(tinyPath('llama'), { gpu: 'off' });
  const rows = [{ tokenIds: [1, 70, 71, 72], edits: [] }];
  const [expected] = await nextLogits(local, rows);
  for (const gpuLayers of [undefined, 2]) {
    const remote = await engine(gpuLayers);
    assert.deepEqual(
      remote.record.devices.slice(1).map(({ description, library }) => [description, library]),
      both().map((address) => [address, 'libggml-rpc.so']),
    );
    assert.equal(remote.record.gpuLayers, gpuLayers ?? remote.record.layerCount + 1);
    assertSameBits(
      (await nextLogits(remote, rows))[0]!,
      expected!,
      `${gpuLayers ?? 'all'} layers on workers`,
    );
    await remote.close();
  }
  const none = await engine(0);
  assert.equal(none.record.devices.length, 1);
  await none.close();
  await local.close();
});

test('every site of an encoder-decoder model that is shared out is read as on the CPU', async () => {
  const path = writeFile('workers-t5.gguf', writeGguf(t5()));
  const local = await open(path);
  const remote = await open(path, { gpu: 'off', rpc: both() });
  assert.equal(remote.record.gpuLayers, 4, 'three blocks, of both sides together, and the output');
  const input = { tokenIds: [0, 40, 50], encoderTokenIds: [3, 70, 80, 90, 2] };
  const points = (['encoder', 'decoder'] as const).flatMap((side) =>
    [...Array(side === 'encoder' ? 3 : 2).keys()].flatMap((layer) =>
      (['attn_out', 'resid_mid', 'mlp_out', 'resid_out'] as const)
        .filter((site) => side === 'encoder' || site !== 'attn_out')
        .map((site) => ({ side, site, layer, tokenIndex: 1 })),
    ),
  );
  const [here] = await local.capture([{ ...input, points }]);
  const [there] = await remote.capture([{ ...input, points }]);
  assert.ok(here?.status === 'ok' && there?.status === 'ok', JSON.stringify(there));
  points.forEach(({ side, site, layer }, i) => {
    assertSameBits(there.states[i]!, here.states[i]!, `${side} ${site} ${layer}`);
  });
  await local.close();
  await remote.close();
});

test('models of one process share a worker, and give it back when they are closed', async () => {
  const rpc = both();
  const [first, second] = [await open(tinyPath('llama'), { rpc }), await open(tinyPath('gpt2'), { rpc })];
  await first.close();
  await captured(second, [1, 70], [1]);
  await second.close();
  const { code, stderr } = cli(patchWords('--no-db', '--rpc', rpc.join(',')));
  assert.equal(code, 0, stderr);
  const again = await open(tinyPath('llama'), { rpc });
  await captured(again, [1, 70], [1]);
  await again.close();
});

test('a worker that is gone is no harm to who does without it', async () => {
  const worker = await startWorker();
  await (await open(tinyPath('llama'), { rpc: [worker.address] })).close();
  await worker.stop();
  const local = await open(tinyPath('llama'));
  await captured(local, [1, 70], [1]);
  await local.close();
  await assertRefused(
    () => open(tinyPath('llama'), { rpc: [worker.address] }),
    'no_device',
    /can't be reached \(ECONNREFUSED\)/,
  );
});

test('a run whose worker dies ends with one sentence, keeps what was stored, and goes on from there', async (t) => {
  const [one] = both();
  const worker = await startWorker();
  const db = join(temporaryFolder(), 'results.db');
  const cells = 1100; // more than are stored at a time
  const script = (resume: boolean, kill: string) => `
    import {
      allChunks, ChunkRunner, findUnfinishedRun, makePlan, openStore, parsePosition, recordRun, run, runHeader,
    } from '${new URL('../src/index.ts', import.meta.url).href}';
    const engine = await open(${JSON.stringify(world)}, { rpc: ['${one}', '${worker.address}'] });
    const samples = Array.from({ length: ${cells} }, (_, i) => ({
      name: String(i),
      source: { prompt: { kind: 'tokens', tokenIds: [1, 5 + (i % 50), 6 + Math.floor(i / 50)] }, position: parsePosition('-1') },
      target: { prompt: { kind: 'tokens', tokenIds: [1, 7, 8] }, position: parsePosition('-1') },
    }));
    const reading = { topK: 1, maxTokens: 1, stop: [] };
    const mapping = { kind: 'identity' };
    const plan = makePlan(
      { name: 'lost', samples, sourceLayers: '3', targetLayers: 'same', mapping, reading, seed: 0 },
      engine.tokenizer,
      engine.record,
    );
    const results = () => openStore(${JSON.stringify(db)});
    const header = runHeader(plan, { command: 'test' });
    const resumed = ${resume} ? findUnfinishedRun(header, engine, results) : undefined;
    const chunks = allChunks(plan).filter((chunk) => !resumed?.doneChunks.includes(chunk));
    const runs = run(plan, new ChunkRunner(plan, engine), { chunks });
    const kept = recordRun(runs, header, engine, results, resumed);
    for await (const chunk of kept) {
      console.log(chunk.observations.length);
      ${kill}
    }
    await engine.close();
  `;
  const lost = await runChild(script(false, `process.kill(${worker.process.pid}, 'SIGKILL');`));
  await worker.stop();
  assert.equal(lost.code, 1, lost.stderr);
  assert.equal(lost.stdout, '550\n');
  assert.match(lost.stderr, new RegExp(`^patchscopes: The worker at .*${worker.address}.* was lost`));
  assertSentence(lost.stderr.trimEnd());
  const stored = () =>
    query(
      db,
      'SELECT run.id, run.status, count(*) FROM run JOIN observation ON run_id = run.id GROUP BY run.id',
    ).rows;
  const [first] = stored();
  assert.deepEqual(first!.slice(2), [550]);
  assert.deepEqual(query(db, 'PRAGMA integrity_check').rows, [['ok']]);

  const restarted = await startWorker('127.0.0.1', Number(worker.address.split(':')[1]));
  t.after(() => restarted.stop());
  const again = await runChild(script(true, ''));
  assert.equal(again.code, 0, again.stderr);
  assert.equal(again.stdout, `${cells - 550}\n`);
  const undisturbed = await runChild(script(false, ''));
  assert.equal(undisturbed.code, 0, undisturbed.stderr);
  assert.deepEqual(
    stored().map((row) => row.slice(1)),
    [
      ['done', cells],
      ['done', cells],
    ],
  );
  const scores = (runId: number) =>
    query(
      db,
      `SELECT sample_idx, step, rank, token_id, logprob FROM observation
       JOIN token_score ON observation_id = observation.id WHERE run_id = ${runId} ORDER BY 1, 2, 3`,
    ).rows;
  assert.deepEqual(scores(1), scores(2), 'the same bits as those of an undisturbed run');
});
