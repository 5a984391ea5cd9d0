/**
 * Byte sequences nobody would send: whatever they are, the server answers or closes, other links
 * are undisturbed, nothing that is damaged is applied, and nothing stays held. `SEED=` replays one.
 */
import { ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { FRAME_HEADER_BYTES, FrameKind } from '../../src/format/peer-frames.ts'
import { viewOf } from '../../src/format/fields.ts'
import { crc32cOfWords } from '../../src/core/checksum.ts'
import type { Member } from '../../src/replication/member.ts'
import { PeerSecurity } from '../../src/replication/peer-security.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import {
  clientIdentity,
  filled,
  type Gateway,
  type PeerServing,
  peerServing,
  SECRET,
  serverIdentity,
  until
} from '../helpers/peer-serving.ts'
import { opFrame, PeerWire, plainFrame } from '../helpers/peer-wire.ts'

const test = suite('peer fuzz')
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
const security = PeerSecurity.ofSecret(SECRET)
const SESSIONS = 120

const identity = (number: number) => ({
  ...clientIdentity,
  bootId: number.toString(16).padStart(32, '0')
})

function bytesOf(random: SeededRandom, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) bytes[at] = random.below(256)
  return bytes
}

/** A frame that may be valid. Chunk 9 is where nobody else writes. */
function frame(random: SeededRandom, id: number): Buffer {
  const fields = {
    chunk: 9,
    firstBlock: random.below(random.below(8) === 0 ? 65_536 : 1000),
    blockCount: random.below(8) === 0 ? random.below(65_536) : 1 + random.below(12),
    flags: random.below(6) === 0 ? random.below(256) : 0
  }
  switch (random.below(9)) {
    case 0:
    case 1:
      return opFrame(FrameKind.Read, id, fields)
    case 2:
    case 3: {
      const blocks = random.below(6) === 0 ? random.below(20) : Math.min(fields.blockCount, 64)
      return opFrame(FrameKind.Write, id, { ...fields, blockCount: blocks }, filled(blocks, id))
    }
    case 4:
      return opFrame(3 + random.below(5), id, fields)
    case 5:
      return plainFrame(FrameKind.Call, id, Buffer.from('{"call":"ping","families":[]}'))
    case 6:
      return plainFrame(FrameKind.Call, id, bytesOf(random, random.below(50_000)))
    case 7:
      return plainFrame(random.below(3) === 0 ? FrameKind.Ping : FrameKind.Flush, id)
    default:
      return plainFrame(random.below(40), id, bytesOf(random, random.below(200)))
  }
}

/** Damage of one kind. */
function damage(random: SeededRandom, bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  switch (random.below(5)) {
    case 0:
      copy[random.below(copy.length)]! ^= 1 << random.below(8)
      return copy
    case 1:
      return copy.subarray(0, random.below(copy.length))
    case 2: {
      // A length of any size under a checksum that fits.
      const view = viewOf(copy)
      view.setUint32(12, [0, 1, 65_536, 5 * 2 ** 20, 2 ** 31, 2 ** 32 - 1][random.below(6)]!)
      view.setUint32(0, crc32cOfWords(view, 4, FRAME_HEADER_BYTES / 4 - 1))
      return copy
    }
    case 3:
      return Buffer.concat([copy, bytesOf(random, random.below(300))])
    default:
      return bytesOf(random, 1 + random.below(5000))
  }
}

async function sendInPieces(wire: PeerWire, bytes: Buffer, random: SeededRandom): Promise<void> {
  for (let at = 0; at < bytes.length && !wire.closed; ) {
    const count = [1, 7, 64, 5000, 70_000, bytes.length][random.below(6)]!
    wire.write(bytes.subarray(at, Math.min(bytes.length, at + Math.max(count, bytes.length / 50))))
    at += Math.max(count, bytes.length / 50)
    if (random.below(5) === 0) await new Promise((resolve) => setImmediate(resolve))
  }
}

/** A link of its own does what links do. */
async function alive(own: Gateway, member: Member, step: number): Promise<void> {
  const bytes = filled(1 + (step % 12), step)
  strictEqual(await own.write(member, 1, 5, bytes), 0)
  ok((await own.read(member, 1, 5, bytes.length / 4096)).equals(bytes))
}

async function noLinks({ server }: PeerServing, but: number): Promise<void> {
  await until(() => server.listLinks().length === but, 'links end')
}

test(`strangers of any bytes get nothing (SEED=${seed})`, () =>
  peerServing(
    async (all) => {
      const random = new SeededRandom(seed)
      const own = all.gateway()
      const member = await own.member()
      for (let session = 0; session < SESSIONS; session++) {
        const wire = await PeerWire.connect(all.at)
        await sendInPieces(wire, bytesOf(random, 1 + random.below(6000)), random)
        if (session % 20 === 0) await alive(own, member, session)
        strictEqual(wire.received.length, 0)
        wire.destroy()
      }
      await noLinks(all, 1)
      strictEqual(own.links.find(serverIdentity.peerId), member)
    },
    { timeoutMs: 30_000, limits: { handshakeMs: 500 } }
  ))

test(`frames of any bytes are answered or closed (SEED=${seed})`, () =>
  peerServing(
    async (all) => {
      const random = new SeededRandom(seed + 1)
      const own = all.gateway()
      const member = await own.member()
      for (let session = 0; session < SESSIONS; session++) {
        const wire = await PeerWire.connect(all.at)
        strictEqual(await wire.enter(identity(session), serverIdentity, security), 'welcome')
        const frames: Buffer[] = []
        for (let count = 1 + random.below(12); count > 0; count--) {
          const made = frame(random, frames.length + 1)
          frames.push(random.below(5) === 0 ? damage(random, made) : made)
        }
        await sendInPieces(wire, Buffer.concat(frames), random)
        if (random.below(3) === 0) await new Promise((resolve) => setTimeout(resolve, 2))
        if (session % 10 === 0) await alive(own, member, session)
        wire.destroy()
      }
      await noLinks(all, 1)
      strictEqual(own.links.find(serverIdentity.peerId), member, 'the other link is undisturbed')
    },
    { timeoutMs: 40_000 }
  ))

for (const blocks of [1, 100]) {
  test(`a write of ${blocks} blocks with damaged bytes is never applied (SEED=${seed})`, () =>
    peerServing(async (all) => {
      const random = new SeededRandom(seed + 2)
      for (let session = 0; session < 20; session++) {
        const wire = await PeerWire.connect(all.at)
        strictEqual(await wire.enter(identity(session), serverIdentity, security), 'welcome')
        const good = filled(blocks, 7)
        const fields = { chunk: 9, blockCount: blocks }
        const bytes = opFrame(FrameKind.Write, 1, fields, good)
        // Anywhere in the frame: header or payload.
        const at = session < 5 ? random.below(64) : 64 + random.below(good.length)
        bytes[at]! ^= 1 << random.below(8)
        wire.write(bytes)
        const answer = await wire.frame()
        ok(answer === null || answer.kind === FrameKind.Goodbye, 'it is refused')
        await until(() => wire.closed, 'and the link is closed')
      }
      strictEqual(all.member.applied, 0)
      ok(all.logged.some((line) => /does not match its checksum/.test(line)))
    }))
}

test.run()
