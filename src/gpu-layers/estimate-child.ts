/** The process in which node-llama-cpp estimates memory, since it loads libraries of its own; see estimate.ts. */
import type { GgmlType as Type } from 'node-llama-cpp';

export interface EstimateTask {
  readonly path: string;
  /** Cells of the K/V cache, or the most that `cacheBytes` hold. */
  readonly cells: number;
  readonly cacheBytes: number;
  readonly batchTokens: number;
  readonly flashAttention: boolean;
  readonly typeK: string;
  readonly typeV: string;
}

export type EstimateMessage =
  | { readonly kind: 'done'; readonly needs: readonly number[] }
  | { readonly kind: 'failed'; readonly reason: string };

process.on('disconnect', () => process.exit());
const task: EstimateTask = JSON.parse(process.argv[2]!);

try {
  process.send?.({ kind: 'done', needs: await estimate() } satisfies EstimateMessage);
} catch (error) {
  process.send?.({ kind: 'failed', reason: (error as Error).message } satisfies EstimateMessage);
}

async function estimate(): Promise<number[]> {
  const { GgmlType, GgufInsights, readGgufFileInfo } = await import('node-llama-cpp');
  const typeOf = (name: string) => {
    const type: Type | undefined = GgmlType[name.toUpperCase() as keyof typeof GgmlType];
    if (type === undefined) throw new Error(`it knows no K/V type ${name}`);
    return type;
  };
  const info = await readGgufFileInfo(task.path, { sourceType: 'filesystem', logWarnings: false });
  const insights = await GgufInsights.from(info);
  const contextBytes = (modelGpuLayers: number, contextSize: number) =>
    insights.estimateContextResourceRequirements({
      contextSize,
      modelGpuLayers,
      batchSize: task.batchTokens,
      sequences: 1,
      flashAttention: task.flashAttention,
      swaFullCache: true,
      kvCacheKeyType: typeOf(task.typeK),
      kvCacheValueType: typeOf(task.typeV),
    }).gpuVram;
  // not its newer estimates: without a GPU backend in this process they put a context on the CPU
  const modelBytes = (gpuLayers: number) => insights.estimateModelResourceRequirements({ gpuLayers }).gpuVram;
  const all = insights.totalLayers;
  const bytesPerCell = (contextBytes(all, 2048) - contextBytes(all, 1024)) / 1024;
  const cells = Math.min(task.cells, Math.max(1024, Math.floor(task.cacheBytes / bytesPerCell)));
  return Array.from({ length: all + 1 }, (_, layers) => modelBytes(layers) + contextBytes(layers, cells));
}
