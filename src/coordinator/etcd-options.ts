import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import { systemClock, systemRandom } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { optionInfo } from '../core/option-info.ts'
import type { Config } from '../core/options.ts'
import type { EtcdOptions } from '../metadata/etcd-options.ts'
import { systemReason } from '../core/system-reason.ts'

type EtcdConfig = Pick<
  Config,
  'etcd' | 'etcdCa' | 'etcdCert' | 'etcdKey' | 'etcdUser' | 'etcdPasswordFile'
>

/** With the files that the options name. @throws StoreError InvalidArgument */
export function etcdOptionsOf(config: EtcdConfig): EtcdOptions {
  const ca = fileOf(config, 'etcdCa')
  const cert = fileOf(config, 'etcdCert')
  const key = fileOf(config, 'etcdKey')
  const password = fileOf(config, 'etcdPasswordFile')
  checkPair(config, ca, cert, key)
  return {
    endpoints: config.etcd,
    clock: systemClock,
    random: systemRandom,
    tls: {
      ...(ca === null ? {} : { ca }),
      ...(cert === null ? {} : { cert }),
      ...(key === null ? {} : { key })
    },
    ...(config.etcdUser === null || password === null
      ? {}
      : { auth: { user: config.etcdUser, password: password.toString().replace(/\r?\n$/, '') } })
  }
}

/** gRPC would say only that a connection failed. */
function checkPair(
  { etcdCert }: EtcdConfig,
  ca: Buffer | null,
  cert: Buffer | null,
  key: Buffer | null
): void {
  if (cert === null || key === null) return
  try {
    createSecureContext({ cert, key, ...(ca === null ? {} : { ca }) })
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    const text = `etcd-cert ${etcdCert} cannot be used with its key: ${reason}`
    throw new StoreError(ErrorCode.InvalidArgument, text, { cause })
  }
}

function fileOf(
  config: EtcdConfig,
  key: 'etcdCa' | 'etcdCert' | 'etcdKey' | 'etcdPasswordFile'
): Buffer | null {
  const path = config[key]
  if (path === null) return null
  try {
    return readFileSync(path)
  } catch (cause) {
    const text = `${optionInfo[key].name} ${path} cannot be read: ${systemReason(cause)}`
    throw new StoreError(ErrorCode.InvalidArgument, text, { cause })
  }
}
