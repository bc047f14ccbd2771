/** Completion scripts, made from the table of commands. */
import type { CommandSpec, OptionSpec } from './spec.ts';
import { optionsOf } from './program.ts';
import { commands, groups } from './table/index.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

const flagsOf = ({ flags }: OptionSpec): string[] =>
  flags.split(/[ ,]+/).filter((word) => word.startsWith('-'));

const quote = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;

interface Word {
  readonly word: string;
  readonly doc: string;
}

/** First words: commands and groups, with their aliases. */
function firstWords(): Word[] {
  const single = commands
    .filter(({ path }) => !path.includes(' '))
    .map(({ path, doc }) => ({ word: path, doc }));
  const grouped = groups.flatMap(({ name, alias, doc }) =>
    [name, ...(alias ? [alias] : [])].map((word) => ({ word, doc })),
  );
  return [...single, ...grouped, { word: 'help', doc: 'help for a command' }];
}

function secondWords(group: string): Word[] {
  return commands
    .filter(({ path }) => path.startsWith(`${group} `))
    .map(({ path, doc }) => ({ word: path.slice(group.length + 1), doc }));
}

/** Every way to write a command's path: `machine ls` and `m ls`. */
function spellings({ path }: CommandSpec): string[] {
  const [first = '', second] = path.split(' ');
  const alias = groups.find(({ name }) => name === first)?.alias;
  return second === undefined ? [first] : [path, ...(alias ? [`${alias} ${second}`] : [])];
}

function fileWish(spec: CommandSpec): 'file' | 'directory' | undefined {
  const wishes = new Set((spec.arguments ?? []).map(({ complete }) => complete));
  return wishes.has('file') ? 'file' : wishes.has('directory') ? 'directory' : undefined;
}

function bash(): string {
  const second = groups.map(({ name, alias }) => {
    const pattern = alias ? `${name}|${alias}` : name;
    return `    ${pattern}) words=${quote(
      secondWords(name)
        .map(({ word }) => word)
        .join(' '),
    )} ;;`;
  });
  const options = commands.map((spec) => {
    const pattern = spellings(spec).map(quote).join('|');
    const wish = fileWish(spec);
    const files = wish === 'file' ? ' files=-f' : wish === 'directory' ? ' files=-d' : '';
    return `    ${pattern}) options=${quote(optionsOf(spec).flatMap(flagsOf).concat('--help').join(' '))}${files} ;;`;
  });
  return `# bash completion for carrel: source this file, or put it into /etc/bash_completion.d
_carrel() {
  local cur=\${COMP_WORDS[COMP_CWORD]} path='' words='' options='' files='' word count=0
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ $word == -* || $count -eq 2 ]] || { path="\${path:+$path }$word"; count=$((count + 1)); }
  done
  COMPREPLY=()
  case \${path%% *} in
${second.join('\n')}
  esac
  if [[ -z $path ]]; then
    words=${quote(
      firstWords()
        .map(({ word }) => word)
        .join(' '),
    )}
  elif [[ -n $words && $count -eq 1 ]]; then
    :
  else
    words=''
  fi
  case $path in
${options.join('\n')}
    *) case \${path%% *} in
${commands
  .filter(({ path }) => !path.includes(' '))
  .map((spec) => {
    const wish = fileWish(spec);
    const files = wish === 'file' ? ' files=-f' : wish === 'directory' ? ' files=-d' : '';
    return `      ${quote(spec.path)}) options=${quote(optionsOf(spec).flatMap(flagsOf).concat('--help').join(' '))}${files} ;;`;
  })
  .join('\n')}
      esac ;;
  esac
  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options --help" -- "$cur")
  elif [[ -n $words ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
  elif [[ -n $files ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen "$files" -- "$cur")
  fi
}
complete -F _carrel carrel ./carrel
`;
}

/** `word:description`, colons in the word escaped (zshcompsys(1), _describe). */
const described = (words: readonly Word[]): string =>
  words.map(({ word, doc }) => quote(`${word.replaceAll(':', String.raw`\:`)}:${doc}`)).join(' ');

function zsh(): string {
  const second = groups.map(({ name, alias }) => {
    const pattern = alias ? `${name}|${alias}` : name;
    return `    ${pattern}) (( CURRENT == 3 )) && { candidates=(${described(secondWords(name))}); _describe 'command' candidates; return } ;;`;
  });
  const options = commands.map((spec) => {
    const words = optionsOf(spec).flatMap((option) =>
      flagsOf(option).map((word) => ({ word, doc: option.doc })),
    );
    const wish = fileWish(spec);
    const files = wish === 'file' ? '_files' : wish === 'directory' ? '_files -/' : ':';
    const pattern = spellings(spec).map(quote).join('|');
    return `    ${pattern}) candidates=(${described(words)}); [[ $PREFIX == -* ]] && _describe -o 'option' candidates || ${files} ;;`;
  });
  return `#compdef carrel
# zsh completion for carrel: put it as _carrel into a folder of your fpath
_carrel() {
  local -a candidates
  if (( CURRENT == 2 )); then
    candidates=(${described(firstWords())})
    _describe 'command' candidates
    return
  fi
  case $words[2] in
${second.join('\n')}
  esac
  local key="$words[2] $words[3]"
  case $words[2] in
    ${commands
      .filter(({ path }) => !path.includes(' '))
      .map(({ path }) => path)
      .join('|')}) key=$words[2] ;;
  esac
  case $key in
${options.join('\n')}
  esac
}
compdef _carrel carrel
`;
}

const single = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", String.raw`\'`)}'`;

function fish(): string {
  const lines = [
    '# fish completion for carrel: put it into ~/.config/fish/completions/carrel.fish',
    'complete -c carrel -f',
    ...firstWords().map(
      ({ word, doc }) => `complete -c carrel -n __fish_use_subcommand -a ${word} -d ${single(doc)}`,
    ),
  ];
  for (const { name, alias } of groups) {
    const heads = alias ? `${name} ${alias}` : name;
    const seconds = secondWords(name);
    const not = seconds.map(({ word }) => word).join(' ');
    for (const { word, doc } of seconds)
      lines.push(
        `complete -c carrel -n '__fish_seen_subcommand_from ${heads}; and not __fish_seen_subcommand_from ${not}' -a ${word} -d ${single(doc)}`,
      );
  }
  for (const spec of commands) {
    const [first = '', second] = spec.path.split(' ');
    const alias = groups.find(({ name }) => name === first)?.alias;
    const heads = alias ? `${first} ${alias}` : first;
    const condition = `__fish_seen_subcommand_from ${heads}${second === undefined ? '' : `; and __fish_seen_subcommand_from ${second}`}`;
    for (const option of optionsOf(spec)) {
      const long = flagsOf(option).find((flag) => flag.startsWith('--'));
      const short = flagsOf(option).find((flag) => /^-[a-z]$/i.test(flag));
      const takes = /<.+>/.test(option.flags) ? ' -r' : '';
      const values = option.choices ? ` -a '${option.choices.join(' ')}'` : option.complete ? ' -F' : '';
      lines.push(
        `complete -c carrel -n '${condition}'${long ? ` -l ${long.slice(2)}` : ''}${short ? ` -s ${short.slice(1)}` : ''}${takes}${values} -d ${single(option.doc)}`,
      );
    }
    if (fileWish(spec)) lines.push(`complete -c carrel -n '${condition}' -F`);
  }
  return `${lines.join('\n')}\n`;
}

export function completionScript(shell: Shell): string {
  switch (shell) {
    case 'bash':
      return bash();
    case 'zsh':
      return zsh();
    case 'fish':
      return fish();
    default:
      shell satisfies never;
      return '';
  }
}
