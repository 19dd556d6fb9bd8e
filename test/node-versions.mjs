// The project on other versions of Node: `npm run test:node [-- 22 24] [TEST FILES]`. For each, the files of the
// working tree are copied to a folder of their own, built there with that Node and its headers, and tested.
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const words = process.argv.slice(2);
const named = words.filter((word) => /^\d/.test(word));
const versions = named.length > 0 ? named : ['22', '24'];
const files = words.filter((word) => !named.includes(word));
const nodePackage = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`;

const failed = versions.filter((version) => !passes(version));
process.exit(failed.length > 0 ? 1 : 0);

function passes(version) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), `patchscopes-node-${version}-`));
  try {
    const node = installNode(version, path.join(folder, 'node'));
    const project = path.join(folder, 'project');
    copyProject(project);
    const env = environment(node);
    const name = execFileSync('node', ['--version'], { env, encoding: 'utf8' }).trim();
    for (const line of [
      ['npm', 'ci', '--no-audit', '--no-fund'],
      ['node', path.join('test', 'run.mjs'), ...files],
    ]) {
      const [command, ...args] = line;
      const { status, stdout } = spawnSync(command, args, {
        cwd: project,
        env,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
        maxBuffer: 2 ** 28,
      });
      const counts = Object.fromEntries(
        [...stdout.matchAll(/^all (tests|pass|fail|skipped) (\d+)$/gm)].map(([, what, count]) => [
          what,
          count,
        ]),
      );
      if (status !== 0) {
        process.stdout.write(stdout.slice(-20_000));
        console.log(
          `Node ${name}: ${line.join(' ')} failed${counts.fail ? `, ${counts.pass} tests passed and ${counts.fail} failed` : ''}`,
        );
        return false;
      }
      if (counts.tests) {
        console.log(
          `Node ${name}: ${counts.pass} of ${counts.tests} tests passed, ${counts.skipped} not run`,
        );
      }
    }
    return true;
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** From npm, where a package carries each version of Node. @returns its folder. */
function installNode(version, prefix) {
  fs.mkdirSync(prefix);
  execFileSync('npm', ['install', '--silent', '--no-save', '--prefix', prefix, `${nodePackage}@${version}`], {
    cwd: prefix,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return path.join(prefix, 'node_modules', nodePackage);
}

/** What git tracks or would track, as it is now. */
function copyProject(project) {
  const files = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  });
  for (const file of files.split('\0').filter(Boolean)) {
    if (!fs.existsSync(path.join(root, file))) continue;
    fs.mkdirSync(path.dirname(path.join(project, file)), { recursive: true });
    fs.copyFileSync(path.join(root, file), path.join(project, file));
  }
}

/** This Node before all others, and its headers for what is compiled. */
function environment(node) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^npm_/i.test(key)));
  const bin = path.join(node, 'bin');
  return { ...env, PATH: `${bin}${path.delimiter}${env.PATH}`, npm_config_nodedir: node };
}
