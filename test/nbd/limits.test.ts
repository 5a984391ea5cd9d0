/** Clients of volumes with limits, and of volumes that share. */
import { ok, strictEqual } from 'node:assert'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import { SHARED_WINDOW } from '../../src/core/limits.ts'
import * as p from '../../src/nbd/protocol.ts'
import { Admission, NO_LIMITS, Turns } from '../../src/volume/admission.ts'
import { pattern, type Serving, serving, until } from '../helpers/nbd-serving.ts'
import type { NbdWireClient } from '../helpers/nbd-wire-client.ts'

const test = suite('nbd limits')

async function attached({ connect }: Serving): Promise<NbdWireClient> {
  const client = await connect()
  await client.attach('demo')
  return client
}

function limit({ demo }: Serving, limits: Partial<typeof NO_LIMITS>): Admission {
  const admission = new Admission(new Turns(), { inFlight: 0 })
  admission.limit({ ...NO_LIMITS, ...limits }, performance.now())
  demo.admission = admission
  return admission
}

test('a limit slows all clients of a volume together, and loses nothing', () =>
  serving(async (here) => {
    limit(here, { iops: 200, iopsBurst: 1 })
    const clients = [await attached(here), await attached(here)]
    const startedMs = performance.now()
    const payload = pattern(4096)
    for (const [at, client] of clients.entries()) {
      for (let step = 0; step < 20; step++) {
        client.command({ type: p.NBD_CMD_WRITE, offset: (at * 20 + step) * 4096, payload })
      }
    }
    for (const client of clients) {
      for (let step = 0; step < 20; step++) strictEqual((await client.simpleReply()).error, 0)
    }
    // 40 of them at 200 a second.
    ok(performance.now() - startedMs > 180, `${performance.now() - startedMs} ms`)
    ok(here.demo.bytes.subarray(0, 40 * 4096).equals(Buffer.concat(Array(40).fill(payload))))
  }))

test('a limit that is taken away holds nobody up, and one who waits can leave', () =>
  serving(async (here) => {
    const admission = limit(here, { bandwidth: 64 * 1024 })
    const [first, second] = [await attached(here), await attached(here)]
    await first.readRange(0, 256 * 1024)
    first.command({ type: p.NBD_CMD_READ, offset: 0, length: 4096 })
    second.command({ type: p.NBD_CMD_DISC })
    await second.readToEnd()
    first.destroy()
    await until(() => here.demo.opens === 0)
    admission.limit(NO_LIMITS, performance.now())
    const third = await attached(here)
    await third.readRange(0, 256 * 1024)
  }))

test('limits that change hold for a client that waits for the ones before', () =>
  serving(async (here) => {
    const admission = limit(here, { bandwidth: 64 * 1024 })
    for (const next of [{ bandwidth: 1024 ** 3 }, {}]) {
      admission.limit({ ...NO_LIMITS, bandwidth: 64 * 1024 }, performance.now())
      const client = await attached(here)
      // It owes four seconds after that.
      await client.readRange(0, 256 * 1024)
      const [startedMs, read] = [performance.now(), client.readRange(0, 4096)]
      await sleep(50)
      admission.limit({ ...NO_LIMITS, ...next }, performance.now())
      await read
      ok(performance.now() - startedMs < 2_000, `${performance.now() - startedMs} ms`)
    }
  }))

test('a client with a deep queue has a bounded number under way while others are busy', () =>
  serving(async (here) => {
    const turns = new Turns()
    const busy = { inFlight: 0 }
    const admission = new Admission(turns, busy)
    const other = new Admission(turns, { inFlight: 0 })
    here.demo.admission = admission
    here.demo.holding = true
    const client = await attached(here)
    admission.isShared(performance.now())
    const beside = setInterval(() => other.isShared(performance.now()), 5)
    other.isShared(performance.now())
    try {
      Object.defineProperty(busy, 'inFlight', { get: () => here.demo.held.length })
      for (let at = 0; at < 64; at++) {
        client.command({ type: p.NBD_CMD_READ, offset: at * 4096, length: 4096 })
      }
      await until(() => here.demo.held.length > 0)
      await new Promise((resolve) => setTimeout(resolve, 50))
      const { length } = here.demo.held
      ok(length >= SHARED_WINDOW && length <= SHARED_WINDOW + 1, `${length} under way`)
    } finally {
      clearInterval(beside)
    }
    here.demo.holding = false
    here.source.release(here.demo)
    for (let at = 0; at < 64; at++) {
      strictEqual((await client.simpleReply()).error, 0)
      await client.read(4096)
    }
  }))

test.run()
