import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { pageAlignedBuffer } from '../../src/shard/memory.ts'
import { PartList } from '../../src/shard/part-list.ts'
import { seededRandom, temporaryDirectory } from '../helpers/shard-rig.ts'

const test = suite('disk files')

const inDirectory = (body: (files: DiskFiles, path: string) => void) => () => {
  const directory = temporaryDirectory()
  try {
    body(new DiskFiles(directory.path, { directBytesMin: 8192 }), directory.path)
  } finally {
    directory.remove()
  }
}

const codeOf = (call: () => void): number => {
  try {
    call()
  } catch (thrown) {
    if (thrown instanceof StoreError) return thrown.code
    throw thrown
  }
  return 0
}

test('every descriptor is told of, that of the directory too', () => {
  const directory = temporaryDirectory()
  const open = new Set<number>()
  try {
    const descriptors = {
      opened: (descriptor: number) => void open.add(descriptor),
      closing: (descriptor: number) => assert.ok(open.delete(descriptor))
    }
    const files = new DiskFiles(directory.path, { directBytesMin: 4096, descriptors })
    const handles = [files.openDirectory(), files.open('f', 'create')]
    files.write(handles[1]!, 0, pageAlignedBuffer(8192), 0, 8192)
    for (const handle of handles) assert.ok(open.has(handle))
    for (const handle of handles) files.close(handle)
    assert.is(open.size, 0)
  } finally {
    directory.remove()
  }
})

test(
  'direct, buffered and unaligned writes to one file are read back together',
  inDirectory((files) => {
    const random = seededRandom(1)
    const aligned = pageAlignedBuffer(256 * 1024)
    const unaligned = Buffer.alloc(256 * 1024 + 8).subarray(8)
    const model = Buffer.alloc(512 * 1024)
    const handle = files.open('f', 'create')
    for (let i = 0; i < 200; i++) {
      const from = random.below(2) === 0 ? aligned : unaligned
      const unit = random.below(3) === 0 ? 1 : 4096
      const length = unit * (1 + random.below(Math.floor(65_536 / unit)))
      const start = unit * random.below(Math.floor((from.length - length) / unit))
      const offset = unit * random.below(Math.floor((model.length - length) / unit))
      from.fill(i + 1, start, start + length)
      files.write(handle, offset, from, start, length)
      from.copy(model, offset, start, start + length)
    }
    files.sync(handle)
    const read = Buffer.alloc(model.length)
    const size = files.size(handle)
    assert.is(files.read(handle, 0, read, 0, model.length), size)
    assert.ok(read.equals(model))
    files.close(handle)
  })
)

test(
  'a direct write only makes a file longer: what overwrites goes through the page cache',
  inDirectory((_, path) => {
    const opened: number[] = []
    const descriptors = { opened: (fd: number) => void opened.push(fd), closing: () => {} }
    const files = new DiskFiles(path, { directBytesMin: 4096, descriptors })
    const bytes = pageAlignedBuffer(8192)
    const first = files.open('f', 'create')
    files.write(first, 0, Buffer.alloc(100), 0, 100)
    files.write(first, 0, bytes, 0, 8192)
    assert.is(opened.length, 2, 'one for direct writes')
    files.close(first)
    const again = files.open('f', 'existing')
    files.write(again, 0, bytes, 0, 8192)
    files.write(again, 4096, bytes, 0, 4096)
    assert.is(opened.length, 3)
    files.write(again, 8192, bytes, 0, 4096)
    assert.is(opened.length, 4, 'behind the end of the file')
    files.truncate(again, 0)
    files.write(again, 0, bytes, 0, 8192)
    assert.is(files.size(again), 8192)
    files.close(again)
  })
)

test(
  'only what is written in large pieces is direct: the rest may be read soon',
  inDirectory((_, path) => {
    const opened: number[] = []
    const descriptors = { opened: (fd: number) => void opened.push(fd), closing: () => {} }
    const files = new DiskFiles(path, { directBytesMin: 8192, descriptors })
    const handle = files.open('f', 'create')
    const bytes = pageAlignedBuffer(16_384).fill(7)
    const parts = new PartList()
    parts.add(bytes, 0, 16_384)
    parts.isStream = false
    files.writeGathered(handle, 0, parts)
    assert.is(opened.length, 1)
    parts.isStream = true
    files.writeGathered(handle, 16_384, parts)
    assert.is(opened.length, 2, 'one for direct writes')
    const read = Buffer.alloc(32_768)
    assert.is(files.read(handle, 0, read, 0, read.length), read.length)
    assert.ok(read.equals(Buffer.alloc(read.length, 7)))
    files.close(handle)
  })
)

test(
  'errors of the system have our codes and name the file',
  inDirectory((files) => {
    assert.is(
      codeOf(() => files.open('none', 'existing')),
      ErrorCode.NotFound
    )
    files.close(files.open('one', 'create'))
    assert.is(
      codeOf(() => files.open('one', 'create')),
      ErrorCode.AlreadyExists
    )
    assert.is(
      codeOf(() => files.remove('none')),
      ErrorCode.NotFound
    )
    const handle = files.open('one', 'readOnly')
    assert.is(
      codeOf(() => files.write(handle, 0, Buffer.alloc(1), 0, 1)),
      ErrorCode.DiskFailure
    )
    assert.throws(() => files.write(handle, 0, Buffer.alloc(1), 0, 1), /of one: EBADF/)
    files.close(handle)
    assert.ok(files.freeBytes() > 0)
  })
)

test(
  'a read past the end gives what there is',
  inDirectory((files) => {
    const handle = files.open('short', 'create')
    files.write(handle, 0, Buffer.from('abc'), 0, 3)
    const into = Buffer.alloc(10, 0x2e)
    assert.is(files.read(handle, 1, into, 2, 8), 2)
    assert.is(into.toString('latin1'), '..bc......')
    assert.is(files.read(handle, 50, into, 0, 8), 0)
    files.truncate(handle, 1)
    assert.is(files.size(handle), 1)
    files.close(handle)
    files.rename('short', 'long')
    files.syncDirectory()
    assert.equal(files.list(), ['long'])
  })
)

test(
  'a tracker knows what is durable, and a failed sync for ever',
  inDirectory((files) => {
    const tracker = new LocalSyncTracker(files, { lazy: true })
    const handle = files.open('t', 'create')
    assert.ok(tracker.isIdle(handle))
    tracker.appended(handle, 3)
    tracker.requestSync()
    assert.is(tracker.durableLsn(), 0)
    assert.not(tracker.isIdle(handle))
    tracker.syncNow()
    assert.is(tracker.durableLsn(), 3)
    assert.ok(tracker.isIdle(handle))
    tracker.appended(handle, 4)
    files.close(handle)
    tracker.syncNow()
    assert.match(tracker.failure(), /EBADF/)
    assert.is(tracker.durableLsn(), 3)
    tracker.syncNow()
    assert.is(tracker.durableLsn(), 3)
  })
)

test.run()
