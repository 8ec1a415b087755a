#include "client/endpoints.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conn.h"

struct endpoint {
    char address[ENDPOINTS_ADDRESS_MAX];
    char reason[96]; /* why it failed last; "" when it did not */
    unsigned tried;  /* since the last success of any */
};

struct endpoints {
    struct endpoint list[ENDPOINTS_MAX];
    unsigned n;
    unsigned current;
    int hinted;        /* place of who is said to lead; -1: nobody */
    unsigned attempts; /* since the last success */
    bool fixed;
    bool started; /* endpoints_next() was called */
};

static int find(const struct endpoints *ep, const char *address)
{
    for (unsigned i = 0; i < ep->n; i++)
        if (strcmp(ep->list[i].address, address) == 0) return (int)i;
    return -1;
}

static int add(struct endpoints *ep, const char *address, struct error *e)
{
    char host[256], port[8];
    int rv = address_split(address, host, sizeof host, port, sizeof port, e);
    if (rv != 0) return rv;
    if (find(ep, address) >= 0) return 0;
    if (ep->n == ENDPOINTS_MAX)
        return error_set(e, ERROR_TOO_LARGE, "more than %d servers given: name three to five of them", ENDPOINTS_MAX);
    struct endpoint *one = &ep->list[ep->n];
    *one = (struct endpoint){0};
    if ((size_t)snprintf(one->address, sizeof one->address, "%s", address) >= sizeof one->address)
        return error_set(e, ERROR_INVALID, "the address \"%.32s...\" is too long", address);
    ep->n++;
    return 0;
}

int endpoints_new(const char *servers, bool fixed, struct endpoints **ret_endpoints, struct error *e)
{
    struct endpoints *ep = calloc(1, sizeof *ep);
    if (ep == NULL) return error_set(e, ERROR_NOMEM, "no memory for the list of servers");
    ep->hinted = -1;
    ep->fixed = fixed;
    const char *at = servers != NULL ? servers : "";
    int rv = 0;
    while (rv == 0 && *at != '\0') {
        at += strspn(at, ", ");
        size_t len = strcspn(at, ", ");
        char address[ENDPOINTS_ADDRESS_MAX];
        if (len == 0) break;
        if (len >= sizeof address) {
            rv = error_set(e, ERROR_INVALID, "the address \"%.32s...\" is too long", at);
            break;
        }
        memcpy(address, at, len);
        address[len] = '\0';
        rv = add(ep, address, e);
        at += len;
    }
    if (rv == 0 && ep->n == 0) rv = error_set(e, ERROR_INVALID, "no server given: use host:port,host:port,...");
    if (rv != 0) {
        endpoints_free(ep);
        return rv;
    }
    *ret_endpoints = ep;
    return 0;
}

struct endpoints *endpoints_copy(const struct endpoints *ep)
{
    struct endpoints *copy = malloc(sizeof *copy);
    if (copy == NULL) return NULL;
    *copy = *ep;
    /* What is known stays; the attempts are the other one's. A current server that worked is the first choice. */
    if (ep->started && ep->attempts == 0) copy->hinted = (int)ep->current;
    copy->attempts = 0;
    copy->started = false;
    for (unsigned i = 0; i < copy->n; i++) copy->list[i].tried = 0;
    return copy;
}

struct endpoints *endpoints_free(struct endpoints *ep)
{
    free(ep);
    return NULL;
}

uint32_t endpoints_backoff(unsigned step, uint32_t first_ms, uint32_t most_ms, uint64_t random)
{
    uint64_t cap = step < 20 ? (uint64_t)first_ms << step : most_ms;
    if (cap > most_ms) cap = most_ms;
    uint64_t half = cap / 2;
    uint64_t wait = half + random % (cap - half + 1);
    return wait > 0 ? (uint32_t)wait : 1;
}

struct endpoints_choice endpoints_next(struct endpoints *ep, uint64_t random)
{
    if (ep->hinted >= 0) {
        ep->current = (unsigned)ep->hinted;
        ep->hinted = -1;
    } else if (ep->started) {
        ep->current = (ep->current + 1) % ep->n;
    }
    ep->started = true;
    unsigned round = ep->attempts / ep->n;
    struct endpoints_choice choice = {.address = ep->list[ep->current].address, .wait_ms = 0};
    if (round > 0) choice.wait_ms = endpoints_backoff(round - 1, ENDPOINTS_WAIT_MIN, ENDPOINTS_WAIT_MAX, random);
    ep->attempts++;
    ep->list[ep->current].tried++;
    return choice;
}

const char *endpoints_current(const struct endpoints *ep)
{
    return ep->list[ep->current].address;
}

void endpoints_failed(struct endpoints *ep, const char *reason)
{
    struct endpoint *one = &ep->list[ep->current];
    snprintf(one->reason, sizeof one->reason, "%s", reason);
}

void endpoints_succeeded(struct endpoints *ep)
{
    ep->attempts = 0;
    ep->hinted = -1;
    for (unsigned i = 0; i < ep->n; i++) ep->list[i].tried = 0;
    ep->list[ep->current].reason[0] = '\0';
}

int endpoints_learn(struct endpoints *ep, const char *address)
{
    if (ep->fixed) return -1;
    if (add(ep, address, NULL) != 0) return -1;
    return find(ep, address);
}

void endpoints_hint(struct endpoints *ep, const char *address)
{
    if (address == NULL || address[0] == '\0') return;
    int at = endpoints_learn(ep, address);
    if (at >= 0 && ep->list[at].tried < 2) ep->hinted = at;
}

void endpoints_describe(const struct endpoints *ep, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < ep->n && used < size; i++) {
        const struct endpoint *one = &ep->list[i];
        bool asked = one->reason[0] != '\0' || one->tried > 0;
        int n = snprintf(text + used, size - used, "%s%s (%s)", i > 0 ? ", " : "", one->address,
                         one->reason[0] != '\0' ? one->reason
                         : asked                ? "no answer yet"
                                                : "not asked yet");
        used += n > 0 ? (size_t)n : 0;
    }
}
