/** What `patchscopes doctor` says of this machine, and of broken ones. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Check, VariantCheck } from '../src/doctor/doctor.js';
import { adviceFor, missingLibraries } from '../src/doctor/libraries.js';
import { assertSentence, folder } from './support.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const temporaryFolder = () => fs.mkdtempSync(path.join(folder(), 'doctor-'));

function doctor(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  command = path.join(root, 'dist/cli.js'),
) {
  const cwd = temporaryFolder();
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, 'doctor', ...args], {
    cwd,
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
  assert.deepEqual(fs.readdirSync(cwd), [], 'it leaves nothing behind');
  return { status, stdout, stderr };
}

function checks(env: NodeJS.ProcessEnv = {}, command?: string) {
  const { status, stdout } = doctor(['--json'], env, command);
  const all = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Check);
  const named = (name: string) => all.find(({ check }) => check === name);
  const variant = (name: string) => named(name) as VariantCheck | undefined;
  return { status, all, named, variant };
}

test('one line for each check: status, name, a sentence', () => {
  const { status, stdout, stderr } = doctor([]);
  assert.equal(status, 0, stderr);
  const lines = stdout.trim().split('\n');
  for (const line of lines) {
    assert.match(line, /^(ok|warning|missing) +(--gpu )?\w+ +\S/);
    assertSentence(line);
  }
  for (const name of ['versions', 'threads', 'database', 'results', 'models', 'disk', 'cpu', '--gpu auto']) {
    assert.equal(lines.filter((line) => line.slice(9).startsWith(name)).length, 1, name);
  }
  assert.match(stdout, /patchscopes \d+\.\d+\.\d+, Node \d+\S+, node-llama-cpp \d\S+, llama\.cpp \S+\./);
});

test('a variant is well where it works and shows its own kind of device; else what it lacks is named', () => {
  const { status, all } = checks();
  assert.equal(status, 0);
  const variants = all.filter((check): check is VariantCheck => 'devices' in check);
  assert.ok(variants.some(({ variant, status }) => variant === 'cpu' && status === 'ok'));
  for (const { variant, status, devices, missing, advice } of variants) {
    assert.ok(
      devices.some(({ kind }) => kind === 'cpu'),
      `${variant} can use the CPU`,
    );
    const hasGpu = devices.some(({ kind }) => kind === 'gpu' || kind === 'integrated');
    assert.equal(status, variant === 'cpu' || hasGpu ? 'ok' : 'missing', variant);
    assert.equal(advice === null, status === 'ok');
    if (status === 'missing') for (const library of missing) assert.ok(advice!.includes(library), library);
  }
});

test('without a driver the CUDA libraries show the CPU alone, and the driver is what is missing', (t) => {
  const { variant } = checks();
  const cuda = variant('cuda');
  if (cuda === undefined || cuda.status === 'ok')
    return t.skip('not run: no CUDA libraries, or a driver for them');
  assert.deepEqual(
    cuda.devices.map(({ kind }) => kind),
    ['cpu'],
  );
  assert.ok(cuda.missing.includes('libcuda.so.1'), cuda.missing.join());
  assert.match(cuda.advice!, /install NVIDIA's driver/);
});

test("Mesa's driver in software is a device where it is asked for, and advice says how", (t) => {
  const software = checks({ GGML_VK_VISIBLE_DEVICES: '0' }).variant('vulkan');
  if (software?.status !== 'ok') return t.skip('not run: no Vulkan driver');
  assert.ok(software.devices.some(({ registry, kind }) => registry === 'Vulkan' && kind === 'gpu'));
  assert.ok(software.devices.every(({ totalBytes }) => totalBytes > 0));
  const { GGML_VK_VISIBLE_DEVICES: _, ...env } = process.env;
  const plain = checks({ ...env, GGML_VK_VISIBLE_DEVICES: undefined }).variant('vulkan')!;
  if (plain.status === 'ok') return;
  assert.deepEqual(
    plain.devices.map(({ kind }) => kind),
    ['cpu'],
  );
  assert.match(plain.advice!, /GGML_VK_VISIBLE_DEVICES=0/);
});

test('libraries that the loader does not find are found by asking it', {
  skip: process.platform !== 'linux',
}, () => {
  const at = temporaryFolder();
  const compile = (...args: string[]) => {
    const { status, stderr } = spawnSync(process.env.CXX ?? 'c++', args, { cwd: at, encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  };
  fs.writeFileSync(path.join(at, 'absent.cpp'), 'int absent() { return 1; }');
  fs.writeFileSync(path.join(at, 'user.cpp'), 'int absent(); int user() { return absent(); }');
  compile('-shared', '-fPIC', '-o', 'libabsent.so', 'absent.cpp');
  compile('-shared', '-fPIC', '-o', 'libuser.so', 'user.cpp', '-L.', '-labsent', '-Wl,-rpath,$ORIGIN');
  assert.deepEqual(missingLibraries(at), []);
  fs.rmSync(path.join(at, 'libabsent.so'));
  assert.deepEqual(missingLibraries(at), ['libabsent.so']);
});

test('advice names what holds a library, each advice once', () => {
  assert.match(adviceFor(['libcuda.so.1']), /^install NVIDIA's driver$/);
  const cuda = adviceFor(['libcublas.so.13', 'libcudart.so.13']);
  assert.match(cuda, /CUDA 13/);
  assert.equal(cuda.split(';').length, 1, cuda);
  assert.match(adviceFor(['libvulkan.so.1', 'libgomp.so.1']), /libvulkan1\); .*libgomp1/);
  assert.match(adviceFor(['libother.so.4']), /holds libother\.so\.4/);
});

/** This package as it would be with another build folder. */
function packageWith(built: string | undefined, files: Readonly<Record<string, string>> = {}): string {
  const at = temporaryFolder();
  fs.cpSync(path.join(root, 'dist'), path.join(at, 'dist'), { recursive: true });
  fs.copyFileSync(path.join(root, 'package.json'), path.join(at, 'package.json'));
  fs.symlinkSync(fs.realpathSync(path.join(root, 'node_modules')), path.join(at, 'node_modules'));
  fs.mkdirSync(path.join(at, 'build'));
  if (built !== undefined) fs.writeFileSync(path.join(at, 'build', 'built.json'), built);
  for (const [name, text] of Object.entries(files)) fs.writeFileSync(path.join(at, 'build', name), text);
  return path.join(at, 'dist', 'cli.js');
}

for (const [what, built] of [
  ['no record of a build', undefined],
  ['a broken record', '{"variants": ['],
  ['a record of something else', '{"llamaCpp": "v0"}'],
] as const) {
  test(`${what} is one line, the others are there, and the exit code is 1`, () => {
    const { status, all, named } = checks({}, packageWith(built));
    assert.equal(status, 1);
    assert.equal(named('addon')?.status, 'missing');
    assert.match(named('addon')!.text, /addon was not built .*npm rebuild patchscopes/);
    assert.equal(named('database')?.status, 'ok');
    assert.equal(all.length, 7);
  });
}

test('an addon that can not be loaded is missing, and the exit code is 1', () => {
  const built = {
    llamaCpp: 'v0',
    nodeLlamaCpp: '0',
    variants: [{ variant: 'cpu', origin: 'local', addon: 'cpu.node', libraries: '.' }],
  };
  const { status, variant, named } = checks(
    {},
    packageWith(JSON.stringify(built), { 'cpu.node': 'no addon' }),
  );
  assert.equal(status, 1);
  assert.equal(variant('cpu')?.status, 'missing');
  assert.match(variant('cpu')!.text, /^built here, can't be used: The cpu addon could not be loaded/);
  assert.match(variant('cpu')!.advice!, /npm rebuild patchscopes/);
  if (process.platform === 'linux') assert.match(named('cuda')!.advice!, /patchscopes build --gpu cuda/);
});

test('a cache folder that can not be made is a warning', () => {
  const { status, named } = checks({ PATCHSCOPES_CACHE: '/dev/null/cache' });
  assert.equal(status, 0);
  assert.equal(named('models')?.status, 'warning');
  assert.match(named('models')!.advice!, /PATCHSCOPES_CACHE/);
});
