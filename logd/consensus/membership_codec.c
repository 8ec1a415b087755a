/* A membership to and from bytes: the only part of membership.h that sees protobuf types. */
#include <stdlib.h>
#include <string.h>

#include "logd/consensus/membership.h"
#include "proto/raft.pb-c.h"

int membership_encode(const struct membership *m, struct blob **ret_payload)
{
    Crsc__Membership out = CRSC__MEMBERSHIP__INIT;
    Crsc__MemberRecord servers[MEMBERSHIP_MAX], *server_list[MEMBERSHIP_MAX];
    Crsc__RemovedRecord removed[MEMBERSHIP_REMOVED_MAX], *removed_list[MEMBERSHIP_REMOVED_MAX];
    for (unsigned i = 0; i < m->n; i++) {
        crsc__member_record__init(&servers[i]);
        servers[i].id = m->servers[i].id;
        servers[i].address = (char *)(uintptr_t)m->servers[i].address; /* protobuf-c wants char * that it never writes to */
        servers[i].voter = m->servers[i].voter;
        servers[i].instance = m->servers[i].instance;
        server_list[i] = &servers[i];
    }
    for (unsigned i = 0; i < m->n_removed; i++) {
        crsc__removed_record__init(&removed[i]);
        removed[i].id = m->removed[i].id;
        removed[i].instance = m->removed[i].instance;
        removed_list[i] = &removed[i];
    }
    out.n_members = m->n;
    out.members = server_list;
    out.n_removed = m->n_removed;
    out.removed = removed_list;
    struct blob *payload = blob_new(crsc__membership__get_packed_size(&out));
    if (payload == NULL) return -ERROR_NOMEM;
    crsc__membership__pack(&out, payload->data);
    *ret_payload = payload;
    return 0;
}

static bool take(const Crsc__Membership *in, struct membership *m)
{
    if (in->n_members > MEMBERSHIP_MAX || in->n_removed > MEMBERSHIP_REMOVED_MAX) return false;
    for (size_t i = 0; i < in->n_members; i++) {
        const Crsc__MemberRecord *s = in->members[i];
        if (s->id == 0 || strlen(s->address) >= MEMBERSHIP_ADDRESS || membership_find(m, s->id) != NULL) return false;
        struct membership_server *to = &m->servers[m->n++];
        *to = (struct membership_server){.id = s->id, .voter = s->voter, .instance = s->instance};
        memcpy(to->address, s->address, strlen(s->address) + 1);
    }
    for (size_t i = 0; i < in->n_removed; i++) {
        m->removed[m->n_removed].id = in->removed[i]->id;
        m->removed[m->n_removed++].instance = in->removed[i]->instance;
    }
    return membership_voters(m) > 0;
}

int membership_decode(const void *bytes, size_t len, struct membership *ret_membership)
{
    struct membership m = {0};
    Crsc__Membership *in = crsc__membership__unpack(NULL, len, bytes);
    if (in == NULL) return -ERROR_INVALID;
    bool ok = take(in, &m);
    crsc__membership__free_unpacked(in, NULL);
    if (!ok) return -ERROR_INVALID;
    *ret_membership = m;
    return 0;
}
