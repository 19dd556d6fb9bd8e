/** The bare llama.cpp loop of raw.cpp as a child process that is asked for one job at a time. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';

const build = fileURLToPath(new URL('../../build/', import.meta.url));

export interface RawLoop {
  /** @returns seconds. */
  run(job: string): Promise<number>;
  close(): void;
}

export async function startRawLoop(model: string, threads: number): Promise<RawLoop> {
  const { llamaCpp, variants } = JSON.parse(fs.readFileSync(path.join(build, 'built.json'), 'utf8'));
  const libraries = path.resolve(
    build,
    variants.find(({ variant }: { variant: string }) => variant === 'cpu').libraries,
  );
  const program = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'raw-')), 'raw');
  const headers = path.join(build, `llama.cpp-${llamaCpp}`);
  execFileSync(process.env.CXX ?? 'c++', [
    '-O2',
    '-std=c++17',
    '-isystem',
    path.join(headers, 'include'),
    '-isystem',
    path.join(headers, 'ggml', 'include'),
    fileURLToPath(new URL('raw.cpp', import.meta.url)),
    ...fs
      .readdirSync(libraries)
      .filter((name) => /^lib(llama\.|ggml\.|ggml-base)/.test(name))
      .map((name) => path.join(libraries, name)),
    `-Wl,-rpath,${libraries}`,
    '-o',
    program,
  ]);
  const child = spawn(program, [libraries, model, String(threads)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = readline.createInterface({ input: child.stdout });
  return {
    run: async (job) => {
      child.stdin.write(`${job}\n`);
      const [line] = await once(lines, 'line');
      return Number(line);
    },
    close: () => {
      child.stdin.end();
      fs.rmSync(path.dirname(program), { recursive: true });
    },
  };
}
