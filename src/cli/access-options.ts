/** Who may open a volume, as commands that make or change one take it. */
import type { Command } from 'commander'
import { listArgument, onOffArgument } from './arguments.ts'

export interface AccessOptions {
  readonly allow?: string[]
  readonly allowTlsName?: string[]
  readonly nbdReadOnly?: boolean
}

export const addAccessOptions = (command: Command): Command =>
  command
    .option(
      '--allow <ADDRESS[/BITS],…>',
      'who may open it over NBD: addresses, networks, "unix" for unix sockets; or any',
      listArgument('any')
    )
    .option(
      '--allow-tls-name <NAME,…>',
      'and with which names in client certificates, or shared keys; or any',
      listArgument('any')
    )
    .option('--nbd-read-only <on|off>', 'NBD clients get it read-only', onOffArgument)

/** Without what was not given. */
export const givenAccess = ({ allow, allowTlsName, nbdReadOnly }: AccessOptions) => ({
  ...(allow === undefined ? {} : { addresses: allow }),
  ...(allowTlsName === undefined ? {} : { tlsNames: allowTlsName }),
  ...(nbdReadOnly === undefined ? {} : { readOnly: nbdReadOnly })
})
