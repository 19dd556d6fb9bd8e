/** Numbers that say how good the reading of one cell is, against its sample's answers. */
import type { Outcome } from './observation.js';
import type { MetricName } from './patchscope.js';

/** What a metric may look at. */
export interface Answers {
  /** Texts of which any is right. */
  readonly answer: readonly string[];
  /** First tokens of the answers, which were scored. */
  readonly tokenIds: readonly number[];
}

type Metric = (outcome: Pick<Outcome, 'text' | 'steps'>, answers: Answers) => number | undefined;

/** Undefined where there is nothing to measure. */
const metrics: Readonly<Record<MetricName, Metric>> = {
  // paper, section 4.2: the generated text contains the object, blanks aside
  'answer-found': ({ text }, { answer }) => Number(answer.some((one) => contains(text ?? '', one))),
  'answer-rank': (outcome, answers) => best(outcome, answers)?.rank,
  'answer-logprob': (outcome, answers) => best(outcome, answers)?.logprob,
};

/** Whether a metric needs the first tokens of the answers to be scored. */
export function needsTracking(metric: MetricName): boolean {
  return metric !== 'answer-found';
}

export function measure(
  names: readonly MetricName[],
  outcome: Pick<Outcome, 'text' | 'steps'>,
  answers: Answers,
): Record<string, number> {
  const scores: Record<string, number> = {};
  for (const name of names) {
    const value = metrics[name](outcome, answers);
    if (value !== undefined) scores[name] = value;
  }
  return scores;
}

function contains(text: string, answer: string): boolean {
  return text.replaceAll(' ', '').includes(answer.replaceAll(' ', ''));
}

/** Of the first token read the most probable one that begins an answer. */
function best({ steps }: Pick<Outcome, 'steps'>, { tokenIds }: Answers) {
  return steps[0]?.find(({ tokenId }) => tokenIds.includes(tokenId));
}
