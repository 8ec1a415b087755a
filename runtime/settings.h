/* /etc/crsc/runtime.conf: lines of "name value"; # begins a comment. A file that is not there, or cannot be understood, leaves the defaults: a pod
 * is never blocked by it. */
#ifndef CRSC_RUNTIME_SETTINGS_H
#define CRSC_RUNTIME_SETTINGS_H

#include <limits.h>

#define SETTINGS_PATH "/etc/crsc/runtime.conf"

struct settings {
    char runc[PATH_MAX];        /* the program: runc, from PATH */
    char path[PATH_MAX];        /* put before PATH, for runc to find CRIU; "": nothing */
    char socket[PATH_MAX];      /* the agent's: /run/crsc/agent.sock */
    char started[PATH_MAX];     /* /run/crsc/started */
    char criu_config[PATH_MAX]; /* CRIU's options for a restore; "": ours, which close connections */
};

void settings_read(const char *file, struct settings *ret_settings);

#endif
