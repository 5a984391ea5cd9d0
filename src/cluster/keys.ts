/**
 * Where things stand in the metadata. Every key starts with the cluster's prefix and the version
 * of this layout, `/torus/v1/` by default; below it:
 *
 *   key                  value                                      changed by
 *   cluster              ClusterRecord: identity, made once          first start, `cluster init`
 *   secret               SecretRecord: which one peers prove know  `cluster init`, peers
 *   incoming             IncomingRecord: a restore or migrate runs   that command
 *   restore              RestoreRecord: what a restore leaves open   `metadata restore`, each peer
 *   settings             SettingsRecord, feature level               operators
 *   levels               changes when a peer's levels do             who registers (finalize.ts)
 *   peers/<peer id>      PeerRecord: capacity, labels, boot counter  that peer, operators
 *   alive/<peer id>      AliveRecord, bound to the peer's lease      that peer
 *   controller           ControllerRecord, bound to a lease          who is elected
 *   pools/<name>         PoolRecord: redundancy, ring, groups        operators
 *   poolnumbers/<nr>     pool name: the number is taken for ever     with its pool record
 *   volumes/<volume id>  VolumeRecord                                operators, the writer
 *   names/<name>         volume id: the name is taken                with its volume record
 *   families/<family>    FamilyRecord: highest writerEpoch given     who takes the writer lease
 *   writers/<family>     WriterRecord, bound to the writer's lease   the writer
 *   handovers/<family>   HandoverRecord, bound to a lease            who wants to write instead
 *   offers/<family>      OfferRecord, bound to the writer's lease: lets go  the writer
 *   clients/<volume id>  ClientSessionRecord: who wrote last         the writer
 *   groups/<pool>/<nr>   GroupRecord: who holds a group's data      who needs it (PROTOCOL.md)
 *   volumekeys/<family>  VolumeKeysRecord: slots, data keys     operators of an encrypted volume
 *   snapshots/<volume id>/<name>  SnapshotRecord: a frozen layer    who takes it, operators
 *   bases/<family>/<branch>       BaseRecord: on which layer it begins  who clones or restores
 *   events/<volume id>   what happened to it, the last of it        who did it
 *   deleted/<family>     DeletedRecord, positive record of the end   who deletes, controller
 *   deleted/<family>-<part>      the same of some of its layers     restores, controller
 *   confirmed/<family>[-<part>]/<peer id>  nothing of it is left there  that peer, the controller
 *   tokens/<id>          TokenRecord: hash and role of a token       operators
 *   tokens/required      a token was made once: no door is open      with the first token
 *
 * Values are JSON objects with the version `v` of their kind; an unknown version is refused.
 * The number of keys is O(peers + groups + volumes + snapshots), never of chunks or blocks. Names
 * are ASCII, so they stand in keys as they are.
 */
const KEY_LAYOUT_VERSION = 'v1'
const KEY_PREFIX_DEFAULT = '/torus'

export class Keys {
  readonly prefix: string
  readonly root: string

  constructor(prefix: string = KEY_PREFIX_DEFAULT) {
    this.prefix = prefix.replace(/\/+$/, '')
    this.root = `${this.prefix}/${KEY_LAYOUT_VERSION}/`
  }

  get cluster(): string {
    return `${this.root}cluster`
  }
  get secret(): string {
    return `${this.root}secret`
  }
  get incoming(): string {
    return `${this.root}incoming`
  }
  get restore(): string {
    return `${this.root}restore`
  }
  get settings(): string {
    return `${this.root}settings`
  }
  get levels(): string {
    return `${this.root}levels`
  }
  get peers(): string {
    return `${this.root}peers/`
  }
  get volumes(): string {
    return `${this.root}volumes/`
  }
  get allSnapshots(): string {
    return `${this.root}snapshots/`
  }
  snapshots(volume: string): string {
    return `${this.allSnapshots}${volume}/`
  }
  snapshot(volume: string, name: string): string {
    return this.snapshots(volume) + name
  }
  get allBases(): string {
    return `${this.root}bases/`
  }
  bases(family: string): string {
    return `${this.allBases}${family}/`
  }
  /** Of the branch that has the layer. */
  base(family: string, layer: string): string {
    return this.bases(family) + layer.slice(0, 8)
  }
  get pools(): string {
    return `${this.root}pools/`
  }
  get controller(): string {
    return `${this.root}controller`
  }
  get allAlive(): string {
    return `${this.root}alive/`
  }
  get names(): string {
    return `${this.root}names/`
  }
  get deletions(): string {
    return `${this.root}deleted/`
  }
  get confirmations(): string {
    return `${this.root}confirmed/`
  }
  /** `name`: how the deletion's key ends. */
  confirmed(name: string, peerId: string): string {
    return `${this.confirmations}${name}/${peerId}`
  }
  get tokens(): string {
    return `${this.root}tokens/`
  }
  get tokensRequired(): string {
    return `${this.tokens}required`
  }
  token(id: string): string {
    return this.tokens + id
  }
  peer(id: string): string {
    return this.peers + id
  }
  alive(id: string): string {
    return this.allAlive + id
  }
  volume(id: string): string {
    return this.volumes + id
  }
  name(name: string): string {
    return this.names + name
  }
  get families(): string {
    return `${this.root}families/`
  }
  family(family: string): string {
    return this.families + family
  }
  writer(family: string): string {
    return `${this.root}writers/${family}`
  }
  pool(name: string): string {
    return this.pools + name
  }
  poolNumber(number: number | string): string {
    return `${this.root}poolnumbers/${number}`
  }
  clientSession(volume: string): string {
    return `${this.root}clients/${volume}`
  }
  get handovers(): string {
    return `${this.root}handovers/`
  }
  handover(family: string): string {
    return this.handovers + family
  }
  offer(family: string): string {
    return `${this.root}offers/${family}`
  }
  get allGroups(): string {
    return `${this.root}groups/`
  }
  groups(pool: number): string {
    return `${this.allGroups}${pool}/`
  }
  group(pool: number, group: number): string {
    return this.groups(pool) + group
  }
  volumeKeys(family: string): string {
    return `${this.root}volumekeys/${family}`
  }
  volumeEvents(id: string): string {
    return `${this.root}events/${id}`
  }
  deleted(family: string): string {
    return this.deletions + family
  }
  /** Of some of its layers. */
  deletedPart(family: string, part: string): string {
    return `${this.deleted(family)}-${part}`
  }
}
