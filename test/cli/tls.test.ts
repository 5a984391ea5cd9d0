import { deepStrictEqual, match, ok, rejects, strictEqual, throws } from 'node:assert'
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import { namesOfCertificate } from '../../src/core/certificate-names.ts'
import { authorityIn, authorityOf, copyAuthority, issue } from '../../src/cli/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { runOk } from '../helpers/process.ts'

const needs = { programs: ['openssl'] }

testNeeding(
  needs,
  'certificates are of the authority, have their names, and keys are private',
  async () => {
    const scratch = await Scratch.create()
    try {
      const { directory } = scratch
      const authority = await authorityIn(directory)
      deepStrictEqual(await authorityIn(directory), authority, 'it is used again')
      const names = ['node1.example', '10.0.0.1', '::1', '5e'.repeat(16)]
      const wish = { file: 'peer', commonName: 'node1.example', names, use: 'both' } as const
      const made = await issue(authority, directory, wish)
      const ca = new X509Certificate(readFileSync(authority.cert))
      ok(ca.ca && !made.ca)
      ok(made.checkIssued(ca) && made.verify(ca.publicKey))
      const found = namesOfCertificate(made.subjectAltName ?? '')
      deepStrictEqual(found, ['node1.example', '10.0.0.1', '0:0:0:0:0:0:0:1', '5e'.repeat(16)])
      const years = (Date.parse(made.validTo) - Date.now()) / (365 * 24 * 3600 * 1000)
      ok(years > 0.99 && years < 1.01)
      for (const key of [authority.key, scratch.path('peer-key.pem')]) {
        strictEqual(statSync(key).mode & 0o777, 0o600)
      }
      await rejects(issue(authority, directory, wish), /is there already/)
      const bad = { ...wish, file: 'bad', names: ['a,DNS:b'] }
      await rejects(issue(authority, directory, bad), /"a,DNS:b" is no name/)
    } finally {
      await scratch.remove()
    }
  }
)

testNeeding(
  needs,
  'an authority of others is used with its chain, and not if it is none',
  async () => {
    const scratch = await Scratch.create()
    try {
      const at = (name: string): string => scratch.path(name)
      const openssl = (...args: string[]): Promise<string> => runOk('openssl', args)
      const authority = async (
        name: string,
        of: string | null,
        ...more: string[]
      ): Promise<void> => {
        const [key, request] = [at(`${name}-key.pem`), at(`${name}.csr`)]
        const wanted = ['-newkey', 'rsa:2048', '-nodes', '-subj', `/CN=${name}`, '-keyout', key]
        await openssl('req', ...wanted, '-out', request)
        await writeFile(at('ext'), `basicConstraints=CA:${name === 'leaf' ? 'FALSE' : 'TRUE'}\n`)
        const issuer =
          of === null
            ? ['-signkey', key]
            : ['-CA', at(`${of}-cert.pem`), '-CAkey', at(`${of}-key.pem`), '-CAcreateserial']
        const place = ['-in', request, '-extfile', at('ext'), '-out', at(`${name}-cert.pem`)]
        await openssl('x509', '-req', ...issuer, ...place, ...(more.length > 0 ? more : DAYS))
      }
      await authority('root', null)
      await authority('middle', 'root')
      await authority('leaf', 'root')
      await authority('old', null, '-days', '-1')
      const why = (cert: string, key: string): string => {
        try {
          authorityOf(at(cert), at(key))
          return ''
        } catch (thrown) {
          return (thrown as Error).message.replaceAll(`${scratch.directory}/`, '')
        }
      }
      const [root, middle] = await Promise.all(
        ['root', 'middle'].map((name) => readFile(at(`${name}-cert.pem`), 'utf8'))
      )
      await writeFile(at('chain.pem'), `${middle}${root}`)
      const locked = ['pkey', '-aes128', '-passout', 'pass:x', '-in', at('root-key.pem')]
      await openssl(...locked, '-out', at('locked.pem'))
      strictEqual(
        why('none', 'root-key.pem'),
        'none cannot be read: no such file or directory (ENOENT)'
      )
      strictEqual(why('root-key.pem', 'root-key.pem'), 'root-key.pem has no certificate')
      strictEqual(why('root-cert.pem', 'chain.pem'), 'chain.pem has no key')
      match(why('root-cert.pem', 'locked.pem'), /^locked.pem is encrypted/)
      match(why('root-cert.pem', 'leaf-key.pem'), /^leaf-key.pem is not the key of root-cert.pem/)
      match(why('leaf-cert.pem', 'leaf-key.pem'), /is no authority: CN=leaf/)
      match(why('old-cert.pem', 'old-key.pem'), /has expired: CN=old/)
      match(why('middle-cert.pem', 'middle-key.pem'), /issuer of CN=middle, up to the root/)
      const chain = authorityOf(at('chain.pem'), at('middle-key.pem'))
      copyAuthority(chain, scratch.directory)
      const wish = { file: 'nbd', commonName: 'a', names: ['a'], use: 'server' } as const
      const made = await issue(chain, scratch.directory, wish)
      ok(Date.parse(made.validTo) <= chain.endsMs, 'it does not outlive its authority')
      const verify = ['verify', '-CAfile', at('root-cert.pem'), '-untrusted', at('nbd-cert.pem')]
      match(await openssl(...verify, at('nbd-cert.pem')), /nbd-cert.pem: OK/)
      strictEqual(await readFile(at('ca-cert.pem'), 'utf8'), `${middle}${root}`)
      throws(
        () =>
          copyAuthority(authorityOf(at('root-cert.pem'), at('root-key.pem')), scratch.directory),
        /is of another authority/
      )
      await rejects(authorityIn(scratch.directory), /has ca-cert.pem without ca-key.pem/)
    } finally {
      await scratch.remove()
    }
  }
)

const DAYS = ['-days', '5']

testNeeding(needs, 'without openssl the message says what to install', async () => {
  const scratch = await Scratch.create()
  const path = process.env['PATH']
  try {
    process.env['PATH'] = scratch.directory
    await rejects(authorityIn(scratch.directory), (error: Error) => {
      match(error.message, /openssl\(1\) is needed/)
      return true
    })
  } finally {
    process.env['PATH'] = path
    await scratch.remove()
  }
})

test.run()
