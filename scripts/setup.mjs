/**
 * Makes a checkout ready to run: installs the npm packages of package-lock.json, builds the one
 * native add-on that comes without binaries (fs-ext, for flock), and compiles the sources. Does
 * only what is not done yet, so it may run before everything else, every time. Plain JavaScript
 * without dependencies, because it runs before there are any.
 *
 * Usage: node scripts/setup.mjs [--tests] [--cluster] [--vm] [--no-build]
 *   --tests     also the programs that the tests talk to (Debian as root installs them with apt;
 *               elsewhere what is missing is named)
 *   --cluster   also those that `npm run dev-cluster` needs
 *   --vm        also those that `npm run vm:attach` needs
 *   --no-build  leave dist/ alone
 * Exit codes: 0 ready, 1 something is missing and could not be had
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const NODE_MIN = [20, 19]
/** Left behind by each step: what it was done for. */
const STAMP = '.torus-setup'

const say = (text) => process.stderr.write(`set-up: ${text}\n`)

class SetupError extends Error {}

/** Runs a program; its output is shown only when it fails, and then in full. */
function run(command, args, { env = {}, cwd = root } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    env: { ...process.env, ...env }
  })
  if (result.status === 0) return result
  const why = result.error ? String(result.error) : `exit code ${result.status}`
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`
  throw new SetupError(`${command} ${args.join(' ')}: ${why}\n${output}`)
}

/** Path of a program, looked up as a shell does, and where only root has it in PATH. */
function findProgram(name) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
  for (const folder of folders) {
    const path = join(folder || '.', name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here.
    }
  }
  return ''
}

/** A python3 that can import `module`: Debian's modules belong to Debian's own python. */
function hasPythonModule(module) {
  return ['/usr/bin/python3', 'python3'].some(
    (python) => spawnSync(python, ['-c', `import ${module}`]).status === 0
  )
}

const isThere = (entry) =>
  entry.pythonModule ? hasPythonModule(entry.pythonModule) : findProgram(entry.program) !== ''

const mayInstall = () =>
  process.getuid?.() === 0 && existsSync('/etc/debian_version') && findProgram('apt-get') !== ''

/** Installs Debian packages with no question asked and none of their services started. */
function aptInstall(packages) {
  const policy = '/usr/sbin/policy-rc.d'
  const ownPolicy = !existsSync(policy)
  const env = { DEBIAN_FRONTEND: 'noninteractive', DEBCONF_NONINTERACTIVE_SEEN: 'true' }
  if (ownPolicy) {
    writeFileSync(policy, '#!/bin/sh\nexit 101\n')
    chmodSync(policy, 0o755)
  }
  try {
    say(`apt-get install ${packages.join(' ')}`)
    try {
      run('apt-get', ['update', '-q'], { env })
    } catch (error) {
      say(`apt-get update failed, going on with the lists that are here\n${error.message}`)
    }
    run('apt-get', ['install', '-q', '-y', '--no-install-recommends', ...packages], { env })
  } finally {
    if (ownPolicy) rmSync(policy, { force: true })
  }
}

/**
 * Has every entry ({program, package}) installed where that is allowed.
 * Returns those that are still missing.
 */
function ensurePrograms(entries) {
  const missing = entries.filter((entry) => !isThere(entry))
  if (missing.length === 0 || !mayInstall()) return missing
  try {
    aptInstall([...new Set(missing.map((entry) => entry.package))])
  } catch (error) {
    say(error.message)
  }
  return missing.filter((entry) => !isThere(entry))
}

const describeMissing = (missing) =>
  missing.map((entry) => `${entry.program} (Debian package ${entry.package})`).join(', ')

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1])) return
  throw new SetupError(
    `Node.js ${process.versions.node} is too old, ${NODE_MIN.join('.')} or newer is needed`
  )
}

/** npm by the Node that runs now: the one that started us, else the one in PATH. */
function npm(args, env = {}) {
  const path = `${dirname(process.execPath)}${delimiter}${process.env.PATH ?? ''}`
  const cli = process.env.npm_execpath ?? ''
  if (/npm-cli\.c?js$/.test(cli))
    return run(process.execPath, [cli, ...args], { env: { ...env, PATH: path } })
  return run('npm', args, { env: { ...env, PATH: path } })
}

/** What node_modules was made from; a change of any of it calls for a new install. */
export function dependencyStamp() {
  const hash = createHash('sha256')
  hash.update(readFileSync(join(root, 'package-lock.json')))
  const { dependencies, devDependencies, overrides } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8')
  )
  hash.update(JSON.stringify([dependencies, devDependencies, overrides]))
  hash.update(`${process.platform} ${process.arch}`)
  return hash.digest('hex')
}

function installPackages() {
  const folder = join(root, 'node_modules')
  const stampFile = join(folder, STAMP)
  // A linked node_modules belongs to another checkout, which looks after it.
  if (lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink()) return
  const stamp = dependencyStamp()
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return
  say('npm ci')
  // Scripts are off here: fs-ext is the one package that needs its own, and is built below.
  const quiet = ['--no-audit', '--no-fund', '--ignore-scripts']
  try {
    npm(['ci', ...quiet])
  } catch (error) {
    if (!error.message.includes('EUSAGE')) throw error
    npm(['install', '--no-save', ...quiet])
  }
  writeFileSync(stampFile, stamp)
}

/** The folder to give node-gyp as nodedir: where the running Node has its own headers, else ''. */
function nodeHeaders() {
  const prefix = dirname(dirname(process.execPath))
  const header = join(prefix, 'include/node/node_version.h')
  if (!existsSync(header)) return ''
  const version = /#define NODE_MODULE_VERSION (\d+)/.exec(readFileSync(header, 'utf8'))?.[1]
  return version === process.versions.modules ? prefix : ''
}

/** Loads fs-ext in a process of its own: a failed load here would stay in this process. */
function fsExtLoads() {
  const binary = join(root, 'node_modules/fs-ext/build/Release/fs_ext.node')
  if (!existsSync(binary)) return false
  return spawnSync(process.execPath, ['-e', "require('fs-ext')"], { cwd: root }).status === 0
}

/** Builds fs-ext, on the first run and whenever a Node with another ABI runs. */
function buildFsExt() {
  const stampFile = join(root, 'node_modules/fs-ext/build', STAMP)
  const stamp = `${process.platform} ${process.arch} ${process.versions.modules}`
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return
  if (!fsExtLoads()) {
    const missing = ensurePrograms([
      { program: 'python3', package: 'python3' },
      { program: 'make', package: 'make' },
      { program: 'g++', package: 'g++' }
    ])
    if (missing.length > 0) {
      throw new SetupError(`to compile fs-ext there must be: ${describeMissing(missing)}`)
    }
    say(`compiling fs-ext for Node ${process.versions.node}`)
    const nodedir = nodeHeaders()
    const env =
      nodedir === ''
        ? {}
        : { npm_config_nodedir: nodedir, npm_package_config_node_gyp_nodedir: nodedir }
    npm(['rebuild', 'fs-ext'], env)
    if (!fsExtLoads()) throw new SetupError('fs-ext was compiled but does not load')
  }
  writeFileSync(stampFile, stamp)
}

/** Removes compiled files whose sources are gone, so that no deleted test goes on running. */
function removeStale(folder, sourceFolder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    const source = join(sourceFolder, entry.name)
    if (entry.isDirectory()) {
      if (existsSync(source)) removeStale(path, source)
      else rmSync(path, { recursive: true })
    } else if (!existsSync(source.replace(/(\.d\.ts|\.js\.map|\.js)$/, '.ts'))) {
      rmSync(path)
    }
  }
}

/** What dist/ was compiled from: a change of any source calls for a new build. */
function sourceStamp(folders) {
  const hash = createHash('sha256').update(dependencyStamp())
  for (const folder of folders.filter((each) => existsSync(join(root, each)))) {
    const names = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    for (const name of names.filter((each) => each.endsWith('.ts')).sort()) {
      const { size, mtimeMs } = statSync(join(root, folder, name))
      hash.update(`${folder}/${name} ${size} ${mtimeMs}\n`)
    }
  }
  return hash.digest('hex')
}

function build() {
  const dist = join(root, 'dist')
  const stampFile = join(dist, STAMP)
  const config = readFileSync(join(root, 'tsconfig.json'), 'utf8')
  const stamp = sourceStamp(JSON.parse(config).include) + config
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return
  if (existsSync(dist)) removeStale(dist, root)
  run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.json'])
  writeFileSync(stampFile, stamp)
}

function ensureListed(list) {
  const entries = JSON.parse(readFileSync(join(root, 'scripts', list), 'utf8'))
  const missing = ensurePrograms(entries)
  if (missing.length > 0) say(`missing: ${describeMissing(missing)}`)
}

/** Returns whether everything is ready; what is not was said. */
export function setUp({ tests = false, cluster = false, vm = false, compile = true } = {}) {
  try {
    checkNode()
    if (tests) ensureListed('test-programs.json')
    if (cluster) ensureListed('cluster-programs.json')
    if (vm) ensureListed('vm-programs.json')
    installPackages()
    buildFsExt()
    if (compile) build()
    return true
  } catch (error) {
    say(error instanceof SetupError ? error.message : error.stack)
    return false
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const flags = process.argv.slice(2)
  const ready = setUp({
    tests: flags.includes('--tests'),
    cluster: flags.includes('--cluster'),
    vm: flags.includes('--vm'),
    compile: !flags.includes('--no-build')
  })
  process.exitCode = ready ? 0 : 1
}
