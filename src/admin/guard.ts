import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { TLSSocket } from 'node:tls'
import { isLoopback } from '../core/addresses.ts'
import type { Address } from '../core/options.ts'

/**
 * Browsers can be made to send requests to 127.0.0.1 by any page: through a name that resolves
 * there (DNS rebinding), or by a form (cross-site request). Nobody logs in on loopback, so both are
 * refused by what browsers cannot leave out. Returns why, or '' for a request that may go on.
 */
export function refusalOf(request: IncomingMessage, listen: Address): string {
  const host = hostOf(request.headers.host ?? '')
  // Other machines reach an open listener under any name, and --insecure accepted that.
  if (isLoopback(listen.host) && !isLoopback(host) && isIP(host) === 0) {
    return `host "${host}" is not this machine's loopback name: use localhost or 127.0.0.1`
  }
  const { origin } = request.headers
  const scheme = request.socket instanceof TLSSocket ? 'https' : 'http'
  if (origin !== undefined && origin !== `${scheme}://${request.headers.host}`) {
    return `requests from the page of another site (${origin}) are not answered`
  }
  const site = request.headers['sec-fetch-site']
  if (site === 'cross-site' || site === 'same-site') {
    return 'requests from the page of another site are not answered'
  }
  return ''
}

/** 'localhost:4321' -> 'localhost', '[::1]:4321' -> '::1'. */
function hostOf(header: string): string {
  const bracketed = /^\[([^\]]*)\]/.exec(header)
  return (bracketed?.[1] ?? header.replace(/:\d*$/, '')).toLowerCase()
}
