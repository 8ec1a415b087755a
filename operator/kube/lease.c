#include "operator/kube/lease.h"

#include <stdio.h>
#include <string.h>

void lease_init(struct lease *l, const char *self)
{
    memset(l, 0, sizeof *l);
    snprintf(l->self, sizeof l->self, "%s", self);
}

static bool is_mine(const struct lease *l)
{
    return l->seen.exists && strcmp(l->seen.holder, l->self) == 0;
}

enum lease_do lease_seen(struct lease *l, const struct lease_view *view, uint64_t now_ms)
{
    if (!l->seen.exists || strcmp(l->seen.version, view->version) != 0) l->changed_ms = now_ms;
    l->seen = *view;
    if (!is_mine(l)) l->leads = false;
    if (!view->exists) return LEASE_CREATE;
    if (is_mine(l)) return LEASE_RENEW;
    uint64_t duration = view->duration_ms > LEASE_DURATION_MS ? view->duration_ms : LEASE_DURATION_MS;
    return view->holder[0] == '\0' || now_ms - l->changed_ms >= duration ? LEASE_TAKE : LEASE_WAIT;
}

void lease_written(struct lease *l, bool ok, const char *version, uint64_t begun_ms)
{
    if (!ok) return;
    l->seen.exists = true;
    snprintf(l->seen.holder, sizeof l->seen.holder, "%s", l->self);
    snprintf(l->seen.version, sizeof l->seen.version, "%s", version);
    l->seen.duration_ms = LEASE_DURATION_MS;
    l->changed_ms = l->renewed_ms = begun_ms;
    l->leads = true;
}

bool lease_leads(struct lease *l, uint64_t now_ms)
{
    if (l->leads && now_ms - l->renewed_ms >= LEASE_RENEW_MS) l->leads = false;
    return l->leads;
}
