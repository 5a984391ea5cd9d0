import { deepStrictEqual, notDeepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { parseId64 } from '../../src/cluster/ids.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { VolumeKeys } from '../../src/cluster/volume-keys.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import type { SecretKind } from '../../src/seal/key-slots.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { EncryptedVolumes } from '../../src/volume/encrypted-volumes.ts'
import { VolumeKeyring } from '../../src/volume/volume-keyring.ts'
import { fastHash } from '../helpers/password-hash.ts'
import { type Bench, failsWith, openBench } from '../helpers/volume-bench.ts'

const test = suite('volume keyring')
const MIB = 1024 * 1024

const secretOf = (text: string, kind: SecretKind = 'passphrase') => ({
  kind,
  secret: Buffer.from(text),
  label: ''
})
const first = secretOf('the first passphrase')
const second = secretOf('the second passphrase')

const encryptedOf = ({ volumes, keyring, cluster }: Bench): EncryptedVolumes =>
  new EncryptedVolumes({
    volumes,
    keyring,
    cluster,
    trouble: (what, cause) => {
      throw new Error(what, { cause })
    }
  })

const create = (bench: Bench, name: string = 'secret') =>
  bench.volumes.create({ name, sizeBytes: MIB, encrypt: first })

/** The data key under which blocks of an epoch would be sealed; null while it is locked. */
function keyAt({ keyring, ring }: Bench, family: string, epoch: number): Buffer | null {
  const { high, low } = parseId64(family)
  const key = ring.keyOf(keyring.families.slotOf(high, low), low, epoch)
  return key === null ? null : Buffer.from(key)
}

/** The same metadata in a new process. */
async function restart(bench: Bench): Promise<Bench> {
  await bench.metadata.close()
  return openBench({ tables: bench.tables, arena: bench.arena, store: bench.store, boot: 2 })
}

test('a volume is unlocked where it was made, and nowhere else until somebody does', async () => {
  const bench = await openBench()
  const { family, encryption } = await create(bench)
  strictEqual(encryption, 'xchacha20-poly1305')
  const key = keyAt(bench, family, 1)
  ok(key !== null)
  await (await bench.volumes.open('secret', {})).close()

  const again = await restart(bench)
  strictEqual(keyAt(again, family, 1), null)
  await rejects(again.volumes.open('secret', {}), failsWith(ErrorCode.Locked))
  await rejects(again.volumes.open('secret', { readOnly: true }), failsWith(ErrorCode.Locked))
  strictEqual((await encryptedOf(again).unlock('secret', first, null)).id, 1)
  deepStrictEqual(keyAt(again, family, 1), key)
  await (await again.volumes.open('secret', {})).close()
  await again.close()
})

test('a wrong secret opens nothing and makes the next attempt wait', async () => {
  const bench = await openBench()
  await create(bench)
  const encrypted = encryptedOf(bench)
  await encrypted.lock('secret')
  const unlock = (with_: typeof first) => encrypted.unlock('secret', with_, null)
  await rejects(unlock(second), failsWith(ErrorCode.Forbidden))
  await rejects(unlock(first), failsWith(ErrorCode.Busy))
  bench.clock.nowMs += 1000
  await rejects(
    unlock(secretOf('the first passphrase', 'key-file')),
    failsWith(ErrorCode.Forbidden)
  )
  bench.clock.nowMs += 1000
  await rejects(unlock(first), failsWith(ErrorCode.Busy))
  bench.clock.nowMs += 1000
  await unlock(first)
  await encrypted.lock('secret')
  await rejects(unlock(second), failsWith(ErrorCode.Forbidden))
  bench.clock.nowMs += 1000
  await unlock(first)
  await bench.close()
})

test('of attempts that come at once the first that fails makes the others wait', async () => {
  let hashes = 0
  const argon2id: typeof fastHash.argon2id = (...given) => {
    hashes++
    return fastHash.argon2id(...given)
  }
  const bench = await openBench({ hash: { argon2id } })
  await create(bench)
  const encrypted = encryptedOf(bench)
  await encrypted.lock('secret')
  hashes = 0
  const guesses = Array.from({ length: 20 }, (_, i) =>
    encrypted.unlock('secret', secretOf(`guess ${i}`), null)
  )
  const codes = (await Promise.allSettled(guesses)).map((each) =>
    each.status === 'rejected' ? each.reason.code : 'unlocked'
  )
  deepStrictEqual(codes, [ErrorCode.Forbidden, ...Array(19).fill(ErrorCode.Busy)])
  strictEqual(hashes, 1)
  await bench.close()
})

test('locking ends the clients and zeroes every copy of the key', async () => {
  const bench = await openBench()
  const { family } = await create(bench)
  const { high, low } = parseId64(family)
  const held = bench.ring.keyOf(bench.keyring.families.slotOf(high, low), low, 1)!
  const device = await bench.volumes.open('secret', {})
  await encryptedOf(bench).lock('secret')
  ok(held.equals(Buffer.alloc(32)))
  strictEqual((await bench.volumes.show('secret')).clients, 0)
  await rejects(bench.volumes.open('secret', {}), failsWith(ErrorCode.Locked))
  await device.close()
  await bench.close()
})

test('a clone is opened by the same secrets, and its slots change apart', async () => {
  const bench = await openBench()
  const { family } = await create(bench)
  await bench.volumes.snapshots.create('secret', 's')
  const clone = await bench.volumes.clones.clone('secret', 's', { name: 'copy' })
  await bench.volumes.snapshots.create('copy', 't')
  const second = await bench.volumes.clones.clone('copy', 't', { name: 'copy2' })
  // What is written to one of them is under a key of its own.
  const families = [family, clone.family, second.family]
  const keys = families.map((each) => keyAt(bench, each, 1)!.toString('hex'))
  strictEqual(new Set(keys).size, 3)
  const { high, low: own } = parseId64(second.family)
  const group = bench.keyring.families.slotOf(high, own)
  const read = families.map((each) => bench.ring.keyOf(group, parseId64(each).low, 1))
  deepStrictEqual(
    read.map((key) => key?.toString('hex')),
    keys
  )
  const { low } = parseId64(family)
  strictEqual(bench.ring.keyOf(bench.keyring.families.slotOf(high, low), own, 1), null)

  const again = await restart(bench)
  await rejects(again.volumes.open('copy2', {}), failsWith(ErrorCode.Locked))
  await rejects(
    again.volumes.clones.clone('secret', 's', { name: 'x' }),
    failsWith(ErrorCode.Locked)
  )
  const other = encryptedOf(again)
  await other.unlock('copy2', first, null)
  await other.addSlot('copy', first, secretOf('of the clone alone'))
  const { slots } = await other.slots('copy')
  deepStrictEqual(
    slots.map(({ family: bound }) => bound),
    [family, undefined]
  )
  await rejects(
    other.unlock('secret', secretOf('of the clone alone'), null),
    failsWith(ErrorCode.Forbidden)
  )
  await again.close()
})

test('slots are added, rotated and revoked; the data key stays', async () => {
  const bench = await openBench()
  const { family } = await create(bench)
  const encrypted = encryptedOf(bench)
  const key = keyAt(bench, family, 1)
  const ids = async () => (await encrypted.slots('secret')).slots.map(({ id }) => id)

  await rejects(encrypted.addSlot('secret', second, second), failsWith(ErrorCode.Forbidden))
  bench.clock.nowMs += 1000
  strictEqual((await encrypted.addSlot('secret', first, second)).id, 2)
  deepStrictEqual(await ids(), [1, 2])
  const third = secretOf('0123456789abcdef0123456789abcdef', 'key-file')
  strictEqual((await encrypted.rotateSlot('secret', first, third)).id, 3)
  deepStrictEqual(await ids(), [2, 3])
  await encrypted.lock('secret')
  await rejects(encrypted.unlock('secret', first, null), failsWith(ErrorCode.Forbidden))
  bench.clock.nowMs += 1000
  await encrypted.unlock('secret', third, 3)
  deepStrictEqual(keyAt(bench, family, 1), key)
  await rejects(encrypted.revokeSlot('secret', 9), failsWith(ErrorCode.NotFound))
  await encrypted.revokeSlot('secret', 3)
  await rejects(encrypted.revokeSlot('secret', 2), failsWith(ErrorCode.InvalidArgument))
  await encrypted.lock('secret')
  await encrypted.unlock('secret', second, null)
  await bench.close()
})

test('a new data key holds for later epochs, an old one until no block needs it', async () => {
  const bench = await openBench()
  const { family, name } = await create(bench)
  const device = await bench.volumes.open('secret', {})
  const old = keyAt(bench, family, 1)
  const { generations } = await bench.keyring.startRekey({ name, family })
  const { fromEpoch } = generations.at(-1)!
  ok(fromEpoch > 1)
  deepStrictEqual(keyAt(bench, family, fromEpoch - 1), old)
  const fresh = keyAt(bench, family, fromEpoch)
  notDeepStrictEqual(fresh, old)
  await rejects(bench.keyring.startRekey({ name, family }), failsWith(ErrorCode.Busy))
  await bench.keyring.endRekey(family, 2)
  strictEqual(keyAt(bench, family, fromEpoch - 1), null)
  deepStrictEqual(keyAt(bench, family, fromEpoch), fresh)
  await device.close()
  await bench.close()
})

test('exported slots bring back a volume whose metadata lost them', async () => {
  const bench = await openBench()
  const { family } = await create(bench)
  await create(bench, 'other')
  const encrypted = encryptedOf(bench)
  const keys = await encrypted.exportKeys('secret')
  await bench.metadata.transact({
    compare: [],
    success: [{ delete: bench.cluster.keys.volumeKeys(family) }]
  })
  await encrypted.lock('secret')
  await rejects(encrypted.unlock('secret', first, null), failsWith(ErrorCode.NotFound))
  await rejects(encrypted.importKeys('other', keys), failsWith(ErrorCode.InvalidArgument))
  const [slot] = keys.slots as [(typeof keys.slots)[number]]
  const cut = [
    { ...keys, slots: [{ ...slot, sealed: slot.sealed.slice(0, 20) }] },
    { ...keys, slots: [slot, { ...slot, kdf: { ...slot.kdf, salt: '' } }] },
    { ...keys, slots: [{ ...slot, kdf: { ...slot.kdf, opsLimit: 1e9 } }] },
    { ...keys, generations: keys.generations.map((each) => ({ ...each, sealed: 'AAAA' })) }
  ]
  for (const each of cut) {
    await rejects(encrypted.importKeys('secret', each), failsWith(ErrorCode.InvalidArgument))
  }
  await encrypted.importKeys('secret', keys)
  await encrypted.unlock('secret', first, null)
  await bench.close()
})

test('a name that is taken leaves no key behind, and so does a deleted volume', async () => {
  const bench = await openBench()
  const { family } = await create(bench)
  await rejects(create(bench), failsWith(ErrorCode.AlreadyExists))
  await bench.volumes.delete('secret')
  strictEqual(keyAt(bench, family, 1), null)
  strictEqual(await bench.metadata.get(bench.cluster.keys.volumeKeys(family)), null)
  const { low } = parseId64(family)
  for (let slot = 1; slot < 8; slot++) strictEqual(bench.ring.keyOf(slot, low, 1), null)
  await bench.close()
})

/** Another gateway on the same metadata, with keys of its own. */
function otherGateway({ cluster, clock }: Bench): VolumeKeyring {
  const parts = { records: new VolumeKeys(cluster), ring: new KeyRing(1), hash: fastHash, clock }
  return new VolumeKeyring({ ...parts, nowText: () => cluster.nowText() })
}

test('who takes an epoch above a rekey elsewhere writes with the new data key', async () => {
  const bench = await openBench()
  const volume = await create(bench)
  const device = await bench.volumes.open('secret', {})
  const old = keyAt(bench, volume.family, 1)
  const other = otherGateway(bench)
  await other.unlock(volume, first, null)
  const { fromEpoch } = (await other.startRekey(volume)).generations.at(-1)!
  deepStrictEqual(keyAt(bench, volume.family, fromEpoch), old)
  // As after a lease that ended, or when sequence numbers run low.
  const { managed, device: own } = await bench.volumes.openOwn('secret')
  await managed.raiseEpochAlone(fromEpoch)
  await own.close()
  notDeepStrictEqual(keyAt(bench, volume.family, fromEpoch), old)
  deepStrictEqual(keyAt(bench, volume.family, fromEpoch - 1), old)
  await device.close()
  await bench.close()
})

test('a data key made while a volume is opened is known before the first write', async () => {
  const bench = await openBench()
  const volume = await create(bench)
  const again = await restart(bench)
  const other = otherGateway(again)
  await other.unlock(volume, first, null)
  await encryptedOf(again).unlock('secret', first, null)
  // Between the look at the keys and the writer epoch.
  const { require } = again.keyring
  again.keyring.require = async (named) => {
    await require.call(again.keyring, named)
    await other.startRekey(volume)
  }
  const old = keyAt(again, volume.family, 1)
  const device = await again.volumes.open('secret', {})
  const [, { fromEpoch }] = (await encryptedOf(again).exportKeys('secret')).generations as [
    unknown,
    { fromEpoch: number }
  ]
  notDeepStrictEqual(keyAt(again, volume.family, fromEpoch), old)
  await device.close()
  await again.close()
})

test('keys that were exported before a rekey take no data key away', async () => {
  const bench = await openBench()
  const volume = await create(bench)
  const { family } = volume
  const encrypted = encryptedOf(bench)
  const exported = await encrypted.exportKeys('secret')
  await encrypted.rotateSlot('secret', first, second)
  const { generations } = await bench.keyring.startRekey(volume)
  const { fromEpoch } = generations.at(-1)!
  const fresh = keyAt(bench, family, fromEpoch)
  await encrypted.importKeys('secret', exported)
  const during = await encrypted.exportKeys('secret')
  deepStrictEqual(during.generations, generations)
  ok(during.rekey !== null)
  await bench.keyring.endRekey(family, 2)
  await encrypted.importKeys('secret', exported)
  const after = await encrypted.exportKeys('secret')
  deepStrictEqual(after.generations, generations.slice(1))
  deepStrictEqual(after.slots, exported.slots)
  strictEqual(after.nextSlot, 3)
  const [newest] = after.generations as [(typeof after.generations)[number]]
  const changes = [
    { fromEpoch: fromEpoch + 1 },
    { salt: generations[0]!.salt },
    { generation: newest.generation + 2 }
  ]
  for (const change of changes) {
    const changed = { ...after, generations: [{ ...newest, ...change }] }
    await rejects(encrypted.importKeys('secret', changed), failsWith(ErrorCode.InvalidArgument))
  }
  await encrypted.lock('secret')
  await encrypted.unlock('secret', first, null)
  deepStrictEqual(keyAt(bench, family, fromEpoch), fresh)
  await bench.close()
})

test('keys that were exported after a rekey bring its data key to older metadata', async () => {
  const bench = await openBench()
  const volume = await create(bench)
  const { family } = volume
  const encrypted = encryptedOf(bench)
  const before = await encrypted.exportKeys('secret')
  const made = await bench.keyring.startRekey(volume)
  await bench.keyring.endRekey(family, 2)
  const after = await encrypted.exportKeys('secret')
  const restored = (value: typeof before) =>
    bench.metadata.transact({
      compare: [],
      success: [
        {
          put: bench.cluster.keys.volumeKeys(family),
          value: encodeRecord('volumeKeys', value)
        }
      ]
    })
  await restored(before)
  await encrypted.importKeys('secret', after)
  deepStrictEqual((await encrypted.exportKeys('secret')).generations, made.generations)

  await restored(before)
  const again = await restart(bench)
  await encryptedOf(again).unlock('secret', first, null)
  await again.keyring.startRekey(volume)
  const importing = encryptedOf(again).importKeys('secret', after)
  await rejects(importing, failsWith(ErrorCode.InvalidArgument))
  await again.close()
})

test('a source that does not fit keeps nobody else from unlocking', async () => {
  const bench = await openBench()
  const volume = await create(bench)
  bench.keyring.lock(volume.family)
  const unlock = (who: string, with_: typeof first) =>
    bench.keyring.unlock(volume, with_, null, who)
  await rejects(unlock('a', second), failsWith(ErrorCode.Forbidden))
  await rejects(unlock('a', first), failsWith(ErrorCode.Busy))
  await unlock('b', first)
  bench.keyring.lockByHand(volume.family)
  ok(bench.keyring.staysLocked(volume.family))
  await unlock('', first)
  ok(!bench.keyring.staysLocked(volume.family))
  await bench.close()
})

test.run()
