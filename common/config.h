/* Configuration of a program: one table of settings, filled from defaults, a YAML file (--config), then flags.
 *
 * A setting has one name everywhere: `data-dir: /var/lib/x` in the file is `--data-dir /var/lib/x` on the command line; a
 * boolean flag without a value means true. An unknown name, a value
 * out of range or of the wrong kind is an error that names the setting, what it may be, and where it was read
 * (file:line or the flag). Every program gets --help and --print-man (a manual page; both made from the table), --version, --config FILE and --dump-config
 * (prints the resolved settings as YAML that --config takes).
 *
 * Blocking; start-up only. Source of the format: YAML 1.2 by libfyaml, a flat mapping of scalars. */
#ifndef CRSC_COMMON_CONFIG_H
#define CRSC_COMMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum config_kind {
    CONFIG_STRING,   /* char *: allocated, never NULL after loading */
    CONFIG_UINT,     /* uint64_t, within min..max */
    CONFIG_BOOL,     /* bool: true/false */
    CONFIG_SIZE,     /* uint64_t bytes: 4096, 64KiB, 8MiB, 1GiB; within min..max */
    CONFIG_DURATION, /* uint64_t milliseconds: 250ms, 5s, 2m, 1h; within min..max */
};

struct config_setting {
    const char *name;     /* "data-dir" */
    enum config_kind kind;
    size_t at;            /* offsetof() in the program's struct */
    const char *initial;  /* default as one would write it; NULL: required */
    uint64_t min, max;    /* for the numeric kinds; both 0: no bound */
    const char *help;     /* one or two sentences for --help */
};

struct config_program {
    const char *name;        /* "crsc-logd" */
    const char *summary;     /* first paragraph of --help */
    const char *epilog;      /* examples, exit status; may be NULL */
    const struct config_setting *settings;
    size_t n_settings;
};

enum config_action { CONFIG_RUN, CONFIG_EXIT }; /* EXIT: --help, --print-man, --version or --dump-config was printed to stdout */

/* Fills `values` (the program's struct, zeroed by the caller). 0, or -ERROR_INVALID with a text for the user. */
int config_load(const struct config_program *program, int argc, char **argv, void *values,
                enum config_action *ret_action, struct error *e);
void config_free(const struct config_program *program, void *values);

/* The same table read from a YAML file alone (e.g. the operator's workload file). */
int config_load_file(const struct config_program *program, const char *path, void *values, struct error *e);

/* Parsers used by the table, for others too. */
int config_parse_size(const char *text, uint64_t *ret_bytes);
int config_parse_duration(const char *text, uint64_t *ret_ms);

#endif
