/**
 * Names in certificates. DNS names and addresses in the subject alternative name count, and
 * nothing else: common names are text for people. A wildcard is a name like any other here and
 * matches no other name.
 */
import type tls from 'node:tls'

/** Of the other side, in lower case; none where it shows no certificate. */
export const certificateNames = (socket: tls.TLSSocket): string[] =>
  namesOfCertificate(socket.getPeerCertificate()?.subjectaltname ?? '')

/** From Node's text of a subject alternative name. */
export const namesOfCertificate = (text: string): string[] =>
  // A name that holds a comma or a quote is written as a quoted string, and is none for us.
  text
    .split(', ')
    .flatMap((entry) => /^(?:DNS|IP Address):([^"]+)$/.exec(entry)?.[1]?.toLowerCase() ?? [])
