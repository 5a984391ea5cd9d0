import { Command } from 'commander'
import { version } from '../core/version.ts'
import { DEFAULT_ADMIN } from './api-client.ts'
import { withExamples } from './context.ts'
import { commanderText } from './errors.ts'

interface CommandFile {
  /** Top-level commands that it adds. */
  readonly names: readonly string[]
  readonly load: () => Promise<(program: Command) => void>
}

/** In the order of the help. */
const files: readonly CommandFile[] = [
  {
    names: ['serve'],
    load: async () => (await import('./commands/serve.ts')).addServeCommand
  },
  {
    names: ['volume'],
    load: async () => (await import('./commands/volume.ts')).addVolumeCommands
  },
  {
    names: ['snapshot'],
    load: async () => (await import('./commands/snapshot.ts')).addSnapshotCommands
  },
  {
    names: ['backup'],
    load: async () => (await import('./commands/backup.ts')).addBackupCommands
  },
  {
    names: ['attach', 'detach'],
    load: async () => (await import('./commands/attach.ts')).addAttachCommands
  },
  {
    names: ['mount', 'unmount'],
    load: async () => (await import('./commands/mount.ts')).addMountCommands
  },
  {
    names: ['relay'],
    load: async () => (await import('./commands/relay.ts')).addRelayCommand
  },
  {
    names: ['client'],
    load: async () => (await import('./commands/client.ts')).addClientCommands
  },
  {
    names: ['status'],
    load: async () => (await import('./commands/status.ts')).addStatusCommands
  },
  {
    names: ['cluster'],
    load: async () => (await import('./commands/cluster.ts')).addClusterCommands
  },
  {
    names: ['peer'],
    load: async () => (await import('./commands/peer.ts')).addPeerCommands
  },
  {
    names: ['pool'],
    load: async () => (await import('./commands/pool.ts')).addPoolCommands
  },
  {
    names: ['tls'],
    load: async () => (await import('./commands/tls.ts')).addTlsCommands
  },
  {
    names: ['top'],
    load: async () => (await import('./commands/top.ts')).addTopCommand
  },
  {
    names: ['bench'],
    load: async () => (await import('./commands/bench.ts')).addBenchCommand
  },
  {
    names: ['scrub', 'compact', 'checkpoint'],
    load: async () => (await import('./commands/task.ts')).addTaskCommands
  },
  {
    names: ['token'],
    load: async () => (await import('./commands/token.ts')).addTokenCommands
  },
  {
    names: ['audit'],
    load: async () => (await import('./commands/audit.ts')).addAuditCommands
  },
  {
    names: ['check', 'reshard'],
    load: async () => (await import('./commands/offline.ts')).addOfflineCommands
  },
  {
    names: ['metadata'],
    load: async () => (await import('./commands/metadata.ts')).addMetadataCommands
  },
  {
    names: ['ring'],
    load: async () => (await import('./commands/ring.ts')).addRingCommands
  },
  {
    names: ['config'],
    load: async () => (await import('./commands/config.ts')).addConfigCommands
  },
  {
    names: ['debug'],
    load: async () => (await import('./commands/debug.ts')).addDebugCommands
  },
  {
    names: ['completion'],
    load: async () => (await import('./commands/completion.ts')).addCompletionCommand
  },
  {
    names: ['version'],
    load: async () => (await import('./commands/version.ts')).addVersionCommand
  }
]

/**
 * Those that have a command of `words`: reading all of them takes longer than most commands do.
 * All, where the first word is none of theirs: a question for help, or a word to be corrected.
 */
function filesFor(words: readonly string[]): readonly CommandFile[] {
  const named = files.filter(({ names }) => names.some((name) => words.includes(name)))
  const [first = ''] = words
  const isKnown = first.startsWith('-') || named.some(({ names }) => names.includes(first))
  return named.length > 0 && isKnown ? named : files
}

/** The commands that `words` may mean, all without any; nothing runs before it parses. */
export async function buildProgram(words: readonly string[] = []): Promise<Command> {
  const program = new Command('torus')
    .description('A distributed block store: append-only checksummed volumes, served over NBD')
    .version(version, '--version', 'print the version')
    .helpOption('-h, --help', 'how to use it')
    .option(
      '--admin <ADDRESS>',
      `peer to talk to: http(s)://HOST:PORT or unix:PATH (${DEFAULT_ADMIN})`
    )
    .option('--token-file <FILE>', 'token of the admin API (TORUS_TOKEN, ~/.config/torus/token)')
    .option('--admin-ca <FILE>', 'authority of a peer that is asked over https, PEM')
    .option('--admin-cert <FILE>', 'our certificate, for a peer that asks for one, PEM')
    .option('--admin-key <FILE>', 'private key of that certificate, PEM')
    .option('--json', 'print answers and errors as JSON')
    .option('-y, --yes', 'say yes to every question')
    .configureHelp({ showGlobalOptions: true })
    // Copied to commands that are added from here on: no command ends the process by itself.
    .exitOverride()
    .configureOutput({
      // With --json main.ts prints the error, as JSON.
      outputError: (text, write) => {
        if (!process.argv.includes('--json')) write(`torus: ${commanderText(text)}`)
      }
    })
    .showSuggestionAfterError()
  withExamples(
    program,
    'torus serve --data-dir D --volume demo=1GiB',
    'torus volume create data 100GiB && torus mount data /tmp/data',
    'torus status'
  )
  program.addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 wrong usage.')
  for (const add of await Promise.all(filesFor(words).map(({ load }) => load()))) add(program)
  return program
}
