/** Who is asked what a volume takes. */
import { deepStrictEqual, rejects } from 'node:assert'
import { test } from 'uvu'
import type { KnownGroup } from '../../src/cluster/groups.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import type { Member } from '../../src/replication/member.ts'
import { MemberSpaceAsker } from '../../src/replication/space-asker.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { failsWith } from '../helpers/volume-bench.ts'

const question = { family: '0000000000000001', nodes: [], branches: [] }

test('who ended in order and started again is asked under its boot of before', async () => {
  const asked: string[] = []
  const member = {
    peerId: 'b',
    bootId: 'new',
    call: ({ call }: { call: string }) => {
      asked.push(call)
      return Promise.resolve({ data: Buffer.alloc(8) })
    }
  } as unknown as Member
  const record = { inSync: [{ peer: 'b', boot: 'old' }] }
  const asker = (isPresentBoot: (peer: string, boot: string) => boolean): MemberSpaceAsker =>
    new MemberSpaceAsker({
      cluster: { self: { peerId: 'a' } as never, random: new SeededRandom(1) },
      members: { find: (peer) => (peer === 'b' ? member : null), onChange: () => {} },
      groups: { open: () => Promise.resolve(), get: () => ({ record }) as unknown as KnownGroup },
      pools: { find: () => ({ number: 1, groups: 1 }) },
      membership: { isPresentBoot }
    })
  await asker((peer, boot) => peer === 'b' && boot === 'old').ask('p', question)
  deepStrictEqual(asked, ['space'])
  await rejects(asker(() => false).ask('p', question), failsWith(ErrorCode.Unavailable))
})

test.run()
