import { z } from 'zod'
import * as schemas from './key-schemas.ts'
import { type Route, route } from './route.ts'
import { volumeNameSchema } from './schemas.ts'

/** What the admin API asks of the program about keys. Failures are StoreErrors. */
export interface KeyBackend {
  /** On this peer. @throws StoreError NotFound, Forbidden (nothing opens), Busy (too soon again) */
  unlockVolume(name: string, request: schemas.UnlockBody): Promise<schemas.KeySlotAnswer>
  /** Disconnects its clients on this peer. @throws StoreError NotFound */
  lockVolume(name: string): Promise<void>
  /** @throws StoreError NotFound, InvalidArgument (not encrypted) */
  keySlots(name: string): Promise<schemas.KeySlotList>
  /** @throws StoreError Forbidden, Busy, LimitReached */
  addKeySlot(name: string, request: schemas.SlotChangeBody): Promise<schemas.KeySlotAnswer>
  rotateKeySlot(name: string, request: schemas.SlotChangeBody): Promise<schemas.KeySlotAnswer>
  /** @throws StoreError NotFound, InvalidArgument for the last one */
  revokeKeySlot(name: string, id: number): Promise<void>
  /** Puts its blocks under a new data key, in the background. @throws StoreError Locked, Busy */
  rekeyVolume(name: string): Promise<void>
  exportKeys(name: string): Promise<schemas.ExportedKeys>
  /** @throws StoreError NotFound, Locked */
  backupKey(name: string, salt: string): Promise<schemas.BackupKey>
  /** @throws StoreError InvalidArgument */
  importKeys(name: string, keys: schemas.ExportedKeys): Promise<void>
}

const byName = z.strictObject({ name: volumeNameSchema })
const bySlot = z.strictObject({ name: volumeNameSchema, slot: z.coerce.number().int().min(1) })

/** For the audit log: which slot it was. */
const slotTold = (slot: schemas.KeySlotAnswer | undefined) =>
  slot === undefined ? {} : { slot: slot.id, kind: slot.kind }

export const keyRoutesOf = (backend: KeyBackend): Route[] => [
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/unlock',
    operationId: 'unlockVolume',
    summary: 'Let this peer serve an encrypted volume, until it is locked or the peer ends',
    role: 'operator',
    volumeUse: 'change',
    tell: (_, slot) => slotTold(slot),
    params: byName,
    body: schemas.unlockSchema,
    answer: schemas.keySlotSchema,
    handle: ({ params, body }) => backend.unlockVolume(params.name, body)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/lock',
    operationId: 'lockVolume',
    summary: 'Disconnect the clients of an encrypted volume and forget its keys on this peer',
    role: 'operator',
    volumeUse: 'change',
    params: byName,
    status: 204,
    handle: async ({ params }) => {
      await backend.lockVolume(params.name)
      return null
    }
  }),
  ...slotRoutesOf(backend),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/rekey',
    operationId: 'rekeyVolume',
    summary: 'Put all blocks under a new data key while the volume is served',
    role: 'operator',
    volumeUse: 'change',
    params: byName,
    status: 202,
    handle: async ({ params }) => {
      await backend.rekeyVolume(params.name)
      return null
    }
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/keys/export',
    operationId: 'exportVolumeKeys',
    summary: 'Slots and sealed keys, to be kept apart from the metadata',
    role: 'admin',
    audited: true,
    params: byName,
    answer: schemas.exportedKeysSchema,
    handle: ({ params }) => backend.exportKeys(params.name)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/keys/backup',
    operationId: 'getBackupKey',
    summary: 'What backups of an encrypted volume in one store are sealed with',
    role: 'operator',
    params: byName,
    body: schemas.backupKeyQuerySchema,
    answer: schemas.backupKeySchema,
    handle: ({ params, body }) => backend.backupKey(params.name, body.salt)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/keys/import',
    operationId: 'importVolumeKeys',
    summary: 'Put exported slots and keys in place of those that are there',
    role: 'admin',
    params: byName,
    body: schemas.exportedKeysSchema,
    status: 204,
    handle: async ({ params, body }) => {
      await backend.importKeys(params.name, body)
      return null
    }
  })
]

const slotRoutesOf = (backend: KeyBackend): Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/keys',
    operationId: 'listKeySlots',
    summary: 'Who can open an encrypted volume',
    role: 'viewer',
    volumeUse: 'see',
    params: byName,
    answer: schemas.keySlotListSchema,
    handle: ({ params }) => backend.keySlots(params.name)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/keys',
    operationId: 'addKeySlot',
    summary: 'Add a key slot; `credential` opens one that is there',
    role: 'operator',
    volumeUse: 'change',
    tell: (_, slot) => slotTold(slot),
    params: byName,
    body: schemas.slotChangeSchema,
    answer: schemas.keySlotSchema,
    status: 201,
    handle: ({ params, body }) => backend.addKeySlot(params.name, body)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/keys/rotate',
    operationId: 'rotateKeySlot',
    summary: 'Put a new slot in place of the one that `credential` opens',
    role: 'operator',
    volumeUse: 'change',
    tell: (_, slot) => slotTold(slot),
    params: byName,
    body: schemas.slotChangeSchema,
    answer: schemas.keySlotSchema,
    handle: ({ params, body }) => backend.rotateKeySlot(params.name, body)
  }),
  route({
    method: 'DELETE',
    path: '/v1/volumes/{name}/keys/{slot}',
    operationId: 'revokeKeySlot',
    summary: 'Remove a key slot: its secret opens nothing any more',
    role: 'admin',
    params: bySlot,
    status: 204,
    handle: async ({ params }) => {
      await backend.revokeKeySlot(params.name, params.slot)
      return null
    }
  })
]
