/** A machine that lacks a tool is told in one sentence what to install. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const install = fileURLToPath(new URL('../native/install.mjs', import.meta.url));

/** A PATH with nothing but these tools, which do nothing. */
function pathWith(tools: readonly string[]): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tools-'));
  for (const tool of tools) fs.writeFileSync(path.join(folder, tool), '#!/bin/sh\nexit 0\n', { mode: 0o755 });
  return folder;
}

const cases: readonly [missing: string, tools: readonly string[], said: RegExp][] = [
  ['git', ['cmake', 'c++'], /git is missing: install git/],
  ['CMake', ['git', 'c++'], /cmake is missing: install CMake 3\.15/],
  ['a compiler', ['git', 'cmake'], /a C\+\+ compiler is missing: install one/],
];

for (const [missing, tools, said] of cases) {
  test(`without ${missing} the install step says what to install, in one sentence`, () => {
    const { CXX: _, ...env } = process.env;
    const { status, stderr } = spawnSync(process.execPath, [install], {
      env: { ...env, PATH: pathWith(tools) },
      encoding: 'utf8',
    });
    assert.equal(status, 1);
    assert.match(stderr, said);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
  });
}
