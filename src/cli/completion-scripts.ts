/**
 * What the shells load. Each asks `torus __complete -- WORDS…` (completion.ts), so that commands
 * and flags are written down once. Lines of the answer are `candidate<TAB>description`; the single
 * line `:files` or `:directories` leaves it to the shell.
 */
const bash = `# torus completion for bash: source <(torus completion bash)
_torus() {
  local current="\${COMP_WORDS[COMP_CWORD]}" answer line
  answer="$("\${COMP_WORDS[0]}" __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
  COMPREPLY=()
  case "$answer" in
    :files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    :directories)
      compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$current"); return ;;
  esac
  while IFS= read -r line; do
    [ -n "$line" ] && COMPREPLY+=("$(printf %q "\${line%%$'\\t'*}")")
  done <<< "$answer"
}
complete -F _torus torus
`

const zsh = `#compdef torus
# torus completion for zsh: put it into a file _torus in a folder of $fpath
_torus() {
  local -a lines items
  local line
  lines=("\${(@f)$("\${words[1]}" __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  case "\${lines[1]}" in
    :files) _files; return ;;
    :directories) _files -/; return ;;
  esac
  for line in "\${lines[@]}"; do
    [[ -n "$line" ]] || continue
    [[ "$line" == *$'\\t'* ]] || line+=$'\\t'
    items+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
  done
  _describe torus items
}
if [ "\${funcstack[1]}" = _torus ]; then _torus "$@"; else compdef _torus torus; fi
`

const fish = `# torus completion for fish: torus completion fish | source
function __torus_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    set -l answer ($program __complete -- $words "$current" 2>/dev/null)
    switch "$answer[1]"
        case ':files'
            __fish_complete_path "$current"
        case ':directories'
            __fish_complete_directories "$current"
        case '*'
            printf '%s\\n' $answer
    end
end
complete -c torus -f -a '(__torus_complete)'
`

export const completionScripts = { bash, zsh, fish } as const
