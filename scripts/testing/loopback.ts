/**
 * Loaded into every process of Node that a test starts, with its threads (NODE_OPTIONS): writes
 * down each socket that goes, or listens, beyond this machine, and each name that a name server
 * would be asked for. The runner fails the file for it. Nothing is refused: what a program does
 * without a network is not what is looked for.
 */
import dgram from 'node:dgram'
import dns from 'node:dns'
import { appendFileSync } from 'node:fs'
import net from 'node:net'
import { OUTSIDE_FILE_VARIABLE } from './protocol.ts'

const file = process.env[OUTSIDE_FILE_VARIABLE]

type Anything = (this: unknown, ...args: unknown[]) => unknown

const isHere = (host: unknown): boolean =>
  typeof host === 'string' && /^(localhost|::1|(::ffff:)?127\.\d+\.\d+\.\d+)$/i.test(host)

/** Of the arguments of `net`: the host, '' where a path or nothing is given. */
function hostOf(args: readonly unknown[], usual: string): unknown {
  // Node hands on what it normalized before: the options first, in an array.
  const [first, second] = Array.isArray(args[0]) ? (args[0] as unknown[]) : args
  if (typeof first === 'object' && first !== null) {
    const given = first as { path?: string; host?: string; fd?: number; port?: number }
    const isElsewhere = given.path !== undefined || given.fd !== undefined
    return isElsewhere || given.port === undefined ? 'localhost' : (given.host ?? usual)
  }
  const isPort = typeof first === 'number' || /^\d+$/.test(String(first))
  if (!isPort) return 'localhost'
  return typeof second === 'string' ? second : usual
}

function note(what: string, host: unknown): void {
  if (isHere(host)) return
  const program = process.argv.slice(1, 4).join(' ')
  appendFileSync(file!, `${what} ${String(host)} (${program})\n`)
}

/** Calls `before` with the arguments of every call of a method. */
function watch(of: object, name: string, before: (args: readonly unknown[]) => void): void {
  const methods = of as Record<string, Anything>
  const method = methods[name]!
  methods[name] = function (...args) {
    before(args)
    return method.apply(this, args)
  }
}

if (file !== undefined) {
  watch(net.Socket.prototype, 'connect', (args) => note('connects to', hostOf(args, 'localhost')))
  watch(net.Server.prototype, 'listen', (args) => note('listens on', hostOf(args, '::')))
  watch(dgram.Socket.prototype, 'bind', (args) => note('takes datagrams on', hostOf(args, '::')))
  watch(dgram.Socket.prototype, 'send', (args) => {
    const host = args.find((each, at) => at > 0 && typeof each === 'string')
    note('sends a datagram to', host ?? 'localhost')
  })
  for (const name of ['lookup', 'resolve', 'resolve4', 'resolve6', 'resolveSrv', 'resolveTxt']) {
    const isName = (host: unknown): boolean => net.isIP(String(host)) === 0
    const asked = ([host]: readonly unknown[]) => isName(host) && note(`${name} asks for`, host)
    watch(dns, name, asked)
    watch(dns.promises, name, asked)
  }
}
