/** The addon's C++ below JavaScript under AddressSanitizer and UndefinedBehaviorSanitizer: `npm run sanitize`. */
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { corruptions } from '../fixtures/gguf.js';
import { badKinds, goodKinds, writeTinyModel } from '../fixtures/models.js';
import { headerDamage, tensorDamage } from '../fuzz/damage.js';
import { Random } from '../fuzz/random.js';

/** Damaged models as the fuzz tests draw them. */
const DRAWN = 400;

const here = fileURLToPath(new URL('.', import.meta.url));
const root = fileURLToPath(new URL('../../', import.meta.url));
const build = path.join(root, 'build');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-sanitize-'));

try {
  process.exitCode = main();
} finally {
  fs.rmSync(folder, { recursive: true });
}

function main(): number {
  const { llamaCpp, variants } = JSON.parse(fs.readFileSync(path.join(build, 'built.json'), 'utf8'));
  const { libraries } = variants.find(({ variant }: { variant: string }) => variant === 'cpu');
  const librariesFolder = path.resolve(build, libraries);
  const driver = compile(path.join(build, `llama.cpp-${llamaCpp}`), librariesFolder);
  const good = goodKinds.map((kind) => {
    const file = path.join(folder, `${kind}.gguf`);
    writeTinyModel(kind, file);
    return file;
  });
  good.push(path.join(root, 'test', 'world', 'world.gguf'));
  const drawn = Array.from({ length: DRAWN }, (_, i) => {
    const damage = i % 2 === 0 ? headerDamage : tensorDamage;
    return { name: String(i), bytes: damage(new Random(1, i)).bytes };
  });
  const damaged = [...corruptions(fs.readFileSync(good[0]!)), ...drawn].map(({ name, bytes }) => {
    const file = path.join(folder, `damaged-${name}.gguf`);
    fs.writeFileSync(file, bytes);
    return file;
  });
  for (const kind of badKinds) {
    damaged.push(path.join(folder, `${kind}.gguf`));
    writeTinyModel(kind, damaged.at(-1)!);
  }
  const { status, signal } = spawnSync(driver, [librariesFolder, ...good, '--', ...damaged], {
    stdio: 'inherit',
    env: {
      ...process.env,
      ASAN_OPTIONS: `detect_leaks=${process.platform === 'linux' ? 1 : 0}:strict_string_checks=1:detect_stack_use_after_return=1`,
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  });
  if (signal !== null) console.error(`sanitize: the driver was ended by ${signal}`);
  return status ?? 1;
}

function compile(headers: string, librariesFolder: string): string {
  const program = path.join(folder, 'driver');
  const native = path.join(root, 'native');
  // what faces JavaScript needs Node's headers, and is tested there
  const faces = new Set([
    'addon.cpp',
    'context.cpp',
    'device_list.cpp',
    'gguf_header.cpp',
    'least_squares_object.cpp',
    'mlp_object.cpp',
    'model.cpp',
    'rpc.cpp',
  ]);
  const sources = fs.readdirSync(native).filter((name) => name.endsWith('.cpp') && !faces.has(name));
  execFileSync(
    process.env.CXX ?? 'c++',
    [
      ...['-std=c++17', '-g', '-O1', '-fno-omit-frame-pointer', '-pthread'],
      ...['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
      ...['include', 'ggml/include', 'src'].flatMap((name) => ['-isystem', path.join(headers, name)]),
      ...['-I', native],
      ...[path.join(here, 'driver.cpp'), ...sources.map((name) => path.join(native, name))],
      ...fs
        .readdirSync(librariesFolder)
        .filter((name) => /^lib(llama\.|ggml\.|ggml-base)/.test(name))
        .map((name) => path.join(librariesFolder, name)),
      ...[`-Wl,-rpath,${librariesFolder}`, '-o', program],
    ],
    { stdio: 'inherit' },
  );
  return program;
}
