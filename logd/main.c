/* crsc-logd: reads its settings, runs one node until it is told to stop. Exit statuses are in --help (server/settings.c). */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#include <uv.h>

#include "common/log.h"
#include "common/loop.h"
#include "logd/server/node.h"
#include "logd/server/restore.h"

static void on_stopped(void *user)
{
    loop_signals_stop(user);
}

static int refuse(const struct error *e)
{
    log_error("cannot start", "code=%s reason=%s", error_name((int)e->code), e->text);
    if (e->code == ERROR_CORRUPT)
        log_error("the data directory was left as it is: restore it from a copy, or leave this server off; the others go on "
                  "without it as long as they are a majority", NULL);
    /* Not exit(): the log's thread may be running, and nothing is to be written any more. */
    _exit(e->code == ERROR_CORRUPT ? 3 : e->code == ERROR_INVALID ? 2 : 1);
}

static int restore(struct settings *settings)
{
    struct error e;
    int rv = restore_run(settings, settings->restore, &e);
    if (rv != 0) log_error("not restored", "code=%s reason=%s", error_name(rv), e.text);
    settings_free(settings);
    return rv == 0 ? 0 : rv == -ERROR_CORRUPT ? 3 : rv == -ERROR_INVALID || rv == -ERROR_EXISTS ? 2 : 1;
}

int main(int argc, char **argv)
{
    static struct loop_signals signals;
    struct settings settings = {0};
    enum config_action action;
    struct error e = {0};
    struct node *node;
    uv_loop_t loop;
    signal(SIGPIPE, SIG_IGN); /* libuv wants it, from the first connection on: a state is fetched before there is a node */
    log_init("logd", LOG_INFO);
    if (settings_load(argc, argv, &settings, &action, &e) != 0) {
        fprintf(stderr, "crsc-logd: %s\n", e.text);
        return 2;
    }
    if (action == CONFIG_EXIT) {
        settings_free(&settings);
        return 0;
    }
    log_init("logd", settings.level);
    if (settings.restore[0] != '\0') return restore(&settings);
    uv_loop_init(&loop);
    if (node_start(&loop, &settings, &signals, on_stopped, &signals, &node, &e) != 0) return refuse(&e);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) log_warn("something was left open at the end", NULL);
    settings_free(&settings);
    log_info("stopped", NULL);
    return 0;
}
