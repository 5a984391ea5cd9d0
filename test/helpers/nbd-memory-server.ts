/** Serves one volume in memory until it is killed; for measurements. Prints its port. */
import { NbdServer } from '../../src/nbd/server.ts'
import { MemorySource } from './memory-devices.ts'

const sizeMiB = Number(process.argv[2] ?? 256)
const source = new MemorySource(16_384)
source.add('demo', sizeMiB * 1024 * 1024)
const server = new NbdServer({
  source,
  log: (_level, message, fields) => process.stderr.write(`${message} ${JSON.stringify(fields)}\n`)
})
const at = await server.listen({ host: '127.0.0.1', port: Number(process.argv[3] ?? 0) })
process.stdout.write(`${'port' in at ? at.port : ''}\n`)
