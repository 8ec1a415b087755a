/* completion: what a shell needs to complete our command line, made from the tables of verbs and options. */
#include <stdio.h>
#include <string.h>

#include "logctl/verbs.h"

/* "a b c" of the options that the verb knows; NULL: those of all verbs. */
static void put_options(const struct verb *v)
{
    for (unsigned i = 0; logctl_options[i].name != NULL; i++) {
        const struct option_info *info = &logctl_options[i];
        if (v == NULL ? info->bit != 0 : (info->bit & v->options) == 0) continue;
        printf("%s%s ", info->name[1] == '\0' ? "-" : "--", info->name);
    }
}

static bool names_stream(const struct verb *v)
{
    return v->argument == 1 && v->words == NULL;
}

static void bash(void)
{
    puts("# bash completion of crsc-logctl: source <(crsc-logctl completion bash)\n"
         "_crsc_logctl() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= options= i\n"
         "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "    case ${COMP_WORDS[i]} in -*) ;; *) case ${COMP_WORDS[i-1]} in");
    printf("      ");
    const char *bar = "";
    for (unsigned i = 0; logctl_options[i].name != NULL; i++) {
        if (logctl_options[i].argument == NULL) continue;
        printf("%s%s%s", bar, logctl_options[i].name[1] == '\0' ? "-" : "--", logctl_options[i].name);
        bar = "|";
    }
    puts(") ;; *) verb=${verb:-${COMP_WORDS[i]}} ;; esac ;; esac\n"
         "  done\n"
         "  case $prev in\n"
         "    --output) COMPREPLY=($(compgen -W 'table json' -- \"$cur\")); return ;;\n"
         "    --tls-ca|--tls-cert|--tls-key) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"
         "  esac\n"
         "  case $verb in");
    printf("    '') COMPREPLY=($(compgen -W '");
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) printf("%s ", logctl_verbs[i]->name);
    printf("help ");
    put_options(NULL);
    puts("' -- \"$cur\")); return ;;");
    printf("    help) COMPREPLY=($(compgen -W '");
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) printf("%s ", logctl_verbs[i]->name);
    puts("' -- \"$cur\")); return ;;");
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) {
        const struct verb *v = logctl_verbs[i];
        printf("    %s) options='", v->name);
        put_options(v);
        printf("%s'", v->words != NULL ? v->words : "");
        if (names_stream(v)) printf("; [[ $cur == -* ]] || options=$(crsc-logctl streams --timeout 1s --output json 2>/dev/null | sed -n 's/.*\"name\": \"\\(.*\\)\".*/\\1/p')");
        puts(" ;;");
    }
    printf("  esac\n  COMPREPLY=($(compgen -W \"$options ");
    put_options(NULL);
    puts("\" -- \"$cur\"))\n}\ncomplete -F _crsc_logctl crsc-logctl");
}

static void zsh(void)
{
    puts("#compdef crsc-logctl\n# zsh completion of crsc-logctl: crsc-logctl completion zsh >~/.zfunc/_crsc-logctl\n_crsc_logctl() {\n"
         "  local -a verbs\n  verbs=(");
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) printf("    '%s:%s'\n", logctl_verbs[i]->name, logctl_verbs[i]->summary);
    puts("    'help:what a verb prints, its options, examples'\n  )\n  if (( CURRENT == 2 )); then _describe verb verbs; return; fi\n  case $words[2] in");
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) {
        printf("    %s) compadd -- ", logctl_verbs[i]->name);
        put_options(logctl_verbs[i]);
        printf("%s ;;\n", logctl_verbs[i]->words != NULL ? logctl_verbs[i]->words : "");
    }
    printf("    help) _describe verb verbs ;;\n  esac\n  compadd -- ");
    put_options(NULL);
    puts("\n  _files\n}\n_crsc_logctl \"$@\"");
}

static void fish(void)
{
    puts("# fish completion of crsc-logctl: crsc-logctl completion fish | source");
    for (unsigned i = 0; logctl_verbs[i] != NULL; i++) {
        const struct verb *v = logctl_verbs[i];
        printf("complete -c crsc-logctl -n __fish_use_subcommand -f -a %s -d '%s'\n", v->name, v->summary);
        for (unsigned k = 0; logctl_options[k].name != NULL; k++)
            if ((logctl_options[k].bit & v->options) != 0)
                printf("complete -c crsc-logctl -n '__fish_seen_subcommand_from %s' -%c %s%s\n", v->name, logctl_options[k].name[1] == '\0' ? 's' : 'l',
                       logctl_options[k].name, logctl_options[k].argument != NULL ? " -x" : "");
        if (v->words != NULL) printf("complete -c crsc-logctl -n '__fish_seen_subcommand_from %s' -f -a '%s'\n", v->name, v->words);
    }
    for (unsigned k = 0; logctl_options[k].name != NULL; k++)
        if (logctl_options[k].bit == 0)
            printf("complete -c crsc-logctl -l %s%s\n", logctl_options[k].name, logctl_options[k].argument != NULL ? " -r" : "");
}

static int run(const struct options *o)
{
    if (strcmp(o->argument, "bash") == 0) bash();
    else if (strcmp(o->argument, "zsh") == 0) zsh();
    else if (strcmp(o->argument, "fish") == 0) fish();
    else {
        fprintf(stderr, "crsc-logctl: completion is for bash, zsh or fish, not \"%s\"\n", o->argument);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

const struct verb verb_completion = {
    .name = "completion",
    .summary = "completion for a shell: bash, zsh or fish",
    .help = "Usage: crsc-logctl completion bash|zsh|fish\n"
            "Prints what the shell needs to complete verbs, options and the names of streams.\n\n"
            "Examples:\n"
            "  source <(crsc-logctl completion bash)\n"
            "  crsc-logctl completion zsh >~/.zfunc/_crsc-logctl\n"
            "  crsc-logctl completion fish | source\n",
    .argument = 1,
    .words = "bash zsh fish",
    .run = run,
};
