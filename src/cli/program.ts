import { Command } from 'commander'
import { version } from '../core/version.ts'
import { DEFAULT_ADMIN } from './api-client.ts'
import { addAttachCommands } from './commands/attach.ts'
import { addAuditCommands } from './commands/audit.ts'
import { addBackupCommands } from './commands/backup.ts'
import { addBenchCommand } from './commands/bench.ts'
import { addClientCommands } from './commands/client.ts'
import { addClusterCommands } from './commands/cluster.ts'
import { addCompletionCommand } from './commands/completion.ts'
import { addConfigCommands } from './commands/config.ts'
import { addDebugCommands } from './commands/debug.ts'
import { addMetadataCommands } from './commands/metadata.ts'
import { addMountCommands } from './commands/mount.ts'
import { addOfflineCommands } from './commands/offline.ts'
import { addRelayCommand } from './commands/relay.ts'
import { addRingCommands } from './commands/ring.ts'
import { addPeerCommands } from './commands/peer.ts'
import { addPoolCommands } from './commands/pool.ts'
import { addServeCommand } from './commands/serve.ts'
import { addStatusCommands } from './commands/status.ts'
import { addTaskCommands } from './commands/task.ts'
import { addTokenCommands } from './commands/token.ts'
import { addTlsCommands } from './commands/tls.ts'
import { addTopCommand } from './commands/top.ts'
import { addVersionCommand } from './commands/version.ts'
import { addSnapshotCommands } from './commands/snapshot.ts'
import { addVolumeCommands } from './commands/volume.ts'
import { withExamples } from './context.ts'
import { commanderText } from './errors.ts'

/** The whole command line; nothing runs before it parses. */
export function buildProgram(): Command {
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
  addServeCommand(program)
  addVolumeCommands(program)
  addSnapshotCommands(program)
  addBackupCommands(program)
  addAttachCommands(program)
  addMountCommands(program)
  addRelayCommand(program)
  addClientCommands(program)
  addStatusCommands(program)
  addClusterCommands(program)
  addPeerCommands(program)
  addPoolCommands(program)
  addTlsCommands(program)
  addTopCommand(program)
  addBenchCommand(program)
  addTaskCommands(program)
  addTokenCommands(program)
  addAuditCommands(program)
  addOfflineCommands(program)
  addMetadataCommands(program)
  addRingCommands(program)
  addConfigCommands(program)
  addDebugCommands(program)
  addCompletionCommand(program)
  addVersionCommand(program)
  return program
}
