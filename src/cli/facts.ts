/** An inspected model as lines of text, each a label and a fact. */
import { type Inspection, onOneLine } from '../index.js';

/** @param columns width of the terminal; without one no line is broken. */
export function inspectionText(model: Inspection, spec: string, columns = Number.POSITIVE_INFINITY): string {
  const facts: [label: string, fact: string | null][] = [
    ['model', `${model.name ?? 'without a name'} (${model.architecture ?? 'architecture not stated'})`],
    ['layers', `${layersText(model)}, of width ${known(model.embeddingSize)}`],
    ['heads', headsText(model)],
    ['vocabulary', vocabularyText(model)],
    ['context', `${known(model.trainedContext)} tokens trained`],
    ['chat', model.chatTemplate === null ? 'no template' : 'a template (--json gives it)'],
    ['file', fileText(model)],
    ['types', typesText(model)],
    ['weights', weightsText(model)],
    ['K/V', cacheText(model)],
    ['free', freeText(model)],
    ...model.fit.gpus.map((gpu): [string, string] => ['GPU', gpuText(gpu, model)]),
    ...siteTexts(model).map((text): [string, string] => ['sites', text]),
    ['CPU', cpuText(model)],
    ['warning', warningText(model, spec)],
  ];
  return facts
    .filter(([, fact]) => fact !== null)
    .map(([label, fact]) => hanging(label.padEnd(INDENT), onOneLine(fact!), columns))
    .join('\n');
}

const INDENT = 12;

const known = (value: number | null): string => (value === null ? 'unknown' : String(value));

function layersText({ layerCount, encoderLayerCount }: Inspection): string {
  if (encoderLayerCount === 0) return known(layerCount);
  const decoder = layerCount === 0 ? 'no decoder' : `${known(layerCount)} in the decoder`;
  return `${known(encoderLayerCount)} in the encoder and ${decoder}`;
}

function headsText({ heads, kvHeads, headSize }: Inspection): string | null {
  if (heads === null) return null;
  const one = (value: Inspection['heads']) => (typeof value === 'object' ? value!.join(' ') : String(value));
  const size = headSize === null ? '' : ` of size ${headSize}`;
  return `${one(heads)}${size}, ${one(kvHeads)} for K and V`;
}

function vocabularyText({ vocabularySize, tokenizer, bos, addsBos, eos }: Inspection): string {
  const added = addsBos === null ? '' : addsBos ? ', put before prompts' : ', not put before prompts';
  return [
    `${known(vocabularySize)} tokens (${tokenizer ?? 'tokenizer not stated'})`,
    bos === null ? 'no BOS' : `BOS ${bos.text}${added}`,
    eos === null ? 'no EOS' : `EOS ${eos.text}`,
  ].join('; ');
}

function fileText({ bytes, parts, quantization }: Inspection): string {
  return `${quantization ?? 'quantization not stated'}, ${size(bytes)}${parts > 1 ? ` in ${parts} parts` : ''}`;
}

function typesText({ types }: Inspection): string {
  return types.map(({ type, tensors, bytes }) => `${tensors} ${type} (${size(bytes)})`).join(', ');
}

function weightsText({ memory }: Inspection): string {
  const { bytes, embeddingBytes, outputBytes, otherBytes, blockBytes, encoderBlockBytes } = memory;
  const each = (what: string, blocks: readonly number[]) => {
    if (blocks.length === 0) return null;
    const [least, most] = [Math.min(...blocks), Math.max(...blocks)].map(size);
    return `each ${what} ${least === most ? least : `${least} to ${most}`}`;
  };
  return [
    `${size(bytes)}: embedding ${size(embeddingBytes)}`,
    outputBytes > 0 ? `output ${size(outputBytes)}` : null,
    each('block of the encoder', encoderBlockBytes),
    each(encoderBlockBytes.length > 0 ? 'block of the decoder' : 'block', blockBytes),
    otherBytes > 0 ? `other ${size(otherBytes)}` : null,
  ]
    .filter((part) => part !== null)
    .join(', ');
}

function cacheText({ memory }: Inspection): string {
  const { cacheBytesPerToken, cacheBytesPerTokenByBlock: byBlock } = memory;
  if (cacheBytesPerToken === null) return 'unknown';
  const even = byBlock?.every((bytes) => bytes === byBlock[0]) ? byBlock[0] : undefined;
  const each = even === undefined ? '' : `, ${size(even)} in each of ${byBlock!.length} layers`;
  return `${size(cacheBytesPerToken)} a token (f16)${each}`;
}

function freeText({ fit }: Inspection): string {
  const tokens =
    fit.tokens === null
      ? ''
      : `: the weights and ${fit.tokens.toLocaleString('en')} tokens of context (f16 K/V)`;
  return `${size(fit.freeBytes)} of memory${tokens}`;
}

function gpuText(
  gpu: Inspection['fit']['gpus'][number],
  { layerCount, encoderLayerCount }: Inspection,
): string {
  const all =
    layerCount === null || encoderLayerCount === null
      ? ''
      : ` of ${Math.max(layerCount, encoderLayerCount) + 1}`;
  return `${gpu.name}, ${size(gpu.freeBytes)} free: -ngl ${gpu.gpuLayers}${all} with ${gpu.contextTokens} tokens of context`;
}

function siteTexts({ sites, encoderSites, noSites }: Inspection): string[] {
  if (noSites !== null) return [`none, because: ${noSites}`];
  if (Object.keys(encoderSites).length === 0) return [sitesText(sites)];
  return [`of the encoder: ${sitesText(encoderSites)}`, `of the decoder: ${sitesText(sites)}`];
}

function sitesText(sites: Inspection['sites']): string {
  return Object.entries(sites)
    .map(([site, { nodes, reason }]) => {
      const found = nodes.filter((node) => node !== null).length;
      if (found === nodes.length) return site;
      return `${found === 0 ? `no ${site}` : `${site} in ${found} of ${nodes.length} layers`} (${reason})`;
    })
    .join(', ');
}

function cpuText({ kernels }: Inspection): string {
  const { library, quantizedBytes, fastBytes } = kernels;
  if (quantizedBytes === 0) return library;
  return `${library}: fast kernels for ${Math.round((100 * fastBytes) / quantizedBytes)} % of the blocks' quantized weights`;
}

function warningText({ kernels: { advice } }: Inspection, spec: string): string | null {
  if (advice === null) return null;
  const [bits, toBits] = [advice.bitsPerWeight, advice.toBitsPerWeight].map((value) => value.toFixed(1));
  return `${advice.type} (${bits} bits a weight) has no fast kernel on this CPU; ${advice.to} (${toBits} bits) has: patchscopes convert ${spec} --to ${advice.to} -o FILE`;
}

function size(bytes: number): string {
  const [unit, factor] = (
    [
      ['GB', 1e9],
      ['MB', 1e6],
      ['kB', 1e3],
    ] as const
  ).find(([, least]) => bytes >= least) ?? ['bytes', 1];
  return `${factor === 1 ? bytes : (bytes / factor).toPrecision(3)} ${unit}`;
}

/** Breaks lines at blanks and lets them hang under the first. */
function hanging(label: string, text: string, columns: number): string {
  const lines = [label];
  for (const word of text.split(' ')) {
    const line = lines.at(-1)!;
    const isFresh = line.length === INDENT;
    if (!isFresh && line.length + 1 + word.length > columns) lines.push(' '.repeat(INDENT) + word);
    else lines[lines.length - 1] = line + (isFresh ? '' : ' ') + word;
  }
  return lines.join('\n');
}
