/** The process that loads one variant and tells its devices, since a process loads one; see variants.ts. */
import { loadAddon, type NativeDevice } from '../native.js';

export type DevicesMessage =
  | { readonly kind: 'done'; readonly devices: readonly NativeDevice[] }
  | { readonly kind: 'failed'; readonly reason: string };

process.on('disconnect', () => process.exit());
try {
  process.send?.({ kind: 'done', devices: loadAddon(process.argv[2]!).devices() } satisfies DevicesMessage);
} catch (error) {
  process.send?.({ kind: 'failed', reason: (error as Error).message } satisfies DevicesMessage);
}
