import { deepEqual, equal, match, ok, throws } from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isLoopback } from '../../src/core/addresses.ts'
import { suite } from 'uvu'
import { type ConfigInput, resolveConfig } from '../../src/core/config.ts'
import { sourceText } from '../../src/core/config-source.ts'
import { configEntries } from '../../src/core/config-entries.ts'
import { StoreError } from '../../src/core/errors.ts'
import { environmentNameOf, optionInfo, optionKeys } from '../../src/core/option-info.ts'

const test = suite('config')
let folder = ''
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'torus-config-'))
})
test.after(() => rmSync(folder, { recursive: true, force: true }))

const fileWith = (text: string): string => {
  const path = join(folder, 'torus.yaml')
  writeFileSync(path, text)
  return path
}

const resolve = (input: Partial<ConfigInput>) =>
  resolveConfig({ flags: { dataDir: '/d' }, env: {}, file: null, ...input })

const refused = (input: Partial<ConfigInput>, pattern: RegExp) =>
  throws(
    () => resolve(input),
    (error) => {
      ok(error instanceof StoreError, String(error))
      match(error.message, pattern)
      return true
    }
  )

test('without anything given, the defaults hold and say so', () => {
  const { config, sources, warnings } = resolve({})
  deepEqual(config.nbdListen, { host: '127.0.0.1', port: 10809 })
  deepEqual(config.adminListen, { host: '127.0.0.1', port: 4321 })
  equal(config.adminSocket, '/d/admin.sock')
  equal(config.capacityBytes, null)
  equal(config.insecure, false)
  equal(sourceText(sources.nbdListen), 'default')
  equal(sourceText(sources.dataDir), 'flag --data-dir')
  deepEqual(warnings, [])
  ok(Object.isFrozen(config))
})

test('a flag wins over the environment, and that over the file', () => {
  const file = fileWith('capacity: 1GiB\nshards: 2\nlog-level: warn\n')
  const { config, sources } = resolve({
    file,
    env: { TORUS_CAPACITY: '2GiB', TORUS_SHARDS: '3' },
    flags: { dataDir: '/d', capacityBytes: '3GiB' }
  })
  equal(config.capacityBytes, 3 * 1024 ** 3)
  equal(config.shards, 3)
  equal(config.logLevel, 'warn')
  equal(sourceText(sources.capacityBytes), 'flag --capacity')
  equal(sourceText(sources.shards), 'environment TORUS_SHARDS')
  equal(sourceText(sources.logLevel), `file ${file}:3`)
})

test('an empty variable and an empty line of the file count as not given', () => {
  const { config } = resolve({ file: fileWith('shards:\n'), env: { TORUS_LOG_LEVEL: '' } })
  equal(config.shards, null)
  equal(config.logLevel, 'info')
})

test('values may be of YAML types or text', () => {
  const file = fileWith(
    'capacity: 1073741824\ninsecure: yes\nnbd-listen: 0.0.0.0:10809\nplugin: [./a.js, pkg]\n' +
      'volume:\n  - demo=1GiB\nscrub-period: off\nadmin-listen: off\nlog-lines: "5"\n'
  )
  const { config } = resolve({ file })
  equal(config.capacityBytes, 1024 ** 3)
  equal(config.insecure, true)
  deepEqual(config.plugins, [join(folder, 'a.js'), 'pkg'])
  deepEqual(config.volumes, [{ name: 'demo', sizeBytes: 1024 ** 3 }])
  equal(config.scrubPeriodMs, 0)
  equal(config.adminListen, null)
  equal(config.logLines, 5)
})

test('relative paths of the file start where the file is, those of flags where the user is', () => {
  const file = fileWith('data-dir: store\nnbd-socket: run/nbd.sock\n')
  const { config } = resolveConfig({ flags: { nbdSocket: 'x.sock' }, env: {}, file })
  equal(config.dataDir, join(folder, 'store'))
  equal(config.nbdSocket, join(process.cwd(), 'x.sock'))
})

test('lists come from repeated flags, YAML lists and comma-separated variables', () => {
  const expected = [
    { name: 'a', sizeBytes: 4096 },
    { name: 'b', sizeBytes: 8192 }
  ]
  const flags = { dataDir: '/d', volumes: ['a=4K', 'b=8K'] }
  deepEqual(resolve({ flags }).config.volumes, expected)
  deepEqual(resolve({ env: { TORUS_VOLUME: 'a=4K,b=8K' } }).config.volumes, expected)
})

test('an unknown key of the file is named with its line and the likely meaning', () => {
  const file = fileWith('log-level: info\nshard: 2\n')
  refused({ file }, /torus\.yaml:2: unknown option "shard"; did you mean "shards"\?/)
  refused({ file: fileWith('frobnicate: 1\n') }, /torus\.yaml:1: unknown option "frobnicate"$/)
  refused({ file: fileWith('dataDir: /x\n') }, /did you mean "data-dir"/)
})

test('a file that is missing, not YAML, or no mapping is refused', () => {
  refused({ file: join(folder, 'none.yaml') }, /none\.yaml cannot be read: .*\(ENOENT\)/)
  refused({ file: fileWith('a: [1\n') }, /torus\.yaml:\d+ is not YAML/)
  refused({ file: fileWith('- 1\n') }, /must be a mapping/)
  refused({ file: fileWith('shards: 1\nshards: 2\n') }, /not YAML: Map keys must be unique/)
  resolve({ file: fileWith('') })
})

test('a bad value is named with its option, source and limit', () => {
  const flags = (given: object) => ({ flags: { dataDir: '/d', ...given } })
  refused(flags({ shards: '0' }), /^shards "0": must be a whole number from 1 to 64 \(from flag --/)
  refused(flags({ shards: '2.5' }), /whole number/)
  refused(flags({ shards: 'two' }), /must be a number|whole number/)
  refused(flags({ capacityBytes: '20Gi' }), /^capacity "20Gi": "20Gi" is not a size/)
  refused(
    flags({ capacityBytes: '1MiB' }),
    /^capacity "1MiB": must be 64MiB to 1PiB \(from flag --capacity\)/
  )
  refused(flags({ segmentBytes: '48MiB' }), /must be a power of two/)
  refused(flags({ arenaBytes: '20000000' }), /must be a multiple of 64KiB/)
  refused(flags({ nbdListen: 'localhost' }), /^nbd-listen "localhost": must be HOST:PORT/)
  refused(flags({ nbdListen: '1.2.3.4:70000' }), /port from 0 to 65535/)
  refused(flags({ nbdTls: 'maybe' }), /must be one of off, allow, require/)
  refused(flags({ volumes: ['demo'] }), /must be NAME=SIZE/)
  refused(flags({ volumes: ['demo=1000'] }), /multiple of 4096/)
  refused(flags({ scrubPeriodMs: '5s' }), /must be 1m to .* or off/)
  refused({ env: { TORUS_LOG_LEVEL: 'loud' } }, /from environment TORUS_LOG_LEVEL/)
  refused({ file: fileWith('\n\narena-size: 1\n') }, /from file .*torus\.yaml:3/)
  refused({ file: fileWith('capacity: [1, 2]\n') }, /^capacity \[1,2\]: /)
})

test('a capacity of too few segments is refused', () => {
  const flags = { dataDir: '/d', capacityBytes: '256MiB', segmentBytes: '64MiB' }
  refused({ flags }, /256MiB \(from flag --capacity\) gives a shard 4 segments .* it needs 8/)
  refused({ flags: { ...flags, segmentBytes: '32MiB', shards: 2 } }, /4 segments/)
  resolve({ flags: { ...flags, segmentBytes: '32MiB' } })
  const many = { dataDir: '/d', capacityBytes: '64MiB', shards: 64 }
  refused({ flags: many }, /flag --capacity\) gives a shard 0 segments .*there are 64 shards/)
  resolve({ flags: { ...many, shards: 4 } })
})

test('a data directory must be given', () => {
  throws(() => resolveConfig({ flags: {}, env: {}, file: null }), /data-dir is not set/)
})

test('a listener that others can reach needs --insecure', () => {
  refused(
    { flags: { dataDir: '/d', nbdListen: '0.0.0.0:10809' } },
    /nbd-listen 0\.0\.0\.0:10809 .*flag --nbd-listen.*--insecure/
  )
  refused({ env: { TORUS_ADMIN_LISTEN: '[::]:4321' } }, /admin-listen \[::\]:4321/)
  const { config } = resolve({ env: { TORUS_ADMIN_LISTEN: '[::]:4321', TORUS_INSECURE: '1' } })
  deepEqual(config.adminListen, { host: '::', port: 4321 })
})

test('loopback is 127/8, ::1 and localhost', () => {
  for (const host of ['127.0.0.1', '127.9.9.9', '::1', 'localhost', '::ffff:127.0.0.1']) {
    ok(isLoopback(host), host)
  }
  for (const host of ['0.0.0.0', '::', '10.0.0.1', 'example.org', '127.0.0.1.example.org', '']) {
    ok(!isLoopback(host), host)
  }
})

test('TLS needs its files, and files need TLS', () => {
  refused({ flags: { dataDir: '/d', nbdTls: 'require' } }, /needs nbd-tls-cert and nbd-tls-key/)
  refused({ flags: { dataDir: '/d', nbdTlsCert: 'c.pem' } }, /nbd-tls is off although/)
  const flags = { dataDir: '/d', nbdTls: 'allow', nbdTlsCert: '/c', nbdTlsKey: '/k' }
  equal(resolve({ flags }).config.nbdTls, 'allow')
  const keys = { dataDir: '/d', nbdTls: 'require', nbdTlsPskFile: '/keys.psk' }
  equal(resolve({ flags: keys }).config.nbdTlsPskFile, '/keys.psk')
  refused({ flags: { ...keys, nbdTls: 'off' } }, /nbd-tls is off although/)
  refused({ flags: { ...keys, nbdTlsCert: '/c', nbdTlsKey: '/k' } }, /instead of nbd-tls-cert/)
  const open = { nbdListen: '0.0.0.0:10809' }
  equal(resolve({ flags: { ...keys, ...open } }).config.nbdTls, 'require')
  refused({ flags: { ...keys, ...open, nbdTls: 'allow' } }, /nobody has to log in/)
})

test('others are told of an address that they can connect to', () => {
  const dataDir = '/d'
  const flags = { dataDir, peerListen: '0.0.0.0:4320' }
  refused({ flags }, /peer-listen 0\.0\.0\.0:4320 is no address .*peer-advertise/)
  refused({ flags: { dataDir, peerListen: '[::]:4320' } }, /peer-advertise/)
  refused({ flags: { dataDir, peerAdvertise: 'h1:4320' } }, /means nothing without peer-listen/)
  refused({ flags: { ...flags, peerAdvertise: 'h1:0' } }, /must be HOST:PORT/)
  const { config, warnings } = resolve({ flags: { ...flags, peerAdvertise: 'h1:4320' } })
  deepEqual(config.peerAdvertise, { host: 'h1', port: 4320 })
  deepEqual(warnings, ['peer-listen means nothing without etcd: nobody listens there'])
  const etcd = ['http://127.0.0.1:2379']
  const [open] = resolve({ flags: { dataDir, etcd, peerListen: 'h1:1' } }).warnings
  match(open!, /can read and change what peers send/)
})

test('etcd is given as URLs, with the files that fit them', () => {
  const dataDir = '/d'
  const urls = ['http://a:2379', 'http://[::1]:2379', 'http://c:2379']
  const flags = { dataDir, etcd: ['http://a:2379/,http://[::1]:2379', 'http://c:2379'] }
  deepEqual(resolve({ flags }).config.etcd, urls)
  deepEqual(resolve({ env: { TORUS_ETCD: urls.join(',') } }).config.etcd, urls)
  refused({ flags: { dataDir, etcd: 'a:2379' } }, /must be http:\/\/HOST:PORT/)
  refused({ flags: { dataDir, etcd: 'http://a:1,https://b:1' } }, /all be http or all be https/)
  refused({ flags: { dataDir, etcd: 'http://a:1', etcdPrefix: 'x' } }, /must be like \/torus/)
  refused({ flags: { dataDir, etcdCa: '/ca' } }, /etcd-ca .*means nothing without etcd/)
  refused({ flags: { ...flags, etcdCa: '/ca' } }, /write https:/)
  refused({ flags: { dataDir, etcd: 'https://a:1', etcdCert: '/c' } }, /only given together/)
  refused({ flags: { ...flags, etcdUser: 'u' } }, /etcd-password-file are only given together/)
})

test('a socket path that the system could not bind is refused, a derived one is left out', () => {
  const long = `/${'x'.repeat(120)}`
  refused({ flags: { dataDir: '/d', nbdSocket: long } }, /has 121 bytes.*at most 107/)
  const { config, warnings } = resolve({ flags: { dataDir: long } })
  equal(config.adminSocket, null)
  match(warnings[0]!, /no admin socket/)
  equal(resolve({ flags: { dataDir: '/d', adminSocket: 'off' } }).config.adminSocket, null)
})

test('a misspelt variable is pointed out, and strange ones are let be', () => {
  const { warnings } = resolve({ env: { TORUS_SHARD: '2', TORUS_SERVICE_HOST: '1.2.3.4' } })
  deepEqual(warnings, ['environment variable TORUS_SHARD does nothing; did you mean TORUS_SHARDS?'])
})

test('every option is listed with its value in the form that the file takes', () => {
  const env = { TORUS_CAPACITY: '20GiB', TORUS_VOLUME: 'demo=1GiB', TORUS_SCRUB_PERIOD: '90m' }
  const entries = configEntries(resolve({ env }))
  equal(entries.length, optionKeys.length)
  const value = (name: string) => entries.find((entry) => entry.name === name)?.value
  equal(value('capacity'), '20GiB')
  equal(value('scrub-period'), '1h30m')
  deepEqual(value('volume'), ['demo=1GiB'])
  equal(value('nbd-listen'), '127.0.0.1:10809')
  equal(value('shards'), null)
})

test('help tells the defaults that hold', () => {
  for (const { name, value } of configEntries(resolve({}))) {
    const { usual } = Object.values(optionInfo).find((info) => info.name === name)!
    // Those in words follow from the machine or from other options.
    if (usual.includes(' ')) ok(value === null || name === 'admin-socket', name)
    else equal(usual, name === 'data-dir' || !value || String(value) === '' ? '' : String(value))
  }
})

test('what is listed, written to a file, gives the same configuration again', () => {
  const first = resolve({ env: { TORUS_CAPACITY: '20GiB', TORUS_VOLUME: 'demo=1GiB' } })
  const lines = configEntries(first).map(({ name, value }) => `${name}: ${JSON.stringify(value)}`)
  const second = resolveConfig({ flags: {}, env: {}, file: fileWith(lines.join('\n')) })
  deepEqual(second.config, first.config)
})

test('names of options are one word with dashes, and variables are made of them', () => {
  equal(environmentNameOf('nbdTlsCert'), 'TORUS_NBD_TLS_CERT')
  const names = optionKeys.map((key) => optionInfo[key].name)
  equal(new Set(names).size, names.length)
  for (const name of names) match(name, /^[a-z]+(-[a-z]+)*$/)
})

test.run()
