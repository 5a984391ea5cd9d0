/**
 * Names and meaning of every option, for flags, help and documentation. Apart from the schemas, so
 * that a command line that only asks a server need not load them. The external name is the same
 * everywhere: `--data-dir`, `data-dir:` in YAML, `TORUS_DATA_DIR`.
 */
import type { OptionKey } from './options.ts'

export interface OptionInfo {
  /** As flag, key of the config file and, in capitals, environment variable. */
  readonly name: string
  /** The word that stands for the value in help; '' for a switch. */
  readonly argument: string
  readonly help: string
  /** What holds without it, in words or as it would be written; '' where nothing is set. */
  readonly usual: string
  /** May be given several times; the environment separates values with commas. */
  readonly list?: boolean
  /** Relative paths mean: from the working directory, or from where the config file is. */
  readonly path?: boolean
}

export const optionInfo: Readonly<Record<OptionKey, OptionInfo>> = {
  dataDir: {
    name: 'data-dir',
    argument: 'DIR',
    path: true,
    help: 'where everything is kept; created when missing',
    usual: ''
  },
  capacityBytes: {
    name: 'capacity',
    argument: 'SIZE',
    help: 'bytes that all shards together may use',
    usual: 'what the filesystem has, less 5 %'
  },
  shards: {
    name: 'shards',
    argument: 'N',
    help: 'worker threads with a part of the data each; fixed when the data directory is created',
    usual: 'one less than cores, 1 to 4'
  },
  segmentBytes: {
    name: 'segment-size',
    argument: 'SIZE',
    help: 'size of the append-only files; fixed when the data directory is created',
    usual: '16MiB to 128MiB, by capacity'
  },
  arenaBytes: {
    name: 'arena-size',
    argument: 'SIZE',
    help: 'shared memory for the bytes of requests in flight',
    usual: '64MiB'
  },
  volumes: {
    name: 'volume',
    argument: 'NAME=SIZE',
    list: true,
    help: 'create this volume at start unless it exists',
    usual: ''
  },
  nbdListen: {
    name: 'nbd-listen',
    argument: 'HOST:PORT',
    help: 'where NBD clients connect, or off; port 0 takes a free one',
    usual: '127.0.0.1:10809'
  },
  nbdSocket: {
    name: 'nbd-socket',
    argument: 'PATH',
    path: true,
    help: 'unix socket for NBD clients beside the TCP address',
    usual: ''
  },
  nbdSocketMode: {
    name: 'nbd-socket-mode',
    argument: 'MODE',
    help: 'who may open that socket, octal: 660 lets its group in',
    usual: '600'
  },
  nbdTls: {
    name: 'nbd-tls',
    argument: 'off|allow|require',
    help: 'NBD_OPT_STARTTLS: not offered, offered, or the only way in',
    usual: 'off'
  },
  nbdTlsCert: {
    name: 'nbd-tls-cert',
    argument: 'FILE',
    path: true,
    help: 'certificate chain of the NBD server, PEM',
    usual: ''
  },
  nbdTlsKey: {
    name: 'nbd-tls-key',
    argument: 'FILE',
    path: true,
    help: 'private key of that certificate, PEM',
    usual: ''
  },
  nbdTlsCa: {
    name: 'nbd-tls-ca',
    argument: 'FILE',
    path: true,
    help: 'clients must show a certificate signed by one of these, PEM',
    usual: ''
  },
  nbdTlsPskFile: {
    name: 'nbd-tls-psk-file',
    argument: 'FILE',
    path: true,
    help: 'instead of certificates: lines IDENTITY:HEXKEY, as psktool writes them',
    usual: ''
  },
  nbdDefaultExport: {
    name: 'nbd-default-export',
    argument: 'NAME',
    help: 'volume for clients that name none',
    usual: 'the only volume, if there is one'
  },
  adminListen: {
    name: 'admin-listen',
    argument: 'HOST:PORT',
    help: 'where the admin API and metrics are, or off',
    usual: '127.0.0.1:4321'
  },
  adminTlsCert: {
    name: 'admin-tls-cert',
    argument: 'FILE',
    path: true,
    help: 'admin-listen talks TLS and shows this certificate chain, PEM',
    usual: ''
  },
  adminTlsKey: {
    name: 'admin-tls-key',
    argument: 'FILE',
    path: true,
    help: 'private key of that certificate, PEM',
    usual: ''
  },
  adminTlsCa: {
    name: 'admin-tls-ca',
    argument: 'FILE',
    path: true,
    help: 'programs must show a certificate signed by one of these, PEM',
    usual: ''
  },
  adminTlsAdmins: {
    name: 'admin-tls-admins',
    argument: 'NAME[,NAME]',
    list: true,
    help: 'names in those certificates that may do everything; others need a token',
    usual: ''
  },
  adminSocketMode: {
    name: 'admin-socket-mode',
    argument: 'MODE',
    help: 'who may open that socket, octal: 660 lets its group in',
    usual: '600'
  },
  adminSocket: {
    name: 'admin-socket',
    argument: 'PATH',
    path: true,
    help: 'unix socket of the admin API, or off',
    usual: 'admin.sock in the data directory'
  },
  insecure: {
    name: 'insecure',
    argument: '',
    help: 'allow listeners that other machines can reach, though nobody has to log in',
    usual: ''
  },
  etcd: {
    name: 'etcd',
    argument: 'URL[,URL]',
    list: true,
    help: 'keep the metadata in etcd instead of the data directory',
    usual: ''
  },
  etcdPrefix: {
    name: 'etcd-prefix',
    argument: 'PREFIX',
    help: 'all keys of the cluster start with this; one cluster has it alone',
    usual: '/torus'
  },
  etcdCa: {
    name: 'etcd-ca',
    argument: 'FILE',
    path: true,
    help: 'authorities that may have signed the certificate of etcd, PEM',
    usual: 'those of the system'
  },
  etcdCert: {
    name: 'etcd-cert',
    argument: 'FILE',
    path: true,
    help: 'our certificate, for an etcd that asks for one, PEM',
    usual: ''
  },
  etcdKey: {
    name: 'etcd-key',
    argument: 'FILE',
    path: true,
    help: 'private key of that certificate, PEM',
    usual: ''
  },
  etcdUser: {
    name: 'etcd-user',
    argument: 'NAME',
    help: 'user of etcd; it needs readwrite on the prefix',
    usual: ''
  },
  etcdPasswordFile: {
    name: 'etcd-password-file',
    argument: 'FILE',
    path: true,
    help: 'file with the password of that user',
    usual: ''
  },
  etcdWaitMs: {
    name: 'etcd-wait',
    argument: 'DURATION',
    help: 'how long a start waits for an etcd that does not answer',
    usual: '5m'
  },
  peerListen: {
    name: 'peer-listen',
    argument: 'HOST:PORT',
    help: 'where other peers of the cluster connect, or off; port 0 takes a free one',
    usual: 'off'
  },
  peerAdvertise: {
    name: 'peer-advertise',
    argument: 'HOST:PORT',
    help: 'what other peers are told to connect to, where that is not the address of peer-listen',
    usual: ''
  },
  clusterSecretFile: {
    name: 'cluster-secret-file',
    argument: 'FILE',
    path: true,
    help: 'text of 32 characters or more by which peers know each other; more lines: also valid',
    usual: ''
  },
  peerTlsCa: {
    name: 'peer-tls-ca',
    argument: 'FILE',
    path: true,
    help: 'links between peers use TLS, and show certificates signed by one of these, PEM',
    usual: ''
  },
  peerTlsCert: {
    name: 'peer-tls-cert',
    argument: 'FILE',
    path: true,
    help: 'certificate of this peer, for client and server, PEM',
    usual: ''
  },
  peerTlsKey: {
    name: 'peer-tls-key',
    argument: 'FILE',
    path: true,
    help: 'private key of that certificate, PEM',
    usual: ''
  },
  scrubPeriodMs: {
    name: 'scrub-period',
    argument: 'DURATION',
    help: 'read and verify everything once in this time, or off',
    usual: '2w'
  },
  join: {
    name: 'join',
    argument: '',
    help: 'a new data directory becomes part of the cluster that etcd has',
    usual: ''
  },
  labels: {
    name: 'label',
    argument: 'KEY=VALUE',
    list: true,
    help: 'of this peer: host, rack and zone keep copies apart; host is the machine unless said',
    usual: ''
  },
  downAfterMs: {
    name: 'down-after',
    argument: 'DURATION',
    help: 'how long a peer may be away before its copies are made anew elsewhere',
    usual: '10m'
  },
  resyncBytes: {
    name: 'resync-rate',
    argument: 'SIZE',
    help: 'most bytes a second that this peer copies from others to catch up or to take data over',
    usual: '200MiB'
  },
  unlockWith: {
    name: 'unlock-with',
    argument: 'NAME=SOURCE',
    list: true,
    help:
      'unlock encrypted volume NAME (* for all) unattended; SOURCE is passphrase-file:FILE, ' +
      'key-file:FILE or command:COMMAND',
    usual: ''
  },
  scheduling: {
    name: 'scheduling',
    argument: 'batch|normal',
    help:
      'batch: threads that wake up interrupt nobody: more small requests where cores are few, ' +
      'for machines that do nothing else (Linux, by chrt)',
    usual: 'normal'
  },
  shutdownMs: {
    name: 'shutdown-timeout',
    argument: 'DURATION',
    help: 'how long a shutdown may take before clients are cut off',
    usual: '30s'
  },
  plugins: {
    name: 'plugin',
    argument: 'MODULE',
    list: true,
    help: 'load a module that registers volume types',
    usual: ''
  },
  logLevel: {
    name: 'log-level',
    argument: 'trace|debug|info|warn|error|fatal|silent',
    help: 'least level that is logged',
    usual: 'info'
  },
  logFormat: {
    name: 'log-format',
    argument: 'auto|json|pretty',
    help: 'auto is pretty on a terminal and JSON lines elsewhere',
    usual: 'auto'
  },
  logLines: {
    name: 'log-lines',
    argument: 'N',
    help: 'last lines kept in memory for the debug bundle',
    usual: '2000'
  }
}

export const optionKeys = Object.keys(optionInfo) as readonly OptionKey[]

/** `data-dir` -> `TORUS_DATA_DIR`. */
export const environmentNameOf = (key: OptionKey): string =>
  `TORUS_${optionInfo[key].name.toUpperCase().replaceAll('-', '_')}`
