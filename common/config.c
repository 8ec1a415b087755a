#include "common/config.h"

#include <errno.h>
#include <inttypes.h>
#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 20 }; /* bytes of a configuration file */

/* ---- values --------------------------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {{"", 1},           {"B", 1},        {"KiB", 1 << 10},
                                         {"MiB", 1 << 20},  {"GiB", 1 << 30}, {NULL, 0}};
static const struct unit duration_units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0}};

/* A whole number and one unit; no sign, no fraction. */
static int parse_number(const char *text, const struct unit *units, uint64_t *ret_value)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0) return -ERROR_INVALID;
    errno = 0;
    uint64_t number = strtoull(text, NULL, 10);
    if (errno != 0) return -ERROR_INVALID;
    for (; units->name != NULL; units++) {
        if (strcmp(text + digits, units->name) != 0) continue;
        if (number > UINT64_MAX / units->factor) return -ERROR_INVALID;
        *ret_value = number * units->factor;
        return 0;
    }
    return -ERROR_INVALID;
}

int config_parse_size(const char *text, uint64_t *ret_bytes)
{
    return parse_number(text, size_units, ret_bytes);
}

int config_parse_duration(const char *text, uint64_t *ret_ms)
{
    return parse_number(text, duration_units, ret_ms);
}

static void format_number(uint64_t value, enum config_kind kind, char *text, size_t size)
{
    const struct unit *units = kind == CONFIG_DURATION ? duration_units : size_units, *best = units;
    for (const struct unit *u = units; u->name != NULL; u++)
        if (value != 0 && value % u->factor == 0) best = u;
    snprintf(text, size, "%" PRIu64 "%s", value / best->factor, kind == CONFIG_UINT ? "" : best->name);
    if (kind == CONFIG_UINT) snprintf(text, size, "%" PRIu64, value);
}

static const char *kind_text(enum config_kind kind)
{
    static const char *const texts[] = {
        [CONFIG_STRING] = "TEXT", [CONFIG_UINT] = "NUMBER",     [CONFIG_BOOL] = "true|false",
        [CONFIG_SIZE] = "SIZE",   [CONFIG_DURATION] = "DURATION",
    };
    return texts[kind];
}

static const char *kind_example(enum config_kind kind)
{
    static const char *const texts[] = {
        [CONFIG_STRING] = "text",
        [CONFIG_UINT] = "a whole number",
        [CONFIG_BOOL] = "true or false",
        [CONFIG_SIZE] = "a size such as 4096, 64KiB, 8MiB or 1GiB",
        [CONFIG_DURATION] = "a duration such as 250ms, 5s, 2m, 1h or 7d",
    };
    return texts[kind];
}

static int parse_value(const struct config_setting *s, const char *text, uint64_t *ret_value)
{
    static const struct unit plain[] = {{"", 1}, {NULL, 0}};
    switch (s->kind) {
    case CONFIG_UINT: return parse_number(text, plain, ret_value);
    case CONFIG_SIZE: return config_parse_size(text, ret_value);
    case CONFIG_DURATION: return config_parse_duration(text, ret_value);
    case CONFIG_BOOL:
        *ret_value = strcmp(text, "true") == 0;
        return *ret_value || strcmp(text, "false") == 0 ? 0 : -ERROR_INVALID;
    case CONFIG_STRING: break;
    }
    return -ERROR_INVALID;
}

/* `origin` is where the text stands: "--name" or "FILE:LINE". */
static int set_value(const struct config_setting *s, void *values, const char *text, const char *origin, struct error *e)
{
    void *place = (char *)values + s->at;
    uint64_t number = 0;
    if (s->kind == CONFIG_STRING) {
        char *copy = strdup(text);
        if (copy == NULL) return error_set(e, ERROR_NOMEM, "no memory for the configuration");
        free(*(char **)place);
        *(char **)place = copy;
        return 0;
    }
    if (parse_value(s, text, &number) != 0)
        return error_set(e, ERROR_INVALID, "%s: %s must be %s, not \"%s\"", origin, s->name, kind_example(s->kind), text);
    if (s->max != 0 && (number < s->min || number > s->max)) {
        char low[32], high[32];
        format_number(s->min, s->kind, low, sizeof low);
        format_number(s->max, s->kind, high, sizeof high);
        return error_set(e, ERROR_INVALID, "%s: %s must be from %s to %s, not %s", origin, s->name, low, high, text);
    }
    if (s->kind == CONFIG_BOOL) *(bool *)place = number != 0;
    else *(uint64_t *)place = number;
    return 0;
}

static const struct config_setting *find(const struct config_program *p, const char *name, size_t len)
{
    for (size_t i = 0; i < p->n_settings; i++)
        if (strlen(p->settings[i].name) == len && memcmp(p->settings[i].name, name, len) == 0) return &p->settings[i];
    return NULL;
}

/* ---- the file ------------------------------------------------------------------------------------------------- */

static int read_pair(const struct config_program *p, const char *path, struct fy_node_pair *pair, void *values,
                     bool *given, struct error *e)
{
    struct fy_node *key = fy_node_pair_key(pair), *value = fy_node_pair_value(pair);
    const char *name = fy_node_get_scalar0(key), *text = value == NULL ? NULL : fy_node_get_scalar0(value);
    struct fy_token *token = key == NULL ? NULL : fy_node_get_scalar_token(key);
    const struct fy_mark *mark = token == NULL ? NULL : fy_token_start_mark(token);
    char origin[ERROR_TEXT_MAX];
    snprintf(origin, sizeof origin, "%.180s:%d", path, mark == NULL ? 0 : mark->line + 1);
    if (name == NULL) return error_set(e, ERROR_INVALID, "%s: a setting's name must be plain text", origin);
    const struct config_setting *s = find(p, name, strlen(name));
    if (s == NULL)
        return error_set(e, ERROR_INVALID, "%s: unknown setting \"%.60s\"; the documentation of %s lists what there is", origin,
                         name, p->name);
    if (text == NULL) return error_set(e, ERROR_INVALID, "%s: %s must be a single value", origin, name);
    if (given[s - p->settings]) return error_set(e, ERROR_INVALID, "%s: %s is given twice", origin, name);
    given[s - p->settings] = true;
    return set_value(s, values, text, origin, e);
}

/* A whole file as text; the caller frees it. */
static int slurp(const char *path, char **ret_text, size_t *ret_len, struct error *e)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) return error_errno(e, ERROR_INVALID, errno, "cannot read %s", path);
    char *text = malloc(FILE_MAX + 1);
    size_t len = text == NULL ? 0 : fread(text, 1, FILE_MAX + 1, file);
    int failed = ferror(file) ? errno : 0;
    fclose(file);
    if (failed == 0 && text != NULL && len <= FILE_MAX) {
        *ret_text = text;
        *ret_len = len;
        return 0;
    }
    free(text);
    if (text == NULL) return error_set(e, ERROR_NOMEM, "no memory for the configuration");
    if (failed != 0) return error_errno(e, ERROR_INVALID, failed, "cannot read %s", path);
    return error_set(e, ERROR_INVALID, "%s: larger than %d bytes: this is no configuration", path, FILE_MAX);
}

/* Nothing but blank lines and comments? */
static bool says_nothing(const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        while (i < len && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r')) i++;
        if (i < len && text[i] != '\n' && text[i] != '#') return false;
        while (i < len && text[i++] != '\n') {}
    }
    return true;
}

/* The line, from 1, of the first byte that is not UTF-8 (RFC 3629, section 4); 0: all of it is. libfyaml does not end on such bytes in a
 * directive (found by fuzz_config). */
static int not_utf8(const uint8_t *text, size_t len)
{
    int line = 1;
    for (size_t i = 0; i < len;) {
        uint8_t first = text[i], low = 0x80, high = 0xbf;
        size_t more = first < 0x80 ? 0 : first >= 0xc2 && first <= 0xdf ? 1 : first >= 0xe0 && first <= 0xef ? 2 : first >= 0xf0 && first <= 0xf4 ? 3 : len;
        if (first == 0xe0) low = 0xa0;
        if (first == 0xed) high = 0x9f;
        if (first == 0xf0) low = 0x90;
        if (first == 0xf4) high = 0x8f;
        if (more >= len - i) return line;
        for (size_t k = 1; k <= more; k++, low = 0x80, high = 0xbf)
            if (text[i + k] < low || text[i + k] > high) return line;
        if (first == '\n') line++;
        i += more + 1;
    }
    return 0;
}

static int read_file(const struct config_program *p, const char *path, void *values, bool *given, struct error *e)
{
    char *bytes = NULL;
    size_t len = 0;
    int rv = slurp(path, &bytes, &len, e);
    if (rv != 0) return rv;
    int line = not_utf8((const uint8_t *)bytes, len);
    if (line > 0) {
        free(bytes);
        return error_set(e, ERROR_INVALID, "%s:%d: not valid YAML: not text in UTF-8", path, line);
    }
    if (says_nothing(bytes, len)) {
        free(bytes);
        return 0;
    }
    struct fy_diag_cfg quiet_cfg;
    fy_diag_cfg_default(&quiet_cfg);
    quiet_cfg.fp = NULL;
    quiet_cfg.output_fn = NULL;
    struct fy_diag *quiet = fy_diag_create(&quiet_cfg);
    struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET, .diag = quiet};
    if (quiet != NULL) fy_diag_set_collect_errors(quiet, true);
    struct fy_document *document = fy_document_build_from_string(&cfg, bytes, len);
    void *errors = NULL;
    struct fy_diag_error *wrong = quiet == NULL ? NULL : fy_diag_errors_iterate(quiet, &errors);
    struct fy_node *top = document == NULL ? NULL : fy_document_root(document);
    if (document == NULL) {
        rv = wrong != NULL ? error_set(e, ERROR_INVALID, "%s:%d: not valid YAML: %s", path, wrong->line, wrong->msg)
                           : error_set(e, ERROR_INVALID, "%s: not valid YAML, not even text", path);
    } else if (top != NULL && !fy_node_is_mapping(top)) {
        const char *text = fy_node_get_scalar0(top);
        if (text == NULL || *text != '\0') rv = error_set(e, ERROR_INVALID, "%s: must be lines of \"name: value\"", path);
    } else if (top != NULL) {
        void *iter = NULL;
        struct fy_node_pair *pair;
        while (rv == 0 && (pair = fy_node_mapping_iterate(top, &iter)) != NULL)
            rv = read_pair(p, path, pair, values, given, e);
    }
    fy_document_destroy(document);
    fy_diag_destroy(quiet);
    free(bytes);
    return rv;
}

/* ---- flags ---------------------------------------------------------------------------------------------------- */

static void print_help(const struct config_program *p)
{
    printf("Usage: %s [--config FILE] [--SETTING VALUE ...]\n\n%s\n\nSettings (each is also a line \"name: value\" of the file):\n",
           p->name, p->summary);
    for (size_t i = 0; i < p->n_settings; i++) {
        const struct config_setting *s = &p->settings[i];
        printf("\n  --%s %s\n      %s", s->name, kind_text(s->kind), s->help);
        if (s->initial == NULL) printf(" (required)");
        else if (*s->initial != '\0') printf(" (default %s)", s->initial);
        printf("\n");
    }
    printf("\n  --config FILE\n      Read settings from a YAML file; flags win over it.\n"
           "\n  --dump-config\n      Print the settings as they would be used, as such a file, and exit.\n"
           "\n  --print-man\n      Print the manual page, in troff, and exit.\n"
           "\n  --help, --version\n");
    if (p->epilog != NULL) printf("\n%s\n", p->epilog);
}

/* Text for troff: nothing in it is a request, hyphens stay hyphens. */
static void roff(const char *text)
{
    bool begins = true;
    for (; *text != '\0'; text++) {
        if (begins && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
        if (*text == '-') fputs("\\-", stdout);
        else if (*text == '\\') fputs("\\e", stdout);
        else putchar(*text);
        begins = *text == '\n';
    }
}

/* The manual page: the same table as --help, so that it cannot be out of date. */
static void print_man(const struct config_program *p)
{
    printf(".TH %s 8 \"\" \"CRSC " CRSC_VERSION "\" \"System Administration\"\n.SH NAME\n", p->name);
    roff(p->name);
    printf(" \\- ");
    roff(p->summary);
    printf("\n.SH SYNOPSIS\n.B ");
    roff(p->name);
    printf("\n[\\-\\-config FILE] [\\-\\-SETTING VALUE ...]\n.SH SETTINGS\nEach is a flag, and a line \"name: value\" of the file.\n");
    for (size_t i = 0; i < p->n_settings; i++) {
        const struct config_setting *s = &p->settings[i];
        printf(".TP\n.BI \\-\\-");
        roff(s->name);
        printf(" \" ");
        roff(kind_text(s->kind));
        printf("\"\n");
        roff(s->help);
        if (s->initial == NULL) fputs("\nRequired.", stdout);
        else if (*s->initial != '\0') fputs("\nDefault: ", stdout), roff(s->initial), putchar('.');
        putchar('\n');
    }
    puts(".TP\n.BI \\-\\-config \" FILE\"\nRead settings from a YAML file; flags win over it.\n"
         ".TP\n.B \\-\\-dump\\-config\nPrint the settings as they would be used, as such a file, and exit.\n"
         ".TP\n.B \\-\\-print\\-man\nPrint the manual page, in troff, and exit.\n.TP\n.BR \\-\\-help \", \" \\-\\-version");
    if (p->epilog == NULL) return;
    puts(".SH NOTES\n.nf");
    roff(p->epilog);
    puts("\n.fi");
}

static void dump_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if (*text == '\n') fputs("\\n", stdout);
        else putchar(*text);
    }
    putchar('"');
}

static void dump(const struct config_program *p, const void *values)
{
    for (size_t i = 0; i < p->n_settings; i++) {
        const struct config_setting *s = &p->settings[i];
        const void *place = (const char *)values + s->at;
        char text[32];
        printf("%s: ", s->name);
        if (s->kind == CONFIG_STRING) {
            dump_string(*(char *const *)place);
        } else if (s->kind == CONFIG_BOOL) {
            fputs(*(const bool *)place ? "true" : "false", stdout);
        } else {
            format_number(*(const uint64_t *)place, s->kind, text, sizeof text);
            fputs(text, stdout);
        }
        putchar('\n');
    }
}

/* One argument: "--name value" or "--name=value"; "--switch" alone is true. Returns how many of argv it took, or an error. */
static int read_flag(const struct config_program *p, char **argv, int left, void *values, bool *given, struct error *e)
{
    const char *arg = argv[0];
    if (strncmp(arg, "--", 2) != 0)
        return error_set(e, ERROR_INVALID, "unexpected argument \"%s\"; %s --help lists the settings", arg, p->name);
    size_t len = strcspn(arg + 2, "=");
    const struct config_setting *s = find(p, arg + 2, len);
    if (s == NULL) return error_set(e, ERROR_INVALID, "unknown flag \"%.*s\"; %s --help lists them", (int)len + 2, arg, p->name);
    bool joined = arg[2 + len] == '=';
    bool alone = !joined && s->kind == CONFIG_BOOL && (left < 2 || strncmp(argv[1], "--", 2) == 0); /* a switch */
    if (!joined && !alone && left < 2) return error_set(e, ERROR_INVALID, "--%s needs a value: %s", s->name, kind_example(s->kind));
    char origin[80];
    snprintf(origin, sizeof origin, "--%s", s->name);
    int rv = set_value(s, values, alone ? "true" : joined ? arg + 2 + len + 1 : argv[1], origin, e);
    if (rv != 0) return rv;
    given[s - p->settings] = true;
    return joined || alone ? 1 : 2;
}

static int set_initial(const struct config_program *p, void *values, struct error *e)
{
    for (size_t i = 0; i < p->n_settings; i++) {
        const struct config_setting *s = &p->settings[i];
        int rv = set_value(s, values, s->initial == NULL ? (s->kind == CONFIG_STRING ? "" : "0") : s->initial, "default", e);
        if (rv != 0 && s->initial != NULL) return rv;
    }
    return 0;
}

static int require(const struct config_program *p, const bool *given, const char *how, struct error *e)
{
    for (size_t i = 0; i < p->n_settings; i++)
        if (p->settings[i].initial == NULL && !given[i])
            return error_set(e, ERROR_INVALID, "%s%s is required: %s", how, p->settings[i].name, p->settings[i].help);
    return 0;
}

/* --config is looked for first, wherever it stands: flags win over the file. */
static int read_arguments(const struct config_program *p, int argc, char **argv, void *values, bool *given, bool *ret_dump,
                          enum config_action *ret_action, struct error *e)
{
    int rv = 0;
    for (int i = 1; i < argc; i++) {
        bool joined = strncmp(argv[i], "--config=", 9) == 0;
        if (!joined && strcmp(argv[i], "--config") != 0) continue;
        if (!joined && i + 1 == argc) return error_set(e, ERROR_INVALID, "--config needs a file");
        rv = read_file(p, joined ? argv[i] + 9 : argv[i + 1], values, given, e);
        if (rv != 0) return rv;
    }
    for (int i = 1; i < argc;) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(p);
            *ret_action = CONFIG_EXIT;
            return 0;
        }
        if (strcmp(argv[i], "--print-man") == 0) {
            print_man(p);
            *ret_action = CONFIG_EXIT;
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("%s %s\n", p->name, CRSC_VERSION);
            *ret_action = CONFIG_EXIT;
            return 0;
        }
        if (strcmp(argv[i], "--dump-config") == 0) {
            *ret_dump = true;
            i++;
        } else if (strcmp(argv[i], "--config") == 0) {
            i += 2;
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            i++;
        } else {
            rv = read_flag(p, argv + i, argc - i, values, given, e);
            if (rv < 0) return rv;
            i += rv;
        }
    }
    return 0;
}

int config_load(const struct config_program *p, int argc, char **argv, void *values, enum config_action *ret_action,
                struct error *e)
{
    bool given[64] = {false}, wants_dump = false;
    if (p->n_settings > sizeof given / sizeof *given) return error_set(e, ERROR_INTERNAL, "too many settings");
    *ret_action = CONFIG_RUN;
    int rv = set_initial(p, values, e);
    if (rv == 0) rv = read_arguments(p, argc, argv, values, given, &wants_dump, ret_action, e);
    if (rv == 0 && *ret_action == CONFIG_RUN) rv = require(p, given, "--", e);
    if (rv == 0 && *ret_action == CONFIG_RUN && wants_dump) {
        dump(p, values);
        *ret_action = CONFIG_EXIT;
    }
    if (rv != 0 || *ret_action == CONFIG_EXIT) config_free(p, values);
    return rv;
}

int config_load_file(const struct config_program *p, const char *path, void *values, struct error *e)
{
    bool given[64] = {false};
    if (p->n_settings > sizeof given / sizeof *given) return error_set(e, ERROR_INTERNAL, "too many settings");
    int rv = set_initial(p, values, e);
    if (rv == 0) rv = read_file(p, path, values, given, e);
    if (rv == 0) {
        rv = require(p, given, "", e);
        if (rv != 0 && e != NULL) error_prefix(e, "%.100s", path);
    }
    if (rv != 0) config_free(p, values);
    return rv;
}

void config_free(const struct config_program *p, void *values)
{
    for (size_t i = 0; i < p->n_settings; i++) {
        if (p->settings[i].kind != CONFIG_STRING) continue;
        char **place = (char **)((char *)values + p->settings[i].at);
        free(*place);
        *place = NULL;
    }
}
