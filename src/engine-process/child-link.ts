/** The other end of one child process, from its start to its end. */
import { type ChildProcess, fork } from 'node:child_process';
import { asError, type FromChild, type TaskName, type Tasks, type ToChild } from './messages.js';

/** Of the text of stderr, the end is kept: what llama.cpp says of an abort comes last. */
const KEPT_CHARACTERS = 4096;
const SHOWN_LINES = 3;
const SHOWN_CHARACTERS = 400;

interface Asked {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Why there will be no answer: the process has ended. */
export class ChildDeath extends Error {}

export class ChildLink {
  readonly pid: number | undefined;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #asked = new Map<number, Asked>();
  #stderr = '';
  #death: ChildDeath | undefined;
  #nextId = 0;

  constructor(onNote: (line: string) => void) {
    this.#child = fork(new URL('./engine-child.js', import.meta.url), {
      serialization: 'advanced', // numbers that JSON does not know, and typed arrays
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      // ggml would start a debugger at an abort, and write pages after its one line
      execArgv: inheritedFlags(),
      env: { GGML_NO_BACKTRACE: '1', ...process.env },
    });
    this.pid = this.#child.pid;
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-KEPT_CHARACTERS);
      if (process.env.PATCHSCOPES_LOG) process.stderr.write(text);
    });
    this.#child.on('message', (message: FromChild) => {
      if (message.kind === 'note') return onNote(message.line);
      const asked = this.#asked.get(message.id);
      this.#asked.delete(message.id);
      if (message.kind === 'done') asked?.resolve(message.answer);
      else asked?.reject(asError(message.failure));
    });
    this.#ended = new Promise((resolve) => {
      const end = (how: string) => {
        this.#death ??= new ChildDeath(describeEnd(how, this.#stderr));
        for (const { reject } of this.#asked.values()) reject(this.#death);
        this.#asked.clear();
        resolve();
      };
      this.#child.on(
        'error',
        ({ message }) => this.pid === undefined && end(`could not be started: ${message}`),
      );
      this.#child.on('close', (code, signal) => end(`ended with ${signal ?? `exit code ${code}`}`));
    });
  }

  get isAlive(): boolean {
    return this.#death === undefined;
  }

  /**
   * @throws ChildDeath where the process ends before it has answered; what was thrown in it; the signal's
   *   reason, once the process has let go of the work.
   */
  async ask<Name extends TaskName>(
    name: Name,
    input: Tasks[Name]['input'],
    signal?: AbortSignal,
  ): Promise<Tasks[Name]['answer']> {
    signal?.throwIfAborted();
    if (this.#death !== undefined) throw this.#death;
    const id = this.#nextId++;
    const abort = () => this.#send({ kind: 'abort', id });
    signal?.addEventListener('abort', abort);
    try {
      return await new Promise<Tasks[Name]['answer']>((resolve, reject) => {
        this.#asked.set(id, { resolve: resolve as Asked['resolve'], reject });
        this.#send({ kind: 'task', id, name, input });
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** At once: nothing that is worth keeping lives there. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #send(message: ToChild): void {
    // where the channel is broken the process ends, and all that is asked with it
    this.#child.send(message, () => undefined);
  }
}

/** Flags that say what this process runs, and not how, are not for the other one. */
const PROGRAM_FLAG = /^(-e|--eval|-p|--print|-pe|--input-type)$/;

function inheritedFlags(): string[] {
  return process.execArgv.filter(
    (flag, i, flags) =>
      !PROGRAM_FLAG.test(flag.replace(/=.*/s, '')) && !PROGRAM_FLAG.test(flags[i - 1] ?? ''),
  );
}

function describeEnd(how: string, stderr: string): string {
  const lines = stderr
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  const last = lines.slice(-SHOWN_LINES).join(' ').slice(-SHOWN_CHARACTERS);
  return last === '' ? how : `${how} and said: ${last}`;
}
