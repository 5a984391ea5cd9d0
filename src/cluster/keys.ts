/**
 * Where things stand in the metadata. Every key starts with the cluster's prefix and the version
 * of this layout, `/torus/v1/` by default; below it:
 *
 *   key                  value                                      changed by
 *   cluster              ClusterRecord: identity, made once          first start, `cluster init`
 *   incoming             IncomingRecord: a restore or migrate runs   that command
 *   settings             SettingsRecord                              operators
 *   peers/<peer id>      PeerRecord: capacity, labels, boot counter  that peer, operators
 *   alive/<peer id>      boot id, bound to the peer's lease          that peer
 *   volumes/<volume id>  VolumeRecord                                operators, the writer
 *   names/<name>         volume id: the name is taken                with its volume record
 *   families/<family>    FamilyRecord: highest writerEpoch given     who takes the writer lease
 *   writers/<family>     WriterRecord, bound to the writer's lease   the writer
 *   deleted/<family>     DeletedRecord, positive record of the end   `volume delete`, each peer
 *
 * Values are JSON objects with the version `v` of their kind; an unknown version is refused.
 * The number of keys is O(peers + volumes), never of chunks or blocks. Names are ASCII, so they
 * stand in keys as they are.
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
  get incoming(): string {
    return `${this.root}incoming`
  }
  get settings(): string {
    return `${this.root}settings`
  }
  get peers(): string {
    return `${this.root}peers/`
  }
  get volumes(): string {
    return `${this.root}volumes/`
  }
  get names(): string {
    return `${this.root}names/`
  }
  get deletions(): string {
    return `${this.root}deleted/`
  }
  peer(id: string): string {
    return this.peers + id
  }
  alive(id: string): string {
    return `${this.root}alive/${id}`
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
  deleted(family: string): string {
    return this.deletions + family
  }
}
