/** A process is started, and opens its model. */
import fs from 'node:fs';
import { PatchscopeError } from '../errors.js';
import { ChildDeath, ChildLink } from './child-link.js';
import type { OpenInput, Records } from './messages.js';

/** What must be the same in a process that takes the place of another. */
export interface Identity extends Records {
  readonly file: readonly unknown[];
}

/** @param onStart is called before the model is open. */
export async function openChild(
  input: OpenInput,
  onNote: (line: string) => void,
  onStart: (link: ChildLink) => void,
): Promise<{ readonly link: ChildLink; readonly identity: Identity }> {
  const parts = [...input.model.parts, ...(input.target?.model.parts ?? [])];
  const file = parts.map((part) => {
    const { size, mtimeMs } = fs.statSync(part, { throwIfNoEntry: false }) ?? {};
    return [size, mtimeMs];
  });
  const link = new ChildLink(onNote);
  onStart(link);
  try {
    return { link, identity: { ...(await link.ask('open', input)), file } };
  } catch (error) {
    await link.kill();
    throw error instanceof ChildDeath ? engineDied(error.message, 'opened the model') : error;
  }
}

/** @param died how it ended, as a clause. */
export function engineDied(died: string, did: string): PatchscopeError {
  return new PatchscopeError('engine_died', `The engine's process died while it ${did}: it ${died}`);
}
