import { suite } from 'uvu'
import { EtcdStore } from '../../src/metadata/etcd-store.ts'
import { systemClock } from '../../src/core/clock.ts'
import { findProgram, testNeeding } from '../helpers/environment.ts'
import { EtcdServer } from '../helpers/etcd.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { contract } from './contract.ts'

let server: EtcdServer | null = null

// One etcd for all tests: the next one finds it empty, though not at its first revision.
if (findProgram('etcd') !== '') {
  const around = suite('etcd')
  around('starts', async () => {
    server = await EtcdServer.start()
  })
  around.run()
  contract('etcd', async () => {
    const { endpoints } = server!
    const options = { endpoints, clock: systemClock, random: new SeededRandom(1) }
    const store = await EtcdStore.open(options)
    return {
      store,
      pass: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
      dispose: async () => {
        await store.close()
        const raw = server!.client()
        await raw.delete().all()
        raw.close()
      }
    }
  })
  const after = suite('etcd')
  after('ends', async () => {
    await server?.stop()
  })
  after.run()
} else {
  testNeeding({ programs: ['etcd'] }, 'the contract holds on etcd', () => {})
}
