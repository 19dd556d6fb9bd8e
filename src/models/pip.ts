import { spawn } from 'node:child_process';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Wheel } from './catalogue.js';
import type { Watch } from './watch.js';

const commands = [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip'], ['pip3']] as const;

const pollEveryMs = 250;

/**
 * Puts the wheel into `folder` with the user's own pip and its settings, and
 * gives the path. The wheel appears there only when it is complete.
 */
export async function downloadWheel(
  wheel: Wheel,
  folder: string,
  { onProgress, signal }: Watch,
): Promise<string> {
  const staging = join(folder, 'staging');
  const temporary = join(staging, 'tmp');
  await rm(staging, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  let finished = false;
  const poll = setInterval(async () => {
    const doneBytes = Math.min(await bytesUnder(staging), wheel.bytes);
    if (!finished) onProgress?.({ step: 'download', doneBytes, totalBytes: wheel.bytes });
  }, pollEveryMs);
  try {
    const pip = await findPip(signal);
    const { code, stderr } = await run(
      [...pip, ...downloadArguments(wheel, staging)],
      { TMPDIR: temporary, TEMP: temporary, TMP: temporary },
      signal,
    );
    if (code !== 0) throw new Error(failureIn(stderr, code));
    const file = (await readdir(staging)).find((name) => name.endsWith('.whl'));
    if (!file) throw new Error('pip left no wheel');
    await rename(join(staging, file), join(folder, file));
    return join(folder, file);
  } finally {
    finished = true;
    clearInterval(poll);
    await rm(staging, { recursive: true, force: true });
  }
}

/** The Python version is ignored because nothing of the wheel is ever run. */
function downloadArguments(wheel: Wheel, destination: string): string[] {
  return [
    'download',
    '--no-deps',
    '--only-binary=:all:',
    '--ignore-requires-python',
    '--no-input',
    '--disable-pip-version-check',
    '--progress-bar=off',
    '--dest',
    destination,
    `${wheel.package}==${wheel.version}`,
  ];
}

async function findPip(signal?: AbortSignal): Promise<readonly string[]> {
  for (const command of commands) {
    const found = await run([...command, '--version'], {}, signal).catch(() => undefined);
    signal?.throwIfAborted();
    if (found?.code === 0) return command;
  }
  throw new Error('no pip was found on this machine');
}

function run(
  [command, ...args]: readonly string[],
  env: Record<string, string>,
  signal?: AbortSignal,
): Promise<{ code: number | null; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command!, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...env },
      windowsHide: true,
      ...(signal && { signal }),
    });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    let failure: Error | undefined;
    child.on('error', (error) => {
      failure = signal?.aborted ? signal.reason : error;
    });
    child.on('close', (code) => (failure ? reject(failure) : resolve({ code, stderr })));
  });
}

/** pip's last word; for an index out of reach that word misleads, so it is replaced. */
function failureIn(stderr: string, code: number | null): string {
  if (/after connection broken by/.test(stderr)) return 'pip could not reach its package index';
  const errors = stderr.match(/^ERROR: .*$/gm);
  return errors ? `pip says: ${errors.at(-1)?.slice('ERROR: '.length)}` : `pip ended with status ${code}`;
}

async function bytesUnder(folder: string): Promise<number> {
  const entries = await readdir(folder, {
    recursive: true,
    withFileTypes: true,
  }).catch(() => []);
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map((entry) =>
      stat(join(entry.parentPath, entry.name)).then(
        ({ size }) => size,
        () => 0,
      ),
    );
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}
