/** Exports as clients name them: what a name stands for, and what is told about it. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BlockDevice, DeviceSource } from '../volume/block-device.ts'
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

export class Exports {
  private readonly source: DeviceSource
  /** The name that the empty name stands for; empty: the only export, if there is just one. */
  private readonly defaultExport: string

  constructor(source: DeviceSource, defaultExport: string) {
    this.source = source
    this.defaultExport = defaultExport
  }

  list(): Promise<readonly ExportEntry[]> {
    return this.source.list()
  }

  /** @throws StoreError NotFound */
  async find(name: string): Promise<ExportEntry> {
    const entries = await this.source.list()
    const wanted = name === '' ? this.nameOfDefault(entries) : name
    const entry = entries.find((each) => each.name === wanted)
    if (entry !== undefined) return entry
    const shown = name === '' ? 'there is no default export' : `there is no export '${wanted}'`
    throw new StoreError(ErrorCode.NotFound, shown)
  }

  /** @throws StoreError NotFound, Busy, … */
  async open(name: string): Promise<{ entry: ExportEntry; device: BlockDevice }> {
    const entry = await this.find(name)
    return { entry, device: await this.source.open(entry.name, {}) }
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
