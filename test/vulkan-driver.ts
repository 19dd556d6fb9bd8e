/** A Vulkan driver that the tests can run on. */
import { execFileSync, spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** llama.cpp leaves software drivers aside unless a device is named. */
const named = { GGML_VK_VISIBLE_DEVICES: '0' };

export const driverPackages = 'mesa-vulkan-drivers libvulkan1';

/** @returns what a process needs in its environment; see keep-buffers.cpp. */
export function vulkanEnv(folder: string): NodeJS.ProcessEnv {
  if (process.platform !== 'linux') return named;
  const library = path.join(folder, 'keep-buffers.so');
  const source = fileURLToPath(new URL('keep-buffers.cpp', import.meta.url));
  execFileSync(process.env.CXX ?? 'c++', ['-shared', '-fPIC', '-O1', source, '-o', library, '-ldl'], {
    stdio: 'inherit',
  });
  return { ...named, LD_PRELOAD: library };
}

export function hasVulkan(): boolean {
  const script = "import('./dist/devices.js').then(({ openDevices }) => openDevices('vulkan'))";
  const { status } = spawnSync(process.execPath, ['--eval', script], {
    cwd: root,
    env: { ...process.env, ...named },
    stdio: 'ignore',
  });
  return status === 0;
}

/** Fetches Mesa's driver in software where that needs no question: by root, on Debian and its kin. */
export function fetchDriver(): boolean {
  if (process.getuid?.() !== 0) return false;
  const steps = [['update'], ['install', '--yes', '--no-install-recommends', ...driverPackages.split(' ')]];
  return (
    steps.every(
      (step) => spawnSync('apt-get', step, { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0,
    ) && hasVulkan()
  );
}
