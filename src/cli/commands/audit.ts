import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import type { AuditEntry } from '../api-client.ts'
import { countBetween } from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'

/** What the API answers with at most. */
const LINES_MAX = 10_000
const LINES_DEFAULT = 20
const FOLLOW_MS = 1000

interface TailOptions {
  readonly lines: number
  readonly follow?: boolean
  readonly volume?: string
}

export function addAuditCommands(program: Command): void {
  const audit = program.command('audit').description('who did what to which volume, when')
  withExamples(audit, 'torus audit tail')
  const command = audit
    .command('tail')
    .description('the newest entries of the audit log of this peer')
    .option('-n, --lines <count>', 'how many', countBetween(1, LINES_MAX), LINES_DEFAULT)
    .option('-f, --follow', 'go on with what is added')
    .option('--volume <name>', 'only those of this volume')
    .action(action<[], TailOptions>((context, _, options) => tail(context, options)))
  withExamples(command, 'torus audit tail -n 100 --volume demo', 'torus audit tail --follow --json')
}

async function tail({ api, output }: Context, options: TailOptions): Promise<void> {
  const { lines, follow = false, volume } = options
  const show = (entries: readonly AuditEntry[]): void => {
    for (const entry of entries) {
      output.write(`${output.json ? JSON.stringify(entry) : textOf(entry)}\n`)
    }
  }
  let entries = await api.audit({ last: lines, after: 0, volume })
  show(entries)
  for (let after = 0; follow; ) {
    after = entries.at(-1)?.n ?? after
    await sleep(FOLLOW_MS)
    entries = await api.audit({ last: LINES_MAX, after, volume })
    show(entries)
  }
}

function textOf(entry: AuditEntry): string {
  const { time, address, action: what, volume, details, outcome, lostBefore } = entry
  const lost = lostBefore === undefined ? '' : `(${lostBefore} entries were lost here)\n`
  // Names may hold anything: no control character reaches the terminal.
  const words = [time, whoText(entry), address || '-', what, volume ?? '-', outcome]
  if (details !== undefined) words.push(JSON.stringify(details))
  return lost + words.map((word) => word.replaceAll(/\p{C}/gu, '?')).join('  ')
}

function whoText({ who: { kind, id, label, name } }: AuditEntry): string {
  if (kind === 'token') return `token ${id}${label ? ` (${label})` : ''}`
  return name === undefined ? kind : `${kind} ${name}`
}
