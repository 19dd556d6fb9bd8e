/**
 * Runs what must hold everywhere on other devices than the CPU, with whole models and with two of their layers:
 * on two workers on this machine, and with `--vulkan` on a Vulkan device, Mesa's software driver where there is no
 * GPU. That driver was seen to end the process now and then by a damaged heap, so CI does without it.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { startWorker } from './start-worker.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const withVulkan = process.argv.includes('--vulkan');
const file = (name: string) => `test/${name}.test.ts`;
const whole = [['sites', 'edits', 'encoder-decoder', 'world', 'laws'].map(file)];
/**
 * A driver in software compiles its shaders anew for each number of rows. There the laws are those of one
 * model, the sites those of blocks in turn and side by side, and of the known-answers model and the edits only
 * what decodes few rows.
 */
const only = (names: string, test: string) => [`--test-name-pattern=${names}`, file(test)];
const small = [
  [file('laws')],
  only('each op makes|edits of different ops|changes no bit, another state does', 'edits'),
  only('^(llama|gptneox): ', 'sites'),
  only('plain and patched readings|changes no bit of the answer', 'world'),
];
/** llama.cpp leaves software drivers aside unless a device is named. */
const vulkanEnv = { GGML_VK_VISIBLE_DEVICES: '0' };
let failed = false;

const workers = [await startWorker(), await startWorker()];
const workersEnv = { PATCHSCOPES_TEST_WORKERS: workers.map(({ address }) => address).join(',') };
for (const device of ['rpc:all', 'rpc:2']) runOn(device, whole, workersEnv);
for (const worker of workers) await worker.stop();

if (withVulkan && hasVulkan()) {
  for (const device of ['vulkan:all', 'vulkan:2']) runOn(device, small, vulkanEnv);
} else if (withVulkan) {
  console.error('No driver offers Vulkan (Debian: apt install mesa-vulkan-drivers libvulkan1).');
  failed = true;
}
process.exit(failed ? 1 : 0);

function runOn(device: string, parts: readonly string[][], env: NodeJS.ProcessEnv): void {
  const begin = performance.now();
  const wrong = parts.filter((words) => {
    const { status } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--test', '--test-concurrency=1', '--test-reporter=dot', ...words],
      { stdio: 'inherit', cwd: root, env: { ...process.env, ...env, PATCHSCOPES_TEST_DEVICE: device } },
    );
    return status !== 0;
  });
  const seconds = Math.round((performance.now() - begin) / 1000);
  console.log(`${device}: ${wrong.length === 0 ? 'all well' : 'FAILED'} (${seconds} s)`);
  if (wrong.length > 0) failed = true;
}

function hasVulkan(): boolean {
  const script = "import('./dist/devices.js').then(({ openDevices }) => openDevices('vulkan'))";
  const { status } = spawnSync(process.execPath, ['--eval', script], {
    cwd: root,
    env: { ...process.env, ...vulkanEnv },
    stdio: 'ignore',
  });
  return status === 0;
}
