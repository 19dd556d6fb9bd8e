/** Observations as JSON lines and as tables. */
import {
  formatTable,
  isVector,
  type Layer,
  type LensPlan,
  lensPosition,
  type Observation,
  type Plan,
  pairOf,
  positionTokens,
  type ResolvedEdit,
  type Site,
  type TokenScore,
  vectorText,
} from '../index.js';
import { note } from './session.js';

/** Says which tokens the positions of a plan mean; a target that all samples share, once. */
export function echoPlan(plan: Plan): void {
  const place = (prompt: Plan['pairs'][number]['target']) =>
    `position ${prompt.tokenIndex} of ${positionTokens(prompt).length}${prompt.side ? ` in the ${prompt.side}` : ''}: ${quote(prompt.token)}`;
  const { samples } = plan.experiment;
  const sources = new Set(
    plan.pairs.map(({ sample, source }) => {
      if (isVector(source)) return vectorText(source);
      return samples.length > 1 ? `${place(source)} of ${quote(samples[sample]!.name)}` : place(source);
    }),
  );
  echoSome('source', sources);
  echoSome('target', new Set(plan.pairs.map(({ target }) => place(target))));
  echoSome('edited', new Set(plan.pairs.flatMap(({ ownEdits = [] }) => ownEdits.map(editText))));
  if (plan.continuation) note(`scored  ${plan.continuation.map(({ token }) => quote(token)).join(' ')}`);
  note('layers  l is the output of block l, counted from 0; embed is the input of block 0');
}

function editText({ tokens, places, op, alpha, atGenerated, vector }: ResolvedEdit): string {
  const of = vector === undefined ? '' : ` of ${vectorText(vector)}`;
  const where = places.map(({ site, layer }) => placeText(site, layer)).join(' ');
  return `${op}${of}, alpha ${alpha}, at ${where}, positions ${tokens.join(' ')}${atGenerated ? ' and generated tokens' : ''}`;
}

/** The rest is in the results file. */
const MOST_ECHOED = 20;

function echoSome(what: string, places: ReadonlySet<string>): void {
  for (const place of [...places].slice(0, MOST_ECHOED)) note(`${what}  ${place}`);
  if (places.size > MOST_ECHOED) note(`${what}  ... and ${places.size - MOST_ECHOED} more`);
}

export const patchJson =
  (plan: Plan) =>
  (observation: Observation): string => {
    const { source, target, patch } = pairOf(plan, observation.sample, observation.variant);
    return JSON.stringify({
      source_site: observation.sourceSite,
      source_layer: observation.sourceLayer,
      target_site: observation.targetSite,
      target_layer: observation.targetLayer,
      op: patch.op,
      alpha: patch.alpha,
      ...(isVector(source)
        ? { source_vector: vectorText(source) }
        : { source_position: source.tokenIndex, source_token: source.token }),
      target_position: target.tokenIndex,
      target_token: target.token,
      text: observation.text,
      token_ids: observation.tokenIds,
      tokens: chosenTokens(observation).map(({ token }) => token),
      logprobs: chosenTokens(observation).map(({ logprob }) => logprob),
      ranks: chosenTokens(observation).map(({ rank }) => rank),
      top: topJson(observation),
      status: observation.status,
      error: observation.error,
    });
  };

export const lensJson =
  (plan: LensPlan) =>
  (observation: Observation): string => {
    const { position, token } = lensPosition(plan, observation.sample, Number(observation.variant));
    return JSON.stringify({
      site: observation.sourceSite,
      layer: observation.sourceLayer,
      position,
      prompt_token: token,
      top: topJson(observation),
      status: observation.status,
      error: observation.error,
    });
  };

/** The tokens that were generated or given, each under the distribution of its step. */
function chosenTokens({ steps, tokenIds }: Observation): TokenScore[] {
  return tokenIds.map((id, i) => steps[i]!.find(({ tokenId }) => tokenId === id)!);
}

/** Of the first token read; behind the most probable ones a step holds one that was drawn. */
function topScores({ steps }: Observation): readonly TokenScore[] {
  return (steps[0] ?? []).filter(({ rank }, place) => rank === place);
}

function topJson(observation: Observation) {
  return topScores(observation).map(({ tokenId, token, logprob }) => ({ token_id: tokenId, token, logprob }));
}

/** One line a cell. */
export function patchTable(observations: readonly Observation[]): string {
  const generated = observations.some(({ tokenIds }) => tokenIds.length > 1);
  return cellTable(observations, [...(generated ? ['text'] : []), 'most probable next tokens'], (cell) => [
    ...(generated ? [cell.text === null ? '' : quote(cell.text)] : []),
    cell.status === 'failed' ? `failed: ${cell.error}` : topText(cell),
  ]);
}

/** The same of a continuation that was given: its log-probability, and each token's probability and rank. */
export function scoredTable(observations: readonly Observation[]): string {
  return cellTable(
    observations,
    ['log-probability', 'its tokens, rank 0 being the most probable'],
    (cell) => {
      if (cell.status === 'failed') return ['', `failed: ${cell.error}`];
      const scores = chosenTokens(cell);
      const total = scores.reduce((sum, { logprob }) => sum + logprob, 0);
      const tokens = scores.map(
        ({ token, logprob, rank }) => `${quote(token)} ${percent(logprob)} rank ${rank}`,
      );
      return [total.toFixed(3), tokens.join('  ')];
    },
  );
}

/** By source layer and then by target layer. */
function cellTable(
  observations: readonly Observation[],
  columns: readonly string[],
  rowOf: (cell: Observation) => readonly string[],
): string {
  const rank = (layer: Layer | null) => (layer === 'embed' || layer === null ? -1 : layer);
  const sorted = [...observations].sort(
    (a, b) => rank(a.sourceLayer) - rank(b.sourceLayer) || rank(a.targetLayer) - rank(b.targetLayer),
  );
  return formatTable({
    columns: ['source layer', 'target layer', ...columns],
    rows: sorted.map((cell) => [
      placeText(cell.sourceSite, cell.sourceLayer),
      placeText(cell.targetSite, cell.targetLayer),
      ...rowOf(cell),
    ]),
    truncated: false,
  });
}

export function topText(observation: Observation): string {
  return topScores(observation)
    .map(({ token, logprob }) => `${quote(token)} ${percent(logprob)}`)
    .join('  ');
}

export function percent(logprob: number): string {
  return `${(100 * Math.exp(logprob)).toFixed(1)}%`;
}

/** Quoted, on one line, with blanks and signs that can't be seen or told apart written as codes. */
export function quote(text: string): string {
  return JSON.stringify(text).replace(
    /[^\S ]|\p{Cf}/gu,
    (sign) => `\\u${sign.codePointAt(0)!.toString(16).padStart(4, '0')}`,
  );
}

/** A layer alone means the block's output. */
function placeText(site: Site, layer: Layer | null): string {
  if (layer === null) return '';
  return site === 'resid_out' || site === 'embed' ? String(layer) : `${layer} ${site}`;
}

/** One line for each layer, position by position. */
export const lensTable =
  (plan: LensPlan) =>
  (observations: readonly Observation[]): string => {
    const placed = observations.map((cell) => ({
      cell,
      ...lensPosition(plan, cell.sample, Number(cell.variant)),
    }));
    return formatTable({
      columns: ['position', 'prompt token', 'layer', 'most probable next tokens'],
      rows: placed
        .sort((a, b) => a.position - b.position)
        .map(({ cell, position, token }) => [
          position,
          quote(token),
          placeText(cell.sourceSite, cell.sourceLayer),
          cell.status === 'failed' ? `failed: ${cell.error}` : topText(cell),
        ]),
      truncated: false,
    });
  };
