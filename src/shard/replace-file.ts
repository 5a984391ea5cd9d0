import type { Files } from './files.ts'

/** The whole of a small file. @throws StoreError */
export function readWholeFile(files: Files, name: string): Buffer {
  const handle = files.open(name, 'readOnly')
  try {
    const bytes = Buffer.alloc(files.size(handle))
    const got = files.read(handle, 0, bytes, 0, bytes.length)
    return bytes.subarray(0, got)
  } finally {
    files.close(handle)
  }
}

/**
 * The file has these bytes now; `settle` makes it last. What throws before it returns left the old
 * file as it was.
 * @throws StoreError
 */
export function replaceFile(files: Files, name: string, bytes: Buffer): void {
  const temporary = `${name}.tmp`
  if (files.list().includes(temporary)) files.remove(temporary)
  const handle = files.open(temporary, 'create')
  try {
    files.write(handle, 0, bytes, 0, bytes.length)
    files.sync(handle)
  } finally {
    files.close(handle)
  }
  files.rename(temporary, name)
}
