import type { Command } from 'commander'
import { formatDuration, formatSize } from '../../core/units.ts'
import type { Client } from '../api-client.ts'
import { countArgument } from '../arguments.ts'
import { action, withExamples } from '../context.ts'
import { CommandError } from '../errors.ts'

export function addClientCommands(program: Command): void {
  const client = program.command('client').description('who is connected to what')
  withExamples(client, 'torus client list', 'torus client disconnect 7')
  addList(client)
  addDisconnect(client)
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('client connections')
    .argument('[volume]', 'only those of this volume')
    .action(
      action<[string | undefined], object>(async ({ api, output }, [volume]) => {
        const all = await api.clients()
        const clients = all.filter((each) => volume === undefined || each.volume === volume)
        output.result(clients, () =>
          clients.length === 0
            ? 'no clients'
            : output.table(
                ['ID', 'VOLUME', 'ADDRESS', 'PROTOCOL', 'FOR', 'IN FLIGHT', 'READ', 'WRITTEN'],
                clients.map(rowOf),
                'rlllrrrr'
              )
        )
      })
    )
  withExamples(command, 'torus client list', 'torus client list demo')
}

const rowOf = (client: Client): string[] => [
  String(client.id),
  client.volume || '-',
  client.address,
  client.tls ? `${client.protocol}+tls` : client.protocol,
  formatDuration(Math.max(0, Date.now() - Date.parse(client.connectedAt))),
  String(client.inFlight),
  formatSize(client.readBytes),
  formatSize(client.writtenBytes)
]

function addDisconnect(parent: Command): void {
  const command = parent
    .command('disconnect')
    .description('close a connection; a client that reconnects comes back')
    .argument('<id>', 'as "torus client list" shows it', countArgument)
    .action(
      action<[number], object>(async ({ api, output, confirm }, [id]) => {
        const client = (await api.clients()).find((each) => each.id === id)
        if (client === undefined) throw new CommandError('NotFound', `no client ${id}`)
        const what = client.volume === '' ? 'no volume' : `volume ${client.volume}`
        await confirm(`Client ${id} at ${client.address} loses its connection to ${what}.`)
        await api.disconnectClient(id)
        output.result({ disconnected: id }, () => `disconnected ${id}`)
      })
    )
  withExamples(command, 'torus client disconnect 7')
}
