/** Prints which sites each tiny model has, as a table in Markdown: `npm run architectures`. */
import { type ArchitectureReport, examine, type SiteReport } from './architecture-report.js';
import { badKinds, decoderKinds } from './fixtures/models.js';

const shown = ['embed', 'resid_mid', 'attn_out', 'mlp_out', 'resid_out', 'final_norm'];

const cell = ({ found, of, reason }: SiteReport): string => {
  if (found === of) return 'yes';
  return found === 0 ? `no: ${reason}` : `${found} of ${of} blocks; else ${reason}`;
};

const line = (cells: readonly string[]): void => console.log(`| ${cells.join(' | ')} |`);

line(['model (architecture)', ...shown, 'own state written back']);
line(['', ...shown, ''].map(() => '---'));
for (const kind of [...decoderKinds, ...badKinds]) {
  const report = await examine(kind);
  const name = report.architecture === kind ? kind : `${kind} (${report.architecture})`;
  if ('refused' in report) line([name, `refused: ${report.refused}`, ...shown.map(() => '')]);
  else line([name, ...cells(report), report.ownState === 0 ? 'exact' : `up to ${report.ownState}`]);
}

function cells({ sites }: ArchitectureReport): string[] {
  return shown.map((name) => cell(sites.find(({ site }) => site === name)!));
}
