import fs from 'node:fs';

const manifest = new URL('../package.json', import.meta.url);

export const packageVersion: string = (JSON.parse(fs.readFileSync(manifest, 'utf8')) as { version: string })
  .version;
