/** What the README shows must run. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cachedModelPath } from '../src/models/cache.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const readme = fs.readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const skip = fs.existsSync(cachedModelPath('smollm2-135m-instruct'))
  ? false
  : 'not run: the model smollm2-135m-instruct is not there';

test('the library example prints what the model is about to say', { skip }, () => {
  const [, example] = /```js\n(.*?)```/s.exec(readme) ?? [];
  const printed = execFileSync(process.execPath, ['--input-type=module', '--eval', example!], {
    cwd: root,
    encoding: 'utf8',
  });
  assert.match(printed, /^29 +Paris$/m);
});

test('every relative link of the README leads somewhere', () => {
  for (const [, target] of readme.matchAll(/\]\((?!https?:)([^)#]+)\)/g)) {
    assert.ok(fs.existsSync(new URL(`../${target}`, import.meta.url)), target);
  }
});
