/** The token that the command line shows, and where it comes from. */
import { readFileSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { UsageError } from './errors.ts'
import { systemReason } from '../core/system-reason.ts'

export interface TokenOptions {
  readonly tokenFile?: string | undefined
}

export interface GivenToken {
  readonly text: string
  /** Given for this command, or found where it usually is. */
  readonly isAsked: boolean
}

/** Others of the group, and everybody. */
const OTHERS = 0o077

/**
 * `--token-file`, TORUS_TOKEN, TORUS_TOKEN_FILE, then `torus/token` in the user's folder for
 * configuration; null for none. @throws UsageError for a file that cannot be used
 */
export function givenToken(options: TokenOptions): GivenToken | null {
  const { env } = process
  if (options.tokenFile !== undefined) return asked(fromFile(options.tokenFile))
  if (env['TORUS_TOKEN']) return asked(env['TORUS_TOKEN'].trim())
  if (env['TORUS_TOKEN_FILE']) return asked(fromFile(env['TORUS_TOKEN_FILE']))
  const usual = join(env['XDG_CONFIG_HOME'] || join(homedir(), '.config'), 'torus', 'token')
  if (statSync(usual, { throwIfNoEntry: false }) === undefined) return null
  return { text: fromFile(usual), isAsked: false }
}

const asked = (text: string): GivenToken => ({ text, isAsked: true })

function fromFile(path: string): string {
  let text: string
  try {
    const info = statSync(path)
    // A pipe, as of a shell's <(…), is nobody else's.
    if (info.isFile() && (info.mode & OTHERS) !== 0) {
      const mode = (info.mode & 0o777).toString(8).padStart(4, '0')
      throw new UsageError(`token file ${path} is open to others (mode ${mode}): chmod 600 ${path}`)
    }
    text = readFileSync(path, 'utf8').trim()
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`token file ${path} cannot be read: ${systemReason(error)}`)
  }
  if (/^[\x21-\x7e]+$/.test(text)) return text
  throw new UsageError(`token file ${path} holds no token`)
}
