import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync } from 'node:fs'
import { delimiter, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CommandError } from './errors.ts'

/** Debian, Fedora and others name packages differently: say both. */
interface ProgramHint {
  readonly needs: string
  readonly install: string
}

const hints: Readonly<Record<string, ProgramHint>> = {
  'nbd-client': {
    needs: 'attach and detach need the program nbd-client',
    install: 'package nbd-client on Debian and Ubuntu, nbd on Fedora, Arch and Alpine'
  },
  nbdfuse: {
    needs: 'mount needs the program nbdfuse',
    install: 'package libnbd-bin on Debian and Ubuntu, nbdfuse on Fedora, libnbd on Arch'
  },
  'qemu-img': {
    needs: 'qcow2 needs the program qemu-img',
    install: 'package qemu-utils on Debian and Ubuntu, qemu-img on Fedora and Arch'
  },
  fusermount3: {
    needs: 'mount and unmount need the program fusermount3',
    install: 'package fuse3'
  }
}

/** Path of a program; also looks where only root has it in PATH. '' when it is not there. */
export function findProgram(name: string): string {
  for (const folder of [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    const path = join(folder === '' ? '.' : folder, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not in this folder.
    }
  }
  return ''
}

/** What a user types for this program: where it is not installed, a checkout has its launcher. */
export function programName(): string {
  const launcher = fileURLToPath(new URL('../../../scripts/torus', import.meta.url))
  if (!existsSync(launcher) || findProgram('torus') !== '') return 'torus'
  const fromHere = relative(process.cwd(), launcher)
  return fromHere.startsWith('..') ? launcher : fromHere
}

/** @throws CommandError that names the package */
export function needProgram(name: string): string {
  const path = findProgram(name)
  if (path !== '') return path
  const { needs, install } = hints[name] ?? { needs: `the program ${name} is needed`, install: '' }
  throw new CommandError('Unavailable', `${needs}, which is not installed (${install})`)
}

/** For what a program printed just before it ended. */
const PIPE_CLOSE_MS = 300

export interface ProgramResult {
  readonly code: number
  readonly output: string
}

/** Runs a program to its end and gathers what it prints. */
export function runProgram(path: string, args: readonly string[]): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const take = (part: Buffer) => {
      output += part.toString()
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', reject)
    const end = () => {
      child.stdout.destroy()
      child.stderr.destroy()
      resolve({ code: child.exitCode ?? -1, output: output.trim() })
    }
    child.on('close', end)
    // A program that leaves a daemon behind keeps the pipes open for ever.
    child.on('exit', () => setTimeout(end, PIPE_CLOSE_MS))
  })
}
