/** The offline tools on real directories: check and reshard. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { checkDirectory, shardDirectory } from '../../src/shard/check.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import { OpFlag, OpKind } from '../../src/shard/op.ts'
import type { Problem } from '../../src/shard/problem.ts'
import { reshardDirectory } from '../../src/shard/reshard.ts'
import { Shard } from '../../src/shard/shard.ts'
import {
  createPeerSuperblock,
  readPeerSuperblock,
  requireServable
} from '../../src/shard/superblock-file.ts'
import { ShardRig, temporaryDirectory, testConfig } from '../helpers/shard-rig.ts'

const test = suite('offline')

const CHUNKS = 24
const { clusterId, peerId, segmentBytes } = testConfig()

const shardOf = (_high: number, _low: number, chunk: number, shards: number): number =>
  (chunk * 7) % shards

const rigOf = (directory: string, shard: number, shards: number, format: boolean): ShardRig =>
  new ShardRig({
    files: new DiskFiles(shardDirectory(directory, shard)),
    config: { shard, shards },
    format
  })

/** A data directory with a few blocks in every chunk: data, trimmed, zeroes, overwritten. */
function makeDirectory(directory: string, shards: number): void {
  for (let shard = 0; shard < shards; shard++) {
    mkdirSync(shardDirectory(directory, shard))
    const rig = rigOf(directory, shard, shards, true)
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      if (shardOf(0, 1, chunk, shards) !== shard) continue
      rig.write(chunk, 0, 20, chunk + 1)
      rig.write(chunk, 3, 2, chunk + 1001)
      rig.trim(chunk, 10, 4)
      const zeroes = rig.op(OpKind.WriteZeroes, chunk, 12, 3)
      zeroes.flags = OpFlag.NoHole
      rig.run(zeroes)
    }
    rig.shard.close()
  }
  createPeerSuperblock(directory, { clusterId, peerId, shards, segmentBytes, createdMs: 1 })
}

function verify(directory: string, shards: number): void {
  for (let shard = 0; shard < shards; shard++) {
    const rig = rigOf(directory, shard, shards, false)
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const here = shardOf(0, 1, chunk, shards) === shard
      const value = here ? chunk + 1 : 0
      const over = here ? chunk + 1001 : 0
      const expected = new Array<number>(20).fill(value)
      expected.fill(over, 3, 5).fill(0, 10, 15)
      assert.equal(rig.read(chunk, 0, 20), expected, `shard ${shard} chunk ${chunk}`)
      const status = rig.op(OpKind.BlockStatus, chunk, 10, 5)
      rig.run(status)
      if (here) assert.is(status.resultA, 2, 'two of trimmed, three of zeroes')
    }
    rig.shard.close()
  }
}

const withDirectory = (shards: number, body: (directory: string) => void) => () => {
  const directory = temporaryDirectory()
  try {
    makeDirectory(directory.path, shards)
    body(directory.path)
  } finally {
    directory.remove()
  }
}

function snapshot(directory: string): string[] {
  const files = readdirSync(directory, { recursive: true, withFileTypes: true })
  return files
    .filter((entry) => entry.isFile())
    .map((entry) => {
      const path = join(entry.parentPath, entry.name)
      return `${path} ${readFileSync(path).toString('base64')}`
    })
    .sort()
}

test(
  'a sound directory has no problems, and the check changes nothing',
  withDirectory(2, (directory) => {
    const before = snapshot(directory)
    let progress = 0
    const report = checkDirectory(directory, { onProgress: () => progress++ })
    assert.is(report.problems, 0)
    assert.is(report.shards, 2)
    assert.is(report.records, CHUNKS * 4)
    assert.is(report.blocks, CHUNKS * 22)
    assert.ok(progress >= 2)
    assert.equal(snapshot(directory), before)
  })
)

/** Flips one byte of a file at the first place where `find` stands. */
function flipAt(path: string, find: Buffer, plus: number): void {
  const bytes = readFileSync(path)
  const at = bytes.indexOf(find)
  assert.ok(at >= 0)
  bytes[at + plus]! ^= 0x40
  writeFileSync(path, bytes)
}

const fourBytes = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

test(
  'check names damaged blocks, live and superseded, and every broken structure',
  withDirectory(1, (directory) => {
    const segment = join(directory, 'shard-0', 'seg-000000')
    flipAt(segment, Buffer.concat([fourBytes(1001), fourBytes(1001)]), 100)
    flipAt(segment, Buffer.from('TFTR'), 70)
    flipAt(join(directory, 'shard-0', 'checkpoint-1'), Buffer.from('TCPC'), 40)
    const problems: Problem[] = []
    const report = checkDirectory(directory, { onProblem: (problem) => problems.push(problem) })
    assert.is(report.damagedLiveBlocks, 1)
    const kinds = new Set(problems.map(({ kind }) => kind))
    assert.equal([...kinds].sort(), ['checkpoint', 'footer', 'payload'])
    const payload = problems.find(({ kind }) => kind === 'payload')
    assert.is(payload?.file, 'seg-000000')
    assert.is(payload?.block?.chunk, 0)
    assert.is(payload?.block?.block, 3)
  })
)

test(
  'reshard keeps every block, hole and zero, up and down',
  withDirectory(2, (directory) => {
    for (const shards of [3, 1, 2]) {
      let progress = 0
      reshardDirectory(directory, shards, { shardOf, onProgress: () => progress++ })
      assert.is(readPeerSuperblock(directory)?.shards, shards)
      assert.ok(progress > 0)
      verify(directory, shards)
      assert.is(checkDirectory(directory).problems, 0)
      const left = readdirSync(directory).sort()
      assert.is(left.filter((name) => name.startsWith('shard-')).length, shards)
      assert.not(left.includes('reshard'))
    }
  })
)

class Killed extends Error {}

test(
  'a reshard that is killed anywhere goes on with the next call, and serves nothing meanwhile',
  withDirectory(3, (directory) => {
    // Killed after each progress report in turn, then let through.
    for (let calls = 1; ; calls++) {
      let left = calls
      try {
        reshardDirectory(directory, 2, {
          shardOf,
          onProgress: () => {
            if (--left === 0) throw new Killed()
          }
        })
        break
      } catch (thrown) {
        if (!(thrown instanceof Killed)) throw thrown
      }
      const superblock = readPeerSuperblock(directory)
      assert.ok(superblock !== null)
      assert.throws(() => requireServable(superblock!, 0), /torus reshard --shards 2/)
      assert.throws(() => checkDirectory(directory), /torus reshard/)
      assert.throws(() => reshardDirectory(directory, 5, { shardOf }), /unfinished/)
    }
    verify(directory, 2)
  })
)

test(
  'a directory with another number of shards is refused with a message that names reshard',
  withDirectory(2, (directory) => {
    const superblock = readPeerSuperblock(directory)
    assert.ok(superblock !== null)
    requireServable(superblock!, 2)
    assert.throws(() => requireServable(superblock!, 4), /torus reshard --shards 4/)
  })
)

test(
  'reshard refuses to lose damaged blocks unless that is accepted',
  withDirectory(1, (directory) => {
    const segment = join(directory, 'shard-0', 'seg-000000')
    flipAt(segment, Buffer.concat([fourBytes(1001), fourBytes(1001)]), 100)
    const problems: Problem[] = []
    const options = { shardOf, onProblem: (problem: Problem) => problems.push(problem) }
    assert.throws(() => reshardDirectory(directory, 2, options), /damaged/)
    assert.is(problems[0]?.block?.block, 3)
    assert.ok(existsSync(shardDirectory(directory, 0)), 'the old shard stays')
    reshardDirectory(directory, 2, { ...options, acceptLoss: true })
    const rig = rigOf(directory, 0, 2, false)
    assert.equal(rig.read(0, 2, 4), [1, 0, 1001, 1])
    rig.shard.close()
  })
)

test('an empty directory is no data directory', () => {
  const directory = temporaryDirectory()
  assert.is(readPeerSuperblock(directory.path), null)
  assert.throws(() => checkDirectory(directory.path), /not a data directory/)
  directory.remove()
})

test('a format that was cut off can be done again', () => {
  const directory = temporaryDirectory()
  writeFileSync(join(directory.path, 'superblock'), 'half')
  const rig = new ShardRig({ files: new DiskFiles(directory.path) })
  assert.is(rig.write(0, 0, 1, 1), 0)
  rig.shard.close()
  assert.throws(() => Shard.format(rig.config, rig.host), /not empty/)
  directory.remove()
})

test.run()
