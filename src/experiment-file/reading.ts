/** What is read from each patched run, and whether the file has what that needs. */
import type { PatchscopeError } from '../errors.js';
import { needsAnswer, needsTracking, ownTokensFor } from '../metrics.js';
import type { MetricName, Reading } from '../patchscope.js';
import type { Path } from './document.js';
import { given } from './prompts.js';
import type { ExperimentFile } from './schema.js';

/** What is wrong with the part at a path. */
export type Bad = (path: Path, what: string) => PatchscopeError;

export function readingOf({ reading = {}, answer, metrics = [] }: ExperimentFile, bad: Bad): Reading {
  const stops = reading.stop === undefined ? [] : [reading.stop].flat();
  const needed = metrics.find(needsTracking);
  const trackAnswer = reading['track-answer'] ?? (needed !== undefined || undefined);
  const needAnswers: readonly [boolean, Path][] = [
    [reading['track-answer'] === true, ['reading', 'track-answer']],
    [stops.includes('answer'), ['reading', 'stop']],
    [metrics.some(needsAnswer), ['metrics']],
  ];
  for (const [asked, path] of needAnswers) {
    if (asked && answer === undefined) throw bad(path, 'can only be had with answers: give the key answer');
  }
  if (needed !== undefined && trackAnswer === false) {
    throw bad(
      ['reading', 'track-answer'],
      `is false, where the metric ${needed} needs it: leave one of them out`,
    );
  }
  checkOwn(reading, metrics, bad);
  return {
    topK: reading.top ?? 5,
    maxTokens: reading.tokens ?? 1,
    stop: stops.flatMap((stop) => (stop === 'newline' ? ['\n'] : stop === 'answer' ? [] : [stop.text])),
    ...given({
      ownContinuation: reading.continuation === 'own' || undefined,
      stopAtAnswer: stops.includes('answer') || undefined,
      tracked: reading.track && [...new Set(reading.track)],
      trackAnswer,
      sampling: samplingOf(reading, bad),
    }),
  };
}

/** Further tokens are compared where they are those of the model itself, to the last. */
function checkOwn(
  { continuation, tokens = 1, stop, temperature = 0 }: NonNullable<ExperimentFile['reading']>,
  metrics: readonly MetricName[],
  bad: Bad,
): void {
  const further = metrics.find((metric) => ownTokensFor(metric) > (continuation === 'own' ? tokens : 1));
  if (further !== undefined) {
    const needed = ownTokensFor(further);
    throw bad(
      ['metrics', metrics.indexOf(further)],
      `is ${further}, which needs ${needed} tokens of the model's own: give reading: { continuation: own, tokens: ${needed} }`,
    );
  }
  if (continuation === 'own' && (stop !== undefined || temperature > 0)) {
    throw bad(
      ['reading', 'continuation'],
      'is own, which is scored to its end: leave out stop and temperature',
    );
  }
}

function samplingOf(reading: NonNullable<ExperimentFile['reading']>, bad: Bad) {
  const { temperature = 0, 'top-k': topK, 'top-p': topP } = reading;
  if (temperature > 0) return given({ temperature, topK, topP });
  const meant = (['top-k', 'top-p'] as const).find((key) => reading[key] !== undefined);
  if (meant !== undefined) {
    throw bad(
      ['reading', meant],
      'means nothing where no token is drawn: give a reading.temperature above 0',
    );
  }
  return undefined;
}
