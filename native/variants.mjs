// Which sets of llama.cpp libraries there are for this machine, each told by its own build record.
import fs from 'node:fs';
import path from 'node:path';

const RECORD = '_nlcBuildMetadata.json';

/**
 * One set for each variant (cpu, cuda, vulkan, metal). A set that was built on this machine goes before a
 * prebuilt one; sets of another llama.cpp release are left out.
 *
 * @param {{localFolder: string, scopes: readonly string[], platform: string, arch: string, release: string}} where
 *   `localFolder` holds a folder for each variant built here, `scopes` are the folders `@node-llama-cpp` of packages.
 * @returns {{variant: string, directory: string, origin: 'local' | 'prebuilt'}[]}
 */
export function findVariants({ localFolder, scopes, platform, arch, release }) {
  const variants = new Map();
  for (const { directory, origin } of [
    ...foldersIn(localFolder).map((directory) => ({ directory, origin: 'local' })),
    ...scopes.flatMap(prebuiltFolders).map((directory) => ({ directory, origin: 'prebuilt' })),
  ]) {
    const record = path.join(directory, RECORD);
    if (!fs.existsSync(record)) continue;
    const { buildOptions } = JSON.parse(fs.readFileSync(record, 'utf8'));
    const variant = buildOptions.gpu || 'cpu';
    if (
      buildOptions.platform === platform &&
      buildOptions.arch === arch &&
      buildOptions.llamaCpp.release === release &&
      !variants.has(variant)
    ) {
      variants.set(variant, { variant, directory, origin });
    }
  }
  return [...variants.values()].sort((a, b) => a.variant.localeCompare(b.variant));
}

function prebuiltFolders(scope) {
  return foldersIn(scope).flatMap((folder) => foldersIn(path.join(folder, 'bins')));
}

function foldersIn(folder) {
  if (!fs.existsSync(folder)) return [];
  return fs.readdirSync(folder).map((name) => path.join(folder, name));
}
