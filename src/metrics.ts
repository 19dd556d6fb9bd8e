/** Numbers that say how good the reading of one cell is, against its sample's answers or the model's own next token. */
import type { Outcome, TokenRelevancy } from './observation.js';
import type { OwnReading } from './own-readings.js';
import type { MetricName } from './patchscope.js';
import { cropDescription } from './statistics/crop-description.js';
import { rouge1, rougeL } from './statistics/rouge.js';

type Read = Pick<Outcome, 'text' | 'tokenIds' | 'steps' | 'relevancy'>;

/** What a reading may be compared with. */
export interface Truth {
  /** Texts of which any is right. */
  readonly answer: readonly string[];
  /** First tokens of the answers, which were scored. */
  readonly tokenIds: readonly number[];
  /** What the source's model itself says next at the source's position, where that was read; its token was scored. */
  readonly own: OwnReading | undefined;
}

type Metric = (outcome: Read, truth: Truth) => number | undefined;

/** Undefined where there is nothing to measure. */
const metrics: Readonly<Record<MetricName, Metric>> = {
  // paper, section 4.2: the generated text contains the object, blanks aside
  'answer-found': ({ text }, { answer }) => Number(answer.some((one) => contains(text ?? '', one))),
  'answer-word': ({ text }, { answer }) => Number(answer.some((one) => containsWord(text ?? '', one))),
  'answer-first-token': ({ tokenIds: [first] }, { tokenIds }) => Number(tokenIds.includes(first ?? -1)),
  'answer-rank': (outcome, answers) => best(outcome, answers)?.rank,
  'answer-logprob': (outcome, answers) => best(outcome, answers)?.logprob,
  // the first answer is the reference
  'rouge-1': ({ text }, { answer: [reference] }) => against(reference, text, rouge1),
  'rouge-l': ({ text }, { answer: [reference] }) => against(reference, text, rougeL),
  'rouge-1-cropped': ({ text }, { answer: [reference] }) => against(reference, cropped(text), rouge1),
  'rouge-l-cropped': ({ text }, { answer: [reference] }) => against(reference, cropped(text), rougeL),
  // paper, section 4.1: whether both say the same token, and how the model itself takes what the patched one says;
  // where two models have different tokens, a text that is no token of the other one can't be compared
  'precision-at-1': ({ steps }, { own }) =>
    own && own.tokenIds.length > 0 ? Number(own.tokenIds.includes(steps[0]?.[0]?.tokenId ?? -1)) : undefined,
  surprisal: ({ steps }, { own }) => {
    const said = steps[0]?.[0];
    const logprob = said && own?.logprob(said.tokenId);
    return logprob === undefined ? undefined : -logprob;
  },
  'surprisal-of-own': ({ steps }, { own }) => {
    const scored = steps[0]?.find(({ tokenId }) => own?.tokenIds.includes(tokenId));
    return scored && -scored.logprob;
  },
  // mean over the tokens of the continuation
  relevancy: ({ relevancy = [] }) =>
    relevancy.length === 0
      ? undefined
      : relevancy.reduce((sum, token) => sum + relevancyOf(token), 0) / relevancy.length,
};

const ofTracked: ReadonlySet<MetricName> = new Set(['answer-first-token', 'answer-rank', 'answer-logprob']);
const ofOwn: ReadonlySet<MetricName> = new Set(['precision-at-1', 'surprisal', 'surprisal-of-own']);

/** Whether a metric needs the first tokens of the answers to be scored. */
export function needsTracking(metric: MetricName): boolean {
  return ofTracked.has(metric);
}

/** How much the patch changes the probability of a token of the continuation. */
export function relevancyOf({ probability, unpatched }: TokenRelevancy): number {
  return Math.abs(probability - unpatched);
}

/** Whether a metric needs the continuation scored with nothing patched. */
export function needsUnpatched(metric: MetricName): boolean {
  return metric === 'relevancy';
}

/** Whether a metric needs answers. */
export function needsAnswer(metric: MetricName): boolean {
  return !needsOwn(metric) && !needsUnpatched(metric);
}

/** Whether a metric needs what the model itself says next. */
export function needsOwn(metric: MetricName): boolean {
  return ofOwn.has(metric);
}

export function measure(names: readonly MetricName[], outcome: Read, truth: Truth): Record<string, number> {
  const scores: Record<string, number> = {};
  for (const name of names) {
    const value = metrics[name](outcome, truth);
    // a token that a contrast left out has no log-probability that could go into a mean
    if (Number.isFinite(value)) scores[name] = value!;
  }
  return scores;
}

function contains(text: string, answer: string): boolean {
  return text.replaceAll(' ', '').includes(answer.replaceAll(' ', ''));
}

const WORD_PART = '[\\p{L}\\p{M}\\p{N}]';

/** As it is written, and no part of a longer word: no letter, mark or number goes on where the answer ends in one. */
function containsWord(text: string, answer: string): boolean {
  const word = answer.trim();
  const escaped = word.replace(/[^\p{L}\p{N}]/gu, (sign) => `\\u{${sign.codePointAt(0)!.toString(16)}}`);
  const isPart = (place: string) => new RegExp(place, 'u').test(word);
  const before = isPart(`^${WORD_PART}`) ? `(?<!${WORD_PART})` : '';
  const after = isPart(`${WORD_PART}$`) ? `(?!${WORD_PART})` : '';
  return new RegExp(before + escaped + after, 'u').test(text);
}

function against(
  reference: string | undefined,
  text: string | null,
  score: (a: string, b: string) => number,
) {
  return reference === undefined ? undefined : score(reference, text ?? '');
}

function cropped(text: string | null): string | null {
  return text === null ? null : cropDescription(text);
}

/**
 * Of the first token read the most probable one that begins an answer; undefined where a contrast left all of them
 * out, since those have no order.
 */
function best({ steps }: Pick<Outcome, 'steps'>, { tokenIds }: Truth) {
  return steps[0]?.find(
    ({ tokenId, logprob }) => tokenIds.includes(tokenId) && logprob > Number.NEGATIVE_INFINITY,
  );
}
