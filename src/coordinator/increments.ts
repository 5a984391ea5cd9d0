/**
 * Increments that are put on volumes: what changed between two snapshots elsewhere. The volume has
 * to be as its own copy of the older one is; it becomes read-only, the changes are written to it,
 * read back and compared, and then a snapshot with the name of the newer one is taken. Whoever
 * reads that snapshot reads what was exported. What is half there is gone on with, or begun anew:
 * a label of the volume tells of it until then.
 */
import { digestOfParts } from '../backup/exporter.ts'
import { originLabels, originOf } from '../backup/origins.ts'
import {
  type StreamPart,
  StreamReader,
  type StreamSnapshot,
  VolumeDigest
} from '../backup/stream-format.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { baseOf, changesOf } from '../volume/changes.ts'
import type { SnapshotInfo } from '../volume/snapshots.ts'
import type { VolumeFile } from '../volume/volume-file.ts'
import type { Volumes } from '../volume/volumes.ts'
import { only, Transfer, type TransferState, transferState } from './transfers.ts'

/** Id of the snapshot whose increment is half there. */
const APPLYING_LABEL = 'torus.applying'
/** Bytes before which all of it is there, durable and compared. */
const APPLIED_LABEL = 'torus.applied'
/** Of extents that are remembered until they are compared. */
const EXTENTS_MAX = 65_536

export interface NewIncrement {
  /** Of the volume, with it. */
  readonly sizeBytes: number
  readonly snapshot: Pick<StreamSnapshot, 'id' | 'name'> & { readonly base: string }
}

class Session extends Transfer {
  readonly increment: NewIncrement
  /** What it changed since it was compared, in order, and the digest of that. */
  extents: { offset: number; length: number }[] = []
  digest: VolumeDigest = new VolumeDigest()
  /** Of all that came; null: some came to an earlier process. */
  whole: VolumeDigest | null

  constructor(increment: NewIncrement, doneBytes: number, markMs: number | undefined) {
    super(doneBytes, markMs)
    this.increment = increment
    this.whole = doneBytes === 0 ? new VolumeDigest() : null
  }

  /** All of it comes again. */
  restart(): void {
    this.doneBytes = 0
    this.whole = new VolumeDigest()
    this.compared()
  }

  protected override setBack(): void {
    this.restart()
  }

  compared(): void {
    this.extents = []
    this.digest = new VolumeDigest()
    this.marked()
  }

  note(part: StreamPart): void {
    this.digest.addPart(part)
    this.whole?.addPart(part)
    const length = part.kind === 'data' ? part.blocks.length : part.length
    const last = this.extents.at(-1)
    if (last !== undefined && last.offset + last.length === part.offset) last.length += length
    else this.extents.push({ offset: part.offset, length })
  }
}

export class Increments {
  readonly #volumes: Volumes
  /** By name of the volume. */
  readonly #sessions = new Map<string, Session>()

  readonly #markMs: number | undefined

  constructor(volumes: Volumes, markMs?: number) {
    this.#markMs = markMs
    this.#volumes = volumes
  }

  /**
   * Begins, or goes on. @throws StoreError NotFound (no base), AlreadyExists (it is there, or
   * another of its name), Conflict (the volume was changed since the base)
   */
  async begin(name: string, increment: NewIncrement): Promise<TransferState> {
    const { snapshot } = increment
    const all = await this.#volumes.snapshots.list(name)
    const base = baseIn(name, all, snapshot)
    const known = this.#sessions.get(name)
    if (known?.increment.snapshot.id === snapshot.id && known.state !== 'done') {
      return this.#stateOf(name, known)
    }
    const { labels, readOnly } = await this.#volumes.show(name)
    const applying = labels[APPLYING_LABEL]
    if (applying === undefined || all.some((each) => originOf(each) === applying)) {
      await this.#volumes.change(name, { readOnly: true })
      try {
        await this.#requireUnchanged(name, base)
      } catch (thrown) {
        await this.#volumes.change(name, { readOnly })
        throw thrown
      }
      await this.#volumes.change(name, {
        labels: { [APPLYING_LABEL]: snapshot.id, [APPLIED_LABEL]: null }
      })
    } else if (applying !== snapshot.id) {
      const text = `half of an increment (snapshot ${applying}) is in volume ${name}`
      throw new StoreError(ErrorCode.Conflict, `${text}: import that one again first`)
    }
    await this.#resize(name, increment.sizeBytes)
    const { labels: now } = await this.#volumes.show(name)
    const session = new Session(increment, Number(now[APPLIED_LABEL] ?? 0), this.#markMs)
    this.#sessions.set(name, session)
    return this.#stateOf(name, session)
  }

  /** @throws StoreError NotFound */
  async show(name: string): Promise<TransferState> {
    return this.#stateOf(name, this.#sessionOf(name))
  }

  /** @throws StoreError Corrupt, InvalidArgument, Busy, NotFound */
  async write(name: string, piece: Buffer, untilBytes: number): Promise<TransferState> {
    const session = this.#sessionOf(name)
    await session.alone(async () => {
      const reader = new StreamReader(only(piece))
      const header = await reader.header()
      const { sizeBytes, snapshot } = session.increment
      if (header.startBytes === 0) session.restart()
      session.receive({ ...header, untilBytes }, sizeBytes)
      if (header.snapshot?.id !== snapshot.id || header.snapshot.base !== snapshot.base) {
        throw new StoreError(ErrorCode.InvalidArgument, 'the piece is of another increment')
      }
      const parts = await partsIn(reader, header.startBytes, {
        ...{ start: session.doneBytes, until: untilBytes }
      })
      const file = await this.#fileOf(name, session)
      for (const part of parts) {
        if (part.kind === 'data') await file.writeAt(part.offset, part.blocks)
        else await file.trim(part.offset, Math.min(part.length, sizeBytes - part.offset))
      }
      // A piece that failed comes again as a whole.
      for (const part of parts) session.note(part)
      session.doneBytes = untilBytes
      if (!session.isMarkDue && session.extents.length < EXTENTS_MAX) return
      await this.#compare(name, session)
      const labels = { [APPLIED_LABEL]: `${session.doneBytes}` }
      await this.#volumes.change(name, { labels })
    })
    return this.#stateOf(name, session)
  }

  /** Reads all back, in the background, and takes the snapshot if `digest` is its. */
  async finish(name: string, digest: string): Promise<TransferState> {
    const session = this.#sessionOf(name)
    session.requireWhole(session.increment.sizeBytes)
    void session
      .alone(() => this.#verify(name, session, digest))
      .catch((thrown: unknown) => {
        session.restart()
        session.failed(thrown)
      })
    return this.#stateOf(name, session)
  }

  async #verify(name: string, session: Session, digest: string): Promise<void> {
    const { snapshot } = session.increment
    session.state = 'verifying'
    session.verifiedBytes = 0
    await this.#compare(name, session)
    if (session.whole !== null && session.whole.end().digest !== digest) {
      throw otherBytes(`${name}@${snapshot.name}`)
    }
    await session.close()
    const labels = originLabels(snapshot.id)
    await this.#volumes.snapshots.create(name, snapshot.name, { labels })
    await this.#volumes.change(name, {
      labels: { [APPLYING_LABEL]: null, [APPLIED_LABEL]: null }
    })
    await this.#volumes.tell(name, 'snapshot', { name: snapshot.name })
    session.state = 'done'
  }

  /** What came since the last time: is it there, durable? @throws StoreError ChecksumMismatch */
  async #compare(name: string, session: Session): Promise<void> {
    const file = await this.#fileOf(name, session)
    await session.flush(file)
    const found = await digestOfParts(file, session.extents, (doneBytes) => {
      session.verifiedBytes = doneBytes
    })
    const isSame = found.digest === session.digest.end().digest
    session.compared()
    if (isSame) return
    session.restart()
    throw otherBytes(name)
  }

  /** @throws StoreError Conflict */
  async #requireUnchanged(name: string, base: SnapshotInfo): Promise<void> {
    const file = await this.#volumes.openFile(name, { readOnly: true, own: true })
    try {
      let isChanged = file.sizeBytes !== base.sizeBytes
      const layer = await baseOf(this.#volumes.snapshots, file, base)
      for await (const _ of changesOf(file, layer)) {
        isChanged = true
        break
      }
      if (!isChanged) return
      const older = `${name}@${base.name}`
      const text = `volume ${name} was changed since ${older}, and an increment needs it as it was`
      throw new StoreError(ErrorCode.Conflict, `${text}: see "torus volume diff ${older}"`)
    } finally {
      await file.close()
    }
  }

  async #resize(name: string, sizeBytes: number): Promise<void> {
    const now = await this.#volumes.show(name)
    if (now.sizeBytes === sizeBytes) return
    // What is cut off was cut off where the increment is from.
    await this.#volumes.change(name, { readOnly: false })
    await this.#volumes.resize(name, sizeBytes, { shrink: true })
    await this.#volumes.change(name, { readOnly: true })
  }

  #sessionOf(name: string): Session {
    const session = this.#sessions.get(name)
    if (session !== undefined) return session
    throw new StoreError(ErrorCode.NotFound, `no increment of volume ${name} is under way here`)
  }

  #fileOf(name: string, session: Session): Promise<VolumeFile> {
    return session.file(() => this.#volumes.openFile(name, { own: true }))
  }

  #stateOf(name: string, session: Session): TransferState {
    const { sizeBytes, snapshot } = session.increment
    return transferState({ id: snapshot.id, name, sizeBytes }, session)
  }
}

/** @throws StoreError NotFound, AlreadyExists */
function baseIn(
  volume: string,
  all: readonly SnapshotInfo[],
  { id, name, base }: NewIncrement['snapshot']
): SnapshotInfo {
  const same = all.find((each) => originOf(each) === id)
  if (same !== undefined) {
    const text = `this increment is in volume ${volume} already, as ${volume}@${same.name}`
    throw new StoreError(ErrorCode.AlreadyExists, text)
  }
  if (all.some((each) => each.name === name)) {
    const text = `volume ${volume} has a snapshot "${name}" that is another: rename it first`
    throw new StoreError(ErrorCode.AlreadyExists, text)
  }
  const found = all.find((each) => originOf(each) === base)
  if (found !== undefined) return found
  const text = `the increment to "${name}" stands on snapshot ${base}, and ${volume} has none such`
  throw new StoreError(ErrorCode.NotFound, `${text}: import the stream that ends with it first`)
}

/** All of a piece. @throws StoreError Corrupt, InvalidArgument where it does not go on */
async function partsIn(
  reader: StreamReader,
  startBytes: number,
  { start, until }: { readonly start: number; readonly until: number }
): Promise<StreamPart[]> {
  const digest = new VolumeDigest()
  const parts: StreamPart[] = []
  for (let part = await reader.next(); ; part = await reader.next()) {
    if (part.kind !== 'end') {
      digest.addPart(part)
      parts.push(part)
      continue
    }
    if (digest.end().digest !== part.digest) {
      throw new StoreError(ErrorCode.Corrupt, 'the piece is not whole')
    }
    break
  }
  const last = parts.at(-1)
  const length = last === undefined ? 0 : last.kind === 'data' ? last.blocks.length : last.length
  const end = (last?.offset ?? 0) + length
  const room = Math.ceil(until / BLOCK_BYTES) * BLOCK_BYTES
  if (startBytes === start && end <= room) return parts
  const text = `a piece from ${startBytes} to ${end} is not one from ${start} to ${until}`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

const otherBytes = (what: string): StoreError =>
  new StoreError(
    ErrorCode.ChecksumMismatch,
    `what was stored of ${what} is not what was sent: import it again`
  )
