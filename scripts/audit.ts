/**
 * Asks the registry whether packages of the lock file have known faults (`npm audit`), and tells
 * those that run (not development) from others. A registry that does not answer is told, too.
 *
 * Usage: npm run audit
 * Exit codes: 0 none is known; 1 some are; 3 nobody could be asked
 */
import { spawnSync } from 'node:child_process'
import { repositoryRoot } from './repository.ts'

export interface Verdict {
  readonly text: string
  readonly exitCode: 0 | 1 | 3
}

const SECONDS_MAX = 60

interface Fault {
  readonly name: string
  readonly severity: string
  readonly range?: string
}

/** Of what `npm audit --json` printed. */
export function judge(printed: string): Verdict {
  let report: { vulnerabilities?: Record<string, Fault>; message?: string }
  try {
    report = JSON.parse(printed)
  } catch {
    return { text: 'not checked: npm audit printed no JSON', exitCode: 3 }
  }
  const { vulnerabilities, message } = report
  if (vulnerabilities === undefined) {
    return { text: `not checked: ${message ?? 'the registry did not answer'}`, exitCode: 3 }
  }
  const faults = Object.values(vulnerabilities)
  if (faults.length === 0) return { text: 'no package has a known fault', exitCode: 0 }
  const lines = faults.map(({ name, severity, range }) => `${severity}: ${name} ${range ?? ''}`)
  return { text: lines.map((line) => line.trimEnd()).join('\n'), exitCode: 1 }
}

function main(): void {
  const { stdout } = spawnSync('npm', ['audit', '--json', '--package-lock-only'], {
    cwd: repositoryRoot,
    encoding: 'utf8',
    timeout: SECONDS_MAX * 1000,
    stdio: ['ignore', 'pipe', 'ignore']
  })
  const { text, exitCode } = judge(stdout ?? '')
  console.log(text)
  process.exitCode = exitCode
}

if (process.argv[1] === import.meta.filename) main()
