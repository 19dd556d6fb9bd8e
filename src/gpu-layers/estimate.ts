import { fork } from 'node:child_process';
import type { EstimateMessage, EstimateTask } from './estimate-child.js';
import type { LayerNeeds } from './fit.js';

export type { EstimateTask };

const givenUpAfterMs = 20_000;

/** What the blocks of a model need, as node-llama-cpp estimates it from the file. */
export function estimateNeeds(task: EstimateTask): Promise<LayerNeeds> {
  return new Promise((resolve, reject) => {
    const child = fork(new URL('./estimate-child.js', import.meta.url), [JSON.stringify(task)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      timeout: givenUpAfterMs,
      killSignal: 'SIGKILL',
    });
    let stderr = '';
    let message: EstimateMessage | undefined;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('message', (told: EstimateMessage) => {
      message = told;
      child.kill();
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (message?.kind === 'done') return resolve(message.needs);
      const last = stderr.trim().split('\n').at(-1);
      reject(new Error(message?.reason || last || `its process ended with ${signal ?? code}`));
    });
  });
}
