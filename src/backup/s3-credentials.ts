/** Keys of S3, and where it is, from where the tools of AWS look for them. */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { ErrorCode, StoreError } from '../core/errors.ts'

export interface S3Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken: string | null
}

type Variables = Readonly<Record<string, string | undefined>>
type Section = Readonly<Record<string, string>>

/** What a profile says: the section of the file of keys, and that of the file of settings. */
export class S3Profile {
  readonly name: string
  readonly #env: Variables
  /** Was it asked for? Then the keys of the environment do not count. */
  readonly #isAsked: boolean

  constructor(env: Variables, asked: string | undefined) {
    this.name = asked ?? (env['AWS_PROFILE'] || 'default')
    this.#isAsked = asked !== undefined
    this.#env = env
  }

  /** @throws StoreError Forbidden when there are none */
  credentials(): S3Credentials {
    const env = this.#env
    if (!this.#isAsked && env['AWS_ACCESS_KEY_ID'] && env['AWS_SECRET_ACCESS_KEY']) {
      return {
        accessKeyId: env['AWS_ACCESS_KEY_ID'],
        secretAccessKey: env['AWS_SECRET_ACCESS_KEY'],
        sessionToken: env['AWS_SESSION_TOKEN'] || null
      }
    }
    const all = { ...this.#settings(), ...this.#section(this.#keysFile(), this.name) }
    const { aws_access_key_id: accessKeyId, aws_secret_access_key: secretAccessKey } = all
    if (accessKeyId && secretAccessKey) {
      return { accessKeyId, secretAccessKey, sessionToken: all['aws_session_token'] || null }
    }
    const set = 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'
    const where = `profile "${this.name}" of ${this.#keysFile()} has none`
    const other = 'for one that is not keys: aws configure export-credentials --format env'
    throw new StoreError(
      ErrorCode.Forbidden,
      `S3 needs credentials, and ${where}: ${set}, or name another with --s3-profile; ${other}`
    )
  }

  /** As `region`, of the environment first; '' without. */
  setting(name: string, ...variables: readonly string[]): string {
    for (const each of variables) if (this.#env[each]) return this.#env[each]
    return this.#settings()[name] ?? ''
  }

  #settings(): Section {
    const file = this.#env['AWS_CONFIG_FILE'] || join(homedir(), '.aws', 'config')
    const section = this.name === 'default' ? 'default' : `profile ${this.name}`
    return this.#section(file, section)
  }

  #keysFile(): string {
    return this.#env['AWS_SHARED_CREDENTIALS_FILE'] || join(homedir(), '.aws', 'credentials')
  }

  #section(path: string, wanted: string): Section {
    let text: string
    try {
      text = readFileSync(path, 'utf8')
    } catch {
      return {}
    }
    const found: Record<string, string> = {}
    let section = ''
    for (const line of text.split(/\r?\n/)) {
      const [, name] = /^\[\s*(.+?)\s*\]/.exec(line) ?? []
      if (name !== undefined) section = name.replaceAll(/\s+/g, ' ')
      // What is indented belongs to the setting above it.
      const [, key, value] = /^([a-z_0-9]+)\s*=\s*(.*?)\s*$/i.exec(line) ?? []
      if (section === wanted && key !== undefined) found[key.toLowerCase()] = value!
    }
    return found
  }
}
