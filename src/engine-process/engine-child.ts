/** The process that an engine lives in; see engine-process.ts. */
import path from 'node:path';
import { fitInto } from '../fit-mapping/fit-mapping.js';
import type { EnginePair, Openers } from '../llama/engine-pair.js';
import { modelNotes } from '../plan/model-notes.js';
import { makePlan, type Plan } from '../plan/plan.js';
import { GroupProber } from '../probing/group-prober.js';
import { ChunkRunner } from '../run.js';
import { CapturedStates } from '../source-states.js';
import { StateFile } from '../state-file.js';
import { StatesAhead } from '../states-ahead.js';
import { openVectors } from '../vectors/open-vectors.js';
import { asFailure, type FromChild, type TaskName, type Tasks, type ToChild } from './messages.js';

type Work = {
  [Name in TaskName]: (input: Tasks[Name]['input'], signal: AbortSignal) => Promise<Tasks[Name]['answer']>;
};

// a terminal's Ctrl-C reaches this process too: what it means is for the other one to say
process.on('SIGINT', () => undefined);
// at once: an orderly exit would wait until the decode under way lets go
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));

let engines: EnginePair | undefined;
let runner: ChunkRunner | undefined;
let prober: GroupProber | undefined;
/** File that captured states are kept in. */
let states: string | undefined;
/** Folder for states that are on their way between two models. */
let folder: string | undefined;
const underWay = new Map<number, AbortController>();

const note = (line: string) => send({ kind: 'note', line });

const work: Work = {
  async open({ model, target, engine: options, module, states: file }) {
    states = file;
    folder = target?.folder;
    const pairing = await import('../llama/engine-pair.js');
    const openers: Partial<Openers> = module === undefined ? {} : await import(module);
    const { models, sourceGpuLayers } = target ?? {};
    engines = await pairing.openPair(
      model,
      target?.model ?? model,
      { ...options, onNote: note, ...(models && { models }), ...(sourceGpuLayers && { sourceGpuLayers }) },
      { ...(await import('../llama/llama-engine.js')), ...pairing, ...openers },
    );
    return { ...engines.target.record, source: engines.source.record };
  },
  fit({ file, experiment, fit }, signal) {
    const { source, target, areInTurn } = engines!;
    return fitInto(file, experiment, source, { ...fit, target, areInTurn, signal, onNote: note });
  },
  async plan(experiment, signal) {
    const { source, target } = engines!;
    const opened = await openVectors(experiment, { source, target }, { signal });
    const plan = makePlan(opened, source.tokenizer, source.record, target);
    modelNotes(plan, { source, target }).forEach(note);
    use(plan);
    return plan;
  },
  async usePlan(plan) {
    use(plan);
  },
  run: (chunk, signal) => runner!.run(chunk, { signal }),
  runCells: (cells, signal) => runner!.runCells(cells, { signal }),
  probe: ({ unit, known }, signal) => prober!.probe(unit, known, { signal }),
  tolerance: ({ rows, cacheLayout }) => engines!.target.tolerance(rows, cacheLayout),
};

function use(plan: Plan): void {
  const { source, target, areInTurn } = engines!;
  prober = new GroupProber(plan, source);
  const file = states === undefined ? undefined : new StateFile(states, plan, source.record);
  const captured = new CapturedStates(plan, source, file && ((...state) => file.write(...state)));
  if (!areInTurn) {
    runner = new ChunkRunner(plan, target, captured);
    return;
  }
  const between = path.join(folder!, `${plan.sha256}.safetensors`);
  const ahead = new StateFile(between, plan, source.record, plan.ownPlace !== undefined);
  runner = new ChunkRunner(plan, target, new StatesAhead(plan, captured, ahead));
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
