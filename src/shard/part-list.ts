/** Pieces of memory that stand one after the other in a file; neighbours are joined. */
export class PartList {
  readonly buffers: Buffer[] = []
  readonly starts: number[] = []
  readonly lengths: number[] = []
  /** Parts in use; the arrays may be longer. */
  length = 0
  bytes = 0
  /** All of it belongs to large pieces: a stream, which nobody is likely to read soon. */
  isStream = true

  clear(): void {
    this.isStream = true
    this.length = 0
    this.bytes = 0
  }

  add(buffer: Buffer, start: number, bytes: number): void {
    this.bytes += bytes
    const last = this.length - 1
    if (last >= 0 && this.buffers[last] === buffer) {
      if (this.starts[last]! + this.lengths[last]! === start) {
        this.lengths[last]! += bytes
        return
      }
    }
    this.buffers[this.length] = buffer
    this.starts[this.length] = start
    this.lengths[this.length] = bytes
    this.length++
  }

  /** Makes a view of each part. */
  views(): Buffer[] {
    const views: Buffer[] = []
    for (let i = 0; i < this.length; i++) {
      const start = this.starts[i]!
      views.push(this.buffers[i]!.subarray(start, start + this.lengths[i]!))
    }
    return views
  }
}
