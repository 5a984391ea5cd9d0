/**
 * A DeviceSource in memory, for tests and measurements of protocols: an arena, devices that are
 * plain buffers, and knobs to hold, fail and observe requests.
 */
import type { Arena } from '../../src/core/arena.ts'
import { crc32c } from '../../src/core/checksum.ts'
import { assert } from '../../src/core/assert.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import type {
  BlockDevice,
  DeviceAdmission,
  DeviceSource,
  SnapshotBase
} from '../../src/volume/block-device.ts'
import { RequestFlag, RequestKind, type VolumeRequest } from '../../src/volume/request.ts'

/** First fit over a page map: pages just given back are taken again first, while cached. */
export class MemoryArena implements Arena {
  readonly bytes: Buffer
  readonly pagesTotal: number
  pagesFree: number
  private readonly lengths: Int32Array
  private readonly holds: Int32Array
  private readonly used: Uint8Array
  private wakes: (() => void)[] = []
  /** No page below it is free. */
  private lowestFree = 0

  constructor(pages: number) {
    this.bytes = Buffer.from(new SharedArrayBuffer(pages * BLOCK_BYTES))
    this.pagesTotal = pages
    this.pagesFree = pages
    this.lengths = new Int32Array(pages)
    this.holds = new Int32Array(pages)
    this.used = new Uint8Array(pages)
  }

  acquire(pages: number): number {
    assert(pages > 0, 'a run has a page')
    if (pages > this.pagesFree) return -1
    for (let first = this.lowestFree; first + pages <= this.pagesTotal; ) {
      let length = 0
      while (length < pages && this.used[first + length] === 0) length++
      if (length === pages) return this.take(first, pages)
      first += length + 1
    }
    return -1
  }

  private take(first: number, pages: number): number {
    this.used.fill(1, first, first + pages)
    this.lengths[first] = pages
    this.holds[first] = 1
    this.pagesFree -= pages
    if (first === this.lowestFree) this.lowestFree = first + pages
    return first * BLOCK_BYTES
  }

  retain(offset: number): void {
    assert(this.holds[offset / BLOCK_BYTES]! > 0, 'a run that is retained is held')
    this.holds[offset / BLOCK_BYTES]!++
  }

  release(offset: number): void {
    const first = offset / BLOCK_BYTES
    assert(this.holds[first]! > 0, 'a run that is released is held')
    if (--this.holds[first]! > 0) return
    const pages = this.lengths[first]!
    this.used.fill(0, first, first + pages)
    this.pagesFree += pages
    this.lowestFree = Math.min(this.lowestFree, first)
    const wakes = this.wakes
    this.wakes = []
    for (const wake of wakes) wake()
  }

  lend(bytes: number): Buffer {
    return Buffer.alloc(bytes)
  }

  giveBack(): void {}

  copy(to: Buffer, at: number, from: Buffer, start: number, length: number): void {
    from.copy(to, at, start, start + length)
  }

  checksum(bytes: Buffer, before?: number): number {
    return crc32c(bytes, before)
  }

  onFree(wake: () => void): void {
    this.wakes.push(wake)
  }
}

export const BlockState = { Data: 0, Hole: 1, Zero: 2 } as const

/** One volume: bytes and the state of each block. Opened by many at once. */
export class MemoryVolume {
  readonly name: string
  sizeBytes: number
  readOnly: boolean
  description: string
  readonly bytes: Buffer
  readonly states: Uint8Array
  /** By snapshot that it stands on: StatusExtent of each block since then. */
  readonly changes = new Map<string, Uint8Array>()
  opens = 0
  /** Requests by kind, and the last of them, for tests that look at what arrived. */
  readonly seen: { kind: number; flags: number; offset: number; length: number }[] = []
  record = false
  /** Answers a request with this code: 0 carries it out. */
  fail: (request: VolumeRequest) => number = () => ErrorCode.Ok
  /** Instead of `states`: the extents of [offset, end). */
  answerStatus: ((offset: number, end: number) => number[]) | null = null
  /** Requests are kept back until `release`. */
  holding = false
  readonly held: VolumeRequest[] = []
  admission: DeviceAdmission | null = null

  constructor(
    name: string,
    sizeBytes: number,
    options: { readOnly?: boolean; description?: string } = {}
  ) {
    this.name = name
    this.sizeBytes = sizeBytes
    this.readOnly = options.readOnly ?? false
    this.description = options.description ?? ''
    this.bytes = Buffer.alloc(sizeBytes)
    this.states = new Uint8Array(Math.ceil(sizeBytes / BLOCK_BYTES)).fill(BlockState.Hole)
  }
}

export class MemorySource implements DeviceSource {
  readonly arena: MemoryArena
  readonly volumes = new Map<string, MemoryVolume>()
  rings = 0
  /** Code with which `open` is refused. */
  refuse: ErrorCode = ErrorCode.Ok
  private queue: { volume: MemoryVolume; request: VolumeRequest }[] = []
  private running = false
  private static readonly settled = Promise.resolve()

  constructor(arenaPages = 4096) {
    this.arena = new MemoryArena(arenaPages)
  }

  add(
    name: string,
    sizeBytes: number,
    options: { readOnly?: boolean; description?: string } = {}
  ): MemoryVolume {
    const volume = new MemoryVolume(name, sizeBytes, options)
    this.volumes.set(name, volume)
    return volume
  }

  async list() {
    return [...this.volumes.values()]
      .map(({ name, sizeBytes, readOnly, description }) => ({
        name,
        sizeBytes,
        readOnly,
        description
      }))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  async findBases(name: string): Promise<SnapshotBase[]> {
    const names = [...(this.volumes.get(name)?.changes.keys() ?? [])]
    return names.map((base, at) => ({ name: base, layer: { high: 7, low: at } }))
  }

  async open(name: string, options: { readOnly?: boolean }): Promise<BlockDevice> {
    const volume = this.volumes.get(name)
    if (volume === undefined) throw new StoreError(ErrorCode.NotFound, `no volume '${name}'`)
    if (this.refuse !== 0) throw new StoreError(this.refuse, `volume '${name}' is refused`)
    volume.opens++
    return new MemoryDevice(this, volume, options.readOnly ?? volume.readOnly)
  }

  submit(volume: MemoryVolume, request: VolumeRequest): void {
    this.queue.push({ volume, request })
  }

  ring(): void {
    this.rings++
    if (this.running) return
    this.running = true
    void MemorySource.settled.then(this.run)
  }

  /** Lets what was held back go on. */
  release(volume: MemoryVolume): void {
    volume.holding = false
    for (const request of volume.held.splice(0)) this.queue.push({ volume, request })
    this.ring()
  }

  private readonly run = (): void => {
    this.running = false
    const queue = this.queue
    this.queue = []
    for (const { volume, request } of queue) {
      if (volume.holding) {
        volume.held.push(request)
        continue
      }
      if (volume.record) {
        const { kind, flags, offset, length } = request
        volume.seen.push({ kind, flags, offset, length })
      }
      request.error = volume.fail(request)
      if (request.error === 0) carryOut(this.arena, volume, request)
      request.onDone(request)
    }
  }
}

class MemoryDevice implements BlockDevice {
  readonly name: string
  readonly readOnly: boolean
  private readonly source: MemorySource
  private readonly volume: MemoryVolume
  private open = true

  constructor(source: MemorySource, volume: MemoryVolume, readOnly: boolean) {
    this.source = source
    this.volume = volume
    this.name = volume.name
    this.readOnly = readOnly
  }

  get sizeBytes(): number {
    return this.volume.sizeBytes
  }

  get admission(): DeviceAdmission | null {
    return this.volume.admission
  }

  submit(request: VolumeRequest): void {
    assert(this.open, 'an open device is used')
    const { kind, offset, length } = request
    if (kind !== RequestKind.Flush) {
      assert(length > 0 && offset >= 0 && offset + length <= this.sizeBytes, 'a range is inside')
    }
    this.source.submit(this.volume, request)
  }

  async close(): Promise<void> {
    assert(this.open, 'a device is closed once')
    this.open = false
    this.volume.opens--
  }
}

function carryOut(arena: MemoryArena, volume: MemoryVolume, request: VolumeRequest): void {
  const { kind, offset, length } = request
  const end = offset + length
  const at = request.pages + (offset % BLOCK_BYTES)
  const firstBlock = Math.floor(offset / BLOCK_BYTES)
  const endBlock = Math.ceil(end / BLOCK_BYTES)
  switch (kind) {
    case RequestKind.Read:
      volume.bytes.copy(arena.bytes, at, offset, end)
      return
    case RequestKind.Write:
      arena.bytes.copy(volume.bytes, offset, at, at + length)
      volume.states.fill(BlockState.Data, firstBlock, endBlock)
      return
    case RequestKind.Trim:
    case RequestKind.WriteZeroes: {
      volume.bytes.fill(0, offset, end)
      const keeps = (request.flags & RequestFlag.NoHole) !== 0
      const state = keeps ? BlockState.Zero : BlockState.Hole
      const firstWhole = Math.ceil(offset / BLOCK_BYTES)
      const endWhole = Math.floor(end / BLOCK_BYTES)
      if (firstWhole < endWhole) volume.states.fill(state, firstWhole, endWhole)
      return
    }
    case RequestKind.BlockStatus:
      status(volume, offset, end, request)
      return
    default:
  }
}

function status(
  volume: MemoryVolume,
  offset: number,
  end: number,
  { extents, since }: VolumeRequest
): void {
  const states = since === null ? volume.states : [...volume.changes.values()][since.low]!
  extents.length = 0
  if (volume.answerStatus !== null) {
    extents.push(...volume.answerStatus(offset, end))
    return
  }
  for (let at = offset; at < end; ) {
    const state = states[Math.floor(at / BLOCK_BYTES)]!
    let block = Math.floor(at / BLOCK_BYTES) + 1
    while (block * BLOCK_BYTES < end && states[block] === state) block++
    const stop = Math.min(end, block * BLOCK_BYTES)
    extents.push(stop - at, state)
    at = stop
  }
}
