import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { killRounds, READY_MS_MAX, TORTURE_VOLUME } from '../../scripts/torture/kill-rounds.ts'
import { lifeRounds } from '../../scripts/torture/life-rounds.ts'
import { seededRandom } from '../../scripts/torture/seeded-random.ts'
import { startSealed } from '../../scripts/torture/sealed-rounds.ts'
import { checkNonces } from '../helpers/nonces.ts'
import { TorusServer } from '../helpers/server.ts'

const ROUNDS = 4
const SEALED_ROUNDS = 3
const LIFE_ROUNDS = 2
const VOLUME_BYTES = 32 * 1024 * 1024
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

test(`after kill -9 flushed data is whole and nothing is torn (SEED=${seed})`, async () => {
  const args = ['--volume', `${TORTURE_VOLUME}=${VOLUME_BYTES}`, '--segment-size', '4MiB']
  const server = await TorusServer.start({ args, readyMs: READY_MS_MAX })
  try {
    const report = await killRounds({
      server,
      volumeBytes: VOLUME_BYTES,
      random: seededRandom(seed),
      goOn: (rounds) => rounds < ROUNDS
    })
    strictEqual(report.rounds, ROUNDS)
    ok(report.counts.writes > 100 && report.counts.reads > 100, JSON.stringify(report.counts))
  } finally {
    await server.dispose()
  }
})

test(`so it is of an encrypted volume, killed while it is rekeyed (SEED=${seed})`, async () => {
  const sealed = await startSealed(VOLUME_BYTES, ['--segment-size', '4MiB'])
  const { server } = sealed
  try {
    await killRounds({
      server,
      volumeBytes: VOLUME_BYTES,
      random: seededRandom(seed),
      goOn: (rounds) => rounds < SEALED_ROUNDS,
      onLoad: sealed.rekey
    })
    await sealed.untilRekeyed()
    ok(sealed.rekeys() > 0, 'a rekey was begun')
    await server.stop()
    const nonces = new Map<string, string>()
    checkNonces(server.dataDir, nonces)
    ok(nonces.size > 1000, `${nonces.size} nonces`)
  } finally {
    await server.dispose()
  }
})

test(`a deed that ends part of a volume's life is done or is not (SEED=${seed})`, async () => {
  const args = ['--segment-size', '4MiB', '--shards', '2']
  const server = await TorusServer.start({ args, readyMs: READY_MS_MAX })
  try {
    const goOn = (rounds: number): boolean => rounds < LIFE_ROUNDS
    const report = await lifeRounds({ server, random: seededRandom(seed), goOn })
    strictEqual(report.rounds, LIFE_ROUNDS)
  } finally {
    await server.dispose()
  }
})

test.run()
