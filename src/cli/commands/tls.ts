import type { Command } from 'commander'
import { namesOfCertificate } from '../../core/certificate-names.ts'
import { listArgument } from '../arguments.ts'
import {
  authorityIn,
  authorityOf,
  type CertificateWish,
  copyAuthority,
  issue,
  makeDirectory,
  requireNew
} from '../certificates.ts'
import { action, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'

interface InitOptions {
  readonly out: string
  readonly host: string[]
  readonly peer: string[]
  readonly client: string
  readonly caCert?: string
  readonly caKey?: string
}

export function addTlsCommands(program: Command): void {
  const tls = program.command('tls').description('certificates: make them, see when they expire')
  withExamples(tls, 'torus tls init --host node1.example,10.0.0.1', 'torus tls show')
  addInit(tls)
  addShow(tls)
}

/** Names as `ca-cert.pem`, `client-cert.pem` and `client-key.pem` are what libnbd looks for. */
function wishesOf({ host, peer, client }: InitOptions): CertificateWish[] {
  const commonName = host[0]!
  const local = [...new Set([...host, 'localhost', '127.0.0.1', '::1'])]
  return [
    { file: 'peer', commonName, names: [...peer, ...host], use: 'both' },
    { file: 'admin', commonName, names: local, use: 'server' },
    { file: 'nbd', commonName, names: local, use: 'server' },
    { file: 'client', commonName: client, names: [client], use: 'client' },
    { file: 'admin-client', commonName: 'admin', names: ['admin'], use: 'client' },
    { file: 'etcd-client', commonName: 'torus', names: ['torus'], use: 'client' }
  ]
}

function addInit(parent: Command): void {
  const command = parent
    .command('init')
    .description('make an authority and certificates of it for one machine; needs openssl(1)')
    .requiredOption('--host <NAME,…>', 'names and addresses of the machine', listArgument(''))
    .option(
      '--peer <ID,…>',
      'ids of its peers, where no label has its host name',
      listArgument(''),
      []
    )
    .option('--client <NAME>', 'name of the NBD client, for --allow-tls-name', 'client')
    .option('--out <DIR>', 'where they go; an authority that is there is used again', 'tls')
    .option('--ca-cert <FILE>', 'authority to use instead, and its issuers up to the root, PEM')
    .option('--ca-key <FILE>', 'its private key, PEM, not encrypted')
    .action(
      action<[], InitOptions>(async ({ output }, _, options) => {
        const { out, caCert, caKey } = options
        if ((caCert === undefined) !== (caKey === undefined)) {
          throw new UsageError('--ca-cert and --ca-key belong together')
        }
        if (options.host.length === 0) throw new UsageError('--host names nothing')
        const wishes = wishesOf(options)
        const files = wishes.map(({ file }) => file)
        requireNew(out, files)
        const isOwn = caCert === undefined || caKey === undefined
        const given = isOwn ? null : authorityOf(caCert, caKey)
        makeDirectory(out)
        const authority = given ?? (await authorityIn(out))
        copyAuthority(authority, out)
        const rows: string[][] = []
        for (const wish of wishes) {
          const { subjectAltName = '', validTo } = await issue(authority, out, wish)
          rows.push([
            `${out}/${wish.file}-cert.pem`,
            namesOfCertificate(subjectAltName).join(' '),
            new Date(validTo).toISOString().slice(0, 10)
          ])
        }
        const made = rows.map(([file, names, expires]) => ({ file, names, expires }))
        output.result({ authority: authority.cert, made }, () =>
          [
            output.table(['CERTIFICATE', 'NAMES', 'EXPIRES'], rows, 'lll'),
            `Keys stand beside them. Keep ${authority.key} away from the peers.`
          ].join('\n')
        )
      })
    )
  withExamples(
    command,
    'torus tls init --out node1 --host node1,10.0.0.1',
    'torus tls init --out node2 --host node2 --ca-cert node1/ca-cert.pem --ca-key node1/ca-key.pem'
  )
}

function addShow(parent: Command): void {
  const command = parent
    .command('show')
    .description('certificates that a peer uses, their names and when they expire')
    .action(
      action(async ({ api, output }) => {
        const certificates = await api.certificates()
        output.result(certificates, () =>
          certificates.length === 0
            ? 'this peer uses no certificates'
            : output.table(
                ['USE', 'NAMES', 'EXPIRES', 'FILE'],
                certificates.map(({ use, names, subject, validTo, file }) => [
                  use,
                  names.join(' ') || subject,
                  validTo.slice(0, 10),
                  file
                ]),
                'llll'
              )
        )
      })
    )
  withExamples(command, 'torus tls show', 'torus tls show --json')
}
