/** Exports as clients name them: what a name stands for, and what is told about it. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BlockDevice, ClientSession, DeviceSource } from '../volume/block-device.ts'
import { OPEN_ACCESS } from '../volume/export-access.ts'
import { type ExportClient, mayOpen } from './access.ts'
import { contextsOn, type MetaContext } from './meta-contexts.ts'
import {
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES
} from './protocol.ts'
import { ReplyMode } from './replies.ts'

export interface ExportEntry {
  readonly name: string
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly description: string
}

/** What rules are of: of `volume@snapshot` the volume. */
export const volumeNameOf = (name: string): string => name.split('@', 1)[0]!

/** Clients ask each listed export for more, one by one: `nbdinfo --list` does. */
const SNAPSHOTS_LISTED_MAX = 64

export class Exports {
  private readonly source: DeviceSource
  /** The name that the empty name stands for; empty: the only export, if there is just one. */
  private readonly defaultExport: string

  constructor(source: DeviceSource, defaultExport: string) {
    this.source = source
    this.defaultExport = defaultExport
  }

  /** Those that the client may open: of the others it learns nothing. */
  async list(client: ExportClient): Promise<readonly ExportEntry[]> {
    const all = await this.source.list()
    const entries = all.filter(({ access }) => mayOpen(access ?? OPEN_ACCESS, client))
    return entries.map(({ name, sizeBytes, readOnly, description, access }) => {
      const isReadOnly = readOnly || access?.readOnly === true
      return { name, sizeBytes, readOnly: isReadOnly, description }
    })
  }

  /** The same with snapshots, newest first, of volumes that say so. */
  async listAll(client: ExportClient): Promise<readonly Omit<ExportEntry, 'sizeBytes'>[]> {
    const entries = await this.list(client)
    const listed = new Set(
      (await this.source.list())
        .filter(({ access }) => access?.listSnapshots === true)
        .map(({ name }) => name)
    )
    const all: Omit<ExportEntry, 'sizeBytes'>[] = []
    for (const entry of entries) {
      all.push(entry)
      if (!listed.has(entry.name)) continue
      const snapshots = await this.source.newestSnapshots?.(entry.name, SNAPSHOTS_LISTED_MAX)
      for (const { name, description } of snapshots ?? []) {
        all.push({ name: `${entry.name}@${name}`, readOnly: true, description })
      }
    }
    return all
  }

  /** @throws StoreError NotFound; for what the client may not open too, with that as its cause */
  async find(name: string, client: ExportClient): Promise<ExportEntry> {
    const entries = await this.list(client)
    const wanted = name === '' ? this.nameOfDefault(entries) : name
    const entry = entries.find((each) => each.name === wanted)
    if (entry !== undefined) return entry
    const snapshot = await this.findSnapshot(wanted, entries)
    if (snapshot !== null) return snapshot
    const shown = name === '' ? 'there is no default export' : `there is no export '${wanted}'`
    const volume = volumeNameOf(wanted)
    const isHidden =
      entries.every((each) => each.name !== volume) &&
      (await this.source.list()).some((each) => each.name === volume)
    const cause = isHidden ? new StoreError(ErrorCode.Forbidden, 'its rule of access') : undefined
    throw new StoreError(ErrorCode.NotFound, shown, { cause })
  }

  /** What block status can tell of an export that was found. */
  async contextsOf({ name }: ExportEntry): Promise<readonly MetaContext[]> {
    return contextsOn((await this.source.findBases?.(name)) ?? [])
  }

  /** @throws StoreError NotFound, Busy, … */
  async open(
    name: string,
    client: ExportClient,
    session: ClientSession | null = null
  ): Promise<{ entry: ExportEntry; device: BlockDevice }> {
    const { name: wanted, readOnly } = await this.find(name, client)
    const named = session === null ? {} : { session }
    const device = await this.source.open(wanted, { ...(readOnly ? { readOnly } : {}), ...named })
    try {
      // What was forbidden meanwhile was told to those only who had it open.
      const entry = await this.find(wanted, client)
      if (!entry.readOnly || device.readOnly) return { entry, device }
      throw new StoreError(ErrorCode.Busy, `export '${wanted}' became read-only: try again`)
    } catch (thrown) {
      await device.close()
      throw thrown
    }
  }

  /** `volume@snapshot`: who may open the volume may read what it was. */
  private async findSnapshot(
    name: string,
    entries: readonly ExportEntry[]
  ): Promise<ExportEntry | null> {
    if (!entries.some((each) => each.name === volumeNameOf(name))) return null
    const found = (await this.source.findSnapshot?.(name)) ?? null
    if (found === null) return null
    const { sizeBytes, description } = found
    return { name, sizeBytes, readOnly: true, description }
  }

  private nameOfDefault(entries: readonly ExportEntry[]): string {
    if (this.defaultExport !== '') return this.defaultExport
    return entries.length === 1 ? entries[0]!.name : ''
  }
}

/** The transmission flags of an export, by what the client negotiated before. */
export function transmissionFlags(
  readOnly: boolean,
  mode: ReplyMode,
  hasContexts: boolean
): number {
  let flags =
    NBD_FLAG_HAS_FLAGS |
    NBD_FLAG_SEND_FLUSH |
    NBD_FLAG_SEND_FUA |
    NBD_FLAG_CAN_MULTI_CONN |
    NBD_FLAG_SEND_CACHE
  if (readOnly) flags |= NBD_FLAG_READ_ONLY
  else flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO
  if (mode !== ReplyMode.Simple) flags |= NBD_FLAG_SEND_DF
  if (mode === ReplyMode.Extended && hasContexts) flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD
  return flags
}
