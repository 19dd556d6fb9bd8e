/** Runs cases in a child process; when it dies or hangs, the case is known and a new child goes on. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Message, Outcome, PartName } from './cases.js';

const HANGS_AFTER = 5000;
/** A machine that is busy with something else is given another chance. */
const SECOND_CHANCE = 30_000;

export interface Fault {
  readonly part: PartName;
  readonly index: number;
  readonly kind: 'wrong' | 'death' | 'hang';
  readonly what: string;
  readonly detail: string;
}

export interface Summary {
  readonly part: PartName;
  readonly cases: number;
  accepted: number;
  refused: number;
  readonly faults: Fault[];
  /** Bytes of the child after each case, with 0 where it died. */
  readonly bytes: number[];
}

type Ended =
  | Omit<Extract<Message, { kind: 'done' }>, 'kind'>
  | { readonly death: string }
  | { readonly hang: true };

class Child {
  readonly #process: ChildProcess;
  readonly #ready: Promise<void>;
  #what = '';
  #ended = false;
  #stderr = '';
  #settle: (ended: Ended) => void = () => undefined;

  constructor() {
    this.#process = fork(fileURLToPath(new URL('child.ts', import.meta.url)), {
      execArgv: ['--import', 'tsx', '--expose-gc', '--no-warnings'],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.#process.stderr!.on('data', (data: Buffer) => {
      this.#stderr = `${this.#stderr}${data}`.slice(-2000);
    });
    this.#ready = new Promise((resolve) => {
      this.#process.on('message', (message: Message) => {
        if (message.kind === 'ready') resolve();
        else if (message.kind === 'what') this.#what = message.what;
        else this.#settle(message);
      });
      this.#process.on('close', (code, signal) => {
        resolve();
        this.#ended = true;
        this.#settle({ death: `${signal ?? `exit code ${code}`}: ${this.#stderr.trim().slice(-600)}` });
      });
    });
  }

  /** What the case that runs, or ran last, does. */
  get what(): string {
    return this.#what;
  }

  get isAlive(): boolean {
    return !this.#ended;
  }

  async run(part: PartName, seed: number, index: number, limit: number): Promise<Ended> {
    await this.#ready;
    this.#what = 'before it said what it does';
    this.#stderr = '';
    const ended = await new Promise<Ended>((resolve) => {
      const timer = setTimeout(() => this.#settle({ hang: true }), limit);
      this.#settle = (result) => {
        clearTimeout(timer);
        resolve(result);
      };
      if (this.isAlive) this.#process.send({ part, seed, index });
      else resolve({ death: 'before the case began' });
    });
    if ('hang' in ended) this.end();
    return ended;
  }

  end(): void {
    this.#ended = true;
    this.#process.kill('SIGKILL');
  }
}

export async function runCases(
  part: PartName,
  seed: number,
  indexes: Iterable<number>,
  tell: (fault: Fault) => void,
  show: (index: number, what: string, outcome: Outcome) => void,
): Promise<Summary> {
  const summary: Summary = { part, cases: 0, accepted: 0, refused: 0, faults: [], bytes: [] };
  let child = new Child();
  let cases = 0;
  for (const index of indexes) {
    cases++;
    if (!child.isAlive) child = new Child();
    let ended = await child.run(part, seed, index, HANGS_AFTER);
    if ('hang' in ended) {
      child = new Child();
      ended = await child.run(part, seed, index, SECOND_CHANCE);
    }
    const fault = faultOf(ended);
    if (fault !== undefined) {
      const found = { part, index, what: child.what, ...fault };
      summary.faults.push(found);
      tell(found);
    } else if ('outcome' in ended) {
      summary[ended.outcome.kind as 'accepted' | 'refused']++;
      show(index, child.what, ended.outcome);
    }
    summary.bytes.push('outcome' in ended ? ended.bytes : 0);
    if (!('outcome' in ended)) child.end();
  }
  child.end();
  return { ...summary, cases };
}

function faultOf(ended: Ended): Pick<Fault, 'kind' | 'detail'> | undefined {
  if ('death' in ended) return { kind: 'death', detail: ended.death };
  if ('hang' in ended) return { kind: 'hang', detail: `over ${SECOND_CHANCE / 1000} s` };
  return ended.outcome.kind === 'wrong' ? { kind: 'wrong', detail: ended.outcome.detail } : undefined;
}
