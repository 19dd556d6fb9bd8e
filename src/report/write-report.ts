import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PatchscopeError } from '../errors.js';
import { makeFolder } from '../folders.js';
import { writeWhole } from '../output-file.js';
import type { RunSummary } from '../store/run-list.js';

export interface ReportOptions {
  /** Id, or name: its newest run. Default: the newest run. */
  readonly run?: string | undefined;
  /** More runs of the same file, drawn into the same plots. */
  readonly compare?: readonly string[] | undefined;
  /** The page to write. */
  readonly output: string;
  /** Folder for the plots, a file each. */
  readonly svg?: string | undefined;
  /** Folder for the numbers, a file each. */
  readonly csv?: string | undefined;
}

export interface Report {
  readonly runs: readonly RunSummary[];
  /** All files that were written, the page first. */
  readonly files: readonly string[];
}

/**
 * Writes a page about runs of a results file; it needs no engine, no model and no network.
 *
 * @throws PatchscopeError `bad_input` where there is no such run, or a file exists or can't be written.
 */
export async function writeReport(
  path: string,
  { run, compare = [], output, svg, csv }: ReportOptions,
): Promise<Report> {
  return writeWhole(output, async (part) => {
    // the library that draws is large, and other commands do without it
    const { csvOf, renderReport } = await import('./report.js');
    const { runs, html, parts } = renderReport(path, [run, ...compare]);
    const files = new Map<string, string>();
    for (const { name, svg: picture, data } of parts) {
      if (svg !== undefined && picture !== undefined) files.set(join(svg, `${name}.svg`), picture);
      if (csv !== undefined) files.set(join(csv, `${name}.csv`), csvOf(data));
    }
    const existing = [...files.keys()].find((file) => existsSync(file));
    if (existing !== undefined) {
      throw new PatchscopeError(
        'bad_input',
        `The file ${existing} exists: remove it, or name another folder.`,
      );
    }
    for (const folder of [svg, csv]) if (folder !== undefined) makeFolderOrSay(folder);
    for (const [file, text] of files) await writeWhole(file, (whole) => writeFileSync(whole, text));
    writeFileSync(part, html);
    return { runs, files: [output, ...files.keys()] };
  });
}

function makeFolderOrSay(folder: string): void {
  try {
    makeFolder(folder);
  } catch (cause) {
    throw new PatchscopeError(
      'bad_input',
      `The folder ${folder} can't be made (${(cause as NodeJS.ErrnoException).code}): name one in a folder that exists and is yours.`,
      { cause },
    );
  }
}
