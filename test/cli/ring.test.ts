import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { test } from 'uvu'
import { cliFor } from '../helpers/cli.ts'

const torus = cliFor('')
const simulate = (...args: string[]) => torus(['ring', 'simulate', ...args])

test('ring simulate tells balance and movement, without a server', async () => {
  const { code, stdout, stderr } = await simulate('--peers', '50', '--add', '2', '--remove', '1')
  equal(code, 0, stderr)
  match(stdout, /^ketama, replicated:3 on different peers, 2048 groups\n/)
  match(stdout, /before +50 +6144 +0\.9\d+ +1\.0000 +1\.0\d+ +0\.0/)
  match(stdout, /after +51 +6144 /)
  match(stdout, /data that move +\d+ of 6144 \(\d\.\d\d %\)/)
  match(stdout, /least for exact shares +\d+ of 6144/)
})

test('as JSON, with weights, racks and fragments', async () => {
  const { stdout } = await simulate(
    ...['--peers', '24', '--add', '1', '--redundancy', 'erasure:4+2', '--failure-domain', 'rack'],
    ...['--racks', '8', '--weights', '1,2,4', '--kind', 'rendezvous', '--groups', '512', '--json']
  )
  const result = JSON.parse(stdout)
  deepEqual([result.kind, result.redundancy, result.groups], ['rendezvous', 'erasure:4+2', 512])
  const { before, change } = result
  equal(before.members, 512 * 6)
  ok(before.toFairShare.min > 0.97 && before.toFairShare.max < 1.03)
  ok(change.movement.fraction <= change.movementAfresh.fraction)
  ok(change.movement.membersMoved >= 0.9 * change.movement.membersLeast)
  ok(result.ringBytes > 1000 && result.memoryBytesMax > 2 ** 20)
})

test('what cannot be is refused in words', async () => {
  const wrong: [string[], RegExp][] = [
    [['--peers', '2'], /cannot place 3 members: there are 2 peers with a weight \(.*\), 1 missing/],
    [
      ['--peers', '9', '--failure-domain', 'rack', '--racks', '2'],
      /each in a rack of its own: there are 2 racks with a weight \(rack-0, rack-1\), 1 missing/
    ],
    [['--peers', '5', '--remove', '5'], /--remove 5: somebody must stay of 5 peers/],
    [['--peers', '16384', '--add', '1'], /16385 peers: a ring has at most 16384/],
    [['--peers', '9', '--groups', '100'], /--groups 100: must be a power of two up to 65536/],
    [['--add', '1'], /need --peers/],
    [['--peers', '9', '--kind', 'single'], /--kind: .*ketama, rendezvous, mod/],
    [['--peers', '9', '--redundancy', 'raid5'], /--redundancy: "raid5" is no redundancy/],
    [['--peers', '9', '--weights', '1,x'], /--weights: "1,x" is not a list of weights/],
    [['--peers', '9', '--racks', '0'], /--racks: "0" is not a whole number from 1 to 16384/]
  ]
  for (const [args, message] of wrong) {
    const { code, stderr } = await simulate(...args)
    equal(code, 2, args.join(' '))
    match(stderr, message)
  }
})

test.run()
