/** The benchmark runs; what it measures is nobody's business here. */
import { match, ok, strictEqual } from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { run } from '../helpers/process.ts'

interface Result {
  readonly rows: readonly {
    readonly id: string
    readonly servers: readonly { readonly server: string; readonly value: { median: number } }[]
  }[]
}

testNeeding(
  { programs: ['fio', 'nbdkit'] },
  'a short benchmark compares torus with another server and draws the result',
  async () => {
    const scratch = await Scratch.create()
    try {
      const small = ['--seconds', '1', '--rounds', '1', '--size', '64MiB']
      const choice = ['--rows', 'randread,newdata', '--servers', 'torus,nbdkit']
      const places = ['--dir', scratch.path('data'), '--out', scratch.path('out')]
      const program = join(repositoryRoot, 'dist/scripts/bench.js')
      const { code, stdout, stderr } = await run(
        process.execPath,
        [program, ...small, ...choice, ...places],
        { timeoutMs: 120_000 }
      )
      strictEqual(code, 0, stdout + stderr)
      match(stderr, /this takes about \d+ s/)
      ok(stdout.includes('random read 4 KiB, depth 32'))
      const { rows } = JSON.parse(readFileSync(scratch.path('out/bench.json'), 'utf8')) as Result
      strictEqual(rows.map(({ id }) => id).join(), 'randread,newdata')
      const measured = rows.flatMap(({ servers }) => servers)
      const names = new Set(measured.map(({ server }) => server))
      for (const name of ['torus', 'nbdkit', 'append-direct']) ok(names.has(name), name)
      for (const { server, value } of measured) ok(value.median > 0, server)
      ok(readFileSync(scratch.path('out/bench.svg'), 'utf8').startsWith('<svg '))
      const args = [program, ...small, ...choice, ...places, '--resume']
      const again = await run(process.execPath, args, { timeoutMs: 120_000 })
      strictEqual(again.code, 0, again.stderr)
      match(again.stderr, /going on behind 2 rounds/)
      ok(!again.stderr.includes('round 1'), 'nothing is measured twice')
    } finally {
      await scratch.remove()
    }
  }
)

testNeeding(
  { programs: ['fio'] },
  'growth is measured and drawn until the time is over',
  async () => {
    const scratch = await Scratch.create()
    try {
      const program = join(repositoryRoot, 'dist/scripts/bench-scale.js')
      const small = ['--series', 'shards', '--blocks', '512', '--seconds', '1', '--minutes', '0.01']
      const { code, stdout, stderr } = await run(
        process.execPath,
        [program, ...small, '--dir', scratch.path(''), '--out', scratch.path('out')],
        { timeoutMs: 120_000 }
      )
      strictEqual(code, 1, stderr)
      match(stderr, /this takes about \d+ s; no point begins after 0.01 min/)
      match(stdout, /the time was over/)
      const { series } = JSON.parse(readFileSync(scratch.path('out/scale.json'), 'utf8'))
      strictEqual(series.length, 1)
      const [point] = series[0].points
      for (const name of ['writeIops', 'readIops', 'residentBytes', 'restartMs', 'recoveryMs']) {
        ok(point[name] > 0, name)
      }
      ok(readFileSync(scratch.path('out/scale.svg'), 'utf8').startsWith('<svg '))
    } finally {
      await scratch.remove()
    }
  }
)

test.run()
