/**
 * Just enough of a TypeScript scanner for the tidy checks: the compiler we use has no API. Knows
 * comments, strings, templates and regular expressions; everything else is code.
 */

export interface SourceText {
  /** The text with comments blanked; line numbers hold. */
  readonly code: string
  /** The text with comments, and the insides of strings and regular expressions, blanked. */
  readonly bare: string
}

export interface ImportedNames {
  readonly from: string
  /** Names as the other file exports them; '*' for all of it. */
  readonly names: readonly string[]
  readonly line: number
}

const isBlank = (text: string): string => text.replace(/[^\n]/g, ' ')

/** A slash starts a regular expression where a value may stand, else it divides. */
function startsRegex(before: string): boolean {
  const tail = before.trimEnd()
  return tail === '' || /[(,=:[!&|?{};+\-*%<>~^]$|\b(return|typeof|case|in|of|do|else)$/.test(tail)
}

const pieces: readonly { readonly pattern: RegExp; readonly kind: 'comment' | 'string' }[] = [
  { pattern: /\/\/[^\n]*/y, kind: 'comment' },
  { pattern: /\/\*[\s\S]*?\*\//y, kind: 'comment' },
  { pattern: /'(?:\\.|[^'\\\n])*'/y, kind: 'string' },
  { pattern: /"(?:\\.|[^"\\\n])*"/y, kind: 'string' }
]
const regex = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/[a-z]*/y

function matchAt(pattern: RegExp, text: string, at: number): string {
  pattern.lastIndex = at
  return pattern.exec(text)?.[0] ?? ''
}

/** The template literal that starts at `at`, the code inside its `${}` included. */
function templateAt(text: string, at: number): string {
  let depth = 0
  for (let end = at + 1; end < text.length; end++) {
    if (text[end] === '\\') end++
    else if (depth === 0 && text[end] === '`') return text.slice(at, end + 1)
    else if (depth === 0 && text.startsWith('${', end)) depth = 1
    else if (depth > 0 && text[end] === '`') end += templateAt(text, end).length - 1
    else if (depth > 0 && text[end] === '{' && text[end - 1] !== '$') depth++
    else if (depth > 0 && text[end] === '}') depth--
  }
  return text.slice(at)
}

function pieceAt(text: string, at: number): { kind: 'comment' | 'string'; text: string } | null {
  for (const { pattern, kind } of pieces) {
    const piece = matchAt(pattern, text, at)
    if (piece !== '') return { kind, text: piece }
  }
  if (text[at] === '`') return { kind: 'string', text: templateAt(text, at) }
  if (text[at] !== '/' || !startsRegex(text.slice(Math.max(0, at - 80), at))) return null
  const piece = matchAt(regex, text, at)
  return piece === '' ? null : { kind: 'string', text: piece }
}

export function scanSource(text: string): SourceText {
  let [code, bare, at] = ['', '', 0]
  while (at < text.length) {
    const piece = /['"`/]/.test(text[at] ?? '') ? pieceAt(text, at) : null
    if (piece === null) {
      code += text[at]
      bare += text[at]
      at += 1
      continue
    }
    code += piece.kind === 'comment' ? isBlank(piece.text) : piece.text
    bare += isBlank(piece.text)
    at += piece.text.length
  }
  return { code, bare }
}

export const lineOf = (text: string, at: number): number => text.slice(0, at).split('\n').length

function namesOf(clause: string): string[] {
  if (/\*/.test(clause)) return ['*']
  const names = [...clause.matchAll(/(?:^|[{,])\s*(?:type\s+)?([\w$]+)/g)].map((match) => match[1]!)
  const braces = clause.indexOf('{')
  const hasDefault = !/^\s*(type\s*)?\{/.test(clause) && braces !== 0
  return hasDefault ? ['default', ...names.slice(1)] : names.filter((name) => name !== 'type')
}

const STATIC = /^[ \t]*(?:import|export)\s+(?:type\s+)?([\w$*{][^;'"]*?)\s*\bfrom\s*'([^']+)'/gm
const BARE = /^[ \t]*import\s*'([^']+)'/gm
const DYNAMIC = /\bimport\(\s*'([^']+)'\s*\)/g
/** `new URL('../x.ts', import.meta.url)` and the like: how worker files are named. */
const BY_URL = /new URL\(\s*['`](\.[^'`]+?)(?:\$\{[^}]*\}|\.[tj]s)['`]\s*,\s*import\.meta\.url/g

/** Every import of a file, type-only, re-exporting, dynamic and by URL included. */
export function importsOf(source: SourceText): ImportedNames[] {
  const found: ImportedNames[] = []
  const add = (pattern: RegExp, make: (match: RegExpMatchArray) => Omit<ImportedNames, 'line'>) => {
    for (const match of source.code.matchAll(pattern)) {
      const at = match.index + match[0].search(/\S/)
      // Blank there: what looks like an import stands inside a string.
      const isCode = source.bare[at] === source.code[at]
      if (isCode) found.push({ ...make(match), line: lineOf(source.code, at) })
    }
  }
  add(STATIC, (match) => ({ from: match[2]!, names: namesOf(match[1]!) }))
  add(BARE, (match) => ({ from: match[1]!, names: [] }))
  add(DYNAMIC, (match) => ({ from: match[1]!, names: ['*'] }))
  add(BY_URL, (match) => ({ from: `${match[1]!}.ts`, names: [] }))
  return found
}

const KINDS = 'const|let|function\\*?|class|interface|type|enum'
const DECLARED = new RegExp(
  `^export\\s+(?:(?:declare|default|abstract|async)\\s+)*(?:${KINDS})\\s+([\\w$]+)`,
  'gm'
)
const LISTED = /^export\s+(?:type\s+)?\{([^}]*)\}(?!\s*from)/gm

/** Names that a file declares and exports; what it passes on from elsewhere is not among them. */
export function exportsOf(source: SourceText): { name: string; line: number }[] {
  const found = [...source.bare.matchAll(DECLARED)].map((match) => ({
    name: match[1]!,
    line: lineOf(source.bare, match.index)
  }))
  for (const match of source.bare.matchAll(LISTED)) {
    for (const part of match[1]!.split(',')) {
      const name = part
        .trim()
        .split(/\s+as\s+/)
        .at(-1)!
        .replace(/^type\s+/, '')
      if (name !== '') found.push({ name, line: lineOf(source.bare, match.index) })
    }
  }
  return found
}
