/** Shared libraries that a variant's files need and the dynamic loader does not find. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

/** In the loader's own words; empty where it has no listing (macOS). */
export function missingLibraries(folder: string): string[] {
  if (process.platform !== 'linux') return [];
  const files = fs.readdirSync(folder).filter((name) => /^lib.*\.so(\.|$)/.test(name));
  const { stdout } = spawnSync(
    'ldd',
    files.map((name) => path.join(folder, name)),
    { encoding: 'utf8' },
  );
  const absent = [...(stdout ?? '').matchAll(/^\s*(\S+) => not found/gm)].map(([, name]) => name!);
  return [...new Set(absent)].sort();
}

const packages: readonly [name: RegExp, advice: (version: string) => string][] = [
  [/^libcuda\.so/, () => "install NVIDIA's driver"],
  [
    /^lib(?:cudart|cublas|cublasLt)\.so\.(\d+)/,
    (version) =>
      `install the libraries of CUDA ${version} (NVIDIA's packages cuda-cudart-${version}-x and libcublas-${version}-x), or run \`patchscopes build --gpu cuda\` with another toolkit`,
  ],
  [/^libvulkan\.so/, () => 'install the Vulkan loader (Debian: apt install libvulkan1)'],
  [/^libgomp\.so/, () => 'install the OpenMP library (Debian: apt install libgomp1)'],
];

/** Where the libraries come from, each advice once. */
export function adviceFor(libraries: readonly string[]): string {
  const advice = libraries.map((library) => {
    for (const [name, says] of packages) {
      const match = name.exec(library);
      if (match !== null) return says(match[1] ?? '');
    }
    return `install the package that holds ${library}`;
  });
  return [...new Set(advice)].join('; ');
}
