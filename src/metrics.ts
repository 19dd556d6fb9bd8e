/** Numbers that say how good the reading of one cell is, against its sample's answers or the model's own next token. */
import type { Outcome, TokenRelevancy } from './observation.js';
import type { OwnReading } from './own-readings.js';
import { isFidelityMetric, type MetricName, type OwnMetricName, ownMetricNames } from './patchscope.js';
import { cropDescription } from './statistics/crop-description.js';
import { rouge1, rougeL } from './statistics/rouge.js';

type Read = Pick<Outcome, 'text' | 'tokenIds' | 'steps' | 'relevancy'>;

/** What a reading may be compared with. */
export interface Truth {
  /** Texts of which any is right. */
  readonly answer: readonly string[];
  /** First tokens of the answers, which were scored. */
  readonly tokenIds: readonly number[];
  /** What the source's model itself says behind the source's position, token by token, where that was read; its tokens were scored. */
  readonly own: readonly OwnReading[];
}

type Metric = (outcome: Read, truth: Truth) => number | undefined;

const ofAnswers = {
  // paper, section 4.2: the generated text contains the object, blanks aside
  'answer-found': ({ text }, { answer }) => Number(answer.some((one) => contains(text ?? '', one))),
  'answer-word': ({ text }, { answer }) => Number(answer.some((one) => containsWord(text ?? '', one))),
  'answer-first-token': ({ tokenIds: [first] }, { tokenIds }) => Number(tokenIds.includes(first ?? -1)),
  'answer-rank': (outcome, answers) => best(outcome, answers)?.rank,
  'answer-logprob': (outcome, answers) => best(outcome, answers)?.logprob,
  'answer-probability': (outcome, answers) => probability(best(outcome, answers)),
  // the first answer is the reference
  'rouge-1': ({ text }, { answer: [reference] }) => against(reference, text, rouge1),
  'rouge-l': ({ text }, { answer: [reference] }) => against(reference, text, rougeL),
  'rouge-1-cropped': ({ text }, { answer: [reference] }) => against(reference, cropped(text), rouge1),
  'rouge-l-cropped': ({ text }, { answer: [reference] }) => against(reference, cropped(text), rougeL),
  // mean over the tokens of the continuation
  relevancy: ({ relevancy = [] }) =>
    relevancy.length === 0
      ? undefined
      : relevancy.reduce((sum, token) => sum + relevancyOf(token), 0) / relevancy.length,
} as const satisfies Partial<Record<MetricName, Metric>>;

/** Of what is read at one token, against what the model itself says there. */
type OwnMetric = (
  step: Outcome['steps'][number] | undefined,
  own: OwnReading | undefined,
) => number | undefined;

// paper, section 4.1: whether both say the same token, and how the model itself takes what the patched one says;
// where two models have different tokens, a text that is no token of the other one can't be compared
const ofOwn: Readonly<Record<OwnMetricName, OwnMetric>> = {
  'precision-at-1': (step, own) =>
    step && own && own.tokenIds.length > 0
      ? Number(own.tokenIds.includes(step[0]?.tokenId ?? -1))
      : undefined,
  'precision-at-5': (step, own) => isAmong(5, step, own),
  'precision-at-10': (step, own) => isAmong(10, step, own),
  surprisal: (step, own) => {
    const said = step?.[0];
    const logprob = said && own?.logprob(said.tokenId);
    return logprob === undefined ? undefined : -logprob;
  },
  'surprisal-of-own': (step, own) => {
    const scored = scoredOwn(step, own);
    return scored && -scored.logprob;
  },
};

/** The likeliest of the tokens that are its own. */
function scoredOwn(step: Outcome['steps'][number] | undefined, own: OwnReading | undefined) {
  return step?.find(({ tokenId }) => own?.tokenIds.includes(tokenId));
}

function isAmong(most: number, ...[step, own]: Parameters<OwnMetric>): number | undefined {
  const scored = scoredOwn(step, own);
  return scored && Number(scored.rank < most);
}

/** Which token of the model's own, from 0 on, a metric is about, and what it asks; undefined where it asks about answers. */
function ownAt(metric: MetricName): { readonly name: OwnMetricName; readonly step: number } | undefined {
  const [, typed, ahead = '1'] = /^(.*?)(?:-ahead-(\d+))?$/.exec(metric)!;
  const name = ownMetricNames.find((one) => one === typed);
  return name && { name, step: Number(ahead) - 1 };
}

const ofTracked: ReadonlySet<MetricName> = new Set([
  'answer-first-token',
  'answer-rank',
  'answer-logprob',
  'answer-probability',
]);
/** Whether a metric needs the first tokens of the answers to be scored. */
export function needsTracking(metric: MetricName): boolean {
  return ofTracked.has(metric);
}

/** How many tokens of what the model itself says a metric needs. */
export function ownTokensFor(metric: MetricName): number {
  const at = ownAt(metric);
  return at === undefined ? 0 : at.step + 1;
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
  return ownTokensFor(metric) === 0 && !needsUnpatched(metric) && !isFidelityMetric(metric);
}

/** Undefined values, where there is nothing to measure yet, are left out. */
export function measure(names: readonly MetricName[], outcome: Read, truth: Truth): Record<string, number> {
  const scores: Record<string, number> = {};
  for (const name of names) {
    const value = measured(name, outcome, truth);
    // a token that a contrast left out has no log-probability that could go into a mean
    if (Number.isFinite(value)) scores[name] = value!;
  }
  return scores;
}

function measured(metric: MetricName, outcome: Read, truth: Truth): number | undefined {
  const at = ownAt(metric);
  if (at !== undefined) return ofOwn[at.name](outcome.steps[at.step], truth.own[at.step]);
  if (isFidelityMetric(metric)) return undefined;
  return ofAnswers[metric as keyof typeof ofAnswers](outcome, truth);
}

function probability(score: { readonly logprob: number } | undefined): number | undefined {
  return score && Math.exp(score.logprob);
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
