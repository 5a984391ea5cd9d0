import { ErrorCode, StoreError } from '../core/errors.ts'
import { isSameOwner, type TableOwner } from '../format/table-file.ts'
import type { Files } from './files.ts'
import { readWholeFile } from './replace-file.ts'

/**
 * What a table file of this shard says; nothing where there is none.
 * @throws StoreError Corrupt (also where it is of another shard), UnknownVersion, DiskFailure
 */
export function readShardTable<R>(
  files: Files,
  name: string,
  owner: TableOwner,
  decode: (bytes: Buffer, name: string) => TableOwner & { readonly runs: readonly R[] }
): readonly R[] {
  if (!files.list().includes(name)) return []
  const file = decode(readWholeFile(files, name), name)
  if (isSameOwner(file, owner)) return file.runs
  throw new StoreError(ErrorCode.Corrupt, `${name} is of another shard`)
}
