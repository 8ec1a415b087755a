#include "agent/sidecar.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <yyjson.h>

#include "agent/call.h"

enum { CALL_MS = 5000, STATUS_MS = 2000 /* who does not answer that does nothing */, BODY_MAX = 1024 };

static int ask(const struct sidecar *s, const char *path, const char *body, uint32_t timeout_ms, struct call_reply *ret_reply, struct error *e)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    char url[600];
    struct call_reply reply;
    snprintf(url, sizeof url, "http://%.500s%s", s->admin, path);
    struct call call = {.method = body != NULL ? "POST" : NULL, .url = url, .headers = headers, .body = body, .body_len = body != NULL ? strlen(body) : 0,
        .netns_of = s->pid, .timeout_ms = timeout_ms};
    int rc = call_do(&call, &reply, e);
    if (rc != 0) return rc;
    if (reply.code / 100 != 2) {
        enum error_code code = reply.code == 409 ? ERROR_CONFLICT : reply.code == 404 ? ERROR_NOT_FOUND : reply.code == 504 ? ERROR_TIMEOUT : ERROR_INVALID;
        rc = error_set(e, code, "the interceptor answered %d to %s: %.150s", reply.code, path, reply.body);
        call_reply_fini(&reply);
        return rc;
    }
    *ret_reply = reply;
    return 0;
}

static void copy(char *to, size_t cap, yyjson_val *v)
{
    snprintf(to, cap, "%s", yyjson_is_str(v) ? yyjson_get_str(v) : "");
}

int sidecar_status(const struct sidecar *s, struct sidecar_status *ret_status, struct error *e)
{
    struct call_reply reply;
    struct sidecar_status st = {0};
    int rc = ask(s, "/status", NULL, STATUS_MS, &reply, e);
    if (rc != 0) return rc;
    yyjson_doc *doc = yyjson_read(reply.body, reply.len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *app = yyjson_obj_get(root, "app");
    copy(st.instance, sizeof st.instance, yyjson_obj_get(root, "instance"));
    copy(st.state, sizeof st.state, yyjson_obj_get(root, "state"));
    copy(st.identity, sizeof st.identity, yyjson_obj_get(app, "identity"));
    if (strcmp(st.state, "draining") == 0) copy(st.drain, sizeof st.drain, yyjson_obj_get(yyjson_obj_get(root, "drain"), "token"));
    st.lost = yyjson_get_bool(yyjson_obj_get(app, "lost"));
    st.suspect = yyjson_get_bool(yyjson_obj_get(app, "suspect"));
    st.diverged = yyjson_get_uint(yyjson_obj_get(app, "diverged")) != 0;
    yyjson_val *proof = yyjson_obj_get(root, "proof"), *verdict = yyjson_obj_get(proof, "verdict");
    st.reading = yyjson_equals_str(verdict, "pending");
    st.proven_offset = yyjson_get_uint(yyjson_obj_get(proof, "offset"));
    if (yyjson_equals_str(verdict, "known")) copy(st.proven, sizeof st.proven, yyjson_obj_get(proof, "identity"));
    snprintf(st.word, sizeof st.word, "%s %s %d%d%d%d%d", st.state, st.identity, st.lost, st.suspect, st.diverged, yyjson_get_bool(yyjson_obj_get(root, "fenced")),
             yyjson_get_bool(yyjson_obj_get(root, "leaving")));
    yyjson_doc_free(doc);
    if (*st.instance == '\0') {
        call_reply_fini(&reply);
        return error_set(e, ERROR_PROTOCOL, "what answers at %.100s is no interceptor", s->admin);
    }
    st.json = reply.body; /* taken */
    *ret_status = st;
    return 0;
}

void sidecar_status_fini(struct sidecar_status *s)
{
    struct call_reply reply = {.body = s->json};
    call_reply_fini(&reply);
    s->json = NULL;
}

int sidecar_attach(const struct sidecar *s, const char *identity, uint64_t offset, const char *upstream, bool proven, struct error *e)
{
    char body[BODY_MAX];
    struct call_reply reply;
    if (strpbrk(upstream, "\"\\") != NULL) return error_set(e, ERROR_INVALID, "\"%.100s\" is no address", upstream);
    snprintf(body, sizeof body, "{\"identity\":\"%s\",\"offset\":%" PRIu64 ",\"upstream\":\"%s\"%s}", identity, offset, upstream,
             proven ? ",\"proven\":true" : "");
    int rc = ask(s, "/attach", body, CALL_MS, &reply, e);
    if (rc == 0) call_reply_fini(&reply);
    return rc;
}

int sidecar_drain(const struct sidecar *s, const char *token, uint32_t drain_ms, uint32_t lease_ms, uint64_t *ret_offset, struct error *e)
{
    char body[BODY_MAX];
    struct call_reply reply;
    snprintf(body, sizeof body, "{\"token\":\"%s\",\"drain_ms\":%" PRIu32 ",\"lease_ms\":%" PRIu32 "}", token, drain_ms, lease_ms);
    int rc = ask(s, "/checkpoint", body, CALL_MS + drain_ms, &reply, e);
    if (rc != 0) return rc;
    yyjson_doc *doc = yyjson_read(reply.body, reply.len, YYJSON_READ_NOFLAG);
    yyjson_val *offset = yyjson_obj_get(yyjson_doc_get_root(doc), "offset");
    if (!yyjson_is_uint(offset)) rc = error_set(e, ERROR_PROTOCOL, "the interceptor told no offset");
    else *ret_offset = yyjson_get_uint(offset);
    yyjson_doc_free(doc);
    call_reply_fini(&reply);
    return rc;
}

int sidecar_replicas(const struct sidecar *s, uint64_t count, struct error *e)
{
    char path[64];
    struct call_reply reply;
    snprintf(path, sizeof path, "/replicas?count=%" PRIu64, count);
    int rc = ask(s, path, "", CALL_MS, &reply, e);
    if (rc == 0) call_reply_fini(&reply);
    return rc;
}

int sidecar_resume(const struct sidecar *s, const char *token, bool *ret_unbroken, struct error *e)
{
    char body[BODY_MAX];
    struct call_reply reply;
    snprintf(body, sizeof body, "{\"token\":\"%s\"}", token);
    int rc = ask(s, "/resume", body, CALL_MS, &reply, e);
    if (rc != 0) return rc;
    yyjson_doc *doc = yyjson_read(reply.body, reply.len, YYJSON_READ_NOFLAG);
    *ret_unbroken = yyjson_is_true(yyjson_obj_get(yyjson_doc_get_root(doc), "unbroken"));
    yyjson_doc_free(doc);
    call_reply_fini(&reply);
    return 0;
}
