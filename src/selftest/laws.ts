/** What holds of every model, whatever it means: laws of capture and patch. */
import type { CapturePoint, Edit, Engine, TokenInput } from '../engine.js';
import type { Layer } from '../patchscope.js';
import { largest, logprobDifference, norm, smallest, stateDifference } from './difference.js';
import { judged, needOk, type SelfCheck } from './self-check.js';

/** Enough to have a middle, and few enough for one decode of any batch. */
const PROMPT_TOKENS = 16;
/** Decodes of other shapes run other kernels, which round otherwise. */
const SHAPE_ROUNDING = 0.02;
/** In nats: a log-probability that differs by less was read from the same state. */
const LAW_NATS = 0.01;

type Place = Pick<CapturePoint, 'site' | 'layer'>;

/** Two prompts, their states, and what is read after each of their tokens. */
export interface Subject {
  readonly engine: Engine;
  readonly source: TokenInput;
  readonly target: TokenInput;
  /** How much a log-probability depends on what else is computed beside it, in nats. */
  readonly tolerance: number;
}

export async function subjectOf(engine: Engine): Promise<Subject> {
  const texts = [
    'The capital of France is a large city on the river Seine, and many people live there.',
    'In the morning she took her bag and walked to school, but nobody was in the room.',
  ] as const;
  const [source, target] = texts.map((text) => tokensOf(engine, text)) as [number[], number[]];
  const length = Math.min(source.length, target.length, PROMPT_TOKENS, engine.record.promptTokens);
  return {
    engine,
    source: input(engine, source.slice(0, length)),
    target: input(engine, target.slice(0, length)),
    // without one the states are not finite, which a check says
    tolerance: (await engine.tolerance(2)) ?? 0,
  };
}

function tokensOf({ tokenizer }: Engine, text: string): number[] {
  return tokenizer.tokenize(text, { bos: true, special: false });
}

/** An encoder reads the prompt, and the decoder goes on with it, so that both have positions. */
function input({ tokenizer: { decoderStartToken: start } }: Engine, tokenIds: readonly number[]): TokenInput {
  return start === undefined
    ? { tokenIds }
    : { tokenIds: [start, ...tokenIds.slice(0, -1)], encoderTokenIds: tokenIds };
}

export const placeOf = (layer: Layer): Place => ({ site: layer === 'embed' ? 'embed' : 'resid_out', layer });

function somePlaces({ record: { layerCount } }: Engine): Place[] {
  const layers = new Set<Layer>(['embed', 0, layerCount >> 1, layerCount - 1]);
  return [...layers].map(placeOf);
}

const everyIndex = ({ tokenIds }: TokenInput): number[] => [...tokenIds.keys()];

async function states(
  { engine }: Subject,
  prompt: TokenInput,
  places: readonly Place[],
  tokenIndexes = everyIndex(prompt),
): Promise<Float32Array[][]> {
  const points = places.flatMap((place) => tokenIndexes.map((tokenIndex) => ({ ...place, tokenIndex })));
  const [result] = await engine.capture([{ ...prompt, points }]);
  const all = needOk(result).states;
  return places.map((_, i) => all.slice(i * tokenIndexes.length, (i + 1) * tokenIndexes.length));
}

/** Logits after each token, of one row alone: what is compared was then decoded in one shape. */
async function logits({ engine }: Subject, prompt: TokenInput, edits: readonly Edit[] = []) {
  const reading = { topK: 1, maxTokens: 1, logits: true, tokenIndexes: everyIndex(prompt) };
  const [result] = await engine.patch([{ ...prompt, edits }], reading);
  return needOk(result).positions.map((position) => position.logits!);
}

export async function finiteStates(subject: Subject): Promise<SelfCheck> {
  const { layerCount } = subject.engine.record;
  const layers: Layer[] = ['embed', ...Array.from({ length: layerCount }, (_, layer) => layer)];
  const norms = (await states(subject, subject.source, layers.map(placeOf))).flat().map(norm);
  const wrong = norms.filter((one) => !(one > 0 && Number.isFinite(one))).length;
  const range = `norms from ${smallest(norms).toPrecision(3)} to ${largest(norms).toPrecision(3)}`;
  return judged('states', `of ${norms.length} states, without a finite norm (${range})`, wrong, 'at most', 0);
}

export async function subsetOfStates(subject: Subject): Promise<SelfCheck> {
  const places = somePlaces(subject.engine);
  const { length } = subject.source.tokenIds;
  const [all, some] = [await states(subject, subject.source, places), [length >> 1, length - 1]];
  const differences: number[] = [];
  for (const [i, place] of places.entries()) {
    const [alone] = await states(subject, subject.source, [place], some);
    differences.push(...some.map((at, k) => stateDifference(all[i]![at]!, alone![k]!)));
  }
  return judged(
    'capture',
    'difference of states captured alone from those captured with all others, as a part of the largest number',
    ...([largest(differences), 'at most', SHAPE_ROUNDING] as const),
  );
}

export async function identity(subject: Subject): Promise<SelfCheck> {
  const { target, tolerance } = subject;
  const places = somePlaces(subject.engine);
  const own = await states(subject, target, places);
  const plain = await logits(subject, target);
  const differences: number[] = [];
  for (const [i, place] of places.entries()) {
    for (const tokenIndex of [0, target.tokenIds.length >> 1, target.tokenIds.length - 1]) {
      const patched = await logits(subject, target, [{ ...place, tokenIndex, vector: own[i]![tokenIndex]! }]);
      differences.push(...patched.map((one, k) => logprobDifference(plain[k]!, one)));
    }
  }
  return judged(
    'identity',
    'nats by which a state that is patched into its own place changes a log-probability',
    ...([largest(differences), 'at most', tolerance] as const),
  );
}

/** That a patch is where it should be is told by what it changes, and by what it does not. */
export async function causality(subject: Subject): Promise<SelfCheck[]> {
  const { source, target, tolerance } = subject;
  const places = somePlaces(subject.engine);
  const foreign = await states(subject, source, places);
  const plain = await logits(subject, target);
  const tokenIndex = target.tokenIds.length >> 1;
  const before: number[] = [];
  const at: number[] = [];
  for (const [i, place] of places.entries()) {
    const vector = foreign[i]!.at(-1)!;
    const patched = await logits(subject, target, [{ ...place, tokenIndex, vector }]);
    const differences = patched.map((one, k) => logprobDifference(plain[k]!, one));
    before.push(...differences.slice(0, tokenIndex));
    at.push(differences[tokenIndex]!);
  }
  return [
    judged(
      'causality',
      'nats by which a patch changes a log-probability before its position',
      ...([largest(before), 'at most', tolerance] as const),
    ),
    judged(
      'effect',
      "nats by which another prompt's state changes log-probabilities at its position, at the layer where least",
      ...([smallest(at), 'more than', tolerance] as const),
    ),
  ];
}

export async function lastLayer(subject: Subject): Promise<SelfCheck> {
  const { engine, source, target, tolerance } = subject;
  const place = placeOf(engine.record.layerCount - 1);
  const last = target.tokenIds.length - 1;
  const [[vector]] = (await states(subject, source, [place], [last])) as [[Float32Array]];
  const expected = (await logits(subject, source))[last]!;
  const patched = (await logits(subject, target, [{ ...place, tokenIndex: last, vector }]))[last]!;
  const unpatched = (await logits(subject, target))[last]!;
  const away = logprobDifference(expected, unpatched).toPrecision(3);
  return judged(
    'last layer',
    `nats from the source's next-token distribution, with its last state in the target's place (${away} without it)`,
    ...([logprobDifference(expected, patched), 'at most', Math.max(tolerance, LAW_NATS)] as const),
  );
}
