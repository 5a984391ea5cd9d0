/**
 * Names in certificates: of peers the DNS names and addresses in the subject alternative name, of
 * other programs the common name too, as libraries make certificates for clients. A wildcard is a
 * name like any other here and matches no other name.
 */
import type tls from 'node:tls'

/** Of the other side, in lower case; none where it shows no certificate. */
export const certificateNames = (socket: tls.TLSSocket): string[] =>
  namesOfCertificate(socket.getPeerCertificate()?.subjectaltname ?? '')

/** Of a program that was verified: its common name, for people and logs, before the others. */
export function namesOfClient(socket: tls.TLSSocket): string[] {
  const name: unknown = socket.getPeerCertificate()?.subject?.CN
  const common = typeof name === 'string' && name !== '' ? [name.toLowerCase()] : []
  return [...common, ...certificateNames(socket)]
}

/** Is it one of the names of that program? */
export const isNamed = (socket: tls.TLSSocket, name: string): boolean =>
  namesOfClient(socket).includes(name.toLowerCase())

/** Those in a file, one after the other. */
export const pemCertificates = (text: string): string[] =>
  text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\r?\n?/g) ?? []

/** From Node's text of a subject alternative name. */
export const namesOfCertificate = (text: string): string[] =>
  // A name that holds a comma or a quote is written as a quoted string, and is none for us.
  text
    .split(', ')
    .flatMap((entry) => /^(?:DNS|IP Address):([^"]+)$/.exec(entry)?.[1]?.toLowerCase() ?? [])
