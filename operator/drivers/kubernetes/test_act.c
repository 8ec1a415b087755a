/* No action writes anything, to the API server, an agent or the log, when this operator has ceased to lead: each ends, and says so. (There is nothing here that could be
 * written to: an action that tried would crash.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/drivers/kubernetes/act.h"

static unsigned asked;

static bool leads(void *user)
{
    asked++;
    return *(bool *)user;
}

static void on_end(void *user, int status, const struct error *e)
{
    assert_non_null(e);
    *(int *)user = status;
}

static void test_follower(void **state)
{
    static const enum protect_do actions[] = {
        PROTECT_MAKE_RECORD, PROTECT_DELETE_RECORD, PROTECT_CLEAR_TEMPLATE, PROTECT_NEW_CHECKPOINT, PROTECT_START_CHECKPOINT, PROTECT_FAIL_CHECKPOINT,
        PROTECT_DISTRUST_CHECKPOINT, PROTECT_REFUSE_CHECKPOINT, PROTECT_DELETE_CHECKPOINT, PROTECT_FORGET_CHECKPOINT, PROTECT_PROMOTE, PROTECT_DEMOTE, PROTECT_CLEAR_ROLE, PROTECT_REPLACE_POD,
        PROTECT_REMOVE_POD, PROTECT_COUNT_REPLICAS};
    static struct view v;
    bool is = false;
    struct crsc_client *log = NULL;
    struct pki *pki = NULL;
    struct caches caches = {0};
    const struct act_parts parts = {.log = &log, .pki = &pki, .caches = &caches, .identity = "me", .leads = leads, .user = &is};
    (void)state;
    snprintf(v.space, sizeof v.space, "default");
    snprintf(v.kind, sizeof v.kind, "deployment");
    snprintf(v.name, sizeof v.name, "counter");
    snprintf(v.record, sizeof v.record, "counter");
    snprintf(v.pods[0].name, sizeof v.pods[0].name, "counter-1");
    snprintf(v.pods[0].stream, sizeof v.pods[0].stream, "s");
    snprintf(v.checkpoints[0].name, sizeof v.checkpoints[0].name, "c");
    snprintf(v.checkpoints[0].stream, sizeof v.checkpoints[0].stream, "s");
    policy_defaults(&v.policy);
    v.world.now_ms = 1;
    v.world.n_pods = v.world.n_checkpoints = 1;
    v.world.pods[0].injected = true;
    v.world.checkpoints[0].phase = PROTECT_RUNNING;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        int status = 1;
        asked = 0;
        act_run(&parts, &v, (struct protect_action){.what = actions[i]}, on_end, &status);
        if (status != -ERROR_CANCELED || asked == 0) fail_msg("%s: %d", protect_do_name(actions[i]), status);
    }
    act_event(&parts, &v, "Normal", "Nothing", "of this nobody hears");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_follower)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
