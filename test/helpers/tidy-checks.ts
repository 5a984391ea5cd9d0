/**
 * The checks of test/tidy.test.ts, as functions of a tree of sources, so that the test can also
 * show on a made-up tree that each of them is able to fail.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { exportsOf, type ImportedNames, importsOf, lineOf, scanSource } from './source-text.ts'

export interface SourceFile {
  readonly text: string
  readonly code: string
  readonly imports: readonly ImportedNames[]
  readonly exports: readonly { readonly name: string; readonly line: number }[]
}

/** Path from the repository's root -> file. */
export type SourceTree = ReadonlyMap<string, SourceFile>

export function makeTree(texts: Iterable<readonly [string, string]>): SourceTree {
  const tree = new Map<string, SourceFile>()
  for (const [path, text] of texts) {
    const source = scanSource(text)
    const [imports, exports] = [importsOf(source), exportsOf(source)]
    tree.set(path, { text, code: source.code, imports, exports })
  }
  return tree
}

export function readTree(root: string, folders: readonly string[]): SourceTree {
  const texts: [string, string][] = []
  for (const folder of folders.filter((each) => existsSync(join(root, each)))) {
    const names = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    for (const name of names.filter((each) => /\.(ts|mjs)$/.test(each)).sort()) {
      texts.push([posix.join(folder, name), readFileSync(join(root, folder, name), 'utf8')])
    }
  }
  return makeTree(texts)
}

/** 'src/nbd/wire.ts' -> 'nbd', 'src/index.ts' -> 'index', 'workers/x.ts' -> 'workers'. */
function partOf(path: string): string {
  const [top = '', second = ''] = path.split('/')
  return top === 'src' ? second.replace(/\.ts$/, '') : top
}

const isRelative = (from: string): boolean => from.startsWith('.')
const resolveImport = (path: string, from: string): string => posix.join(dirname(path), from)
const isProduct = (path: string): boolean => path.startsWith('src/') || path.startsWith('workers/')

/** Imports against the arrows, and those that name no file of ours. */
export function wrongImports(tree: SourceTree, mayImport: Record<string, string[]>): string[] {
  const wrong: string[] = []
  for (const [path, file] of tree) {
    for (const { from, line } of file.imports.filter((each) => isRelative(each.from))) {
      const target = resolveImport(path, from)
      if (!tree.has(target) && !target.endsWith('.json')) {
        wrong.push(`${path}:${line} imports ${from}, which is no source file`)
      } else if (isProduct(path) && partOf(path) !== partOf(target)) {
        const allowed = mayImport[partOf(path)] ?? []
        const known = isProduct(target) && allowed.includes(partOf(target))
        if (!known) wrong.push(`${path}:${line} may not import ${target}`)
      }
    }
  }
  return wrong
}

export function unknownFolders(tree: SourceTree, mayImport: Record<string, string[]>): string[] {
  const parts = new Set([...tree.keys()].filter(isProduct).map(partOf))
  return [...parts].filter((part) => !(part in mayImport)).map((part) => `${part} has no row`)
}

/** Packages that only certain parts may use: threads stay in handoff, pure folders stay pure. */
export function wrongPackages(
  tree: SourceTree,
  onlyIn: Record<string, string[]>,
  pureFolders: readonly string[],
  declared: ReadonlySet<string>
): string[] {
  const wrong: string[] = []
  for (const [path, file] of tree) {
    if (!isProduct(path)) continue
    for (const { from, line } of file.imports.filter((each) => !isRelative(each.from))) {
      const parts = onlyIn[from]
      const name = from
        .split('/')
        .slice(0, from.startsWith('@') ? 2 : 1)
        .join('/')
      if (parts !== undefined && !parts.includes(partOf(path))) {
        wrong.push(`${path}:${line} may not import ${from}: it belongs to ${parts.join(', ')}`)
      } else if (from.startsWith('node:')) {
        if (pureFolders.includes(partOf(path))) {
          wrong.push(`${path}:${line} may not import ${from}: ${partOf(path)} is pure`)
        }
      } else if (!declared.has(name)) {
        wrong.push(`${path}:${line} imports ${from}, which package.json does not depend on`)
      }
    }
  }
  return wrong
}

/** Packages that are depended on and that no code names. */
export function unusedPackages(tree: SourceTree, declared: ReadonlySet<string>): string[] {
  const code = [...tree.values()].map((file) => file.code).join('\n')
  const isNamed = (name: string): boolean => new RegExp(`'${name}(/[^']*)?'`).test(code)
  return [...declared].filter((name) => !isNamed(name))
}

export function longLines(tree: SourceTree, columnsMax: number): string[] {
  const long: string[] = []
  for (const [path, file] of tree) {
    file.text.split('\n').forEach((line, index) => {
      if ([...line].length > columnsMax)
        long.push(`${path}:${index + 1} has ${line.length} columns`)
    })
  }
  return long
}

export function longFiles(tree: SourceTree, linesMax: number): string[] {
  return [...tree]
    .map(([path, file]) => ({ path, lines: file.text.split('\n').length - 1 }))
    .filter(({ lines }) => lines > linesMax)
    .sort((a, b) => b.lines - a.lines)
    .map(({ path, lines }) => `${path} has ${lines} lines`)
}

/** Lines that match what must not stand in a source file. */
export function forbiddenWords(tree: SourceTree, words: RegExp): string[] {
  const found: string[] = []
  for (const [path, file] of tree) {
    for (const match of file.text.matchAll(words)) {
      found.push(`${path}:${lineOf(file.text, match.index)} says ${match[0].trim()}`)
    }
  }
  return found
}

/** Calls of console that printing programs may make and the rest may not. */
export function strayConsole(tree: SourceTree, allowed: RegExp): string[] {
  const found: string[] = []
  for (const [path, file] of tree) {
    if (allowed.test(path)) continue
    for (const match of file.code.matchAll(/\bconsole\.\w+\(/g)) {
      found.push(`${path}:${lineOf(file.code, match.index)} calls ${match[0].slice(0, -1)}`)
    }
  }
  return found
}

/** A file of nothing but re-exports is one more place to keep in step. */
export function barrelFiles(tree: SourceTree, allowed: readonly string[]): string[] {
  const isBarrel = (file: SourceFile): boolean =>
    file.code.trim() !== '' &&
    file.code.replace(/^export\s+(type\s+)?[{*][^;'"]*from\s*'[^']+'\n/gm, '').trim() === ''
  return [...tree]
    .filter(([path, file]) => isProduct(path) && isBarrel(file) && !allowed.includes(path))
    .map(([path]) => `${path} only passes on what others export`)
}

/** Product files that no product file, script or entry leads to. Tests do not count as use. */
export function unusedFiles(tree: SourceTree, entries: RegExp): string[] {
  const reached = new Set<string>()
  const queue = [...tree.keys()].filter((path) => entries.test(path))
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (reached.has(path)) continue
    reached.add(path)
    for (const { from } of tree.get(path)?.imports ?? []) {
      if (isRelative(from)) queue.push(resolveImport(path, from))
    }
  }
  return [...tree.keys()]
    .filter((path) => isProduct(path) && !reached.has(path))
    .map((path) => `${path} is used by nobody`)
}

/** A type that stands in another export's signature is used, though nobody imports its name. */
function isPartOfSignature(file: SourceFile, name: string): boolean {
  const isType = new RegExp(`^export\\s+(type|interface)\\s+${name}\\b`, 'm').test(file.code)
  return isType && [...file.code.matchAll(new RegExp(`\\b${name}\\b`, 'g'))].length > 1
}

/** Exported names of product files that no other file, tests included, imports. */
export function unusedExports(tree: SourceTree, entries: RegExp): string[] {
  const used = new Set<string>()
  for (const [path, file] of tree) {
    for (const { from, names } of file.imports.filter((each) => isRelative(each.from))) {
      for (const name of names) used.add(`${resolveImport(path, from)} ${name}`)
    }
  }
  const unused: string[] = []
  for (const [path, file] of tree) {
    if (!isProduct(path) || entries.test(path) || used.has(`${path} *`)) continue
    for (const { name, line } of file.exports) {
      if (used.has(`${path} ${name}`) || isPartOfSignature(file, name)) continue
      unused.push(`${path}:${line} exports ${name} to nobody`)
    }
  }
  return unused
}
