import { deepStrictEqual, match, rejects, strictEqual } from 'node:assert'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import { Credentials } from '../../src/coordinator/credentials.ts'
import { silentLog } from '../../src/core/log.ts'
import { addCertificate, type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { Scratch } from '../helpers/images.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const test = suite('credentials')
const DAY_MS = 24 * 3600 * 1000
const YEAR_2020_MS = Date.parse('2020-01-01T00:00:00Z')

async function withFiles(
  body: (made: Certificates, clock: ManualClock, credentials: Credentials) => Promise<void>
): Promise<void> {
  const scratch = await Scratch.create()
  const clock = new ManualClock()
  const parts = { clock, timers: clock, adminTls: null, log: silentLog() }
  const credentials = new Credentials(parts)
  try {
    await body(await makeCertificates(scratch), clock, credentials)
  } finally {
    credentials.close()
    await scratch.remove()
  }
}

/** Time passes until it is so. */
async function passing(clock: ManualClock, probe: () => boolean): Promise<void> {
  const endMs = performance.now() + 10_000
  while (!probe()) {
    if (performance.now() > endMs) throw new Error('it never was so')
    await clock.advance(500)
    await sleep(5)
  }
}

test('files that change are read again once they rest; what fails is told until it works', () =>
  withFiles(async ({ directory, serverCert, serverKey }, clock, credentials) => {
    let reads = 0
    let isBad = false
    const files = [serverCert, serverKey]
    const reload = async (): Promise<void> => {
      reads++
      if (isBad) throw new Error('key values mismatch')
    }
    credentials.add({ name: 'nbd', files, certificates: [serverCert], reload })
    await credentials.start()
    await clock.advance(60_000)
    strictEqual(reads, 0, 'nothing changed')
    isBad = true
    await copyFile(`${directory}/client-cert.pem`, serverCert)
    await passing(clock, () => reads === 1)
    await passing(clock, () => credentials.problems().some(({ code }) => code === 'credentials'))
    match(credentials.problems()[0]!.message, /nbd: key values mismatch/)
    isBad = false
    await copyFile(`${directory}/client-key.pem`, serverKey)
    await passing(clock, () => reads === 2)
    await passing(clock, () => credentials.problems().every(({ code }) => code !== 'credentials'))
    isBad = true
    await rejects(credentials.reload(), /mismatch/)
  }))

test('who uses which certificate is listed, and one that expires is a problem', () =>
  withFiles(async (made, clock, credentials) => {
    const { cert, key } = await addCertificate(made, { name: 'node-1' })
    const secret = `${made.directory}/secret`
    await writeFile(secret, 'no certificate')
    const files = [cert, key, secret]
    const reload = (): void => {}
    credentials.add({ name: 'peer', files, certificates: [cert, secret], reload })
    await credentials.start()
    const [info, ...others] = credentials.list()
    deepStrictEqual(others, [])
    deepStrictEqual({ use: info!.use, names: info!.names }, { use: 'peer', names: ['node-1'] })
    const levels = (): string[] => credentials.problems().map(({ code, level }) => code + level)
    const now = (ms: number): void => {
      clock.wallShiftMs = 0
      clock.wallShiftMs = ms - clock.wallMs()
    }
    now(YEAR_2020_MS)
    deepStrictEqual(levels(), [])
    now(Date.parse(info!.validTo) - 30 * DAY_MS)
    deepStrictEqual(levels(), ['certificateExpireswarning'])
    match(credentials.problems()[0]!.message, /expires in 30 days/)
    now(Date.parse(info!.validTo))
    deepStrictEqual(levels(), ['certificateExpirederror'])
    // While an authority is replaced a file has both.
    const other = await addCertificate(made, { name: 'node-2' })
    await writeFile(cert, `text before\n${await readFile(cert)}${await readFile(other.cert)}`)
    await credentials.reload()
    deepStrictEqual(
      credentials.list().map(({ names }) => names.join()),
      ['node-1', 'node-2']
    )
  }))

test.run()
