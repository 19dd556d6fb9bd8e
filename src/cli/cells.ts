/** Observations as JSON lines and as tables. */
import {
  formatTable,
  type Layer,
  type Observation,
  type Plan,
  positionTokens,
  type Site,
  type TokenScore,
} from '../index.js';
import { note } from './session.js';

/** Says which tokens the positions of a plan mean; a target that all samples share, once. */
export function echoPlan(plan: Plan): void {
  const place = (prompt: Plan['samples'][number]['source']) =>
    `position ${prompt.tokenIndex} of ${positionTokens(prompt).length}${prompt.side ? ` in the ${prompt.side}` : ''}: ${quote(prompt.token)}`;
  const several = plan.samples.length > 1;
  for (const { name, source } of plan.samples) {
    note(`source  ${place(source)}${several ? ` of ${quote(name)}` : ''}`);
  }
  for (const target of new Set(plan.samples.map(({ target }) => place(target)))) note(`target  ${target}`);
  if (plan.continuation) note(`scored  ${plan.continuation.map(({ token }) => quote(token)).join(' ')}`);
  note('layers  l is the output of block l, counted from 0; embed is the input of block 0');
}

export function patchJson(observation: Observation): string {
  return JSON.stringify({
    source_site: observation.sourceSite,
    source_layer: observation.sourceLayer,
    target_site: observation.targetSite,
    target_layer: observation.targetLayer,
    op: observation.op,
    alpha: observation.alpha,
    source_position: observation.sourcePosition,
    source_token: observation.sourceToken,
    target_position: observation.targetPosition,
    target_token: observation.targetToken,
    text: observation.text,
    token_ids: observation.tokenIds,
    tokens: chosenTokens(observation).map(({ token }) => token),
    logprobs: chosenTokens(observation).map(({ logprob }) => logprob),
    ranks: chosenTokens(observation).map(({ rank }) => rank),
    top: topJson(observation),
    status: observation.status,
    error: observation.error,
  });
}

export function lensJson(observation: Observation): string {
  return JSON.stringify({
    site: observation.sourceSite,
    layer: observation.sourceLayer,
    position: observation.sourcePosition,
    prompt_token: observation.sourceToken,
    top: topJson(observation),
    status: observation.status,
    error: observation.error,
  });
}

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
  const rank = (layer: Layer) => (layer === 'embed' ? -1 : layer);
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
function placeText(site: Site, layer: Layer): string {
  return site === 'resid_out' || site === 'embed' ? String(layer) : `${layer} ${site}`;
}

/** One line for each layer, position by position. */
export function lensTable(observations: readonly Observation[]): string {
  return formatTable({
    columns: ['position', 'prompt token', 'layer', 'most probable next tokens'],
    rows: [...observations]
      .sort((a, b) => a.sourcePosition - b.sourcePosition)
      .map((cell) => [
        cell.sourcePosition,
        quote(cell.sourceToken),
        placeText(cell.sourceSite, cell.sourceLayer),
        cell.status === 'failed' ? `failed: ${cell.error}` : topText(cell),
      ]),
    truncated: false,
  });
}
