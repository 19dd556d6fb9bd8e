/** The best of a run's variants that are made of factors, as an experiment file. */
import { PatchscopeError } from './errors.js';
import type { ExperimentFile } from './experiment-file/schema.js';
import { fileText, singleVariant } from './experiment-file/standalone.js';
import { layerText, numberText, onOneLine } from './store/format.js';
import { withResults } from './store/results.js';
import { chosenRun } from './store/run-list.js';

export interface BestVariantOptions {
  /** Id, or name: its newest run. Default: the newest run. */
  readonly run?: string | undefined;
  /** What it is chosen by. Default: the first one of the experiment. */
  readonly metric?: string | undefined;
}

interface Choice {
  readonly chosen: string;
  readonly layers: string;
  readonly samples: number;
  readonly value: number;
  readonly ci_low: number;
  readonly ci_high: number;
  readonly difference: number | null;
  readonly difference_low: number | null;
  readonly difference_high: number | null;
}

/**
 * A file that runs as it is. The variant is chosen on the samples at even places, and what is said of it comes from
 * those at odd ones.
 *
 * @throws PatchscopeError `bad_input` where there is no such run, or nothing to choose among.
 */
export function bestVariant(path: string, { run: spec, metric }: BestVariantOptions = {}): string {
  return withResults(path, (database) => {
    const run = chosenRun(database, path, spec);
    const bad = (why: string) =>
      new PatchscopeError('bad_input', `Run ${run.runId} has no best variant: ${why}.`);
    const { file, metrics } = database
      .prepare<[number], { file: string | null; metrics: string | null }>(
        `SELECT experiment_file AS file, experiment ->> '$.metrics' AS metrics FROM run WHERE id = ?`,
      )
      .get(run.runId)!;
    if (file === null) throw bad('its experiment was read from no file');
    const names = JSON.parse(metrics ?? '[]') as string[];
    const name = metric ?? names[0];
    if (name === undefined) throw bad('its experiment has no metrics');
    const choice = database
      .prepare<[number, string], Choice>(
        `SELECT * FROM choice WHERE run_id = ? AND name = ? AND variant = '' AND tried_on = 'odd'`,
      )
      .get(run.runId, name);
    if (choice === undefined) {
      const isDone = database.prepare('SELECT 1 FROM metric WHERE run_id = ?').get(run.runId) !== undefined;
      throw bad(
        names.length > 0 && !names.includes(name)
          ? `it has no metric ${name}, but ${names.join(', ')}`
          : isDone
            ? 'its experiment has no factors, or it has fewer than two samples'
            : 'it is not done',
      );
    }
    const best = singleVariant(JSON.parse(file) as ExperimentFile, choice.chosen);
    return fileText({ ...best, name: `${best.name}-best` }, about(choice, name, run));
  });
}

function about(choice: Choice, metric: string, run: ReturnType<typeof chosenRun>): string[] {
  const interval = (low: number, high: number) => `${numberText(low)} to ${numberText(high)}`;
  const { chosen, samples, value, ci_low, ci_high } = choice;
  const { difference, difference_low, difference_high } = choice;
  const layers = (JSON.parse(choice.layers) as [number, number][])
    .map((pair) => pair.map(layerText).join(' into '))
    .join(', ');
  return [
    `The best variant of run ${run.runId} (${run.name}) on ${run.model} ${run.quantization}: ${chosen}.`,
    `It was chosen on the samples at even places, and so were its target layers: ${layers}. On the ${samples} at odd places`,
    `${metric} is ${numberText(value)} in the mean over these layers (95 %: ${interval(ci_low, ci_high)})${
      difference === null
        ? ', and no other variant was better on those at even ones.'
        : `, which differs from the first variant's by ${numberText(difference)} (${interval(difference_low!, difference_high!)}).`
    }`,
  ].map(onOneLine);
}
