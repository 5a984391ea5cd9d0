import { getSystemErrorMap } from 'node:util'

/** Why a call to the system failed, in words: `no such file or directory (ENOENT)`. */
export function systemReason(thrown: unknown): string {
  const { code, errno } = thrown as NodeJS.ErrnoException
  if (code === undefined) return String(thrown)
  const [, text] = getSystemErrorMap().get(errno ?? 0) ?? []
  return text === undefined ? code : `${text} (${code})`
}
