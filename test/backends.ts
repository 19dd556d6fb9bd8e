/**
 * Runs what must hold everywhere on other devices than the CPU, with whole models and with two of their layers:
 * on two workers on this machine, and on a Vulkan device, Mesa's driver in software where there is no GPU. Words
 * (`workers`, `vulkan`) choose; with `--all`, as in CI, root fetches a driver that is missing.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startWorker } from './start-worker.js';
import { driverPackages, fetchDriver, hasVulkan, vulkanEnv } from './vulkan-driver.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const words = process.argv.slice(2);
const all = words.includes('--all');
const isAsked = (name: string) => words.includes(name) || words.every((word) => word.startsWith('--'));
const file = (name: string) => `test/${name}.test.ts`;
const whole = [[['sites', 'edits', 'encoder-decoder', 'world', 'selftest', 'laws'].map(file)]];
/**
 * A driver in software compiles its shaders for minutes. There the laws are those of one model, the sites those
 * of blocks in turn and side by side, and of the known-answers model and the edits only what decodes few rows;
 * and the laws run beside the rest.
 */
const only = (names: string, test: string) => [`--test-name-pattern=${names}`, file(test)];
const small = [
  [[file('laws')]],
  [
    only('^(llama|gptneox): ', 'sites'),
    only('plain and patched readings|changes no bit of the answer', 'world'),
    only('each op makes|edits of different ops|changes no bit, another state does', 'edits'),
  ],
];
let failed = false;

if (isAsked('workers')) {
  const workers = [await startWorker(), await startWorker()];
  const env = { PATCHSCOPES_TEST_WORKERS: workers.map(({ address }) => address).join(',') };
  for (const device of ['rpc:all', 'rpc:2']) await runOn(device, whole, env);
  for (const worker of workers) await worker.stop();
}

if (isAsked('vulkan')) {
  if (hasVulkan() || (all && fetchDriver())) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-vulkan-'));
    const env = vulkanEnv(folder);
    for (const device of ['vulkan:all', 'vulkan:2']) await runOn(device, small, env);
    fs.rmSync(folder, { recursive: true });
  } else {
    console.error(
      `NOT RUN: THE TESTS ON VULKAN, for no driver is there (Debian: apt install ${driverPackages})`,
    );
  }
}
process.exit(failed ? 1 : 0);

/** Each list of parts goes in turn, the lists side by side. */
async function runOn(device: string, lists: string[][][], env: NodeJS.ProcessEnv): Promise<void> {
  const begin = performance.now();
  const well = await Promise.all(
    lists.map(async (parts) => {
      let allWell = true;
      for (const part of parts) allWell = (await runPart(device, part, env)) && allWell;
      return allWell;
    }),
  );
  const seconds = Math.round((performance.now() - begin) / 1000);
  console.log(`${device}: ${well.every(Boolean) ? 'all well' : 'FAILED'} (${seconds} s)`);
  if (!well.every(Boolean)) failed = true;
}

async function runPart(device: string, part: readonly string[], env: NodeJS.ProcessEnv): Promise<boolean> {
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', '--test', '--test-concurrency=1', '--test-reporter=dot', ...part],
    { stdio: 'inherit', cwd: root, env: { ...process.env, ...env, PATCHSCOPES_TEST_DEVICE: device } },
  );
  const [status] = await once(child, 'exit');
  return status === 0;
}
