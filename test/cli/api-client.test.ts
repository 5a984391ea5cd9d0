import { deepEqual, equal, rejects, throws } from 'node:assert/strict'
import { createServer, type RequestListener, type Server } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { test } from 'uvu'
import { ApiClient, parseAdmin } from '../../src/cli/api-client.ts'

test('addresses are sockets, URLs, or host and port', () => {
  deepEqual(parseAdmin('unix:/run/a.sock'), { kind: 'unix', path: '/run/a.sock' })
  deepEqual(parseAdmin('unix:///run/a.sock'), { kind: 'unix', path: '/run/a.sock' })
  deepEqual(parseAdmin('unix:a.sock'), { kind: 'unix', path: 'a.sock' })
  for (const text of ['http://localhost:1', 'https://localhost:1', 'localhost:1']) {
    const parsed = parseAdmin(text)
    equal(parsed.kind === 'tcp' && parsed.url.port, '1', text)
  }
  for (const text of ['', 'unix:', 'ftp://x', 'http://', 'http://[', '//']) {
    throws(() => parseAdmin(text), /must be http:.*HOST:PORT or unix:PATH/, text)
  }
})

async function withServer(answer: RequestListener, use: (url: string) => Promise<void>) {
  const server: Server = createServer(answer)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  } finally {
    server.close()
    server.closeAllConnections()
  }
}

test('another program on that port is told apart from a peer', async () => {
  await withServer(
    (_, response) => response.end('<html>'),
    async (url) => {
      await rejects(new ApiClient(url).status(), /is not a Torus peer/)
    }
  )
  await withServer(
    (_, response) => response.writeHead(502).end('Bad gateway'),
    async (url) => {
      await rejects(new ApiClient(url).status(), /is not a Torus peer/)
    }
  )
  await withServer(
    (_, response) => response.writeHead(502, {}).end('null'),
    async (url) => {
      await rejects(new ApiClient(url).status(), /HTTP status 502/)
    }
  )
})

test('a peer that hangs up, or does not speak HTTP, is a peer that does not answer', async () => {
  for (const greeting of ['', 'NBDMAGIC']) {
    const server = createTcpServer((socket) => {
      socket.on('error', () => {})
      socket.end(greeting)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    await rejects(new ApiClient(url).status(), /no peer answers at/)
    server.close()
  }
})

test('a name is sent as one part of the path', async () => {
  let asked = ''
  await withServer(
    (request, response) => {
      asked = request.url ?? ''
      response.end('{}')
    },
    async (url) => {
      await new ApiClient(url).volume('../a?b#c')
    }
  )
  equal(asked, '/v1/volumes/..%2Fa%3Fb%23c')
})

test.run()
