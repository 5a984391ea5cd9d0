import { deepStrictEqual, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import * as p from '../../src/nbd/protocol.ts'
import { NbdServer } from '../../src/nbd/server.ts'
import { MemorySource } from '../helpers/memory-devices.ts'
import { NbdWireClient } from '../helpers/nbd-wire-client.ts'

const MIB = 1024 * 1024
const test = suite('nbd server')

async function serving(
  body: (port: number, source: MemorySource, server: NbdServer) => Promise<void>
): Promise<void> {
  const source = new MemorySource(2048)
  source.add('demo', 64 * MIB)
  const server = new NbdServer({ source })
  const at = await server.listen({ host: '127.0.0.1', port: 0 })
  try {
    await body('port' in at ? at.port : 0, source, server)
  } finally {
    await server.close(1_000)
  }
  strictEqual(source.arena.pagesFree, source.arena.pagesTotal, 'every page came back')
  strictEqual(source.volumes.get('demo')!.opens, 0, 'every device is closed')
}

test('what is written at any offset and of any length is read back', () =>
  serving(async (port) => {
    const client = await NbdWireClient.connect({ port })
    await client.attach('demo')
    const lengths = [1, 511, 4096, 40_000, MIB, 3 * MIB + 17, 20 * MIB]
    for (const [index, length] of lengths.entries()) {
      const payload = Buffer.alloc(length)
      for (let at = 0; at < length; at++) payload[at] = (at * 31 + index) & 255
      await client.writeRange(index * 12_345, payload)
      deepStrictEqual(await client.readRange(index * 12_345, length), payload)
    }
    strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    client.command({ type: p.NBD_CMD_DISC })
    await client.readToEnd()
  }))

test.run()
