/** Numbers that say how good the reading of one cell is, against its sample's answers. */
import type { Outcome } from './observation.js';
import type { MetricName } from './patchscope.js';
import { rouge1, rougeL } from './statistics/rouge.js';

type Read = Pick<Outcome, 'text' | 'tokenIds' | 'steps'>;

/** What a metric may look at. */
export interface Answers {
  /** Texts of which any is right. */
  readonly answer: readonly string[];
  /** First tokens of the answers, which were scored. */
  readonly tokenIds: readonly number[];
}

type Metric = (outcome: Read, answers: Answers) => number | undefined;

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
};

export function measure(
  names: readonly MetricName[],
  outcome: Read,
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

/** Of the first token read the most probable one that begins an answer. */
function best({ steps }: Pick<Outcome, 'steps'>, { tokenIds }: Answers) {
  return steps[0]?.find(({ tokenId }) => tokenIds.includes(tokenId));
}
