import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { OpFlag, OpKind } from '../../src/replication/block-store.ts'
import { filled, peerServing } from '../helpers/peer-serving.ts'

const test = suite('peer link')

test('what is written is read again, small and large', () =>
  peerServing(async ({ gateway }) => {
    const own = gateway()
    const member = await own.member()
    for (const blocks of [1, 2, 4, 5, 8, 9, 64, 256]) {
      const bytes = filled(blocks, blocks)
      strictEqual(await own.write(member, blocks, 3, bytes), 0)
      ok((await own.read(member, blocks, 3, blocks)).equals(bytes), `${blocks} blocks`)
    }
  }))

test('every field of an op arrives', () =>
  peerServing(async ({ gateway, member }) => {
    member.recording = true
    const own = gateway()
    const link = await own.member()
    const fields = { chunk: 0xffff_fffe, firstBlock: 1000, blockCount: 24, flags: OpFlag.KeepHole }
    const numbers = { writerEpoch: 0xffff_ffff, sequence: 2 ** 40 - 1, fenceEpoch: 0xeeee_eeee }
    const group = { pool: 0xffff, group: 0xfffe, groupEpoch: 0xdddd_dddd }
    await own.run(link, OpKind.Trim, { ...fields, ...numbers, ...group })
    deepStrictEqual(member.seen, [
      `3 4 ${0xffff_fffe} 1000 24 ${0xffff_ffff} ${2 ** 40 - 1} ${0xeeee_eeee} 65535 65534 ` +
        `${0xdddd_dddd}`
    ])
  }))

test.run()
