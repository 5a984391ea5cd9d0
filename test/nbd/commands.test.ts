import { ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { checkCommand, refusals } from '../../src/nbd/commands.ts'
import { nbdErrorByCode, nbdErrorOf, optionErrorOf } from '../../src/nbd/errors.ts'
import * as p from '../../src/nbd/protocol.ts'
import { ReplyMode } from '../../src/nbd/replies.ts'

const test = suite('nbd commands')
const rules = { mode: ReplyMode.Structured, readOnly: false, statusContexts: true }

test('every error code reads as one of the specification, here and in the handshake', () => {
  const known = [1, 5, 12, 22, 28, 75, 95, 108]
  for (const code of Object.values(ErrorCode)) {
    strictEqual(nbdErrorByCode[code], nbdErrorOf[code])
    ok(code === 0 ? nbdErrorOf[code] === 0 : known.includes(nbdErrorOf[code]))
    ok(optionErrorOf[code] >= p.NBD_REP_ERR_UNSUP)
  }
})

test('a range may end at the end of the export, and no byte later', () => {
  const check = (offset: number, length: number) =>
    checkCommand(rules, 10_000, p.NBD_CMD_TRIM, 0, offset, length)
  strictEqual(check(0, 10_000), null)
  strictEqual(check(9_999, 1), null)
  strictEqual(check(10_000, 1), refusals.range)
  strictEqual(check(9_999, 2), refusals.range)
  strictEqual(check(0, 2 ** 64), refusals.range)
  strictEqual(check(2 ** 64 - 1, 2), refusals.range)
  strictEqual(check(2 ** 64 - 1, 2 ** 64 - 1), refusals.range)
})

test('the length counts only after command, flags and permission', () => {
  const readOnly = { ...rules, readOnly: true }
  const { NBD_CMD_WRITE: write } = p
  strictEqual(checkCommand(readOnly, 10, write, 0, 100, 0), refusals.readOnly)
  strictEqual(checkCommand(readOnly, 10, write, 1 << 9, 100, 0), refusals.flags)
  strictEqual(checkCommand(rules, 10, write, 0, 100, 0), refusals.zeroLength)
  strictEqual(checkCommand(rules, 10, write, 0, 100, 1), refusals.writeRange)
  strictEqual(checkCommand(rules, 10, 9, 1 << 9, 100, 0), refusals.command)
  strictEqual(checkCommand(rules, 10, p.NBD_CMD_DISC, 0, 0, 0), refusals.command)
})

test.run()
