import { Argument, type Command } from 'commander'
import { action, withExamples } from '../context.ts'
import { completionScripts } from '../completion-scripts.ts'

type Shell = keyof typeof completionScripts

export function addCompletionCommand(program: Command): void {
  const shells = Object.keys(completionScripts)
  const command = program
    .command('completion')
    .description('a script that makes the shell complete commands, flags and names of volumes')
    .addArgument(new Argument('<shell>', 'the shell').choices(shells))
    .action(
      action<[Shell], object>(async ({ output }, [shell]) => {
        output.write(completionScripts[shell])
      })
    )
  withExamples(
    command,
    'source <(torus completion bash)',
    'torus completion zsh > "$' + '{fpath[1]}/_torus"',
    'torus completion fish > ~/.config/fish/completions/torus.fish'
  )
}
