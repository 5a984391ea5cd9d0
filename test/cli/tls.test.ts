import { deepStrictEqual, match, ok, rejects, strictEqual } from 'node:assert'
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { test } from 'uvu'
import { namesOfCertificate } from '../../src/core/certificate-names.ts'
import { authorityIn, issue } from '../../src/cli/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'

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
