/** The process that an engine lives in; see engine-process.ts. */
import type { Engine } from '../engine.js';
import { fitInto } from '../fit-mapping/fit-mapping.js';
import { makePlan, type Plan } from '../plan/plan.js';
import { GroupProber } from '../probing/group-prober.js';
import { ChunkRunner } from '../run.js';
import { StateFile } from '../state-file.js';
import { asFailure, type FromChild, type TaskName, type Tasks, type ToChild } from './messages.js';

type Work = {
  [Name in TaskName]: (input: Tasks[Name]['input'], signal: AbortSignal) => Promise<Tasks[Name]['answer']>;
};

// a terminal's Ctrl-C reaches this process too: what it means is for the other one to say
process.on('SIGINT', () => undefined);
// at once: an orderly exit would wait until the decode under way lets go
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));

let engine: Engine | undefined;
let runner: ChunkRunner | undefined;
let prober: GroupProber | undefined;
/** File that captured states are kept in. */
let states: string | undefined;
const underWay = new Map<number, AbortController>();

const work: Work = {
  async open({ model, engine: options, module, states: file }) {
    states = file;
    const { openEngine }: typeof import('../llama/llama-engine.js') =
      module === undefined ? await import('../llama/llama-engine.js') : await import(module);
    engine = await openEngine(model, { ...options, onNote });
    return engine.record;
  },
  fit: ({ file, experiment, options }, signal) =>
    fitInto(file, experiment, engine!, { ...options, signal, onNote }),
  async plan(experiment) {
    const { tokenizer, record } = engine!;
    const plan = makePlan(experiment, tokenizer, record);
    use(plan);
    return plan;
  },
  async usePlan(plan) {
    use(plan);
  },
  run: (chunk, signal) => runner!.run(chunk, { signal }),
  runCells: (cells, signal) => runner!.runCells(cells, { signal }),
  probe: ({ unit, known }, signal) => prober!.probe(unit, known, { signal }),
  tolerance: ({ rows, cacheLayout }) => engine!.tolerance(rows, cacheLayout),
};

function onNote(line: string): void {
  send({ kind: 'note', line });
}

function use(plan: Plan): void {
  prober = new GroupProber(plan, engine!);
  if (states === undefined) {
    runner = new ChunkRunner(plan, engine!);
    return;
  }
  const file = new StateFile(states, plan, engine!.record);
  runner = new ChunkRunner(plan, engine!, (...captured) => file.write(...captured));
}

process.on('message', async (message: ToChild) => {
  const { id } = message;
  if (message.kind === 'abort') return underWay.get(id)?.abort();
  const controller = new AbortController();
  underWay.set(id, controller);
  try {
    const task = work[message.name] as (input: unknown, signal: AbortSignal) => Promise<unknown>;
    send({ kind: 'done', id, answer: await task(message.input, controller.signal) });
  } catch (error) {
    send({ kind: 'failed', id, failure: asFailure(error) });
  } finally {
    underWay.delete(id);
  }
});

function send(message: FromChild): void {
  process.send?.(message);
}
