import type { Command } from 'commander'
import { action, withExamples } from '../context.ts'
import { gatewaysArgument, gatewaysOf, type TlsOptions } from '../gateways.ts'
import type { NbdAddress } from '../nbd-address.ts'

interface RelayOptions extends TlsOptions {
  readonly listen: string
  readonly gateway: NbdAddress[]
}

/** Long enough for the lease of a gateway that died to end, and a takeover. */
const CONNECT_MS = 30_000

/** `attach` and `mount` start it; others may for clients of their own. */
export function addRelayCommand(program: Command): void {
  const command = program
    .command('relay')
    .description(
      'serve a volume on a unix socket from whichever gateway has it, while it has clients'
    )
    .argument('<volume>', 'its name')
    .requiredOption('--listen <path>', 'unix socket')
    .requiredOption('--gateway <list>', 'addresses of NBD servers', gatewaysArgument)
    .option('--tls-ca <file>', 'use TLS and trust this certificate authority')
    .option('--tls-cert <file>', 'certificate of this client')
    .option('--tls-key <file>', 'its private key')
    .action(
      action<[string], RelayOptions>(async ({ output }, [volume], options) => {
        const { startRelay } = await import('../../coordinator/relay.ts')
        const gateways = gatewaysOf(options.gateway, options)
        process.on('SIGHUP', () => {})
        const relay = await startRelay({
          volume,
          gateways,
          path: options.listen,
          connectMs: CONNECT_MS,
          log: (_level, message) => output.note(`${new Date().toISOString()} ${message}`)
        })
        const told = new Promise<void>((resolve) => {
          for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve)
        })
        await Promise.race([relay.unused, told])
        await relay.close()
      })
    )
  withExamples(command, 'torus relay demo --listen /run/demo.sock --gateway 10.0.0.1,10.0.0.2')
}
