// Builds the addon for each variant (cpu, cuda, vulkan, metal) of the llama.cpp libraries that node-llama-cpp
// has installed, or that `patchscopes build` has made. llama.cpp itself is not compiled here: its headers come
// from the source bundle inside node-llama-cpp, and the addon is linked to the libraries. The one part of it
// that they lack, the RPC backend, is compiled from that bundle too.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { findVariants } from './variants.mjs';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const build = path.join(root, 'build');

/** What is taken out of the bundle. */
const sources = [
  'include',
  'ggml/include',
  'src/llama-ext.h',
  'ggml/src/ggml-rpc',
  'ggml/src/ggml-impl.h',
  'ggml/src/ggml-backend-impl.h',
];

class InstallError extends Error {}

try {
  main();
} catch (error) {
  if (!(error instanceof InstallError)) throw error;
  process.stderr.write(`patchscopes: ${error.message}\n`);
  process.exitCode = 1;
}

function main() {
  for (const [tool, advice] of [
    ['git', 'git (Debian: apt install git; macOS: xcode-select --install)'],
    ['cmake', 'CMake 3.15 or later (Debian: apt install cmake; macOS: brew install cmake)'],
  ]) {
    if (!runs(tool, ['--version'])) throw new InstallError(`${tool} is missing: install ${advice}.`);
  }
  if (
    ![process.env.CXX, 'c++', 'g++', 'clang++'].some((compiler) => compiler && runs(compiler, ['--version']))
  ) {
    throw new InstallError(
      'a C++ compiler is missing: install one (Debian: apt install g++; macOS: xcode-select --install).',
    );
  }
  const engine = path.dirname(path.dirname(fileURLToPath(import.meta.resolve('node-llama-cpp'))));
  const { version } = readJson(path.join(engine, 'package.json'));
  const { release } = readJson(path.join(engine, 'llama', 'binariesGithubRelease.json'));
  const variants = variantsHere(engine, release);
  const headers = checkOut(path.join(engine, 'llama', 'gitRelease.bundle'), release);
  const output = compile(headers, variants);
  const rpc = compileRpc(headers, variants);
  const built = variants.map(({ variant, directory, origin }) => ({
    variant,
    origin,
    addon: path.relative(build, path.join(output, `patchscopes-${variant}.node`)),
    libraries: path.relative(build, directory),
  }));
  fs.writeFileSync(
    path.join(build, 'built.json'),
    `${JSON.stringify({ llamaCpp: release, nodeLlamaCpp: version, variants: built, rpc }, null, 2)}\n`,
  );
  process.stdout.write(
    `patchscopes: addon built for ${variants.map(({ variant, origin }) => (origin === 'local' ? `${variant} (built here)` : variant)).join(', ')} (llama.cpp ${release}).\n`,
  );
}

function variantsHere(engine, release) {
  const platform = { linux: 'linux', darwin: 'mac' }[process.platform];
  if (platform === undefined) {
    throw new InstallError(`${process.platform} is not supported yet: use Linux (WSL on Windows) or macOS.`);
  }
  const variants = findVariants({
    localFolder: path.join(build, 'local'),
    scopes: createRequire(path.join(engine, 'package.json'))
      .resolve.paths('@node-llama-cpp')
      .map((folder) => path.join(folder, '@node-llama-cpp')),
    platform,
    arch: process.arch,
    release,
  });
  if (variants.length === 0) {
    throw new InstallError(
      `there are no prebuilt llama.cpp ${release} libraries for ${process.platform}-${process.arch}: install with optional dependencies (npm ci without --omit=optional).`,
    );
  }
  return variants;
}

/** Headers, and the source of the RPC backend, of the very source the libraries were built from. */
function checkOut(bundle, release) {
  const headers = path.join(build, `llama.cpp-${release}`);
  if (sources.every((source) => fs.existsSync(path.join(headers, source)))) return headers;
  fs.rmSync(headers, { recursive: true, force: true }); // of an earlier version of this script
  fs.mkdirSync(build, { recursive: true });
  const work = fs.mkdtempSync(path.join(build, 'checkout-'));
  try {
    run('git', ['clone', '--quiet', '--no-checkout', bundle, work]);
    run('git', ['-C', work, 'checkout', '--quiet', 'HEAD', '--', ...sources]);
    fs.rmSync(path.join(work, '.git'), { recursive: true });
    fs.renameSync(work, headers);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
  return headers;
}

function compile(headers, variants) {
  const work = path.join(build, 'addon');
  // a cache of CMake holds absolute paths: a moved project is configured anew
  fs.rmSync(path.join(work, 'CMakeCache.txt'), { force: true });
  runCmake(work, headers, variants);
  return path.join(work, 'Release');
}

/** Not every machine can have it: then workers on other machines can't be used, and all else can. */
function compileRpc(headers, variants) {
  const work = path.join(build, 'addon');
  try {
    runCmake(work, headers, variants, ['--target', 'ggml-rpc']);
    return path.relative(build, path.join(work, 'Release', 'libggml-rpc.so'));
  } catch (error) {
    if (!(error instanceof InstallError)) throw error;
    process.stderr.write("patchscopes: llama.cpp's RPC backend could not be compiled: --rpc is absent.\n");
    return null;
  }
}

function runCmake(work, headers, variants, more = []) {
  const require = createRequire(import.meta.url);
  run(process.execPath, [
    path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js'),
    'build',
    '--directory',
    root,
    '--out',
    work,
    '--parallel',
    String(os.availableParallelism()),
    `--CDPATCHSCOPES_HEADERS=${headers}`,
    `--CDPATCHSCOPES_VARIANTS=${variants.map(({ variant, directory }) => `${variant}=${directory}`).join(';')}`,
    ...more,
  ]);
}

function runs(command, args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

/** Quiet unless it fails; then what it printed is shown. */
function run(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status === 0) return;
  process.stderr.write(`${stdout ?? ''}${stderr ?? ''}`);
  throw new InstallError(
    `${path.basename(command)} ${args[0]} failed${error ? `: ${error.message}` : ' (see above)'}.`,
  );
}

function readJson(file) {
  return JSON.parse(fs.readFileSync(file, 'utf8'));
}
