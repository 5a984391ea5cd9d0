/**
 * What may happen to a cluster. Each fault does it, says how the load goes on meanwhile, and leaves
 * everything running; then `settle` must find the cluster whole. Any wrong byte, any error that a
 * client sees, and any wait that is longer than it may be is thrown.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../test/helpers/process.ts'
import { ETCD } from '../../test/helpers/cluster-network.ts'
import {
  type ClusterTorture,
  DOWN_AFTER_MS,
  ETCD_MEMBERS,
  MEMBER_LOST_MS,
  PEERS,
  TTL_MS
} from './cluster-torture.ts'

export interface Fault {
  readonly name: string
  run(torture: ClusterTorture): Promise<void>
}

const CUT = { kind: 'cut' } as const
const HELD = { kind: 'hold', from: 'both' } as const
/** Until peers that were away know that they are back. */
const HEALED_MS = 40_000

const memberFaults: Fault[] = [
  {
    name: 'a member is killed',
    run: async (torture) => {
      const at = torture.someMember()
      torture.note(`  kill -9 of peer ${at + 1}`)
      await torture.site.peers[at]!.kill()
      await torture.goesOn(torture.between(0, 8000))
      await torture.restart(at)
    }
  },
  {
    name: 'a member is paused',
    run: async (torture) => {
      const at = torture.someMember()
      const ms = torture.between(500, 15_000)
      torture.note(`  SIGSTOP of peer ${at + 1} for ${ms} ms`)
      torture.site.peers[at]!.signal('SIGSTOP')
      await torture.goesOn(ms)
      torture.site.peers[at]!.signal('SIGCONT')
      await torture.goesOn(2000)
    }
  },
  {
    name: 'two members are killed, one after the other',
    run: async (torture) => {
      const first = torture.someMember()
      const second = torture.someMember(first)
      torture.note(`  kill -9 of peers ${first + 1} and ${second + 1}`)
      await torture.site.peers[first]!.kill()
      await torture.goesOn(torture.between(0, 3000))
      await torture.site.peers[second]!.kill()
      // Groups that had both wait for one of them.
      await sleep(torture.between(0, 5000))
      await torture.restart(second)
      await torture.restart(first)
      await torture.goesOnOrBreaks(HEALED_MS)
    }
  },
  {
    name: 'a member is away for so long that its copies are made anew',
    run: async (torture) => {
      const at = torture.someMember()
      torture.note(`  kill -9 of peer ${at + 1}, for more than --down-after`)
      await torture.site.peers[at]!.kill()
      await torture.goesOn(DOWN_AFTER_MS)
      await torture.site.untilInSync(torture.gateway, 60_000)
      torture.note('  whole without it')
      await torture.restart(at)
    }
  },
  {
    name: 'a member is replaced by another while it is dead, and comes back',
    run: async (torture) => {
      const at = torture.someMember()
      const by = torture.someMember(at)
      const [old, replacing] = [await torture.peerIdOf(at), await torture.peerIdOf(by)]
      torture.note(`  kill -9 of peer ${at + 1}, replaced by ${by + 1}`)
      await torture.site.peers[at]!.kill()
      await torture.goesOn(TTL_MS + 2000)
      await torture.gatewayServer.json('peer', 'replace', old, replacing)
      await torture.site.untilInSync(torture.gateway, 60_000)
      await torture.restart(at)
      await torture.gatewayServer.json('peer', 'undrain', old)
      await torture.goesOn(2000)
    }
  },
  {
    name: 'a peer is drained and gets its data back',
    run: async (torture) => {
      const at = torture.pick([...torture.site.peers.keys()])
      const id = await torture.peerIdOf(at)
      torture.note(`  drain of peer ${at + 1}`)
      await torture.gatewayServer.json('peer', 'drain', id)
      const isEmpty = async (): Promise<boolean> => {
        torture.load.check()
        const { peers } = await torture.site.status(torture.gateway)
        return peers.some((each) => each.peerId === id && each.groupsInSync === 0)
      }
      await until(isEmpty, 'the drained peer has no groups', 60_000)
      await torture.gatewayServer.json('peer', 'undrain', id)
      await torture.goesOn(2000)
    }
  },
  {
    name: 'a volume is deleted while a peer is away',
    run: async (torture) => {
      const { gatewayServer, site } = torture
      const at = torture.someMember()
      const name = `gone-${torture.notes}`
      await gatewayServer.createVolume(name, '8MiB')
      const writer = await torture.connect(name)
      for (let mib = 0; mib < 8; mib++) {
        await writer.write(mib * 2 ** 20, Buffer.alloc(2 ** 20, mib + 1), true)
      }
      writer.destroy()
      torture.note(`  kill -9 of peer ${at + 1}, then volume delete ${name}`)
      await site.peers[at]!.kill()
      await until(
        async () => {
          const args = ['volume', 'delete', name, '--now', '--yes']
          return (await gatewayServer.torus(args)).code === 0
        },
        'the volume is deleted',
        20_000
      )
      await torture.goesOn(1000)
      await torture.restart(at)
      const etcd = site.etcd.client()
      const left = async (): Promise<boolean> => {
        const keys = await etcd.getAll().prefix('/torus/v1/deleted/').keys()
        return keys.length === 0
      }
      await until(left, 'every peer has confirmed the deletion', 60_000).finally(() => etcd.close())
    }
  }
]

const gatewayFaults: Fault[] = [
  {
    name: 'the gateway is killed',
    run: async (torture) => {
      const old = torture.gateway
      torture.note(`  kill -9 of peer ${old + 1}`)
      await torture.gatewayServer.kill()
      await torture.load.breaks(5000)
      await torture.takeOver(torture.someMember())
      torture.begin()
      await torture.goesOn(torture.between(0, 5000))
      await torture.restart(old)
    }
  },
  {
    name: 'the gateway is killed and starts again at once',
    run: async (torture) => {
      const old = torture.gateway
      torture.note(`  kill -9 of peer ${old + 1}, and start`)
      await torture.gatewayServer.kill()
      await torture.load.breaks(5000)
      await torture.restart(old)
      await torture.takeOver(torture.pick([old, torture.someMember()]))
      torture.begin()
    }
  },
  {
    name: 'the gateway is paused past its lease and wakes up',
    run: async (torture) => {
      const old = torture.gateway
      torture.note(`  SIGSTOP of peer ${old + 1}`)
      torture.gatewayServer.signal('SIGSTOP')
      await torture.takeOver(torture.someMember())
      const { gatewayServer } = torture
      const client = await torture.connect(torture.load.volume)
      torture.site.peers[old]!.signal('SIGCONT')
      await torture.load.breaks(30_000)
      // What it had in its sockets must have changed nothing.
      await torture.load.verify(client)
      client.destroy()
      torture.load.begin(gatewayServer.nbdPort)
    }
  },
  {
    name: 'the gateway ends in order',
    run: async (torture) => {
      const old = torture.gateway
      torture.note(`  SIGTERM of peer ${old + 1} under load`)
      const ended = torture.gatewayServer.stop(40_000)
      await torture.load.breaks(40_000)
      const code = await ended
      if (code !== 0) throw new Error(`peer ${old + 1} ended with ${code}`)
      await torture.takeOver(torture.someMember(), 5000)
      torture.begin()
      await torture.goesOn(torture.between(0, 3000))
      await torture.restart(old)
    }
  },
  {
    name: 'the volume moves to another gateway, in order',
    run: async (torture) => {
      await torture.moveTo(torture.someMember())
    }
  },
  {
    name: 'the volume is taken over from a gateway that lives',
    run: async (torture) => {
      const to = torture.someMember()
      torture.note(`  volume take --takeover at peer ${to + 1}`)
      const take = ['volume', 'take', torture.load.volume, '--takeover', '--yes']
      const { code, stderr } = await torture.site.peers[to]!.torus(take)
      if (code !== 0) throw new Error(`volume take: ${stderr}`)
      await torture.load.breaks(20_000)
      await torture.takeOver(to)
      torture.begin()
    }
  },
  {
    name: 'every peer is restarted in turn, in order',
    run: async (torture) => {
      for (let at = 0; at < PEERS; at++) {
        if (at === torture.gateway) await torture.moveTo(torture.someMember())
        torture.note(`  SIGTERM of peer ${at + 1}`)
        const code = await torture.site.peers[at]!.stop(40_000)
        if (code !== 0) throw new Error(`peer ${at + 1} ended with ${code}`)
        await torture.goesOn(500)
        await torture.restart(at)
        await torture.site.untilInSync(torture.gateway, 60_000)
      }
    }
  }
]

const networkFaults: Fault[] = [
  {
    name: 'a member is cut off from everybody',
    run: async (torture) => {
      const at = torture.someMember()
      const [rule, how] = torture.pick([[CUT, 'cut'] as const, [HELD, 'half-open'] as const])
      const ms = torture.between(500, 20_000)
      torture.note(`  links of peer ${at + 1}, to etcd too, are ${how} for ${ms} ms`)
      torture.site.network.setAround(at, rule)
      await torture.goesOn(ms)
      torture.site.network.heal()
      await torture.goesOn(2000)
    }
  },
  {
    name: 'a member is cut off from the other peers, but not from etcd',
    run: async (torture) => {
      const at = torture.someMember()
      const [rule, how] = torture.pick([[CUT, 'cut'] as const, [HELD, 'half-open'] as const])
      const ms = torture.between(500, 20_000)
      torture.note(`  links of peer ${at + 1} to peers are ${how} for ${ms} ms`)
      torture.site.network.setAround(at, rule, false)
      await torture.goesOn(ms)
      torture.site.network.heal()
      await torture.goesOn(2000)
    }
  },
  {
    name: 'gateway and one member do not hear each other, or one does not hear',
    run: async (torture) => {
      const at = torture.someMember()
      const from = torture.pick(['both', 'client', 'server'] as const)
      const ms = torture.between(500, 15_000)
      const which = { both: 'all', client: 'its requests', server: 'answers to it' }[from]
      torture.note(
        `  between gateway ${torture.gateway + 1} and ${at + 1}: ${which} held, ${ms} ms`
      )
      torture.site.network.set(torture.gateway, at, { kind: 'hold', from })
      await torture.goesOn(ms)
      torture.site.network.heal()
      await torture.goesOn(2000)
    }
  },
  {
    name: 'the gateway is cut off from everybody, but not from its clients',
    run: async (torture) => {
      const old = torture.gateway
      torture.note(`  links of gateway ${old + 1}, to etcd too, are cut`)
      torture.site.network.setAround(old, CUT)
      await torture.takeOver(torture.someMember())
      const client = await torture.connect(torture.load.volume)
      torture.site.network.heal()
      await torture.load.breaks(HEALED_MS)
      await torture.load.verify(client)
      client.destroy()
      torture.begin()
    }
  },
  {
    name: 'links are slow',
    run: async (torture) => {
      const ms = torture.between(2, 30)
      torture.note(`  every link takes ${ms} ms longer`)
      for (let at = 0; at < PEERS; at++) {
        torture.site.network.setAround(at, { kind: 'delay', ms })
      }
      await torture.goesOn(5000)
      torture.site.network.heal()
    }
  },
  {
    name: 'links flap',
    run: async (torture) => {
      const at = torture.someMember()
      torture.note(`  links of gateway ${torture.gateway + 1} and ${at + 1} flap`)
      for (let times = 0; times < 10; times++) {
        torture.site.network.setBetween(torture.gateway, at, CUT)
        await sleep(torture.between(10, 700))
        torture.site.network.heal()
        await sleep(torture.between(10, 700))
      }
      await torture.goesOn(1000)
    }
  }
]

const etcdFaults: Fault[] = [
  {
    name: 'a member of etcd dies',
    run: async (torture) => {
      const { etcd } = torture.site
      const leader = await etcd.leader()
      const at = torture.pick([leader, torture.between(0, ETCD_MEMBERS - 1)].filter((n) => n >= 0))
      torture.note(`  kill -9 of etcd member ${at}${at === leader ? ', the leader' : ''}`)
      await etcd.kill(at)
      await torture.goesOn(torture.between(1000, 15_000), 5000)
      etcd.restart(at)
      await etcd.ready()
    }
  },
  {
    name: 'all of etcd dies',
    run: async (torture) => {
      const { etcd } = torture.site
      const ms = torture.between(2000, 2 * TTL_MS)
      torture.note(`  kill -9 of all of etcd for ${ms} ms`)
      for (let at = 0; at < ETCD_MEMBERS; at++) await etcd.kill(at)
      await torture.goesOn(ms, 5000)
      for (let at = 0; at < ETCD_MEMBERS; at++) etcd.restart(at)
      await etcd.ready()
      await torture.goesOn(3000, 5000)
    }
  },
  {
    name: 'all of etcd is paused',
    run: async (torture) => {
      const { etcd } = torture.site
      const ms = torture.between(2000, 2 * TTL_MS)
      torture.note(`  SIGSTOP of all of etcd for ${ms} ms`)
      for (let at = 0; at < ETCD_MEMBERS; at++) etcd.signal(at, 'SIGSTOP')
      await torture.goesOn(ms, 5000)
      for (let at = 0; at < ETCD_MEMBERS; at++) etcd.signal(at, 'SIGCONT')
      await torture.goesOn(3000, 5000)
    }
  },
  {
    name: 'the gateway is cut off from etcd',
    run: async (torture) => {
      const [rule, how] = torture.pick([[CUT, 'cut'] as const, [HELD, 'half-open'] as const])
      const ms = torture.between(2000, 2 * TTL_MS)
      torture.note(`  gateway ${torture.gateway + 1} and etcd: ${how} for ${ms} ms`)
      torture.site.network.set(torture.gateway, ETCD, rule)
      await torture.goesOn(ms, 5000)
      torture.site.network.heal()
      await torture.goesOn(3000, 5000)
    }
  },
  {
    name: 'a member dies while etcd is dead',
    run: async (torture) => {
      const { etcd, peers } = torture.site
      const at = torture.someMember()
      torture.note(`  kill -9 of all of etcd, then of peer ${at + 1}`)
      for (let member = 0; member < ETCD_MEMBERS; member++) await etcd.kill(member)
      await torture.goesOn(1000, 5000)
      await peers[at]!.kill()
      // Writes to its groups wait for etcd.
      await sleep(torture.between(1000, 12_000))
      for (let member = 0; member < ETCD_MEMBERS; member++) etcd.restart(member)
      await etcd.ready()
      await torture.goesOn(1000, HEALED_MS)
      await torture.restart(at)
    }
  }
]

const diskFaults: Fault[] = [
  {
    name: 'the disk of one peer is slow',
    run: async (torture) => {
      const at = torture.pick([...torture.site.peers.keys()])
      const delayMs = torture.between(5, 300)
      torture.note(`  every write and sync of peer ${at + 1} takes ${delayMs} ms longer`)
      torture.disks[at]!.set({ delayMs })
      await torture.goesOn(torture.between(2000, 8000))
      torture.disks[at]!.set({})
    }
  },
  {
    name: 'the disk of one peer is full',
    run: async (torture) => {
      const at = torture.pick([...torture.site.peers.keys()])
      torture.note(`  every write of peer ${at + 1} gets ENOSPC`)
      torture.load.mayBeFull = true
      const before = torture.load.refused
      torture.disks[at]!.set({ error: 'ENOSPC' })
      await torture.goesOn(torture.between(1000, 6000))
      torture.disks[at]!.set({})
      await torture.goesOn(1000, MEMBER_LOST_MS)
      torture.load.mayBeFull = false
      torture.note(`  ${torture.load.refused - before} writes were refused`)
    }
  }
]

export const allFaults: readonly Fault[] = [
  ...memberFaults,
  ...gatewayFaults,
  ...networkFaults,
  ...etcdFaults,
  ...diskFaults
]
