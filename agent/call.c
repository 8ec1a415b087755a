#include "agent/call.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/netns.h"
#include "common/buf.h"
#include "common/file.h"

enum { CONNECT_MS = 2000, SILENCE_S = 60, ANSWER_MAX = 1 << 20 };

struct transfer {
    const struct call *call;
    struct buf answer;
    uint64_t sunk;
    bool too_large, io_failed, no_memory;
    char location[CALL_LOCATION_MAX];
};

static size_t on_body(char *data, size_t one, size_t len, void *user)
{
    struct transfer *t = user;
    const struct call *c = t->call;
    (void)one; /* is 1 */
    if (c->sink_fd > 0) {
        t->too_large = t->sunk + len > c->sink_max;
        t->io_failed = !t->too_large && file_write(c->sink_fd, data, len) != 0;
        t->sunk += len;
    } else {
        t->too_large = t->answer.len + len > (c->answer_max > 0 ? c->answer_max : ANSWER_MAX);
        t->no_memory = !t->too_large && buf_add(&t->answer, data, len) != 0;
    }
    return t->too_large || t->io_failed || t->no_memory ? CURL_WRITEFUNC_ERROR : len;
}

static size_t on_header(char *data, size_t one, size_t len, void *user)
{
    struct transfer *t = user;
    (void)one;
    if (len > 9 && strncasecmp(data, "location:", 9) == 0) {
        size_t from = 9, to = len;
        while (from < to && (data[from] == ' ' || data[from] == '\t')) from++;
        while (to > from && (data[to - 1] == '\r' || data[to - 1] == '\n' || data[to - 1] == ' ')) to--;
        if (to - from < sizeof t->location) {
            memcpy(t->location, data + from, to - from);
            t->location[to - from] = '\0';
        }
    }
    return len;
}

static size_t on_upload(char *to, size_t one, size_t len, void *user)
{
    struct transfer *t = user;
    ssize_t n;
    do n = read(t->call->upload_fd, to, one * len);
    while (n < 0 && errno == EINTR);
    if (n >= 0) return (size_t)n;
    t->io_failed = true;
    return CURL_READFUNC_ABORT;
}

static curl_socket_t on_open(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    const struct call *c = user;
    (void)purpose;
    int fd = netns_socket(c->netns_of, address->family, address->socktype, address->protocol);
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static bool set_up_tls(CURL *h, const struct call_tls *tls)
{
    bool ok = tls->anybody ? curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 0L) == CURLE_OK && curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 0L) == CURLE_OK
                           : *tls->ca != '\0' && curl_easy_setopt(h, CURLOPT_CAINFO, tls->ca) == CURLE_OK;
    if (*tls->cert == '\0') return ok;
    return ok && curl_easy_setopt(h, CURLOPT_SSLCERT, tls->cert) == CURLE_OK && curl_easy_setopt(h, CURLOPT_SSLKEY, tls->key) == CURLE_OK;
}

static int set_up(CURL *h, struct transfer *t, struct curl_slist **headers, char why[CURL_ERROR_SIZE])
{
    const struct call *c = t->call;
    bool ok = curl_easy_setopt(h, CURLOPT_URL, c->url) == CURLE_OK;
    if (c->upload_fd > 0) {
        curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(h, CURLOPT_READFUNCTION, on_upload);
        curl_easy_setopt(h, CURLOPT_READDATA, t);
        curl_easy_setopt(h, CURLOPT_INFILESIZE_LARGE, (curl_off_t)c->upload_len);
    } else if (c->body != NULL) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body_len);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, c->body);
    }
    if (c->method != NULL && strcmp(c->method, "HEAD") == 0) curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    else if (c->method != NULL) curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, c->method);
    *headers = curl_slist_append(NULL, "Expect:");
    ok = ok && *headers != NULL;
    for (const char *const *one = c->headers; one != NULL && *one != NULL; one++) ok = ok && curl_slist_append(*headers, *one) != NULL;
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, *headers);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)c->timeout_ms);
    if (c->timeout_ms == 0) { /* who has a bound may need all of it before the first byte */
        curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)SILENCE_S);
    }
    if (c->netns_of > 0) {
        curl_easy_setopt(h, CURLOPT_OPENSOCKETFUNCTION, on_open);
        curl_easy_setopt(h, CURLOPT_OPENSOCKETDATA, (void *)(uintptr_t)c);
    }
    ok = ok && (c->tls == NULL || set_up_tls(h, c->tls));
    return ok ? 0 : -1;
}

static int failure(const struct transfer *t, CURLcode code, const char *why, struct error *e)
{
    const char *url = t->call->url;
    if (t->too_large) return error_set(e, ERROR_TOO_LARGE, "%.120s: the answer is larger than it may be", url);
    if (t->no_memory) return error_set(e, ERROR_NOMEM, "no memory for an answer");
    if (t->io_failed) return error_set(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, "%.120s: the file cannot be read or written", url);
    return error_set(e, code == CURLE_OPERATION_TIMEDOUT ? ERROR_TIMEOUT : ERROR_UNAVAILABLE, "%.120s: %s", url,
        *why != '\0' ? why : curl_easy_strerror(code));
}

int call_do(const struct call *c, struct call_reply *ret_reply, struct error *e)
{
    struct transfer t = {.call = c, .answer = BUF_INIT};
    struct curl_slist *headers = NULL;
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    CURL *h = curl_easy_init();
    if (h == NULL) return error_set(e, ERROR_NOMEM, "no memory for an HTTP call");
    int rc = set_up(h, &t, &headers, why) == 0 ? 0 : error_set(e, ERROR_INVALID, "%.120s cannot be called", c->url);
    if (rc == 0) {
        CURLcode code = curl_easy_perform(h);
        curl_off_t sending_us = 0;
        curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
        if (c->sent != NULL && curl_easy_getinfo(h, CURLINFO_PRETRANSFER_TIME_T, &sending_us) == CURLE_OK) *c->sent = sending_us > 0;
        if (code != CURLE_OK) rc = failure(&t, code, why, e);
    }
    if (rc == 0 && buf_add(&t.answer, "", 1) != 0) rc = error_set(e, ERROR_NOMEM, "no memory for an answer");
    curl_easy_cleanup(h);
    curl_slist_free_all(headers);
    if (rc != 0) {
        buf_fini(&t.answer);
        return rc;
    }
    *ret_reply = (struct call_reply){.code = (int)status, .body = (char *)t.answer.data, .len = t.answer.len - 1};
    strcpy(ret_reply->location, t.location);
    return 0;
}

void call_reply_fini(struct call_reply *r)
{
    free(r->body);
    *r = (struct call_reply){0};
}
