/** Tokens and the audit log of a running peer. */
import { join } from 'node:path'
import { type AuditEvent, AuditLog } from '../admin/audit-log.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { Tokens } from '../cluster/tokens.ts'
import { systemClock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { NbdUse } from '../nbd/use.ts'

export interface Security {
  readonly tokens: Tokens
  readonly audit: AuditLog
}

const AUDIT_DIRECTORY = 'audit'

/**
 * Resolves when the tokens that exist are known: no door is open before.
 * @throws StoreError DiskFailure when the audit log cannot be written
 */
export async function openSecurity(given: {
  readonly cluster: Cluster
  readonly dataDir: string
  readonly log: Log
  readonly undo: { add(step: () => Promise<void> | void): void }
}): Promise<Security> {
  const { cluster, dataDir, log, undo } = given
  const audit = await openAudit(join(dataDir, AUDIT_DIRECTORY), log)
  undo.add(() => audit.close())
  const tokens = new Tokens(cluster, (what, err) => log.warn({ err }, what))
  undo.add(() => tokens.close())
  await tokens.ready
  return { tokens, audit }
}

async function openAudit(directory: string, log: Log): Promise<AuditLog> {
  try {
    return await AuditLog.open({ directory, clock: systemClock, log })
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const text = `the audit log in ${directory} cannot be opened: ${code}`
    throw new StoreError(ErrorCode.DiskFailure, text, { cause })
  }
}

/** Tells of volumes that NBD clients open and leave, and of clients that were refused. */
export const nbdWitness =
  (audit: AuditLog) =>
  (use: NbdUse): void => {
    const { tlsName, address } = use
    const who = { kind: 'nbd', ...(tlsName === null ? {} : { name: tlsName }) } as const
    if (use.kind === 'refuse') {
      const { door, reason, untold, outcome } = use
      const action = door === 'tls' ? 'nbdTls' : 'nbdOpen'
      const volume = use.volume === null ? {} : { volume: use.volume }
      const details = untold === 0 ? { reason } : { reason, untold }
      audit.record({ who, address, action, ...volume, details, outcome })
      return
    }
    const { kind, volume, readOnly } = use
    const action = kind === 'open' ? 'nbdOpen' : 'nbdClose'
    audit.record({ who, address, action, volume, details: { readOnly }, outcome: 'ok' })
  }

/** What a peer does to a volume by itself, because its time has come. */
export type OwnDeed = Omit<AuditEvent, 'who' | 'address'>

export const ownWitness =
  (audit: AuditLog) =>
  (deed: OwnDeed): void =>
    audit.record({ who: { kind: 'peer' }, address: '', ...deed })
