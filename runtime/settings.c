#include "runtime/settings.h"

#include <stdio.h>
#include <string.h>

void settings_read(const char *file, struct settings *ret_settings)
{
    struct settings s = {.runc = "runc", .socket = "/run/crsc/agent.sock", .started = "/run/crsc/started"};
    const struct {
        const char *name;
        char *value;
    } table[] = {{"runc", s.runc}, {"path", s.path}, {"socket", s.socket}, {"started", s.started}, {"criu-config", s.criu_config}};
    char line[PATH_MAX + 64];
    FILE *f = fopen(file, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char *rest = line + strspn(line, " \t"), *name;
        line[strcspn(line, "#\n")] = '\0';
        name = strsep(&rest, " \t");
        if (rest == NULL) continue;
        rest += strspn(rest, " \t");
        for (size_t len = strlen(rest); len > 0 && strchr(" \t", rest[len - 1]) != NULL;) rest[--len] = '\0';
        for (size_t i = 0; i < sizeof table / sizeof *table; i++)
            if (strcmp(name, table[i].name) == 0 && strlen(rest) < PATH_MAX) strcpy(table[i].value, rest);
    }
    if (f != NULL) fclose(f);
    *ret_settings = s;
}
